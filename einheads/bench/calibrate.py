"""Where the rates of the cost model come from: work is timed, and rates are fitted to it.

`python -m einheads bench --calibrate` times single operations, and finds rates that tell how long
each takes. It goes on with contractions that no suite has, times every lowering of each, and moves
the rates until the cheapest by price is the fastest by the clock. One set of rates prices for one
thread and for several, so lowerings are timed with both. It prints the rates as they stand in
`devices.py` and `zen.py`, with the machine and with what the fit is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from einheads.rates import CPUS, Rates, cpu_kind, rates_for
from einheads.stopwatch import Watch, keep_memory, with_threads
from einheads.units import WORK
from einheads.walks import FRESH_BYTES

from .lessons import Answer, Lesson, lessons, study
from .operations import Operation, clocked, operations

# How many contractions to learn from; every fourth is kept back to judge the fit.
COUNT = 600
# How many single operations come first, and how often each of them has its turn.
OPERATIONS, _PASSES = 1600, 5


@dataclass(frozen=True, slots=True)
class Fit:
    """Rates, and what they are worth on the lessons they were fitted to and on fresh ones.

    Attributes:
        rates: the rates.
        operations: how many single ones were timed.
        off: by which factor the price of one of these is typically off.
        lowerings: how many were timed, those with other threads again.
        lessons: of how many contractions.
        seen: mean loss of time by the choice, 1.02 for two percent, on the lessons of the fit.
        fresh: the same on lessons that were kept back.
        worst: the largest single loss among the latter.
        error: by which factor a price is typically off.
    """

    rates: Rates
    operations: int
    off: float
    lowerings: int
    lessons: int
    seen: float
    fresh: float
    worst: float
    error: float


def units(price: Callable[[Rates], float]) -> Tensor:
    """How many units of each kind of work something needs, in the order of `WORK`.

    A price is a sum of units times rates, so with unit vectors for rates it is the units.

    Args:
        price: its price at some rates.
    """
    every: Any = torch.eye(len(WORK), dtype=torch.float64)
    vectors: Any = dict(zip(WORK, every, strict=True))
    found: Any = price(Rates(**vectors))
    return torch.as_tensor(found, dtype=torch.float64).expand(len(WORK))


def _logarithms(rates: Rates) -> Tensor:
    # A rate of nothing would stay nothing.
    return torch.tensor([max(getattr(rates, name), 1e-4) for name in WORK]).double().log()


def _from_logarithms(found: Tensor) -> Rates:
    told = (float(f"{rate:.3g}") for rate in found.exp())
    return Rates(**dict(zip(WORK, told, strict=True)))


def _prices(work: Tensor, rates: Tensor) -> Tensor:
    # All are logarithms but the work; what takes no time at all has none.
    return (work @ rates.exp()).clamp_min(1.0).log()


def _descended(loss: Callable[[Tensor], Tensor], first: Tensor, steps: int) -> Tensor:
    """Where a loss is small, downhill from the first place."""
    place = first.clone().requires_grad_()
    optimizer = torch.optim.Adam([place], lr=0.03)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.03, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(place).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return place.detach()


def settle(
    every: Sequence[Operation], seconds: Sequence[float], start: Rates, itemsize: int = 4
) -> tuple[Rates, float]:
    """Rates at which single operations take as long as they did, and how far off they are.

    Args:
        every: the operations; each fourth is kept back, to tell how far off the rates are.
        seconds: of each of them.
        start: the rates to begin with.
        itemsize: bytes for one number.
    """
    work = torch.stack([units(partial(one.price, itemsize=itemsize)) for one in every])
    taken = (torch.tensor(seconds, dtype=torch.float64) * 1e9).log()
    back = torch.arange(len(every)) % 4 == 0
    first = _logarithms(start)

    def loss(rates: Tensor) -> Tensor:
        off = _prices(work[~back], rates) - taken[~back]
        found = torch.nn.functional.smooth_l1_loss(off, torch.zeros_like(off), beta=0.2)
        # A rate of which no operation has any work stays where it was.
        return found + 1e-4 * ((rates - first) ** 2).sum()

    found = _descended(loss, first, 1500)
    off = _prices(work[back], found) - taken[back]
    return _from_logarithms(found), math.exp(float(off.abs().median()))


# How much the order counts beside the time itself, how sharply the cheapest one is meant, and how
# strongly a rate of which the lessons say nothing is held where it was.
_ORDER, _SHARPNESS, _HELD = 3.0, 20.0, 1e-3


def fit(answers: Sequence[Answer], start: Rates, steps: int = 2000) -> Rates:
    """Find the rates that choose best.

    Two errors are made small together: how far prices are from times, as logarithms and mostly
    for fast lowerings, and how much time is lost if lowerings are chosen by price (softly, so that
    it has a slope).

    Args:
        answers: what was timed.
        start: the rates to begin with.
        steps: of the descent.
    """
    rows = [(group, n) for group, one in enumerate(answers) for n in range(len(one.steps))]
    work = torch.stack([units(partial(answers[group].price, n)) for group, n in rows])
    taken = torch.tensor([answers[g].seconds[n] * 1e9 for g, n in rows], dtype=torch.float64).log()
    group = torch.tensor([g for g, _ in rows])
    count = len(answers)
    least = torch.full((count,), math.inf, dtype=torch.float64)
    slower = taken - least.scatter_reduce(0, group, taken, "amin")[group]
    weight = torch.exp(-slower)
    weight = weight / _sums(weight, group, count)[group] / count
    first = _logarithms(start)

    def loss(rates: Tensor) -> Tensor:
        prices = _prices(work, rates)
        off = torch.nn.functional.smooth_l1_loss(prices, taken, beta=0.5, reduction="none")
        # A softmax over the lowerings of each lesson.
        score = -_SHARPNESS * prices
        top = torch.full((count,), -math.inf, dtype=torch.float64)
        top = top.scatter_reduce(0, group, score.detach(), "amax")
        chance = torch.exp(score - top[group])
        chance = chance / _sums(chance, group, count)[group]
        lost = _ORDER * (chance * slower.clamp_max(1.5)).sum() / count
        return (weight * off).sum() + lost + _HELD * ((rates - first) ** 2).sum()

    return _from_logarithms(_descended(loss, first, steps))


def _sums(values: Tensor, group: Tensor, count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.float64).scatter_add(0, group, values)


def calibrate(
    watches: Sequence[Watch],
    count: int | None = None,
    seed: int = 2026,
    dtype: torch.dtype = torch.float32,
    *,
    progress: bool = True,
) -> Fit:
    """Time operations and lowerings, and fit rates to them.

    Args:
        watches: how time is taken, for each number of threads; single operations only by the first.
        count: how many contractions, `COUNT` by default.
        seed: of the contractions.
        dtype: of all numbers.
        progress: whether to show a progress bar.
    """
    # Large results are fresh memory in most programs, and their price says so.
    keep_memory(FRESH_BYTES)
    first = watches[0]
    count = COUNT if count is None else count
    single = [*operations(OPERATIONS, seed)]
    with torch.no_grad(), with_threads(first.threads):
        seconds = clocked(single, first, dtype, _PASSES, progress=progress)
    start, off = settle(single, seconds, _begun(first.device), dtype.itemsize)
    bar = tqdm(
        lessons(count, seed),
        desc="calibrate",
        total=count,
        leave=False,
        disable=None if progress else True,
    )
    with torch.no_grad():
        # All threads of a lesson in a row, so that a slow hour is none of few threads alone.
        answers = [[_studied(lesson, watch, dtype) for watch in watches] for lesson in bar]
    return judged(answers, start, len(single), off)


def _begun(device: str) -> Rates:
    """The rates of a device to begin a fit with; a rate of nothing would stay nothing.

    Those of one kind of CPU are begun where those of another one are.
    """
    rates = rates_for(device)
    if device != "cpu":
        return rates
    most = {name: max(getattr(kind, name) for kind in CPUS.values()) for name in WORK}
    return replace(rates, **{name: most[name] for name in WORK if not getattr(rates, name)})


def _studied(lesson: Lesson, watch: Watch, dtype: torch.dtype) -> Answer:
    with with_threads(watch.threads):
        return study(lesson, watch, dtype)


def judged(
    answers: Sequence[Sequence[Answer]], start: Rates, single: int = 0, off: float = 1.0
) -> Fit:
    """Fit to three quarters of the lessons, and judge by the last one.

    Args:
        answers: to each lesson, one for each number of threads.
        start: the rates to begin with.
        single: to how many single operations these were fitted.
        off: how far off they are for these.
    """
    level = _leveled(answers)
    seen = [answer for number, some in enumerate(level) if number % 4 for answer in some]
    back = [answer for some in level[::4] for answer in some]
    rates = fit(seen, start)
    lost = [answer.lost(rates) for answer in back]
    error = sorted(
        abs(math.log(answer.price(n, rates) / (1e9 * taken)))
        for answer in back
        for n, taken in enumerate(answer.seconds)
    )
    return Fit(
        rates=rates,
        operations=single,
        off=off,
        lowerings=sum(len(answer.steps) for some in answers for answer in some),
        lessons=len(answers),
        seen=_mean([answer.lost(rates) for answer in seen]),
        fresh=_mean(lost),
        worst=max(lost),
        error=math.exp(error[len(error) // 2]),
    )


def _leveled(answers: Sequence[Sequence[Answer]]) -> list[list[Answer]]:
    """The same, as if more threads were not faster on the whole: only ratios matter in a price."""
    base = [min(some[0].seconds) for some in answers]
    columns = []
    for column in zip(*answers, strict=True):
        fastest = [min(answer.seconds) for answer in column]
        factor = median(one / other for one, other in zip(base, fastest, strict=True))
        columns.append(
            [
                replace(answer, seconds=tuple(taken * factor for taken in answer.seconds))
                for answer in column
            ]
        )
    return [[*some] for some in zip(*columns, strict=True)]


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))


def tell(found: Fit, watches: Sequence[Watch]) -> Iterator[str]:
    """The lines to print: where the rates come from, and the rates.

    Args:
        found: the rates, and what they are worth.
        watches: how time was taken, for each number of threads.
    """
    clocks = ", ".join(f"{watch.clock} with threads: {watch.threads}" for watch in watches)
    device = watches[0].device
    yield f"# {found.operations:,} timed operations; from there:"
    yield f"#   the price of one was typically off by a factor of {found.off:.2f}"
    yield f"# {found.lowerings:,} timed lowerings of {found.lessons} contractions"
    yield f"# counted: {clocks}"
    yield "# the chosen lowering against the fastest one, geometric mean:"
    yield f"#   {found.fresh:.3f} on contractions that were kept back, {found.worst:.2f} at worst"
    yield f"#   {found.seen:.3f} on those of the fit"
    yield f"# a price is typically off by a factor of {found.error:.2f}"
    yield f"{(cpu_kind() if device == 'cpu' else device).upper()} = Rates("
    for name in WORK:
        yield f"    {name}={getattr(found.rates, name)!r},"
    yield ")"


__all__ = ["Fit", "calibrate", "fit", "judged", "settle", "tell"]
