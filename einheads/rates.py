"""Which rates a device has, and how much prices with them are worth.

`price` knows how many units of each kind of work a program needs; a program costs the sum of units
times rates, which are nanoseconds for one unit. Where they come from, `devices` and `zen` tell.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

from .calibrated import own_rates
from .devices import AVX2, AVX512, CUDA, NUMBERS
from .errors import EinheadsError
from .loops import LOOPS, LoopRates
from .units import Rates
from .zen import ZEN4, ZEN5

_DEVICES = {"cuda": CUDA}

# The kinds of CPU, and the variable of the environment that names one.
CPUS = {"avx512": AVX512, "avx2": AVX2, "zen4": ZEN4, "zen5": ZEN5}
CPU_VARIABLE = "EINHEADS_CPU"
# The families of AMD's processors of these generations, the older one of which is that of the third
# as well, which has no AVX-512; a later one is priced like the last.
_ZEN4, _ZEN5 = 25, 26
# The kind whose rates are somebody's own, in nanoseconds.
_OWN = "own"

# Of several prices the lowest one is the likeliest to be wrong. What is not below this part of the
# price of torch's own lowering is no better than that, as far as anybody can tell. With AVX-512,
# prices are right to a tenth and stand for themselves, but for ties: of 23 pairs within a
# hundredth, torch's own was 1% faster in the mean, a fifth at best, and 7% slower at worst (18%
# with two threads). With AVX2 the bare rule makes those of 1,607 lessons in which torch's own is
# faster by a twentieth a third fewer, 123 for 179, and costs nothing in the mean. That was with
# 0.9; with 0.92, choices on an EPYC of the fourth generation take 0.997 of the time with one thread
# and 0.996 with two, and torch's own is as rarely faster. On one of the fifth, whose rates are its
# own, 0.93 to 0.985 are alike. Those of CUDA were never held against a clock.
_SURE = {"avx512": 0.99, "avx2": 0.92, "zen4": 0.97, "zen5": 0.97, _OWN: 0.97}
_SURE_ELSEWHERE = 0.8
# The same for numbers that torch multiplies in loops of its own, away from the kind on which these
# were timed: on 60 random contractions of float16 on an EPYC of the fifth generation, torch.einsum
# takes 0.36 of the time at worst with 0.97, and 0.68 with this; 1.60 and 1.64 in the mean.
_SURE_LOOPS = 0.92

# How many times the rates of `loops` and `NUMBERS` are those of a kind, in whose units all prices
# are. Products of integers on an EPYC of the fourth generation take 0.85 of what they take with
# AVX-512 (five kinds, 150 shapes each), and float32 0.54 of what the rates of AVX2 say;
# on one of the fifth, they take 0.4 to 0.67 of it (60 shapes each), and float32 what its own say.
_SLOWER = {"avx512": 1.0, "avx2": 1.6, "zen4": 0.85, "zen5": 0.6, _OWN: 1.0}

# The kinds whose prices know of threads. On the Xeon nobody has looked, so that it chooses with
# several as with one.
_SHARED = {"avx2", "zen4", "zen5", _OWN}


def rates_for(device: str, numbers: str = "", *, shared: bool = False) -> Rates:
    """The rates of a device type; those of this machine's CPU for one that nobody has timed.

    Example:
        >>> rates_for("cuda") is CUDA, rates_for("cpu") is rates_for("mps")
        (True, True)

    Args:
        device: such as "cpu" or "cuda".
        numbers: such as "int64", which only a CPU multiplies otherwise; floats and their like by
            default.
        shared: whether several threads of a CPU share the work.
    """
    own = own_rates()
    if device != "cpu" and (device in own or device in _DEVICES):
        return own.get(device) or _DEVICES[device]
    kind = _OWN if "cpu" in own else cpu_kind()
    return _of_numbers(kind, numbers, shared) if device == "cpu" else _of_numbers(kind)


@lru_cache(maxsize=64)
def _of_numbers(cpu: str, numbers: str = "", shared: bool = False) -> Rates:  # noqa: FBT001, FBT002
    rates = own_rates()["cpu"] if cpu == _OWN else CPUS[cpu]
    if shared and cpu in _SHARED and numbers not in LOOPS:
        rates = rates.shared()
    told = {name: rate * _SLOWER[cpu] for name, rate in (NUMBERS | LOOPS).get(numbers, {}).items()}
    if numbers in LOOPS:
        return LoopRates(**(asdict(rates) | told))
    return replace(rates, **told) if told else rates


def sure_for(device: str, numbers: str = "") -> float:
    """Below which part of the price of torch's own lowering another one is really cheaper.

    Example:
        >>> sure_for("cuda") < sure_for("cpu")
        True

    Args:
        device: such as "cpu" or "cuda".
        numbers: such as "int64"; floats and their like by default.
    """
    own = own_rates()
    if device in _DEVICES and device not in own:
        return _SURE_ELSEWHERE
    kind = _OWN if device in own or "cpu" in own else cpu_kind()
    loops = numbers in LOOPS and kind != "avx512"
    return min(_SURE[kind], _SURE_LOOPS) if loops else _SURE[kind]


def several_threads() -> bool:
    """Whether torch shares the work of a CPU among several threads, or would if it were there."""
    if (torch := sys.modules.get("torch")) is not None:
        return bool(torch.get_num_threads() > 1)
    told = os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS") or ""
    first = told.partition(",")[0]
    return (int(first) if first.isdecimal() else os.cpu_count() or 1) > 1


@lru_cache(maxsize=1)
def cpu_kind() -> str:
    """Whose rates this machine's CPU has: "avx512" if BLAS multiplies so there, or such as "zen5".

    The environment may say otherwise, so that all machines of a cluster choose alike.

    Raises:
        EinheadsError: the environment names no kind.
    """
    told = os.environ.get(CPU_VARIABLE)
    if not told:
        return _kind_of(processor())
    if told not in CPUS:
        raise EinheadsError(
            f"{CPU_VARIABLE}={told!r} in the environment is no kind of CPU",
            notes=[f"write: {' or '.join(f'{CPU_VARIABLE}={kind}' for kind in CPUS)}"],
        )
    return told


def processor(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """What Linux tells of the first processor of this machine; nothing elsewhere.

    A large server needs long to tell of all its cores, so the first one speaks for them.

    Args:
        path: where it tells so.
    """
    told: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if not line.strip():
                    break
                name, _, words = line.partition(":")
                told.setdefault(name.strip(), words.strip())
    except OSError:
        return {}
    return told


def _kind_of(told: Mapping[str, str]) -> str:
    # MKL, torch's BLAS, has kernels with AVX-512 for Intel's own processors; those of AMD are given
    # kernels with AVX2, whatever else they know, and rates are mostly about products. Where nobody
    # tells, there are none, as on most computers.
    vendor, family = told.get("vendor_id"), told.get("cpu family", "")
    wide = "avx512f" in told.get("flags", "").split()
    if vendor == "AuthenticAMD" and family.isdecimal() and int(family) >= _ZEN4:
        return "zen5" if int(family) >= _ZEN5 else "zen4" if wide else "avx2"
    return "avx512" if wide and vendor == "GenuineIntel" else "avx2"


__all__ = [
    "CPUS",
    "CPU_VARIABLE",
    "Rates",
    "cpu_kind",
    "processor",
    "rates_for",
    "several_threads",
    "sure_for",
]
