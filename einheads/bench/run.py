"""Runs suites, prints what came out, and keeps it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from einheads import __version__
from einheads.calibrated import RATES_VARIABLE, keep_rates, read_rates
from einheads.errors import EinheadsError, count, nearest
from einheads.given import fix_spaces
from einheads.pattern import parse
from einheads.rates import CPU_VARIABLE
from einheads.stopwatch import Limits, Watch, keep_memory, limits, with_threads
from einheads.tuned import device_name

from . import calibrate, report
from .cases import Case, Suite
from .contestants import FORWARD
from .probes import copies, memory, overhead, planning, start
from .races import forward
from .result import Result, Row
from .suites import suites
from .training import training

_DEVICES = ("cpu", "cuda")
# Not float16: the product of a hundred matrices of random numbers is too large for it.
_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
_LOOKS = {
    "overhead": overhead,
    "planning": planning,
    "start": start,
    "memory": memory,
    "copies": copies,
}
# What the suite of a user's pattern is called.
OWN = "pattern"
_PRICES = (CPU_VARIABLE, RATES_VARIABLE)
_PACKAGES = ("torch", "einops", "einx", "opt_einsum", "cotengra")


@dataclass(frozen=True, slots=True)
class Options:
    """What to run.

    Attributes:
        suites: names of suites; none for all of them but the optional ones.
        threads: numbers of threads, each with all suites; 1 by default, and as many as torch uses,
            too, for a calibration of the CPU.
        device: where to compute.
        dtype: of all numbers, such as "float32" or "bfloat16".
        rounds: how often every contestant has a turn; more where the machine is restless.
        span: seconds that one measurement takes at least.
        pattern: a pattern to look at instead of suites.
        sizes: of its axes.
        search: whether to look for the best candidate.
        largest: no size above this; None leaves the suites as they are.
        progress: whether to show a progress bar.
    """

    suites: Sequence[str] = ()
    threads: Sequence[int] = ()
    device: str = "cpu"
    dtype: str = "float32"
    rounds: int = 7
    span: float = 2e-3
    pattern: str | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    search: bool = True
    largest: int | None = None
    progress: bool = True

    @property
    def numbers(self) -> torch.dtype:
        """The dtype itself, once its name is checked."""
        return _DTYPES[self.dtype]


def run(options: Options) -> Iterator[tuple[Result, Limits]]:
    """Run suites, one after the other; each result comes with the limits that it is measured by.

    Args:
        options: what to run.

    Raises:
        EinheadsError: there is no such suite, device or dtype, or a size is missing.
    """
    chosen = _chosen(options)
    _check(options)
    # Else a large result of one contestant is fresh memory or not by what another one has freed.
    keep_memory()
    for threads in options.threads or (1,):
        watch = Watch(torch.device(options.device).type, threads, options.rounds, options.span)
        with with_threads(threads):
            # The largest product is only worth its time where something is compared with it.
            side = None if options.largest is None else 64
            bound = limits(watch, options.numbers, side)
            for suite in chosen:
                bar = tqdm(
                    suite.cases,
                    desc=suite.name,
                    leave=False,
                    # By default, a bar only on a terminal.
                    disable=None if options.progress else True,
                )
                rows = [_row(suite, case, watch, bound, options) for case in bar]
                # Other processes are not timed by the thread that waits for them.
                clock = "wall time" if suite.kind == "start" else watch.clock
                yield Result(suite, threads, clock, rows), bound


def tell(options: Options, path: Path | None = None) -> Iterator[str]:
    """Run suites, and give lines to print as soon as they are known.

    Args:
        options: what to run.
        path: where everything is kept as JSON; suites that are there already, measured on the same
            machine in the same way, stay if they do not run again.
    """
    # Mistakes come before anything is printed.
    _chosen(options)
    _check(options)
    machine = about(options)
    yield from report.about(machine)
    absent = [one.name for one in FORWARD if not one.installed]
    if absent:
        yield f"left out, as not installed: {', '.join(absent)}"
    document: dict[str, Any] = {"machine": machine, "limits": {}, "results": []}
    if path is not None:
        _writable(path)
        found, other = _before(path, machine)
        document = found or document
        if other:
            yield f"'{path}' holds results of {other}: it is begun anew"
    for result, bound in run(options):
        key = str(result.threads)
        if key not in document["limits"]:
            document["limits"][key] = asdict(bound)
            yield from report.limits(result.threads, asdict(bound))
        _replace(document["results"], result.to_dict())
        if path is not None:
            # After every suite: a long run that is interrupted is not lost.
            _keep(path, document)
        yield ""
        yield from report.lines(result)


def _writable(path: Path) -> None:
    """Find a place where nothing can be written before hours of work."""
    with path.open("a", encoding="utf-8"):
        pass


def _before(path: Path, machine: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """What a file holds that was measured in the same way, and else how others were measured."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        # Most runs say nothing of prices.
        here, there = ({"prices": None} | told for told in (machine, found["machine"]))
        other = [name for name in here if there[name] != here[name]]
        for result in found["results"]:
            _key(result)  # raises if it is none
        sound = isinstance(found["limits"], dict)
    except (OSError, ValueError, TypeError, KeyError):
        sound = False
    if not sound:
        return None, ""
    return (None, f"other {', '.join(other)}") if other else (found, "")


def _key(result: dict[str, Any]) -> tuple[str, int, list[str]]:
    """What tells results apart; each pattern of a user is one of its own."""
    own = [row["pattern"] for row in result["rows"]] if result["suite"] == OWN else []
    return result["suite"], result["threads"], own


def _replace(results: list[dict[str, Any]], one: dict[str, Any]) -> None:
    """Put a result in the place of that of the same suite and threads, or behind all others."""
    for place, other in enumerate(results):
        if _key(other) == _key(one):
            results[place] = one
            return
    results.append(one)


def _keep(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def calibrated(options: Options, path: Path | None = None) -> Iterator[str]:
    """Fit the rates of the cost model to this machine, and give them as lines of `devices.py`.

    Args:
        options: of which the device, the dtype and the numbers of threads are heeded.
        path: a file to keep the rates in, from which the environment may have them used.
    """
    if options.suites or options.pattern is not None:
        raise EinheadsError(
            "a calibration takes contractions of its own, and no suite or pattern",
            notes=["write: python -m einheads bench --calibrate"],
        )
    _check(options)
    machine = about(options)
    if path is not None:
        _writable(path)
        read_rates(path)  # raises if it holds something else
    yield from report.about(machine)
    device = torch.device(options.device).type
    usual = sorted({1, torch.get_num_threads()}) if device == "cpu" else [1]
    watches = [Watch(device, threads, 3, 1e-3) for threads in options.threads or usual]
    found = calibrate.calibrate(watches, dtype=options.numbers, progress=options.progress)
    yield from calibrate.tell(found, watches)
    if path is not None:
        worth = {name: told for name, told in asdict(found).items() if name != "rates"}
        keep_rates(path, device, found.rates, {"machine": machine, "fit": worth})
        yield f"# kept in '{path}'; with {RATES_VARIABLE}={path} in the environment they are used"


def about(options: Options) -> dict[str, Any]:
    """The machine, the versions and how it was measured."""
    versions = {"python": platform.python_version(), "einheads": __version__}
    versions |= {name: version(name) for name in _PACKAGES if find_spec(name) is not None}
    processor = device_name()
    if torch.device(options.device).type == "cuda":
        processor = f"{torch.cuda.get_device_name(options.device)} beside {processor}"
        versions["cuda"] = str(torch.version.cuda)
    machine = {
        "processor": processor,
        "system": f"{platform.system()} {platform.machine()}",
        "device": options.device,
        "dtype": options.dtype,
        "rounds": options.rounds,
        "versions": versions,
    }
    # Other prices choose other lowerings.
    told = [f"{name}={os.environ[name]}" for name in _PRICES if os.environ.get(name)]
    return machine | ({"prices": ", ".join(told)} if told else {})


def _row(suite: Suite, case: Case, watch: Watch, bound: Limits, options: Options) -> Row:
    if suite.kind == "forward":
        return forward(case, watch, bound, options.numbers, search=options.search)
    if suite.kind == "training":
        return training(case, watch, bound, options.numbers)
    return _LOOKS[suite.kind](case, watch, options.numbers)


def _chosen(options: Options) -> list[Suite]:
    if options.pattern is not None:
        if options.suites:
            raise EinheadsError(
                "either a pattern is timed, or suites",
                options.pattern,
                notes=["write: the pattern with its sizes alone, or --suite alone"],
            )
        own = Case(options.pattern, options.pattern, options.sizes)
        parsed = parse(own.pattern)
        missing = [name for name in parsed.names if name not in own.sizes]
        if missing:
            fix = fix_spaces(parsed) or f"write: {' '.join(f'{name}=4' for name in missing)}"
            raise EinheadsError(
                f"{count(len(missing), 'size')} missing: {', '.join(missing)}",
                own.pattern,
                notes=[fix],
            )
        unknown = [name for name in own.sizes if name not in parsed.names]
        if unknown:
            raise EinheadsError(
                f"the pattern has no axis '{unknown[0]}'",
                own.pattern,
                notes=[f"its axes: {', '.join(parsed.names)}"],
            )
        small = next((name for name in parsed.names if own.sizes[name] < 1), None)
        if small is not None:
            raise EinheadsError(
                f"axis '{small}' has size {own.sizes[small]}, with which there is nothing to time",
                own.pattern,
                notes=[f"write: {small}=4"],
            )
        return [Suite(OWN, "your own", "forward", (own,))]
    every = suites()
    unknown = [name for name in options.suites if name not in every]
    if unknown:
        near = nearest(unknown[0], every)
        raise EinheadsError(
            f"there is no suite '{unknown[0]}'",
            notes=[
                *([f"did you mean '{near}'?"] if near else []),
                f"the suites: {', '.join(every)}",
                "a pattern stands before all options",
            ],
        )
    names = options.suites or [name for name, suite in every.items() if not suite.optional]
    chosen = [every[name] for name in names]
    if options.largest is not None:
        chosen = [suite.shrunk(options.largest) for suite in chosen]
    return chosen


def _check(options: Options) -> None:
    """Refuse a dtype or a device that cannot be timed."""
    device = options.device
    if options.dtype not in _DTYPES:
        near = nearest(options.dtype, _DTYPES)
        raise EinheadsError(
            f"dtype={options.dtype!r} is none of those that are timed: {', '.join(_DTYPES)}",
            notes=[f"write: --dtype {near or 'float32'}"],
        )
    try:
        if torch.empty(0, device=device).device.type not in _DEVICES:
            raise EinheadsError(
                f"device={device!r} has no clock that a benchmark can read",
                notes=[f"write: --device {' or --device '.join(_DEVICES)}"],
            )
    except (RuntimeError, AssertionError, ImportError) as error:
        raise EinheadsError(
            f"device={device!r} cannot be used on this machine",
            notes=["write: a device that torch finds, such as --device cpu"],
        ) from error
