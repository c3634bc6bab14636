"""Tuned choices in a file: written by one job, used by many on the same kind of machine.

A file is JSON that a person can read. Nothing of it is executed: a choice that does not fit its
contraction is not used.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from .choices import Choice, from_data, to_data
from .errors import EinheadsError, kind
from .program import cache
from .rates import processor

_FORMAT = 2

# What of a processor tells which one it is, besides its name.
_GENERATION = ("cpu family", "model")


def device_name(device: str = "cpu") -> str:
    """What a kind of machine is called in a file of choices.

    Args:
        device: a device type, such as "cpu" or "cuda".
    """
    if device == "cuda":
        return torch.cuda.get_device_name()
    told = processor()
    # Python's own answer is empty or just the architecture on Linux.
    name = told.get("model name") or platform.processor() or platform.machine()
    # Rented machines often tell no more of their name than whose it is.
    known = [f"{one.removeprefix('cpu ')} {told[one]}" for one in _GENERATION if one in told]
    return f"{name} ({', '.join(known)})" if known else name


def save_tuned(path: str | Path) -> int:
    """Keep all tuned choices of this process in a file.

    Args:
        path: of the file, which is written anew: keep one for each kind of machine.

    Returns:
        How many choices it holds.

    Raises:
        TypeError: `path` is none.
    """
    file, kept = _path(path), []
    with cache.lock:
        choices = list(cache.choices.items())
    for line, choice in choices:
        about = json.loads(line)
        device = device_name(about["traits"]["device"])
        kept.append({"device": device, "problem": about, **to_data(choice)})
    document = {"format": _FORMAT, "torch": torch.__version__, "choices": kept}
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return len(kept)


def load_tuned(path: str | Path) -> int:
    """Use the choices that a file holds for this kind of machine.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from einheads import cache_clear, load_tuned, save_tuned, tune
        >>> cache_clear()
        >>> found = tune("b i, o i -> b o", torch.randn(8, 16), torch.randn(32, 16))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     kept = save_tuned(Path(folder) / "tuned.json")
        ...     cache_clear()
        ...     kept, load_tuned(Path(folder) / "tuned.json")
        (1, 1)
        >>> cache_clear()

    Args:
        path: of a file that `save_tuned` wrote.

    Returns:
        How many choices are for this kind of machine; those of others are left out.

    Raises:
        EinheadsError: the file is none of `save_tuned`, or of another version of it.
        TypeError: `path` is none.
    """
    file = _path(path)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        written = document["format"]
        found = _read(document) if written == _FORMAT else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise EinheadsError(
            f"{str(path)!r} holds no tuned choices",
            notes=["write: a file that einheads.save_tuned(...) made"],
        ) from error
    if found is None:
        raise EinheadsError(
            f"{str(path)!r} was written by another version of einheads: its format is {written!r}, "
            f"this version reads {_FORMAT}",
            notes=["write: einheads.tune(...) again, and then einheads.save_tuned(...)"],
        )
    with cache.lock:
        cache.choices.update(found)
        cache.classes.clear()
        cache.forget_calls()
    return len(found)


def _path(path: object) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"the file of tuned choices is a path, not {kind(path)}")
    return Path(path)


def _read(document: Any) -> dict[str, Choice]:
    """The choices of a document that are for this machine, by their problem."""
    return {
        json.dumps(entry["problem"]): from_data(entry)
        for entry in document["choices"]
        if entry["device"] == _own(entry["problem"]["traits"]["device"])
    }


def _own(device: str) -> str | None:
    """The name of this machine's device of a type, if it has one."""
    if device == "cuda" and not torch.cuda.is_available():
        return None
    return device_name(device)


__all__ = ["device_name", "load_tuned", "save_tuned"]
