"""How operands enter a matrix product, and how its result leaves it, with what that costs.

An operand may be read as it lies, or copied; the search in `ways.py` combines the forms of two.
What follows from a part of a choice is priced once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .candidates import Traits, covered, readable
from .costs import Costs
from .layout import Layout, contiguous, runs
from .plan import Contraction
from .sizes import Dim, Dims
from .steps import flat


class Form(NamedTuple):
    """An operand, ready for a matrix product.

    Attributes:
        price: of views and a copy.
        near: whether its summed axes lie innermost then.
        fold: its rows or columns, in their order.
        free: whether it is not copied.
    """

    price: float
    near: bool
    fold: Dim
    free: bool


@dataclass(eq=False)
class Forms:
    """The forms of the operands and of the result of one contraction.

    Attributes:
        step: the contraction.
        layouts: of its operands.
        sizes: to price with.
        traits: device, dtype and autocast.
        output: the dimensions that the result has to be brought into; None for whatever suits.
        every: give also forms that are hopeless.
    """

    step: Contraction
    layouts: tuple[Layout, Layout]
    sizes: Mapping[str, int]
    traits: Traits
    output: Dims | None
    every: bool

    def __post_init__(self) -> None:
        step, traits = self.step, self.traits
        self.wanted = () if self.output is None else flat(self.output)
        # Whether some dimension of the output holds several axes, or none.
        self.folded = self.output is not None and len(self.output) != len(self.wanted)
        self.costs = Costs(traits.rates, self.sizes, traits.itemsize)
        self.have = (
            frozenset(step.batch + step.left_axes + step.contract),
            frozenset(step.batch + step.right_axes + step.contract),
        )
        self.count = self.costs.count(step.result)
        self.work = self.count * self.costs.count(step.contract)
        # Whether it matters in which order an operand is read.
        self.large = [self.costs.large(layout) for layout in self.layouts]
        # What costs more is not looked at more closely.
        self.limit = math.inf
        call = self.costs.rates.copy_call
        self.least_copies = [call + self.costs.least_copy(layout) for layout in self.layouts]
        self.copies: dict[tuple[int, Dim], float] = {}
        self.results: dict[Dims, float] = {}

    def batches(self, axes: Dim) -> list[Dim]:
        """The orders of a batch: as it lies in either operand, or as the output has it."""
        if len(axes) < 2:
            return [axes]
        return list(dict.fromkeys([*orders_of(axes, *self.layouts), *self.as_wanted(axes)]))

    def as_wanted(self, axes: Dim) -> list[Dim]:
        """The axes as the output has them, if it is known."""
        return [tuple(sorted(axes, key=self.wanted.index))] if self.wanted else []

    def operand(self, side: int, batch: Dim, fold: Dim, contract: Dim, least: float) -> list[Form]:
        """The forms in which an operand may enter a matrix product, which costs so much at least.

        Its axes are folded in the order in which they lie in its memory, since another order
        copies; if it is to be copied anyway, the order of the output may be better.
        """
        layout, have = self.layouts[side], self.have[side]
        # Without a stack, torch folds the rows by itself.
        folded = len(contract) > 1 or len(batch) > 1 or bool(batch and len(fold) != 1)
        views = self.costs.rates.view * (folded + (not have.issuperset(batch)))
        found: list[Form] = []
        vector = not batch and not fold
        if vector and layout.folds(contract):
            # It is read at any distance, but maybe slowly, and again for each row that it meets.
            dense, apart = runs(layout, contract), self.costs.apart(layout, contract, self.work)
            found.append(Form(views + apart, dense, fold, True))
            if dense or not (apart or self.every):
                return found
        lies = None if vector else readable(layout, batch, fold, contract, have)
        if lies is not None:
            # What has no rows is read either way, and BLAS is told which.
            forms = (side == 0, side == 1) if batch and not fold else (lies,)
            read = views
            if self.large[side]:
                theirs = (self.step.right_axes, self.step.left_axes)[side]
                others = tuple(name for name in theirs if name not in batch)
                read += self.costs.reading(layout, (batch, fold, contract), others, near=lies)
            found += [Form(read, form, fold, True) for form in forms]
            # To copy it only pays where the result must be folded, so that its axes need another
            # order; or where no BLAS reads matrices nearly as fast whichever way they are stored.
            if not (self.every or self.folded or self.costs.loops):
                return found
        least += views
        if least + self.least_copies[side] > self.limit:
            return found
        stack = () if have.isdisjoint(batch) else batch
        call = self.costs.rates.copy_call
        for order in dict.fromkeys((fold, *self.as_wanted(fold))):
            for inner in (True,) if vector else (True, False):
                target = (*stack, *order, *contract) if inner else (*stack, *contract, *order)
                if least + call + self.costs.least_copy(layout, target) > self.limit:
                    continue
                price = self.copies.get((side, target))
                if price is None:
                    first = order if inner else contract
                    rows = self.costs.count(first) if first and not stack else 0
                    price = self.copies[side, target] = self.costs.copy(target, layout, rows) + call
                found.append(Form(views + price, inner, order, False))
        return found

    # The result

    def result(self, dims: tuple[Dim, Dim, Dim]) -> float:
        """What it costs to bring a matrix product into the dimensions of the output."""
        price = self.results.get(dims)
        if price is None:
            batch, rows, columns = dims
            folded = len(batch) > 1 or len(columns) > 1
            folded = folded or bool(batch and (len(rows) != 1 or not columns))
            axes = flat(dims)
            price = self.costs.rates.view * folded
            price += self.reader(None, axes) if self.output is not None else 0.0
            self.results[dims] = price
        return price

    def reader(self, lies: Layout | None, axes: Dim) -> float:
        """What it costs to bring a result, by default a contiguous one, into the output."""
        if self.output is None:
            return 0.0
        sizes = self.sizes
        have = axes if lies is None else lies.order
        order = [name for name in have if sizes[name] != 1]
        wanted = [name for name in self.wanted if name in axes and sizes[name] != 1]
        if order == wanted:
            return 0.0
        if self.folded or self.traits.dense:
            lies = lies or contiguous((axes,), sizes)
            dims = [tuple(name for name in dim if name in axes) for dim in self.output]
            if self.traits.dense or not all(lies.folds(dim) for dim in dims):
                return self.costs.rates.copy_call + self.costs.copy(flat(tuple(dims)), lies)
        return self.costs.reader(self.count, inner=order[-1] == wanted[-1]) + self.costs.rates.view

    def held(self, batch: Dim) -> tuple[int, int]:
        """How many matrices of a stack either operand holds, those that are expanded once."""
        left, right = ([name for name in batch if name in one] for one in self.have)
        return self.costs.count(tuple(left)), self.costs.count(tuple(right))

    def covered(self, batch: Dim) -> bool:
        """Whether neither operand is copied because of this batch."""
        left, right = self.layouts
        return covered(left, batch, self.have[0]) and covered(right, batch, self.have[1])


def orders_of(axes: Dim, left: Layout, right: Layout) -> list[Dim]:
    """The orders in which axes lie in either operand."""
    if len(axes) < 2:
        return [axes]
    return list(dict.fromkeys((as_stored(axes, left), as_stored(axes, right))))


def as_stored(axes: Dim, layout: Layout) -> Dim:
    """The axes as an operand has them in memory.

    Those that the layout does not know (size one, or not of this operand) come first, as they are
    written.
    """
    if len(axes) < 2:
        return axes
    known = [name for name in layout.order if name in axes]
    if len(known) == len(axes):
        return tuple(known)
    return (*[name for name in axes if name not in known], *known)


# More looped axes than this are tried only as the outermost or innermost ones of the operand.
_ALL_SUBSETS = 4


def subsets(axes: Dim, layout: Layout) -> list[Dim]:
    """The sets of axes that may be looped over, none of them first."""
    ordered = as_stored(axes, layout)
    if len(ordered) <= _ALL_SUBSETS:
        return [
            subset
            for length in range(len(ordered) + 1)
            for subset in itertools.combinations(ordered, length)
        ]
    outer = [ordered[:length] for length in range(len(ordered) + 1)]
    return list(dict.fromkeys([*outer, *(ordered[length:] for length in range(1, len(ordered)))]))


__all__ = ["Form", "Forms", "as_stored", "orders_of", "subsets"]
