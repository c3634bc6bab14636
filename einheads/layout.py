"""How a value lies in memory, in axis names.

A fold of neighboring axes is free exactly where the strides allow it. This file turns shapes and
strides into that knowledge, so that the lowering can ask "may these axes be folded without a copy?"
without ever seeing a stride. It knows nothing of torch; shapes and strides are tuples of integers.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .sizes import Dim, Dims


class Layout(NamedTuple):
    """The memory order of a value.

    Attributes:
        order: its axes from the outermost stride to the innermost; axes of size one are left out.
        joins: pairs of axes `(a, b)` where one step along `a` is as long as all of `b`.
        unit: the axis with stride one, if there is one.
        expanded: axes with stride zero.
    """

    order: Dim
    joins: frozenset[tuple[str, str]]
    unit: str | None
    expanded: frozenset[str] = frozenset()

    def folds(self, dim: Dim) -> bool:
        """Whether these axes, in this order, fold into one dimension as a view.

        Example:
            >>> rows = layout((("a",), ("b",), ("c",)), (20, 5, 1), {"a": 3, "b": 4, "c": 5})
            >>> rows.folds(("a", "b", "c")), rows.folds(("a", "c")), rows.folds(("b", "a"))
            (True, False, False)
        """
        if len(dim) < 2:
            return True
        before = None
        for name in dim:
            if name in self.order:
                if before is not None and (before, name) not in self.joins:
                    return False
                before = name
        return True


def contiguous(dims: Dims, sizes: Mapping[str, int]) -> Layout:
    """The layout of a freshly made value with these dimensions.

    Example:
        >>> contiguous((("h",), ("b", "w")), {"h": 4, "b": 1, "w": 10})
        Layout(order=('h', 'w'), joins=frozenset({('h', 'w')}), unit='w', expanded=frozenset())
    """
    order = tuple([name for dim in dims for name in dim if sizes[name] != 1])
    return Layout(order, frozenset(itertools.pairwise(order)), order[-1] if order else None)


def in_order(dims: Dims, sizes: Mapping[str, int]) -> Layout:
    """The layout of a contiguous operand, in which an axis may stand twice.

    Example:
        >>> in_order((("i",), ("i",), ("o",)), {"i": 3, "o": 5}).order
        ('i', 'o')
    """
    names = dict.fromkeys(name for dim in dims for name in dim)
    return contiguous(tuple((name,) for name in names), sizes)


def layout(dims: Dims, strides: Sequence[int], sizes: Mapping[str, int]) -> Layout:
    """The layout of a tensor with these dimensions and strides.

    An axis that stands twice (a diagonal) steps along both at once.
    """
    steps: dict[str, int] = {}
    for dim, stride in zip(dims, strides, strict=True):
        step = stride
        for name in reversed(dim):
            steps[name] = steps.get(name, 0) + step
            step *= sizes[name]
    steps = {name: step for name, step in steps.items() if sizes[name] != 1}
    # Python's sort is stable: axes with equal strides (zero, when expanded) stay as they are
    # written.
    order = tuple(sorted(steps, key=lambda name: -steps[name]))
    joins = {
        (first, second)
        for first in order
        for second in order
        if first != second and steps[first] == steps[second] * sizes[second]
    }
    unit = next((name for name in reversed(order) if steps[name] == 1), None)
    expanded = frozenset(name for name in order if steps[name] == 0)
    return Layout(order, frozenset(joins), unit, expanded)


def combined(dims: Dims, left: Layout, right: Layout, sizes: Mapping[str, int]) -> Layout:
    """The layout of an elementwise result, which torch gives the order of its operands.

    The first operand that has two axes, neither of them expanded, tells which is the outer one.

    Example:
        >>> sizes = {"a": 2, "b": 3}
        >>> turned = contiguous((("b",), ("a",)), sizes)
        >>> combined((("a",), ("b",)), turned, contiguous((("b",),), sizes), sizes).order
        ('b', 'a')
    """
    orders = [
        tuple(name for name in operand.order if name not in operand.expanded)
        for operand in (left, right)
    ]
    # The innermost axis first. Each of the others moves inward past those that it lies inside of;
    # those of which no operand tells are passed over, and may be left behind.
    inner = [name for dim in dims for name in dim if sizes[name] != 1][::-1]
    for start in range(1, len(inner)):
        place = start
        for further in range(start - 1, -1, -1):
            name, other = inner[place], inner[further]
            told = next((one for one in orders if name in one and other in one), None)
            if told is None:
                continue
            if told.index(name) < told.index(other):
                break
            inner[place], inner[further] = other, name
            place = further
    return contiguous(tuple((name,) for name in reversed(inner)), sizes)


def near(layout: Layout, fold: Dim, contract: Dim) -> bool | None:
    """Whether the summed axes of a matrix lie innermost; None if neither they nor the others do."""
    inner, other = _last(contract, layout.order), _last(fold, layout.order)
    if inner is None:
        return other is None or other == layout.unit or None
    if inner == layout.unit:
        return True
    return False if other is not None and other == layout.unit else None


def runs(layout: Layout, axes: Dim) -> bool:
    """Whether the last of these axes is the innermost one, so that a copy moves runs of numbers."""
    return _last(axes, layout.order) == layout.unit


def _last(axes: Dim, order: Dim) -> str | None:
    """The last of the axes that has a place in this order."""
    for name in reversed(axes):
        if name in order:
            return name
    return None
