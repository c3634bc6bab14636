"""Rates of somebody's own machine, in a file: found there once, used from then on.

A file is JSON that a person can read, with the machine beside the rates. Nothing of it is executed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import EinheadsError
from .units import WORK, Rates

# The variable of the environment that names a file.
RATES_VARIABLE = "EINHEADS_RATES"
_FORMAT = 1
# Eleven days.
_MOST = 1e15


@lru_cache(maxsize=1)
def own_rates() -> Mapping[str, Rates]:
    """The rates that were found on this machine, by device type, if the environment names a file.

    Raises:
        EinheadsError: there is no such file, or it holds something else.
    """
    told = os.environ.get(RATES_VARIABLE)
    if not told:
        return {}
    path = Path(told)
    try:
        found = read_rates(path)
        if not found:  # such as one that an interrupted calibration left
            raise _refused(path, "holds no rates")
    except EinheadsError as error:
        notes = [f"{RATES_VARIABLE} in the environment names this file", *error.notes]
        raise EinheadsError(error.sentence, notes=notes) from error
    return {device: Rates(**one["rates"]) for device, one in found.items()}


def read_rates(path: Path) -> dict[str, Any]:
    """What a file holds: by device type, the rates and where they come from.

    Args:
        path: of the file; an empty one holds nothing.

    Raises:
        EinheadsError: there is no such file, or it holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if not text:
            return {}
        document = json.loads(text)
        _check_format(document["format"])
        devices: dict[str, Any] = document["devices"]
        for device, one in devices.items():
            _check(device, one["rates"])
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        why = "" if isinstance(error, (json.JSONDecodeError, UnicodeError)) else f": {error}"
        raise _refused(path, f"holds no rates{why}") from error
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _refused(path, "holds no rates") from error
    return devices


def keep_rates(path: Path, device: str, rates: Rates, about: Mapping[str, Any]) -> None:
    """Put the rates of a device type into a file, and leave those of others there.

    Args:
        path: of the file, which need not be there.
        device: such as "cpu" or "cuda".
        rates: to keep.
        about: where they come from, as JSON can hold it.

    Raises:
        EinheadsError: there is a file, and it holds something else.
    """
    devices = read_rates(path) if path.exists() else {}
    devices[device] = {**about, "rates": {name: getattr(rates, name) for name in WORK}}
    document = {"format": _FORMAT, "devices": devices}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _check_format(told: object) -> None:
    """Raise ValueError unless this version can read it."""
    if told != _FORMAT:
        raise ValueError(f"its format is {told!r}, this version reads {_FORMAT}")


def _check(device: str, rates: Mapping[str, object]) -> None:
    """Raise ValueError unless these are nanoseconds for each kind of work."""
    for name in WORK:
        if name not in rates:
            raise ValueError(f"'{name}' of '{device}' is missing")
    for name, rate in rates.items():
        if name not in WORK:
            raise ValueError(f"'{name}' of '{device}' is no kind of work that this version knows")
        if type(rate) not in (int, float) or not 0 <= rate < _MOST:  # type: ignore[operator]
            raise ValueError(f"'{name}' of '{device}' is no number of nanoseconds: {rate!r}")


def _refused(path: Path, why: str) -> EinheadsError:
    return EinheadsError(
        f"'{path}' {why}",
        notes=["write: python -m einheads bench --calibrate --json rates.json"],
    )


__all__ = ["RATES_VARIABLE", "keep_rates", "own_rates", "read_rates"]
