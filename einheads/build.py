"""Steps under construction: values, what is known of them, and the moves that rearrange them.

A value is a number; known of it are its dimensions and its layout in memory, so every move says by
itself whether it is a view. The file knows nothing of contractions: `lower` decides, this writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .layout import Layout, combined, contiguous, runs
from .sizes import Dim, Dims
from .steps import Add, Diagonal, Expand, Multiply, Permute, Reshape, Step, Sum, elements, flat

# So few numbers are gathered in less time than another call takes.
_FEW = 8192


@dataclass
class Builder:
    """The steps so far.

    Attributes:
        inputs: the dimensions of each input.
        sizes: of every axis; to tell what axes of size one do to a layout, and what is small.
        steps: what has been written down.
        known: the layout of each value.
    """

    inputs: tuple[Dims, ...]
    sizes: Mapping[str, int]
    steps: list[Step] = field(default_factory=list)
    known: dict[int, Layout] = field(default_factory=dict)

    def copy(self) -> Builder:
        """Another builder with the same steps, to try something out."""
        return Builder(self.inputs, self.sizes, list(self.steps), dict(self.known))

    def dims(self, number: int) -> Dims:
        """The dimensions of a value."""
        count = len(self.inputs)
        return self.inputs[number] if number < count else self.steps[number - count].dims

    def emit(self, step: Step, layout: Layout | None = None) -> int:
        """Add a step, whose value is contiguous unless said otherwise; gives its number."""
        self.steps.append(step)
        number = len(self.inputs) + len(self.steps) - 1
        self.known[number] = contiguous(step.dims, self.sizes) if layout is None else layout
        return number

    def prepare(self, number: int, lonely: Dim) -> int:
        """Take the diagonals of an operand and sum its lonely axes."""
        names = flat(self.dims(number))
        axes = tuple(dict.fromkeys(names))
        value = number
        if len(axes) != len(names):
            value = self.split(value)
            while True:
                dims = self.dims(value)
                repeated = next(
                    (dim for place, dim in enumerate(dims) if dim and dim in dims[:place]), None
                )
                if repeated is None:
                    break
                first = dims.index(repeated)
                second = dims.index(repeated, first + 1)
                others = tuple(
                    dim for place, dim in enumerate(dims) if place not in (first, second)
                )
                value = self.emit(
                    Diagonal(value, first, second, (*others, repeated)), self.known[value]
                )
        if lonely:
            if any(len(dim) > 1 and set(dim) & set(lonely) for dim in self.dims(value)):
                value = self.split(value)
            dims = self.dims(value)
            places = tuple(place for place, dim in enumerate(dims) if dim and dim[0] in lonely)
            rest = tuple(dim for place, dim in enumerate(dims) if place not in places)
            value = self.emit(Sum(value, places, rest))
        return value

    def split(self, number: int) -> int:
        """Give every axis a dimension of its own."""
        dims = self.dims(number)
        if all(len(dim) <= 1 for dim in dims):
            return number
        return self.reshape(number, tuple((name,) for dim in dims for name in dim))

    def reshape(self, number: int, dims: Dims) -> int:
        """Fold or unfold neighboring axes."""
        if dims == self.dims(number):
            return number
        copies = not all(self.known[number].folds(dim) for dim in dims)
        return self.emit(Reshape(number, copies, dims), None if copies else self.known[number])

    def permute(self, number: int, order: Sequence[int]) -> int:
        """Put the dimensions into another order."""
        if all(place == old for place, old in enumerate(order)):
            return number
        dims = tuple(self.dims(number)[place] for place in order)
        return self.emit(Permute(number, tuple(order), dims), self.known[number])

    def regroup(self, number: int, target: Dims) -> int:
        """Bring the axes into these dimensions: permute, then fold, each at most once."""
        goal = flat(target)
        if flat(self.dims(number)) != goal:
            if not all(_consecutive(dim, goal) for dim in self.dims(number)):
                number = self.split(number)
            number = self.fold_first(number, target)
            dims = self.dims(number)
            order = sorted(
                (place for place, dim in enumerate(dims) if dim),
                key=lambda place: goal.index(dims[place][0]),
            )
            spare = [place for place, dim in enumerate(dims) if not dim]
            if len(spare) == sum(not dim for dim in target) and len(order) + len(spare) == len(
                target
            ):
                moving, units = iter(order), iter(spare)
                order = [next(moving) if dim else next(units) for dim in target]
            else:
                order += spare
            number = self.permute(number, order)
        return self.reshape(number, target)

    def fold_first(self, number: int, target: Dims) -> int:
        """Fold before the dimensions are permuted, if that is all the folding there is to do.

        Fewer dimensions are permuted faster, and one who reads it follows more easily.
        """
        wanted = [dim for dim in target if len(dim) > 1]
        if not wanted or not all(map(self.known[number].folds, wanted)):
            return number
        dims = self.dims(number)
        folded: list[Dim] = []
        for dim in dims:
            last = folded[-1] if folded else ()
            joins = any(_consecutive((*last, *dim), whole) for whole in wanted)
            if last and dim and joins:
                folded[-1] = (*last, *dim)
            else:
                folded.append(dim)
        return self.reshape(number, tuple(folded)) if set(wanted).issubset(folded) else number

    def arrange(self, number: int, target: Dims) -> int:
        """Bring a value into these dimensions; along axes that it lacks it is repeated."""
        have = set(flat(self.dims(number)))
        if have.issuperset(flat(target)):
            return self.regroup(number, target)
        partly = [0 < len(have.intersection(dim)) < len(dim) for dim in target]
        # A dimension that mixes present and missing axes has no single stride: expand first, then
        # fold.
        apart = tuple(
            part
            for dim, mixed in zip(target, partly, strict=True)
            for part in (((name,) for name in dim) if mixed else (dim,))
        )
        present = tuple(dim if have.intersection(dim) else () for dim in apart)
        # Expanding adds leading dimensions by itself.
        lead = next(
            (place for place, dim in enumerate(apart) if present[place] or not dim), len(apart)
        )
        number = self.regroup(number, present[lead:])
        copied = apart != target and elements(apart, self.sizes) > _FEW
        if copied and not runs(self.known[number], flat(present)):
            # It will be copied many times over: then in runs, from one copy that is in order.
            number = self.emit(Reshape(number, copies=True, dims=present[lead:]))
        number = self.emit(Expand(number, apart), self.known[number])
        if apart != target:
            number = self.emit(Reshape(number, copies=True, dims=target))
        return number

    def combine(
        self, kind: Callable[[int, int, Dims], Multiply | Add], left: int, right: int, dims: Dims
    ) -> int:
        """Multiply or add two values whose dimensions broadcast to `dims`."""
        made = combined(dims, self.known[left], self.known[right], self.sizes)
        return self.emit(kind(left, right, dims), made)


def _consecutive(dim: Dim, goal: Dim) -> bool:
    if not dim:
        return True
    if dim[0] not in goal:
        return False
    start = goal.index(dim[0])
    return goal[start : start + len(dim)] == dim
