"""The search for the ways to compute one contraction, with what each of them costs.

Prices only rank, they are no promise: whichever way is chosen, the result is right. What cannot be
among the best is left out as early as possible, since the search runs when a pattern is first met.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .candidates import Candidate, Elementwise, Traits, Way, readable
from .costs import Costs, near
from .layout import Layout, combined, contiguous
from .plan import Contraction
from .rates import rates_for, sure_for
from .sizes import Dim, Dims
from .steps import flat

# Ways that are priced so many times higher than the cheapest one are not worth writing down.
SLACK = 1.25


def ways(
    step: Contraction,
    left: Layout,
    right: Layout,
    sizes: Mapping[str, int],
    traits: Traits,
    output: Dims | None,
    *,
    slack: float = SLACK,
    every: bool = False,
    cautious: bool = False,
) -> list[tuple[float, Way]]:
    """The ways worth trying, with their prices, the cheapest first.

    What is written down costs no less than its price here, and more only for what is not seen here:
    a bias, and a view or two.

    Args:
        step: the contraction.
        left: the layout of its left value.
        right: the layout of its right value.
        sizes: to price with.
        traits: device, dtype and autocast.
        output: the dimensions that the result has to be brought into; None between two
            contractions.
        slack: give those that cost so many times as much as the cheapest one, and two views.
        every: give also those that are hopeless.
        cautious: give what `torch.einsum` does alone, unless another one is clearly cheaper.
    """
    slack, sure = (math.inf if every else slack), (sure_for(traits.device) if cautious else 1.0)
    return _Search(step, (left, right), sizes, traits, output, slack, sure).found()


class _Operand(NamedTuple):
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


class _Search:
    """The search for ways: what follows from a part of a choice is priced once."""

    def __init__(
        self,
        step: Contraction,
        layouts: tuple[Layout, Layout],
        sizes: Mapping[str, int],
        traits: Traits,
        output: Dims | None,
        slack: float,
        sure: float,
    ) -> None:
        self.step = step
        self.layouts = layouts
        self.sizes = sizes
        self.traits = traits
        self.output = output
        self.wanted = () if output is None else flat(output)
        self.slack = slack
        self.sure = sure
        self.every = slack == math.inf
        self.costs = Costs(rates_for(traits.device), sizes, traits.itemsize)
        # What each operand has besides the contracted axes.
        self.have = step.batch + step.left_axes, step.batch + step.right_axes
        self.count = self.costs.count(step.result)
        self.work = self.count * self.costs.count(step.contract)
        self.limit = math.inf
        self.ways: list[tuple[float, Way]] = []
        # Which operand torch has on the left: the right one, if the output begins with its axes.
        self.turned = bool(self.wanted and step.left_axes and step.right_axes) and (
            max(map(self.wanted.index, step.right_axes))
            < min(map(self.wanted.index, step.left_axes))
        )
        # What torch does itself, whether it copies, and the lowest price of what does not.
        self.own: tuple[float, Way] | None = None
        self.own_copies = False
        self.least_free = math.inf
        self.operands: dict[tuple[int, Dim, Dim, Dim], list[_Operand]] = {}
        self.copies: dict[tuple[int, Dim], float] = {}
        self.results: dict[Dims, float] = {}

    def found(self) -> list[tuple[float, Way]]:
        only = self.elementwise_only()
        if not only:
            self.products()
        if only or not (self.traits.autocast or self.traits.narrow):
            self.elementwise()
        self.ways.sort(key=lambda entry: entry[0])
        least, views = self.ways[0][0], 2 * self.costs.rates.view
        # That one makes a view or a copy less is never in doubt.
        sparing = self.own_copies and least == self.least_free
        doubtful = self.own is not None and least + views < self.own[0] <= least / self.sure
        if self.own is not None and doubtful and not sparing:
            return [self.own]
        return [entry for entry in self.ways if entry[0] <= least * self.slack + views]

    def elementwise_only(self) -> bool:
        step, traits = self.step, self.traits
        if not step.contract:
            return True
        if traits.device == "cpu" or traits.autocast or traits.narrow:
            return False
        # Off the CPU, integers have no matrix product, and a stack of 1x1 results is slow as one.
        return traits.integer or bool(step.batch and not step.left_axes and not step.right_axes)

    def add(self, price: float, way: Way, *, free: bool = True, own: bool = False) -> None:
        most = price * max(self.slack, 1 / self.sure)
        self.limit = min(self.limit, most + 2 * self.costs.rates.view)
        self.ways.append((price, way))
        if free:
            self.least_free = min(self.least_free, price)
        if own and self.sure < 1.0 and (self.own is None or price < self.own[0]):
            self.own, self.own_copies = (price, way), not free

    def hopeless(self, price: float) -> bool:
        """Whether something costs too much to look at it more closely."""
        return price > self.limit and not self.every

    # Elementwise

    def elementwise(self) -> None:
        step, costs, (left, right) = self.step, self.costs, self.layouts
        call = costs.rates.multiply_call + (costs.rates.sum_call if step.contract else 0.0)
        if self.hopeless(call + self.work * costs.rates.multiply_number):
            return
        # As the operands lie, nothing is read against its order; as the output wants it, nothing
        # is turned afterwards.
        orders = [left.order + right.order, right.order + left.order]
        if self.output is not None:
            orders.insert(0, tuple(name for name in self.wanted if name in step.result))
        rest = (*step.result, *left.order, *step.contract)
        for axes in dict.fromkeys(tuple(dict.fromkeys((*order, *rest))) for order in orders):
            way = Elementwise(axes, step.contract)
            dims = tuple((name,) for name in axes)
            lies = combined(dims, left, right, self.sizes)
            price = call + costs.multiply(lies.order, left, right)
            for layout in self.layouts:
                inside = [name for name in axes if name in layout.order]
                price += costs.rates.view * (tuple(inside) != layout.order)
            if step.contract:
                price += costs.sum(dims, lies, step.contract)
                lies = contiguous(way.result, self.sizes)
            self.add(price + self.reader(lies, flat(way.result)), way)

    # Matrix products

    def products(self) -> None:
        """Every way to see the contraction as a matrix product that could be the best one.

        Some axes of one operand may join the batch; in the other operand they are expanded at
        stride zero. A batch whose axes are partly missing in an operand has no single stride
        there: it is tried, but it copies.
        """
        step = self.step
        left, right = self.layouts
        contracts = _orders(step.contract, left, right)
        for looped in _subsets(step.left_axes, left):
            own = tuple(name for name in step.left_axes if name not in looped)
            for others in _subsets(step.right_axes, right):
                if looped and others:
                    break  # both operands would have to be copied
                foreign = tuple(name for name in step.right_axes if name not in others)
                self.split(looped + others, own, foreign, contracts)

    def futile(self, side: int, looped: Dim, fold: Dim, contracts: Sequence[Dim]) -> bool:
        """Whether to loop over these axes of an operand saves nothing.

        It may save a copy of the operand; or, if they are the outermost ones, its copy goes through
        memory in larger blocks.
        """
        layout, have = self.layouts[side], self.have[side]
        if self.every or looped == _sorted((*looped, *fold), layout)[: len(looped)]:
            return False
        fold = _sorted(fold, layout)
        return not any(
            readable(layout, batch, fold, contract, have)
            for batch in self.batches((*self.step.batch, *looped))
            for contract in contracts
        )

    def split(self, looped: Dim, own: Dim, foreign: Dim, contracts: Sequence[Dim]) -> None:
        """The ways with these axes of one operand in the batch, and the others folded."""
        costs, rates, batch = self.costs, self.costs.rates, self.step.batch + looped
        count, rows, columns = costs.count(batch), costs.count(own), costs.count(foreign)
        summed = self.work // self.count if self.count else 0
        call = rates.bmm_call if batch else rates.mm_call
        least = call + costs.least(count, rows, columns, summed, stacked=bool(batch))
        if self.hopeless(least):
            return
        side = 0 if set(looped).issubset(self.step.left_axes) else 1
        if looped and self.futile(side, looped, foreign if side else own, contracts):
            return
        held = [costs.count(tuple(name for name in batch if name in one)) for one in self.have]
        prices: dict[tuple[bool, bool, bool], float] = {}
        for order in self.batches(batch):
            for contract in contracts:
                for first in self.operand(0, order, own, contract, least):
                    if self.hopeless(least + first.price):
                        continue
                    for second in self.operand(1, order, foreign, contract, least):
                        copies = first.price + second.price
                        if self.hopeless(least + copies):
                            continue
                        for swapped in (False, True):
                            one, other = (second, first) if swapped else (first, second)
                            key = swapped, one.near, other.near
                            if key not in prices:
                                m, n = (columns, rows) if swapped else (rows, columns)
                                prices[key] = costs.product(
                                    count,
                                    m,
                                    n,
                                    summed,
                                    left=one.near,
                                    right=other.near,
                                    stacked=bool(batch),
                                    different=(held[swapped], held[not swapped]),
                                )
                            price = call + copies + prices[key]
                            if self.hopeless(price):
                                continue
                            # Among equals: as it is written.
                            price += self.result((order, one.fold, other.fold)) + 0.5 * swapped
                            way = Candidate(
                                order,
                                one.fold,
                                other.fold,
                                contract,
                                swapped,
                                (one.near, other.near),
                            )
                            # Torch loops over nothing; what it copies, it copies as a matrix
                            # product is written, and copies that it makes for nothing are left out.
                            plain = (one.free or one.near) and (other.free or not other.near)
                            torchs = plain and swapped == self.turned and not looped
                            self.add(price, way, free=one.free and other.free, own=torchs)

    def batches(self, axes: Dim) -> list[Dim]:
        """The orders of a batch: as it lies in either operand, or as the output has it."""
        if len(axes) < 2:
            return [axes]
        return list(dict.fromkeys([*_orders(axes, *self.layouts), *self.as_wanted(axes)]))

    def as_wanted(self, axes: Dim) -> list[Dim]:
        return [tuple(sorted(axes, key=self.wanted.index))] if self.wanted else []

    def operand(
        self, side: int, batch: Dim, axes: Dim, contract: Dim, least: float
    ) -> list[_Operand]:
        """The forms in which an operand may enter a matrix product, which costs so much at least.

        Its axes are folded in the order in which they lie in its memory, since another order
        copies; if it is to be copied anyway, the order of the output may be better.
        """
        key = side, batch, axes, contract
        found = self.operands.get(key)
        if found is not None:
            return found
        layout, have = self.layouts[side], self.have[side]
        fold = _sorted(axes, layout)
        # Without a stack, torch folds the rows by itself.
        folded = len(contract) > 1 or len(batch) > 1 or bool(batch and len(fold) != 1)
        views = self.costs.rates.view * (folded + (not all(name in have for name in batch)))
        found = self.operands[key] = []
        if not batch and not fold and layout.folds(contract):
            found.append(_Operand(views, True, fold, True))  # a vector, read at any distance
            return found
        if readable(layout, batch, fold, contract, have):
            lies = near(layout, fold, contract) is True
            # What has no rows is read either way, and BLAS is told which.
            forms = (side == 0, side == 1) if batch and not fold else (lies,)
            found += [_Operand(views, form, fold, True) for form in forms]
            # Another order of its axes only pays where the result must be folded.
            if not self.every and (self.output is None or len(self.output) == len(self.wanted)):
                return found
        stack = batch if any(name in have for name in batch) else ()
        call = self.costs.rates.copy_call
        for order in dict.fromkeys((fold, *self.as_wanted(axes))):
            for inner in (True, False):
                target = (*stack, *order, *contract) if inner else (*stack, *contract, *order)
                if self.hopeless(least + views + call + self.costs.least_copy(target, layout)):
                    continue
                price = self.copies.get((side, target))
                if price is None:
                    price = self.copies[side, target] = self.costs.copy(target, layout) + call
                found.append(_Operand(views + price, inner, order, False))
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
        folded = len(self.output) != len(self.wanted)
        if folded or self.traits.dense:
            lies = lies or contiguous((axes,), sizes)
            dims = [tuple(name for name in dim if name in axes) for dim in self.output]
            if self.traits.dense or not all(lies.folds(dim) for dim in dims):
                return self.costs.rates.copy_call + self.costs.copy(flat(tuple(dims)), lies)
        return self.costs.reader(self.count, inner=order[-1] == wanted[-1]) + self.costs.rates.view


def _orders(axes: Dim, left: Layout, right: Layout) -> list[Dim]:
    """The orders in which axes lie in either operand."""
    if len(axes) < 2:
        return [axes]
    return list(dict.fromkeys((_sorted(axes, left), _sorted(axes, right))))


def _sorted(axes: Dim, layout: Layout) -> Dim:
    # Axes that the layout does not know (size one, or not of this operand) come first, as they are
    # written.
    if len(axes) < 2:
        return axes
    places = {name: place for place, name in enumerate(layout.order)}
    return tuple(sorted(axes, key=lambda name: places.get(name, -1)))


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
