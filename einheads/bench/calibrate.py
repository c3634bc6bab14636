"""Where the rates of the cost model come from: lowerings are timed, and rates are fitted to them.

`python -m einheads bench --calibrate` draws contractions that no suite has, times every lowering of
each, and finds the rates with which the cheapest by price is the fastest by the clock. It prints
the rates as they stand in `rates.py`, with the machine and with what the fit is worth.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from einheads.costs import FRESH_BYTES
from einheads.layout import Layout, layout
from einheads.pattern import parse
from einheads.price import price
from einheads.rates import Rates, cpu_kind, rates_for
from einheads.sizes import bind
from einheads.steps import Steps
from einheads.stopwatch import Watch, keep_memory

from .cases import Case
from .search import Draft, drafts

# Candidates that take so many times longer than the fastest one teach nothing about the choice.
_FAR = 6.0
# So many candidates of a lesson are timed: the cheapest by price, and others.
_CHEAPEST, _OTHERS = 24, 12
# How many contractions to learn from; every fourth is kept back to judge the fit.
COUNT = 600
# The names of the rates, in the order of their vectors.
RATES = tuple(field.name for field in fields(Rates))


@dataclass(frozen=True, slots=True)
class Lesson:
    """A contraction to learn from.

    Attributes:
        case: what is computed.
        orders: for each operand, its axes in the order in which they lie in memory.
    """

    case: Case
    orders: tuple[tuple[str, ...], ...]

    def operands(self, device: str, dtype: torch.dtype) -> list[Tensor]:
        """Random operands that lie as the lesson says.

        Example:
            >>> lesson = Lesson(Case("", "a b, b -> a", {"a": 2, "b": 3}), (("b", "a"), ("b",)))
            >>> lesson.operands("cpu", torch.float32)[0].stride()
            (1, 2)
        """
        found = []
        for axes, order in zip(self.case.terms, self.orders, strict=False):
            shape = [self.case.sizes[axis] for axis in order]
            stored = torch.randn(shape, device=device, dtype=dtype)
            found.append(stored.permute([order.index(axis) for axis in axes]))
        return found


@dataclass(frozen=True, slots=True)
class Answer:
    """What the clock said to a lesson.

    Attributes:
        lesson: the question.
        layouts: of the operands.
        itemsize: bytes for one number.
        steps: the lowerings that were timed.
        seconds: of each of them.
    """

    lesson: Lesson
    layouts: tuple[Layout, ...]
    itemsize: int
    steps: tuple[Steps, ...]
    seconds: tuple[float, ...]

    def price(self, number: int, rates: Rates) -> float:
        """What the cost model thinks of a lowering."""
        sizes = self.lesson.case.sizes
        return price(self.steps[number], self.layouts, sizes, self.itemsize, rates)

    def lost(self, rates: Rates) -> float:
        """How many times longer the chosen lowering takes than the fastest one."""
        prices = [self.price(number, rates) for number in range(len(self.steps))]
        return self.seconds[prices.index(min(prices))] / min(self.seconds)


@dataclass(frozen=True, slots=True)
class Fit:
    """Rates, and what they are worth on the lessons they were fitted to and on fresh ones.

    Attributes:
        rates: the rates.
        lowerings: how many were timed.
        lessons: of how many contractions.
        seen: mean loss of time by the choice, 1.02 for two percent, on the lessons of the fit.
        fresh: the same on lessons that were kept back.
        worst: the largest single loss among the latter.
        error: by which factor a price is typically off.
    """

    rates: Rates
    lowerings: int
    lessons: int
    seen: float
    fresh: float
    worst: float
    error: float


def lessons(count: int, seed: int = 2026) -> Iterator[Lesson]:
    """Random contractions of another family than those of the suites.

    They have more axes, sizes from 2 to 1024, and operands that need not be contiguous.

    Example:
        >>> [lesson.case.pattern for lesson in lessons(2)] == [
        ...     lesson.case.pattern for lesson in lessons(2)
        ... ]
        True

    Args:
        count: how many.
        seed: the same seed gives the same lessons.
    """
    draw = random.Random(seed)  # noqa: S311 - nothing secret
    for number in range(count):
        yield _lesson(f"lesson {number}", draw)


def _lesson(name: str, draw: random.Random) -> Lesson:
    # Small and large ones alike: the same number of each magnitude.
    most = draw.choice((1e4, 1e5, 1e6, 1e6, 1e7, 1e7, 6e7))
    while True:
        letters = iter("abcdefghijkl")
        # How many axes each role has: batch, contract, left, right.
        numbers = [
            draw.choice(choices)
            for choices in ((0, 0, 1, 1, 2), (1, 1, 1, 2, 2, 3), *[(0, 1, 1, 1, 2, 2, 3)] * 2)
        ]
        batch, contract, left, right = ([next(letters) for _ in range(k)] for k in numbers)
        terms = [batch + contract + left, batch + contract + right, batch + left + right]
        for axes in terms:
            # Patterns that people write are more orderly than random ones.
            if draw.random() < 0.8:
                draw.shuffle(axes)
        largest = math.log(draw.choice((24, 64, 256, 1024)))
        every = (*batch, *contract, *left, *right)
        sizes = {axis: round(math.exp(draw.uniform(0.7, largest))) for axis in every}
        work = math.prod(sizes.values())
        if most / 20 < work < most and all(
            math.prod(sizes[axis] for axis in term) < 1.5e7 for term in terms
        ):
            break
    orders = []
    for axes in terms[:2]:
        order = list(axes)
        if draw.random() < 0.25:
            draw.shuffle(order)
        orders.append(tuple(order))
    first, second, output = (" ".join(term) for term in terms)
    return Lesson(Case(name, f"{first}, {second} -> {output}", sizes), tuple(orders))


def study(lesson: Lesson, watch: Watch, dtype: torch.dtype = torch.float32) -> Answer:
    """Time every lowering of a lesson that is not hopeless.

    Args:
        lesson: what is computed.
        watch: how time is taken.
        dtype: of the operands.
    """
    operands = lesson.operands(watch.device, dtype)
    every = _some(drafts(lesson.case, operands), lesson)
    calls = [partial(draft.run, *operands) for draft in every]
    seconds = []
    for call in calls:
        taken = watch.time(call, 1)
        # The first call of a small one says little.
        seconds.append(taken if taken > watch.span else watch.time(call, 1))
    running = [place for place, taken in enumerate(seconds) if taken < _FAR * min(seconds) + 3e-5]
    for _ in range(watch.rounds):
        for place in running:
            repeats = max(1, round(watch.span / max(seconds[place], 1e-7)))
            seconds[place] = min(seconds[place], watch.time(calls[place], repeats))
    least = min(seconds[place] for place in running)
    kept = [place for place in running if seconds[place] < _FAR * least]
    bound = bind(parse(lesson.case.pattern), [operand.shape for operand in operands])
    layouts = tuple(
        layout(dims, operand.stride(), bound.sizes)
        for dims, operand in zip(bound.operands, operands, strict=True)
    )
    return Answer(
        lesson,
        layouts,
        dtype.itemsize,
        tuple(every[place].steps for place in kept),
        tuple(seconds[place] for place in kept),
    )


def _some(every: Sequence[Draft], lesson: Lesson) -> Sequence[Draft]:
    """The cheapest candidates, and some of the others at random."""
    rest = every[_CHEAPEST:]
    draw = random.Random(lesson.case.name)  # noqa: S311 - nothing secret
    return [*every[:_CHEAPEST], *draw.sample(rest, min(_OTHERS, len(rest)))]


def units(answer: Answer, number: int) -> Tensor:
    """How many units of each kind of work a lowering needs, in the order of `RATES`.

    A price is a sum of units times rates, so with unit vectors for rates it is the units.
    """
    every: Any = torch.eye(len(RATES), dtype=torch.float64)
    vectors: Any = dict(zip(RATES, every, strict=True))
    found: Any = answer.price(number, Rates(**vectors))
    return torch.as_tensor(found, dtype=torch.float64).expand(len(RATES))


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
    work = torch.stack([units(answers[group], n) for group, n in rows])
    taken = torch.tensor([answers[g].seconds[n] * 1e9 for g, n in rows], dtype=torch.float64).log()
    group = torch.tensor([g for g, _ in rows])
    count = len(answers)
    least = torch.full((count,), math.inf, dtype=torch.float64)
    slower = taken - least.scatter_reduce(0, group, taken, "amin")[group]
    weight = torch.exp(-slower)
    weight = weight / _sums(weight, group, count)[group] / count
    first = torch.tensor([max(getattr(start, name), 1e-4) for name in RATES]).double().log()
    rates = first.clone().requires_grad_()
    optimizer = torch.optim.Adam([rates], lr=0.03)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.03, steps)
    for _ in range(steps):
        prices = (work @ rates.exp()).clamp_min(1.0).log()
        off = torch.nn.functional.smooth_l1_loss(prices, taken, beta=0.5, reduction="none")
        # A softmax over the lowerings of each lesson.
        score = -_SHARPNESS * prices
        top = torch.full((count,), -math.inf, dtype=torch.float64)
        top = top.scatter_reduce(0, group, score.detach(), "amax")
        chance = torch.exp(score - top[group])
        chance = chance / _sums(chance, group, count)[group]
        loss = (weight * off).sum() + _ORDER * (chance * slower.clamp_max(1.5)).sum() / count
        loss = loss + _HELD * ((rates - first) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    found = (float(f"{rate:.3g}") for rate in rates.detach().exp())
    return Rates(**dict(zip(RATES, found, strict=True)))


def _sums(values: Tensor, group: Tensor, count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.float64).scatter_add(0, group, values)


def calibrate(
    watch: Watch,
    count: int | None = None,
    seed: int = 2026,
    dtype: torch.dtype = torch.float32,
    *,
    progress: bool = True,
) -> Fit:
    """Time lowerings and fit rates to them.

    Args:
        watch: how time is taken.
        count: how many contractions, `COUNT` by default.
        seed: of the contractions.
        dtype: of all numbers.
        progress: whether to show a progress bar.
    """
    # Large results are fresh memory in most programs, and their price says so.
    keep_memory(FRESH_BYTES)
    count = COUNT if count is None else count
    bar = tqdm(
        lessons(count, seed),
        desc="calibrate",
        total=count,
        leave=False,
        disable=None if progress else True,
    )
    with torch.no_grad():
        answers = [study(lesson, watch, dtype) for lesson in bar]
    return judged(answers, rates_for(watch.device))


def judged(answers: Sequence[Answer], start: Rates) -> Fit:
    """Fit to three quarters of the answers, and judge by the last one."""
    seen = [answer for number, answer in enumerate(answers) if number % 4]
    back = list(answers[::4])
    rates = fit(seen, start)
    lost = [answer.lost(rates) for answer in back]
    off = sorted(
        abs(math.log(answer.price(n, rates) / (1e9 * taken)))
        for answer in back
        for n, taken in enumerate(answer.seconds)
    )
    return Fit(
        rates=rates,
        lowerings=sum(len(answer.steps) for answer in answers),
        lessons=len(answers),
        seen=_mean([answer.lost(rates) for answer in seen]),
        fresh=_mean(lost),
        worst=max(lost),
        error=math.exp(off[len(off) // 2]),
    )


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))


def tell(watch: Watch, *, progress: bool = True) -> Iterator[str]:
    """Calibrate, and give the lines to print: where the rates come from, and the rates.

    Args:
        watch: how time is taken.
        progress: whether to show a progress bar.
    """
    found = calibrate(watch, progress=progress)
    yield f"# {found.lowerings:,} timed lowerings of {found.lessons} contractions"
    yield f"# counted: {watch.clock}; threads: {watch.threads}"
    yield "# the chosen lowering against the fastest one, geometric mean:"
    yield f"#   {found.fresh:.3f} on contractions that were kept back, {found.worst:.2f} at worst"
    yield f"#   {found.seen:.3f} on those of the fit"
    yield f"# a price is typically off by a factor of {found.error:.2f}"
    yield f"{(cpu_kind() if watch.device == 'cpu' else watch.device).upper()} = Rates("
    for name, rate in asdict(found.rates).items():
        yield f"    {name}={rate!r},"
    yield ")"


__all__ = ["Answer", "Fit", "Lesson", "calibrate", "fit", "judged", "lessons", "study", "tell"]
