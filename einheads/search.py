"""What a search for ways has found, and the choices that all of its parts go through.

`turns.py` and `ways.py` look for the ways; here they are kept, and what is too dear is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from .candidates import Way
from .forms import Forms, orders_of, subsets
from .layout import Layout, contiguous
from .sizes import Dim

# An operand that is multiplied elementwise is only copied if it is so many times smaller than the
# product.
_SMALL = 4


@dataclass(eq=False)
class Search(Forms):
    """The ways that were found so far, with their prices.

    Attributes:
        slack: ways that cost so many times as much as the cheapest one are looked at.
        sure: so many times the price of what torch does itself has to be saved; 1 for none.
    """

    slack: float
    sure: float

    def __post_init__(self) -> None:
        super().__post_init__()
        step = self.step
        self.ways: list[tuple[float, Way]] = []
        # Which operand torch has on the left: the right one, if the output begins with its axes.
        self.turned = bool(self.wanted and step.left_axes and step.right_axes) and (
            max(map(self.wanted.index, step.right_axes))
            < min(map(self.wanted.index, step.left_axes))
        )
        self.contracts = orders_of(step.contract, *self.layouts)
        # What torch does itself, whether it copies, and the lowest price of what does not.
        self.own: tuple[float, Way] | None = None
        self.own_copies = False
        self.least_free = math.inf

    def add(self, price: float, way: Way, *, free: bool = True, own: bool = False) -> None:
        """Keep a way.

        Args:
            price: in nanoseconds.
            way: what was found.
            free: whether it copies no operand.
            own: whether torch does the same itself.
        """
        most = price * max(self.slack, 1 / self.sure)
        self.limit = min(self.limit, most + 2 * self.costs.rates.view)
        self.ways.append((price, way))
        if free:
            self.least_free = min(self.least_free, price)
        if own and self.sure < 1.0 and (self.own is None or price < self.own[0]):
            self.own, self.own_copies = (price, way), not free

    def packed(self, axes: Dim) -> Iterator[tuple[tuple[bool, bool], float, Layout, Layout]]:
        """Which operands are copied into this order of axes, what that costs, and how both lie.

        A copy pays where an operand is small, and would be read at a distance again and again.
        """
        costs, rates = self.costs, self.costs.rates
        inside = [tuple(name for name in axes if name in one.order) for one in self.layouts]
        views = [
            rates.view * (names != one.order)
            for names, one in zip(inside, self.layouts, strict=True)
        ]
        left, right = self.layouts
        yield (False, False), sum(views), left, right
        for side, (names, layout) in enumerate(zip(inside, self.layouts, strict=True)):
            count = costs.count(names)
            if not names or names[-1] == layout.unit or count * _SMALL > self.work:
                continue
            price = sum(views) + rates.copy_call + costs.copy(names, layout)
            lies = contiguous((names,), self.sizes)
            yield (side == 0, side == 1), price, *((left, lies) if side else (lies, right))

    def splits(self) -> Iterator[tuple[Dim, Dim, Dim]]:
        """The axes that may join the batch, none of them first, and what each operand then folds.

        In the other operand they are expanded at stride zero.
        """
        step = self.step
        left, right = self.layouts
        for looped in subsets(step.left_axes, left):
            own = tuple([name for name in step.left_axes if name not in looped])
            yield looped, own, step.right_axes
            if looped:
                continue  # to loop over axes of both would copy both
            for others in subsets(step.right_axes, right)[1:]:
                yield others, own, tuple([name for name in step.right_axes if name not in others])
