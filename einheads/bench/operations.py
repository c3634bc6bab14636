"""Single operations, to find the rates of each kind of work before those of whole lowerings.

A lowering is several operations at once, so that its time says little of each. Here every operation
is alone, of random sizes and strides: a product of matrices, a copy, an elementwise product, a sum.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from einheads.costs import Costs
from einheads.layout import Layout, combined, contiguous
from einheads.rates import Rates
from einheads.sizes import Dim, Dims
from einheads.stopwatch import Watch

# Numbers that an operand or a result has at most, and how many multiply-adds a product.
_MOST, _MOST_WORK = 6e6, 5e7


def drawn(
    axes: Dim, order: Dim, sizes: Mapping[str, int], device: str, dtype: torch.dtype
) -> Tensor:
    """Random numbers with these axes, which lie in memory in an order of their own.

    Example:
        >>> drawn(("a", "b"), ("b", "a"), {"a": 2, "b": 3}, "cpu", torch.float32).stride()
        (1, 2)
    """
    stored = torch.randn([sizes[axis] for axis in order], device=device, dtype=dtype)
    return stored.permute([order.index(axis) for axis in axes])


class Operation(Protocol):
    """Something that torch does in one call."""

    def call(self, device: str, dtype: torch.dtype) -> Callable[[], Tensor]:
        """The call, with operands of random numbers."""
        ...

    def price(self, rates: Rates, itemsize: int) -> float:
        """What the cost model thinks of it."""
        ...


@dataclass(frozen=True, slots=True)
class MatrixProduct:
    """A product of matrices, or a stack of them.

    Attributes:
        batch: how many; None for a product that is no stack.
        rows: of the left matrix.
        columns: of the right matrix.
        contract: how many numbers are summed.
        near: for each matrix, whether the summed axis lies innermost.
    """

    batch: int | None
    rows: int
    columns: int
    contract: int
    near: tuple[bool, bool]

    def call(self, device: str, dtype: torch.dtype) -> Callable[[], Tensor]:
        """The product of random matrices."""
        stack = () if self.batch is None else (self.batch,)
        inner, (left_near, right_near) = self.contract, self.near
        shapes = [(self.rows, inner), (inner, self.columns)]
        stored = [
            torch.randn(*stack, *(shape if straight else shape[::-1]), device=device, dtype=dtype)
            for shape, straight in zip(shapes, (left_near, not right_near), strict=True)
        ]
        left = stored[0] if left_near else stored[0].mT
        right = stored[1].mT if right_near else stored[1]
        function = torch.mm if self.batch is None else torch.bmm
        return lambda: function(left, right)

    def price(self, rates: Rates, itemsize: int) -> float:
        """What the cost model thinks of it."""
        count = 1 if self.batch is None else self.batch
        call = rates.mm_call if self.batch is None else rates.bmm_call
        return call + Costs(rates, {}, itemsize).product(
            count,
            self.rows,
            self.columns,
            self.contract,
            left=self.near[0],
            right=self.near[1],
            stacked=self.batch is not None,
            different=(count, count),
        )


@dataclass(frozen=True, slots=True)
class Loops:
    """What torch does in loops of its own: a copy, an elementwise product or a sum.

    Attributes:
        sizes: of the axes.
        stored: the axes of each operand as they lie in memory, the innermost last.
        order: the axes as they are walked through.
        summed: those that are summed.
    """

    sizes: dict[str, int]
    stored: tuple[Dim, ...]
    order: Dim
    summed: Dim = ()

    def call(self, device: str, dtype: torch.dtype) -> Callable[[], Tensor]:
        """The loops, over random numbers."""
        views = [self._view(axes, device, dtype) for axes in self.stored]
        if self.summed:
            places = [self.order.index(axis) for axis in self.summed]
            return lambda: views[0].sum(places)
        if len(views) == 1:
            return views[0].contiguous
        return lambda: views[0] * views[1]

    def _view(self, axes: Dim, device: str, dtype: torch.dtype) -> Tensor:
        walked = tuple(axis for axis in self.order if axis in axes)
        tensor = drawn(walked, axes, self.sizes, device, dtype)
        return tensor[tuple(slice(None) if axis in axes else None for axis in self.order)]

    def price(self, rates: Rates, itemsize: int) -> float:
        """What the cost model thinks of them."""
        costs = Costs(rates, self.sizes, itemsize)
        dims: Dims = tuple((axis,) for axis in self.order)
        lies: list[Layout] = [
            contiguous(tuple((axis,) for axis in axes), self.sizes) for axes in self.stored
        ]
        if self.summed:
            return rates.sum_call + costs.sum(dims, lies[0], self.summed)
        if len(lies) == 1:
            return rates.copy_call + costs.copy(self.order, lies[0])
        left, right = lies
        made = combined(dims, left, right, self.sizes)
        return rates.multiply_call + costs.multiply(made.order, left, right)


def operations(count: int, seed: int = 2026) -> Iterator[Operation]:
    """Random operations, half of them products of matrices.

    Example:
        >>> [type(one).__name__ for one in operations(4)]
        ['MatrixProduct', 'Loops', 'MatrixProduct', 'Loops']

    Args:
        count: how many.
        seed: the same seed gives the same operations.
    """
    draw = random.Random(seed)  # noqa: S311 - nothing secret
    for number in range(count):
        yield _loops(draw) if number % 2 else _matrix_product(draw)


def _size(draw: random.Random, least: float, most: float) -> int:
    # Small and large ones alike: the same number of each magnitude.
    return round(math.exp(draw.uniform(math.log(least), math.log(most))))


def _matrix_product(draw: random.Random) -> MatrixProduct:
    while True:
        batch = _size(draw, 1, 300) if draw.random() < 0.65 else None
        rows, columns = _size(draw, 1, 3000), _size(draw, 1, 3000)
        contract = _size(draw, 2, 600)
        count = batch or 1
        largest = count * max(rows * columns, rows * contract, columns * contract)
        alone = batch is None and min(rows, columns) == 1
        if 1e3 < count * rows * columns * contract < _MOST_WORK and largest < _MOST and not alone:
            near = draw.random() < 0.5, draw.random() < 0.5
            return MatrixProduct(batch, rows, columns, contract, near)


def _loops(draw: random.Random) -> Loops:
    while True:
        axes = "abcde"[: draw.choice((2, 3, 3, 4, 4, 5))]
        most = draw.choice((12, 40, 100, 400))
        sizes = {axis: _size(draw, 2, most) for axis in axes}
        if 500 < math.prod(sizes.values()) < _MOST:
            break
    order, stored = list(axes), list(axes)
    kind = draw.choice(("copy", "copy", "product", "sum"))
    if kind == "sum":
        summed = draw.sample(axes, draw.randint(1, len(axes) - 1))
        return Loops(sizes, (tuple(axes),), tuple(axes), tuple(sorted(summed)))
    draw.shuffle(order)
    if kind == "copy":
        return Loops(sizes, (tuple(stored),), tuple(order))
    draw.shuffle(stored)
    other = draw.sample(axes, draw.randint(1, len(axes)))
    return Loops(sizes, (tuple(stored), tuple(other)), tuple(order))


def clocked(
    every: Sequence[Operation],
    watch: Watch,
    dtype: torch.dtype,
    passes: int,
    *,
    progress: bool = True,
) -> list[float]:
    """Seconds that each operation takes at its best.

    All of them have their turn several times, so that a machine that is slow for a while is slow
    for none of them alone.

    Args:
        every: the operations.
        watch: how time is taken.
        dtype: of the numbers.
        passes: how often each of them has its turn.
        progress: whether to show a progress bar.
    """
    best = [math.inf] * len(every)
    draw = random.Random(0)  # noqa: S311 - nothing secret
    places = list(range(len(every)))
    turns = range(passes)
    hidden = None if progress else True
    for _ in tqdm(turns, desc="operations", leave=False, disable=hidden):
        draw.shuffle(places)
        for place in places:
            call = every[place].call(watch.device, dtype)
            call()
            repeats = max(1, round(watch.span / max(watch.time(call, 1), 1e-7)))
            for _ in range(watch.rounds):
                best[place] = min(best[place], watch.time(call, repeats))
    return best


__all__ = ["Loops", "MatrixProduct", "Operation", "clocked", "drawn", "operations"]
