"""The search for the ways to compute one contraction, with what each of them costs.

Prices only rank, they are no promise: whichever way is chosen, the result is right. What cannot be
among the best is left out as early as possible, since the search runs when a pattern is first met.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .candidates import Candidate, Elementwise, Traits, Way, covered, elementwise_only, lying
from .forms import as_stored
from .layout import Layout, combined, contiguous
from .plan import Contraction
from .rates import sure_for
from .sizes import Dim, Dims
from .steps import flat
from .turns import Turns

# So many ways in turns are written down and priced exactly: with a bias, the second may be cheaper.
_TRIED = 2

# Of a contraction that costs so many times as much as two views, they are a small part.
_LARGE = 50

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

    What is written down costs about as much: more for what is not seen here, such as a bias; less
    where an operand is copied once before it is expanded, and again afterwards.

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
    slack = math.inf if every else slack
    sure = sure_for(traits.device, traits.numbers) if cautious else 1.0
    return _Search(step, (left, right), sizes, traits, output, every, slack, sure).found()


def in_turns(
    step: Contraction,
    left: Layout,
    right: Layout,
    sizes: Mapping[str, int],
    traits: Traits,
    output: Dims | None,
    *,
    less: float,
) -> list[tuple[float, Way]]:
    """The ways that make one product after the other and cost less than this, cheapest first.

    Only those are given that are worth writing down, with their prices.
    """
    search = _Search(step, (left, right), sizes, traits, output, False, 1.0, 1.0)
    search.limit = less
    search.turns()
    return sorted(search.ways, key=lambda entry: entry[0])[:_TRIED]


@dataclass(eq=False)
class _Search(Turns):
    """The search for ways: what follows from a part of a choice is priced once."""

    def found(self) -> list[tuple[float, Way]]:
        traits = self.traits
        only = elementwise_only(self.step, traits)
        if not only:
            self.products()
        if only or traits.wide:
            self.elementwise()
        # Elsewhere it has not been measured.
        if traits.wide and not only and traits.device == "cpu":
            self.added()
        if traits.turns and not only:
            self.turns()
        self.ways.sort(key=lambda entry: entry[0])
        least, views = self.ways[0][0], 2 * self.costs.rates.view
        # That one makes a view or a copy less is never in doubt.
        sparing = self.own_copies and least == self.least_free
        # Nor are two views in a small contraction, where they count; in a large one they do not.
        nearly = least if least > _LARGE * views else least + views
        doubtful = self.own is not None and nearly <= self.own[0] <= least / self.sure
        if self.own is not None and doubtful and not sparing:
            return [self.own]
        most = least * self.slack + views
        return [entry for entry in self.ways if entry[0] <= most]

    # Elementwise

    def elementwise(self) -> None:
        step, costs, (left, right) = self.step, self.costs, self.layouts
        call = costs.rates.multiply_call + (costs.rates.sum_call if step.contract else 0.0)
        least = call + self.work * costs.least_elementwise(summed=bool(step.contract))
        if least > self.limit:
            return
        # As the operands lie, nothing is read against its order; as the output wants it, nothing
        # is turned afterwards.
        orders = [left.order + right.order, right.order + left.order]
        if self.output is not None:
            orders.insert(0, tuple(name for name in self.wanted if name in step.result))
        rest = (*step.result, *left.order, *step.contract)
        for axes in dict.fromkeys(tuple(dict.fromkeys((*order, *rest))) for order in orders):
            dims = tuple((name,) for name in axes)
            for copies, ready, one, other in self.packed(axes):
                if ready + least > self.limit:
                    continue
                way = Elementwise(axes, step.contract, copies=copies)
                lies = combined(dims, one, other, self.sizes)
                price = ready + call + costs.multiply(lies.order, one, other)
                if step.contract:
                    price += costs.sum(dims, lies, step.contract)
                    lies = contiguous(way.result, self.sizes)
                price += self.reader(lies, flat(way.result))
                self.add(price, way, free=True not in copies)

    # Matrix products

    def products(self) -> None:
        """Every way to see the contraction as a matrix product that could be the best one.

        A batch whose axes are partly missing in an operand has no single stride there: it is tried,
        but it copies.
        """
        for looped, own, foreign in self.splits():
            self.split(looped, own, foreign)

    def futile(self, side: int, looped: Dim, fold: Dim) -> bool:
        """Whether to loop over these axes of an operand saves nothing.

        It may save a copy of the operand; or, if they are the outermost ones, its copy goes through
        memory in larger blocks.
        """
        layout, have = self.layouts[side], self.have[side]
        if self.every or looped == as_stored((*looped, *fold), layout)[: len(looped)]:
            return False
        fold = as_stored(fold, layout)
        if all(lying(layout, fold, contract) is None for contract in self.contracts):
            return True
        batches = self.batches((*self.step.batch, *looped))
        return not any(covered(layout, batch, have) for batch in batches)

    def split(self, looped: Dim, own: Dim, foreign: Dim) -> None:
        """The ways with these axes of one operand in the batch, and the others folded."""
        costs, rates, batch = self.costs, self.costs.rates, self.step.batch + looped
        count, rows, columns = costs.count(batch), costs.count(own), costs.count(foreign)
        summed = self.work // self.count if self.count else 0
        call = rates.bmm_call if batch else rates.mm_call
        least = call + costs.least(count, rows, columns, summed, stacked=bool(batch))
        if least > self.limit:
            return
        side = 0 if set(looped).issubset(self.step.left_axes) else 1
        if looped and self.futile(side, looped, foreign if side else own):
            return
        held = self.held(batch)
        prices: dict[tuple[bool, bool, bool], float] = {}
        fold, other_fold = as_stored(own, self.layouts[0]), as_stored(foreign, self.layouts[1])
        for order in self.batches(batch):
            for contract in self.contracts:
                firsts = self.operand(0, order, fold, contract, least)
                if not firsts:
                    continue
                cheapest = least + min([first.price for first in firsts])
                seconds = self.operand(1, order, other_fold, contract, cheapest)
                for first in firsts:
                    for second in seconds:
                        copies = first.price + second.price
                        if least + copies > self.limit:
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
                            if price > self.limit:
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
                            vector = not order and not other.fold
                            plain = (one.free or one.near) and (
                                other.free or vector or not other.near
                            )
                            torchs = plain and swapped == self.turned and not looped
                            self.add(price, way, free=one.free and other.free, own=torchs)
