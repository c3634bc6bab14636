"""The ways to compute one contraction, and what each of them costs.

There is freedom: which axes are folded into the rows and columns of a matrix product, which become
its batch (an operand that lacks them is expanded at stride zero), in which order, which operand is
on the left, or whether there is a matrix product at all. Each choice is a `Way`; each has a price
in nanoseconds. Prices only rank, they are no promise: whichever is chosen, the result is right. The
file knows nothing of torch, nor of how a way is written down.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .layout import Layout, combined, contiguous
from .plan import Contraction
from .price import Costs, near
from .rates import rates_for
from .sizes import Dim, Dims
from .steps import flat


@dataclass(frozen=True, slots=True)
class Traits:
    """What of the tensors, besides shapes and layouts, decides the lowering.

    Attributes:
        device: the device type, such as "cpu" or "cuda".
        itemsize: bytes for one number.
        integer: integers have no matrix product on every device, and sum into int64.
        autocast: contractions are matrix products without exception, since only these are cast.
    """

    device: str = "cpu"
    itemsize: int = 4
    integer: bool = False
    autocast: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to see a contraction as a (stack of) matrix product.

    Attributes:
        batch: axes of the stack, the looped ones among them: those that only one operand has.
        rows: axes folded into the rows of the left matrix.
        columns: axes folded into the columns of the right matrix.
        contract: the summed axes, in the order in which they are folded.
        swapped: whether the right operand of the contraction is the left matrix.
        near: for the left and the right matrix, whether a copy has the summed axes innermost.
    """

    batch: Dim
    rows: Dim
    columns: Dim
    contract: Dim
    swapped: bool
    near: tuple[bool, bool] = (True, False)

    @property
    def result(self) -> Dims:
        """The dimensions of what the matrix product makes."""
        return self.batch, self.rows, self.columns


@dataclass(frozen=True, slots=True)
class Elementwise:
    """Multiply with unit dimensions where an operand lacks an axis, then sum the contracted axes.

    Attributes:
        order: of the axes while they are multiplied.
        contract: those of them that are summed; none for a plain product.
    """

    order: Dim
    contract: Dim

    @property
    def result(self) -> Dims:
        """The dimensions of the result."""
        return tuple((name,) for name in self.order if name not in self.contract)


Way = Candidate | Elementwise

# A way that is priced so many times higher than the cheapest one is not written down.
_SLACK = 1.4


def ways(
    step: Contraction,
    left: Layout,
    right: Layout,
    sizes: Mapping[str, int],
    traits: Traits,
    output: Dims | None,
    *,
    every: bool = False,
) -> list[tuple[float, Way]]:
    """The ways worth trying, with their prices, the cheapest first.

    Args:
        step: the contraction.
        left: the layout of its left value.
        right: the layout of its right value.
        sizes: to price with.
        traits: device, dtype and autocast.
        output: the dimensions that the result has to be brought into; None between two
            contractions.
        every: give also those that are hopeless.
    """
    return _Ways(step, left, right, sizes, traits, output, every=every).found()


def made(way: Way, left: Layout, right: Layout, sizes: Mapping[str, int]) -> Layout:
    """How the result of a way lies in memory."""
    if isinstance(way, Elementwise) and not way.contract:
        return combined(way.result, left, right, sizes)
    return contiguous(way.result, sizes)


class _Ways:
    """The search for ways: what follows from a part of a choice is priced once."""

    def __init__(
        self,
        step: Contraction,
        left: Layout,
        right: Layout,
        sizes: Mapping[str, int],
        traits: Traits,
        output: Dims | None,
        *,
        every: bool,
    ) -> None:
        self.step = step
        self.layouts = left, right
        self.sizes = sizes
        self.traits = traits
        self.output = output
        self.every = every
        self.costs = Costs(rates_for(traits.device), sizes, traits.itemsize)
        # What each operand has besides the contracted axes.
        self.have = step.batch + step.left_axes, step.batch + step.right_axes
        self.best = math.inf
        self.ways: list[tuple[float, Way]] = []
        self.operands: dict[tuple[int, Dim, Dim, Dim], tuple[float, bool | None, bool]] = {}
        self.copied: dict[tuple[int, Dim], float] = {}
        self.results: dict[tuple[Dim, Dim, Dim], float] = {}

    def found(self) -> list[tuple[float, Way]]:
        only = self.elementwise_only()
        if not only:
            self.products()
        if only or not self.traits.autocast:
            self.elementwise()
        self.ways.sort(key=lambda entry: entry[0])
        limit = math.inf if self.every else self.best * _SLACK
        return [entry for entry in self.ways if entry[0] <= limit]

    def elementwise_only(self) -> bool:
        step, traits = self.step, self.traits
        if not step.contract:
            return True
        if traits.device == "cpu" or traits.autocast:
            return False
        # Off the CPU, integers have no matrix product, and a stack of 1x1 results is slow as one.
        return traits.integer or bool(step.batch and not step.left_axes and not step.right_axes)

    def add(self, price: float, way: Way) -> None:
        self.best = min(self.best, price)
        self.ways.append((price, way))

    # Elementwise

    def elementwise(self) -> None:
        step, costs, (left, right) = self.step, self.costs, self.layouts
        numbers = costs.count(step.result) * costs.count(step.contract)
        call = costs.rates.multiply_call + (costs.rates.sum_call if step.contract else 0.0)
        if not self.every and call + numbers * costs.rates.multiply_number > self.best * _SLACK:
            return
        # As the operands lie, nothing is read against its order; as the output wants it, nothing
        # is turned afterwards.
        orders = [left.order + right.order, right.order + left.order]
        if self.output is not None:
            orders.insert(0, tuple(name for name in flat(self.output) if name in step.result))
        seen = set()
        for order in orders:
            axes = tuple(dict.fromkeys((*order, *step.result, *left.order, *step.contract)))
            if axes in seen:
                continue
            seen.add(axes)
            way = Elementwise(axes, step.contract)
            dims = tuple((name,) for name in axes)
            lies = combined(dims, left, right, self.sizes)
            price = call + costs.multiply(lies.order, left, right)
            if step.contract:
                price += costs.sum(dims, lies, step.contract)
                lies = contiguous(way.result, self.sizes)
            self.add(price + self.reader(lies, way.result), way)

    # Matrix products

    def products(self) -> None:
        """Every way to see the contraction as a matrix product that could be the best one.

        An operand's axes are folded in the order in which they lie in its memory, since another
        order copies, or in the order of the output, if it is to be copied anyway. A batch whose
        axes are partly missing in an operand has no single stride there: it is tried, but it
        copies.
        """
        step = self.step
        left, right = self.layouts
        contracts = _orders(step.contract, left, right)
        for looped in _subsets(step.left_axes, left):
            own = [name for name in step.left_axes if name not in looped]
            for others in _subsets(step.right_axes, right):
                if looped and others:
                    continue  # both operands would have to be copied
                foreign = [name for name in step.right_axes if name not in others]
                axes = (*step.batch, *looped, *others)
                if self.hopeless(axes, own, foreign):
                    continue
                for rows in self.orders(own, left):
                    for columns in self.orders(foreign, right):
                        for batch in self.orders(axes, left, right):
                            for contract in contracts:
                                self.product(batch, rows, columns, contract)

    def hopeless(self, batch: Dim, rows: Sequence[str], columns: Sequence[str]) -> bool:
        """Whether a product costs too much however its operands lie."""
        if self.every:
            return False
        costs, rates = self.costs, self.costs.rates
        count, m, n = costs.count(batch), costs.count(tuple(rows)), costs.count(tuple(columns))
        work = m * n * costs.count(self.step.contract)
        each = min(rates.tiny_matrix, rates.matrix) + work * rates.multiply_add
        return count * each > self.best * _SLACK

    def orders(self, axes: Sequence[str], *layouts: Layout) -> list[Dim]:
        """The orders in which to fold axes: as they lie, or as the output has them."""
        found = [_sorted(axes, layout) for layout in layouts]
        if self.output is not None and len(axes) > 1:
            wanted = flat(self.output)
            found.append(tuple(sorted(axes, key=wanted.index)))
        return list(dict.fromkeys(found))

    def product(self, batch: Dim, rows: Dim, columns: Dim, contract: Dim) -> None:
        costs = self.costs
        call = costs.rates.bmm_call if batch else costs.rates.mm_call
        sizes = [costs.count(dim) for dim in (batch, rows, columns, contract)]
        price_left, near_left, free_left = self.operand(0, batch, rows, contract)
        price_right, near_right, free_right = self.operand(1, batch, columns, contract)
        # A copy may be laid out either way.
        for first in (near_left,) if free_left else (True, False):
            for second in (near_right,) if free_right else (True, False):
                copies = 0.0
                if not free_left:
                    copies += price_left if first == near_left else self.copy(0, batch, rows, contract, first)
                if not free_right:
                    copies += price_right if second == near_right else self.copy(1, batch, columns, contract, second)
                if not self.every and copies > self.best * _SLACK:
                    continue
                b, m, n, k = sizes
                price = call + copies + costs.product(b, m, n, k, first, second, stacked=bool(batch))
                self.add(
                    price + self.result((batch, rows, columns)),
                    Candidate(batch, rows, columns, contract, False, (bool(first), bool(second))),
                )
                # Among equals: as it is written.
                price = call + copies + costs.product(b, n, m, k, second, first, stacked=bool(batch)) + 0.5
                self.add(
                    price + self.result((batch, columns, rows)),
                    Candidate(batch, columns, rows, contract, True, (bool(second), bool(first))),
                )

    def operand(
        self, side: int, batch: Dim, fold: Dim, contract: Dim
    ) -> tuple[float, bool | None, bool]:
        """The price of reading an operand, whether its summed axes are innermost, and if it is free."""
        key = side, batch, fold, contract
        found = self.operands.get(key)
        if found is None:
            layout = self.layouts[side]
            if not batch and not fold and layout.folds(contract):
                found = 0.0, True, True  # a vector, which BLAS reads at any distance
            elif _readable(layout, batch, fold, contract, self.have[side]):
                found = 0.0, near(layout, fold, contract), True
            else:
                found = self.copy(side, batch, fold, contract, near=True), True, False
            self.operands[key] = found
        return found

    def copy(self, side: int, batch: Dim, fold: Dim, contract: Dim, near: bool) -> float:
        have = self.have[side]
        stack = batch if any(name in have for name in batch) else ()
        order = (*stack, *fold, *contract) if near else (*stack, *contract, *fold)
        price = self.copied.get((side, order))
        if price is None:
            price = self.costs.rates.copy_call + self.costs.copy(order, self.layouts[side])
            self.copied[side, order] = price
        return price

    def result(self, dims: tuple[Dim, Dim, Dim]) -> float:
        price = self.results.get(dims)
        if price is None:
            price = self.results[dims] = self.reader(contiguous(dims, self.sizes), dims)
        return price

    def reader(self, lies: Layout, have: Dims) -> float:
        """What it costs to bring a result into the dimensions of the output."""
        if self.output is None:
            return 0.0
        names = flat(have)
        wanted = [tuple(name for name in dim if name in names) for dim in self.output]
        axes = flat(tuple(wanted))
        if all(lies.folds(dim) for dim in wanted):
            return self.costs.reader(axes, lies)
        return self.costs.rates.copy_call + self.costs.copy(axes, lies)


def readable(layout: Layout, candidate: Candidate, fold: Dim, have: Dim) -> bool:
    """Whether an operand becomes matrices that BLAS reads as they lie, without a copy.

    Args:
        layout: of the operand.
        candidate: whose matrices they are.
        fold: its rows or its columns, whichever the operand has.
        have: the axes of the operand, those that are contracted aside.
    """
    return _readable(layout, candidate.batch, fold, candidate.contract, have)


def _readable(layout: Layout, batch: Dim, fold: Dim, contract: Dim, have: Dim) -> bool:
    present = [name in have for name in batch]
    if any(present) and not (all(present) and layout.folds(batch)):
        return False
    if not layout.folds(fold) or not layout.folds(contract):
        return False
    # BLAS reads a matrix whose rows or whose columns lie densely; a batch axis innermost is
    # neither.
    return near(layout, fold, contract) is not None


def _orders(axes: Dim, left: Layout, right: Layout) -> list[Dim]:
    """The orders in which axes lie in either operand."""
    return list(dict.fromkeys((_sorted(axes, left), _sorted(axes, right))))


def _sorted(axes: Sequence[str], layout: Layout) -> Dim:
    # Axes that the layout does not know (size one, or not of this operand) come first, as they are
    # written.
    return tuple(
        sorted(
            axes,
            key=lambda name: layout.order.index(name) if name in layout.order else -1,
        )
    )


# More looped axes than this are tried only as the outermost or innermost ones of the operand.
_ALL_SUBSETS = 4


def _subsets(axes: Dim, layout: Layout) -> list[Dim]:
    """The sets of axes that may be looped over, none of them first."""
    ordered = _sorted(axes, layout)
    if len(ordered) <= _ALL_SUBSETS:
        return [
            subset
            for length in range(len(ordered) + 1)
            for subset in itertools.combinations(ordered, length)
        ]
    outer = [ordered[:length] for length in range(len(ordered) + 1)]
    return list(dict.fromkeys([*outer, *(ordered[length:] for length in range(1, len(ordered)))]))
