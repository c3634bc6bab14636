"""Products of operands that are read as they lie, where one stack of all of them would copy.

Where no stride covers a whole batch, stacks are made one after the other, into one result. Where
summed axes do not fold, products are made along some of them, and added up: afterwards, or one
after the other, so that they are never there all at once. Autograd cannot follow what takes turns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .candidates import Candidate, Elementwise, lying
from .forms import as_stored, orders_of, subsets
from .layout import combined, contiguous
from .search import Search
from .sizes import Dim
from .steps import flat
from .walks import L2_BYTES

# Python goes around no more often than this; it is the last number of its class.
_MOST_TURNS = 63


@dataclass(eq=False)
class Turns(Search):
    """The search for ways that make more than one stack, or more than the result."""

    def turns(self) -> None:
        """The ways that make one product after the other, into one result."""
        for looped, own, foreign in self.splits():
            self.stacks(self.step.batch + looped, own, foreign)
        if self.traits.wide:
            self.added_in_turns()
        self.sums()

    def stacks(self, batch: Dim, own: Dim, foreign: Dim) -> None:
        """The ways that multiply one stack after the other, since that copies neither operand.

        Where no stride covers the whole batch of an operand, one may cover all axes but one.
        """
        if len(batch) < 2:
            return
        costs = self.costs
        count, rows, columns = costs.count(batch), costs.count(own), costs.count(foreign)
        summed = self.work // self.count if self.count else 0
        least = costs.least(count, rows, columns, summed, stacked=True)
        if least + costs.turns(2) > self.limit:
            return
        # Whatever the batch is, the matrices themselves have to be readable.
        folds = as_stored(own, self.layouts[0]), as_stored(foreign, self.layouts[1])
        read = self.read(folds, self.contracts)
        if not read or any(map(self.covered, self.batches(batch))):
            return
        for first in batch:
            calls = costs.turns(self.sizes[first])
            if not 1 < self.sizes[first] <= _MOST_TURNS or calls + least > self.limit:
                continue
            rest = tuple(name for name in batch if name != first)
            orders = [(first, *order) for order in self.batches(rest) if self.covered(order)]
            for order, (contract, lies) in itertools.product(orders, read):
                for price, way in self.stacked(order, folds, contract, lies):
                    self.add(price + calls + self.result(way.result), way._replace(each=True))

    def halves(self) -> Iterator[tuple[Dim, Dim, tuple[bool, bool]]]:
        """The axes along which products may be added up, what each sums, and how that lies.

        There are none where no operand is copied to fold all summed axes.
        """
        contract, (left, right) = self.step.contract, self.layouts
        if len(contract) < 2 or any(left.folds(one) and right.folds(one) for one in self.contracts):
            return
        folds = as_stored(self.step.left_axes, left), as_stored(self.step.right_axes, right)
        for added in subsets(contract, left):
            if 0 < len(added) < len(contract):
                inner = tuple([name for name in contract if name not in added])
                for order, lies in self.read(folds, orders_of(inner, left, right)):
                    yield added, order, lies

    def added(self) -> None:
        """The ways that make all products along some of the summed axes, and then add them up.

        If these are many, they take no more memory than copies of the operands would.
        """
        costs, (left, right), batch = self.costs, self.layouts, self.step.batch
        for added, contract, lies in self.halves():
            made = self.count * costs.count(added)
            calls = costs.rates.bmm_call + costs.rates.sum_call
            if self.least(added) + calls + made * costs.least_sum() > self.limit:
                continue
            held = costs.count(left.order) + costs.count(right.order)
            if made > max(held, L2_BYTES // costs.itemsize):
                continue
            # To sum some axes of a batch, they are unfolded.
            calls += costs.rates.view * bool(batch)
            orders = orders_of(added + batch, left, right)
            orders += [added + order for order in self.batches(batch)]
            for order in filter(self.covered, dict.fromkeys(orders)):
                for price, way in self.partial(order, added, contract, lies):
                    dims = order, way.rows, way.columns
                    summing = calls + costs.sum(dims, contiguous(dims, self.sizes), added)
                    self.add(price + summing + self.result(way.result), way)

    def added_in_turns(self) -> None:
        """The ways that add products along one of the summed axes up, one after the other."""
        costs, batch = self.costs, self.step.batch
        for added, contract, lies in self.halves():
            turns = costs.count(added)
            if len(added) > 1 or turns < 2 or (turns > _MOST_TURNS and batch):
                continue
            adding = costs.adding(turns, self.count)
            if self.least(added, turns) + adding > self.limit:
                continue
            for order in filter(self.covered, self.batches(batch)):
                for price, way in self.partial(added + order, added, contract, lies, turns):
                    self.add(price + adding + self.result(way.result), way._replace(each=True))

    def least(self, added: Dim, turns: int = 1) -> float:
        """What products along some of the summed axes cost at least."""
        costs, step = self.costs, self.step
        rows, columns = costs.count(step.left_axes), costs.count(step.right_axes)
        count, batch = costs.count(added), costs.count(step.batch)
        summed = self.work // (self.count * count) if self.work else 0
        return turns * costs.least(batch * count // turns, rows, columns, summed, stacked=True)

    def partial(
        self, order: Dim, added: Dim, contract: Dim, lies: tuple[bool, bool], turns: int = 1
    ) -> Iterator[tuple[float, Candidate]]:
        """Products whose batch has this order, to be added up along some of its axes."""
        step, (left, right) = self.step, self.layouts
        folds = as_stored(step.left_axes, left), as_stored(step.right_axes, right)
        views = self.views(order, folds, contract, lies)
        for price, way in self.stacked(order, folds, contract, lies, turns):
            yield views + price, way._replace(added=added)

    def views(
        self, order: Dim, folds: tuple[Dim, Dim], contract: Dim, lies: tuple[bool, bool]
    ) -> float:
        """What it costs to see both operands as stacks of matrices, and the result without."""
        count = 0
        for layout, fold, near in zip(self.layouts, folds, lies, strict=True):
            dims = (order, fold, contract) if near else (order, contract, fold)
            known = [name for dim in dims for name in dim if name in layout.order]
            count += any(len(dim) != 1 for dim in dims) + (known != list(layout.order))
        if not self.step.batch:
            # The sum of products is a matrix, which `result` takes to be the product of two.
            count += not (folds[0] and folds[1]) or len(folds[0]) > 1
        return self.costs.rates.view * count

    def read(
        self, folds: tuple[Dim, Dim], contracts: Iterable[Dim]
    ) -> list[tuple[Dim, tuple[bool, bool]]]:
        """The orders of summed axes in which BLAS reads both operands, and how it finds them."""
        found = []
        for contract in contracts:
            one, other = [lying(*pair, contract) for pair in zip(self.layouts, folds, strict=True)]
            if one is not None and other is not None:
                found.append((contract, (one, other)))
        return found

    def stacked(
        self,
        order: Dim,
        folds: tuple[Dim, Dim],
        contract: Dim,
        lies: tuple[bool, bool],
        turns: int = 1,
    ) -> Iterator[tuple[float, Candidate]]:
        """Products of operands that are read as they lie, either of them on the left.

        The prices are without the calls, and without what becomes of the products.
        """
        costs, held = self.costs, self.held(order)
        counts = costs.count(folds[0]), costs.count(folds[1])
        reading = 0.0
        for layout, fold, others, inner in zip(
            self.layouts, folds, reversed(folds), lies, strict=True
        ):
            reading += costs.reading(layout, (order, fold, contract), others, near=inner)
        for one, other in ((0, 1), (1, 0)):
            price = costs.product(
                costs.count(order),
                counts[one],
                counts[other],
                costs.count(contract),
                left=lies[one],
                right=lies[other],
                stacked=True,
                different=(held[one], held[other]),
                turns=turns,
            )
            near = (lies[one], lies[other])
            way = Candidate(order, folds[one], folds[other], contract, bool(one), near)
            # Among equals: as it is written.
            yield reading + price + 0.5 * one, way

    def sums(self) -> None:
        """The way that adds products up one after the other, instead of all at once."""
        step = self.step
        # Narrow numbers would be rounded at every turn, where a sum is made in wider ones.
        if len(step.contract) != 1 or self.traits.narrow or self.traits.integer:
            return
        count = self.costs.count(step.contract)
        if not 1 < count <= _MOST_TURNS:
            return
        least = self.costs.turned(step.contract[0])
        least += self.work * self.costs.least_elementwise(summed=False)
        if least > self.limit:
            return
        # In the order in which the larger operand lies; it is read once, in long runs.
        large, small = sorted(self.layouts, key=lambda one: -self.costs.count(one.order))
        rest = dict.fromkeys((*large.order, *small.order, *step.result))
        order = (*step.contract, *(name for name in rest if name not in step.contract))
        for copies, ready, one, other in self.packed(order):
            way = Elementwise(order, step.contract, each=True, copies=copies)
            lies = combined(way.result, one, other, self.sizes)
            inner = lies.order[-1] if lies.order else None
            if any(inner in layout.order and inner != layout.unit for layout in (one, other)):
                continue  # a line of memory would be read at every turn, for one number of it
            price = ready + self.costs.multiply_in_turns(step.contract[0], lies.order, one, other)
            if price <= self.limit:
                price += self.reader(lies, flat(way.result))
                self.add(price, way, free=True not in copies)
