"""Contractions to learn rates from: drawn at random, and every lowering of them timed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from einheads.layout import Layout, layout
from einheads.pattern import parse
from einheads.price import price
from einheads.rates import Rates
from einheads.sizes import bind
from einheads.steps import Steps
from einheads.stopwatch import Watch

from .cases import Case
from .operations import drawn
from .search import Draft, drafts

# Candidates that take so many times longer than the fastest one teach nothing about the choice.
_FAR = 6.0
# So many candidates of a lesson are timed: the cheapest by price, and others.
_CHEAPEST, _OTHERS = 24, 12


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
        return [
            drawn(axes, order, self.case.sizes, device, dtype)
            for axes, order in zip(self.case.terms, self.orders, strict=False)
        ]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the clock said to a lesson.

    Attributes:
        lesson: the question.
        layouts: of the operands.
        itemsize: bytes for one number.
        steps: the lowerings that were timed.
        seconds: of each of them.
        threads: how many shared the work.
    """

    lesson: Lesson
    layouts: tuple[Layout, ...]
    itemsize: int
    steps: tuple[Steps, ...]
    seconds: tuple[float, ...]
    threads: int = 1

    def price(self, number: int, rates: Rates) -> float:
        """What the cost model thinks of a lowering."""
        sizes = self.lesson.case.sizes
        rates = rates.shared() if self.threads > 1 else rates
        return price(self.steps[number], self.layouts, sizes, self.itemsize, rates)

    def lost(self, rates: Rates) -> float:
        """How many times longer the chosen lowering takes than the fastest one."""
        prices = [self.price(number, rates) for number in range(len(self.steps))]
        return self.seconds[prices.index(min(prices))] / min(self.seconds)


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
        watch.threads,
    )


def _some(every: Sequence[Draft], lesson: Lesson) -> Sequence[Draft]:
    """The cheapest candidates, and some of the others at random."""
    rest = every[_CHEAPEST:]
    draw = random.Random(lesson.case.name)  # noqa: S311 - nothing secret
    return [*every[:_CHEAPEST], *draw.sample(rest, min(_OTHERS, len(rest)))]


__all__ = ["Answer", "Lesson", "lessons", "study"]
