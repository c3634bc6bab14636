"""The stopwatch: rounds in which all contestants take turns, and the limits of the machine.

One round measures each contestant once, in turn; ratios are taken within a round, so that a machine
that slows down meanwhile slows down all of them. With one thread on the CPU the time is that of the
thread, not of the wall: on a shared machine the wall also counts other people's work.
"""

from __future__ import annotations

import ctypes
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Watch:
    """How time is taken.

    Attributes:
        device: the device type.
        threads: of torch on the CPU.
        rounds: how often everybody has a turn.
        span: seconds that one measurement takes at least.
    """

    device: str = "cpu"
    threads: int = 1
    rounds: int = 7
    span: float = 2e-3

    @property
    def clock(self) -> str:
        """What is counted."""
        if self.device == "cuda":
            return "cuda events"
        return "cpu time of the thread" if self.threads == 1 else "wall time"

    def time(self, call: Callable[[], object], repeats: int) -> float:
        """Seconds for one call, averaged over some in a row."""
        if self.device == "cuda":
            event: Any = torch.cuda.Event
            begin, end = event(enable_timing=True), event(enable_timing=True)
            begin.record()
            for _ in range(repeats):
                call()
            end.record()
            end.synchronize()
            return float(begin.elapsed_time(end)) / 1e3 / repeats
        now = time.thread_time if self.threads == 1 else time.perf_counter
        start = now()
        for _ in range(repeats):
            call()
        return (now() - start) / repeats

    def calibrate(self, call: Callable[[], object]) -> int:
        """Warm up, and find how many calls make a measurement long enough."""
        repeats = 1
        if self.time(call, 1) >= 10 * self.span:
            return 1
        while True:
            taken = self.time(call, repeats) * repeats
            if taken >= self.span / 2:
                return max(1, math.ceil(repeats * self.span / taken))
            # Short measurements mislead: at most ten times longer at a time.
            repeats *= min(10, max(2, math.ceil(self.span / max(taken, 1e-9))))


@contextmanager
def with_threads(number: int) -> Iterator[None]:
    """Let torch use so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Names of settings of the GNU C library: from how many free bytes on the end of its memory is given
# back, from how many on a result gets pages of its own, and how many results may have those at all.
_TRIM, _MAP_FROM, _MAPS = -1, -3, -4
_KEPT = 1 << 30


def keep_memory(mapped: int | None = None) -> None:
    """Let freed memory stay with the process.

    Otherwise a large result is fresh memory at each call or is not, depending on what was freed
    before it, and the pages of fresh memory cost as much as many a contraction. Only the GNU C
    library can be told; elsewhere nothing happens.

    Args:
        mapped: the bytes from which on a result is fresh memory nevertheless, at every call; the
            library goes up to 32 MiB by itself.
    """
    if sys.platform == "linux":
        told = getattr(ctypes.CDLL(None), "mallopt", None)
        if told is not None:
            told(_TRIM, _KEPT)
            if mapped is None:
                told(_MAPS, 0)
            else:
                told(_MAP_FROM, mapped)


@dataclass(frozen=True, slots=True)
class Racer:
    """Something to be timed.

    Attributes:
        name: in reports.
        call: runs it once.
        setting: switches to set meanwhile.
    """

    name: str
    call: Callable[[], object]
    setting: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of every racer in every round.

    Attributes:
        rounds: by name, one number for each round; of those that are far behind only one.
    """

    rounds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Seconds of a racer."""
        return statistics.median(self.rounds[name])

    def ratio(self, name: str, base: str) -> float:
        """How many times longer than the base it takes: the median of the ratios by round."""
        pairs = zip(self.rounds[name], self.rounds[base], strict=False)
        return statistics.median(one / other for one, other in pairs)

    def difference(self, name: str, base: str) -> float:
        """How many seconds longer than the base it takes: the median of the differences."""
        pairs = zip(self.rounds[name], self.rounds[base], strict=False)
        return statistics.median(one - other for one, other in pairs)


# A racer that takes so many times longer than the first one is out after one round, if it also
# takes so many seconds for a call: nobody wants to wait to learn just how slow it is.
_FAR_BEHIND, _LONG = 3.0, 0.005
# Ratios whose middle half scatters more than this are measured again, so many times at most; those
# of racers that are not close do not matter so much.
_SCATTER, _TIMES, _CLOSE = 0.1, 3, 1.5
# Fewer rounds tell nothing of how much they scatter.
_TELLING = 4


def race(racers: Sequence[Racer], watch: Watch) -> Times:
    """Time racers in turn, round after round; ratios are taken against the first one.

    Where close ratios scatter, since the machine has other things to do, there are more rounds.
    """
    repeats: list[int] = []
    for racer in racers:
        with racer.setting():
            repeats.append(watch.calibrate(racer.call))
    times: dict[str, list[float]] = {racer.name: [] for racer in racers}
    running = list(range(len(racers)))
    for number in range(_TIMES * watch.rounds):
        if number and number % watch.rounds == 0 and _steady(times, racers[0].name):
            break
        # Each round begins with another one, so that nobody always follows the same neighbor.
        shift = number % len(running)
        for place in (*running[shift:], *running[:shift]):
            racer = racers[place]
            with racer.setting():
                if repeats[place] > 1 or number:
                    # One call unmeasured brings its own operands into the caches.
                    racer.call()
                times[racer.name].append(watch.time(racer.call, repeats[place]))
        first = times[racers[0].name][0]
        running = [
            place
            for place in running
            if place == 0 or times[racers[place].name][0] < max(_FAR_BEHIND * first, _LONG)
        ]
    return Times(times)


def _steady(times: Mapping[str, Sequence[float]], base: str) -> bool:
    """Whether the ratios of those that are close scatter little, as far as that can be told."""
    rounds = len(times[base])
    if rounds < _TELLING:
        return True
    for name, seconds in times.items():
        if name == base or len(seconds) < rounds:
            continue
        ratios = [one / other for one, other in zip(seconds, times[base], strict=True)]
        low, middle, high = statistics.quantiles(ratios)
        if middle < _CLOSE and high - low > _SCATTER * middle:
            return False
    return True


def fastest(calls: Sequence[Callable[[], object]], watch: Watch) -> int:
    """Time all calls, then the best few of them again and longer; the number of the fastest.

    Among calls that are equally fast, as far as can be told, the first one wins.
    """
    alive = list(range(len(calls)))
    for keep, rounds in ((6, 2), (2, 5), (1, 9)):
        if len(alive) <= keep:
            continue
        quick = Watch(watch.device, watch.threads, rounds, watch.span / 4)
        times = race([Racer(str(number), calls[number]) for number in alive], quick)
        best = {number: min(times.rounds[str(number)]) for number in alive}
        alive = sorted(alive, key=lambda number: best[number] * (1 if number == alive[0] else 1.01))
        alive = alive[:keep]
    return alive[0]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the machine can do at best.

    Attributes:
        multiply_adds: a second, in one big matrix product.
        bandwidth: by size in bytes, how many bytes a second are read and written by a copy; what
            fits into a cache is copied faster.
    """

    multiply_adds: float
    bandwidth: dict[int, float]

    def seconds(self, multiply_adds: int, moved: int) -> float:
        """The time that arithmetic or memory needs, whichever is longer."""
        # The smallest copy that is not smaller, or the largest of all.
        fitting = min((size for size in self.bandwidth if size >= moved), default=None)
        rate = self.bandwidth[max(self.bandwidth) if fitting is None else fitting]
        return max(multiply_adds / self.multiply_adds, moved / rate)


def limits(watch: Watch, dtype: torch.dtype = torch.float32, side: int | None = None) -> Limits:
    """Measure the rate of one big matrix product, and of copies.

    Args:
        watch: how time is taken.
        dtype: of the numbers.
        side: of the matrices; by default large enough for the device.
    """
    side = side or (8192 if watch.device == "cuda" else 1024)
    left, right = (torch.randn(side, side, device=watch.device, dtype=dtype) for _ in range(2))
    product = side**3 / _best(lambda: torch.mm(left, right), watch)
    bandwidth: dict[int, float] = {}
    for moved in (2**18, 2**22, side * side * 64):
        source: Tensor = torch.randn(moved // 2 // dtype.itemsize, device=watch.device).to(dtype)
        target = torch.empty_like(source)

        def copy(target: Tensor = target, source: Tensor = source) -> None:
            target.copy_(source)

        bandwidth[moved] = moved / _best(copy, watch)
    return Limits(product, bandwidth)


def _best(call: Callable[[], object], watch: Watch) -> float:
    repeats = watch.calibrate(call)
    return min(watch.time(call, repeats) for _ in range(max(3, watch.rounds)))
