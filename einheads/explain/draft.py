"""Steps written by hand: the few moves from which the spellings of an explanation are made.

Unlike the lowering, nothing is chosen here and no memory is thought of: a value is brought into the
dimensions that the next operation wants, by operations that each have one plain name in torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from einheads.sizes import Bound, Dim, Dims
from einheads.steps import (
    Add,
    Diagonal,
    Expand,
    Matmul,
    Multiply,
    Permute,
    Reshape,
    Step,
    Steps,
    Sum,
    flat,
    untold,
)


class Draft:
    """Steps so far.

    Args:
        bound: the pattern.
        bias: the axes of a bias, the last input.
        integer: whether the numbers are integers.
    """

    def __init__(self, bound: Bound, bias: Dim | None, *, integer: bool = False) -> None:
        self.bound = bound
        self.bias = bias
        self.integer = integer
        self.inputs = (
            bound.operands if bias is None else (*bound.operands, tuple((name,) for name in bias))
        )
        self.steps: list[Step] = []

    def copy(self) -> Draft:
        """Another draft with the same steps, to try something out."""
        other = Draft(self.bound, self.bias, integer=self.integer)
        other.steps = list(self.steps)
        return other

    def dims(self, number: int) -> Dims:
        """The dimensions of a value."""
        count = len(self.inputs)
        return self.inputs[number] if number < count else self.steps[number - count].dims

    def emit(self, step: Step) -> int:
        """Add a step; gives the number of its value."""
        self.steps.append(step)
        return len(self.inputs) + len(self.steps) - 1

    # Views

    def reshape(self, number: int, dims: Dims) -> int:
        """Fold or unfold, unless there is nothing to do."""
        # Whether this copies is not asked: the spellings are for reading.
        return (
            number
            if dims == self.dims(number)
            else self.emit(Reshape(number, copies=False, dims=dims))
        )

    def split(self, number: int) -> int:
        """Give every axis a dimension of its own; units go."""
        return self.reshape(number, tuple((name,) for name in flat(self.dims(number))))

    def squeeze(self, number: int) -> int:
        """Drop the unit dimensions, one by one, each with its own word."""
        while () in self.dims(number):
            dims = self.dims(number)
            place = dims.index(())
            number = self.reshape(number, (*dims[:place], *dims[place + 1 :]))
        return number

    def permute(self, number: int, goal: Dim) -> int:
        """Put the dimensions into the order in which their axes stand in the goal."""
        dims = self.dims(number)
        order = tuple(sorted(range(len(dims)), key=lambda place: goal.index(dims[place][0])))
        if order == tuple(range(len(dims))):
            return number
        return self.emit(Permute(number, order, tuple(dims[place] for place in order)))

    def bring(self, number: int, target: Dims) -> int:
        """Bring a value into these dimensions; leading units may be missing: they broadcast."""
        lead = next((place for place, dim in enumerate(target) if dim), len(target))
        dims = self.dims(number)
        if len(dims) <= len(target) and dims == target[len(target) - len(dims) :]:
            return number
        target = target[lead:]
        if not {dim for dim in dims if dim} <= set(target) and any(len(dim) > 1 for dim in dims):
            number = self.split(number)
        number = self.permute(self.squeeze(number), flat(target))
        for place, dim in enumerate(target):
            number = self.fold(number, place - target[:place].count(()), dim)
        for place, dim in enumerate(target):
            if not dim:
                number = self.unsqueeze(number, place)
        return number

    def fold(self, number: int, place: int, dim: Dim) -> int:
        """Fold the axes of one dimension, which stand apart from this place on."""
        dims = self.dims(number)
        if len(dim) < 2 or dims[place] == dim:
            return number
        return self.reshape(number, (*dims[:place], dim, *dims[place + len(dim) :]))

    def unsqueeze(self, number: int, place: int) -> int:
        """Insert a unit dimension."""
        dims = self.dims(number)
        return self.reshape(number, (*dims[:place], (), *dims[place:]))

    def diagonals(self, number: int) -> int:
        """Take the diagonals of an operand."""
        names = flat(self.dims(number))
        if len(set(names)) == len(names):
            return number
        number = self.split(number)
        while twins := [dim for dim in self.dims(number) if self.dims(number).count(dim) > 1]:
            dims = self.dims(number)
            first = dims.index(twins[0])
            second = dims.index(twins[0], first + 1)
            others = tuple(dim for place, dim in enumerate(dims) if place not in (first, second))
            number = self.emit(Diagonal(number, first, second, (*others, twins[0])))
        return number

    # Arithmetic

    def sum(self, number: int, axes: Sequence[str]) -> int:
        """Sum over axes."""
        if not axes:
            return number
        if any(len(dim) > 1 and set(dim) & set(axes) for dim in self.dims(number)):
            number = self.split(number)
        dims = self.dims(number)
        places = tuple(place for place, dim in enumerate(dims) if dim and dim[0] in axes)
        rest = tuple(dim for place, dim in enumerate(dims) if place not in places)
        return self.emit(Sum(number, places, rest))

    def multiply(self, left: int, right: int, axes: Dim) -> int:
        """Multiply along these axes; where an operand lacks one it gets a unit dimension."""
        left, right = self.spread(left, axes), self.spread(right, axes)
        return self.emit(Multiply(left, right, _broadcast(self.dims(left), self.dims(right))))

    def add(self, left: int, right: int, axes: Dim) -> int:
        """Add along these axes, in the same way."""
        left, right = self.spread(left, axes), self.spread(right, axes)
        return self.emit(Add(left, right, _broadcast(self.dims(left), self.dims(right))))

    def matmul(self, left: int, right: int, contract: Dim) -> int:
        """Multiply stacks of matrices, or vectors, that have been brought into shape."""
        rows, columns = self.dims(left), self.dims(right)
        stack = _broadcast(rows[:-2], columns[:-2])
        dims = (*stack, *rows[-2:-1], *(columns[-1:] if len(columns) > 1 else ()))
        return self.emit(Matmul(left, right, contract, dims))

    def spread(self, number: int, axes: Dim) -> int:
        """One dimension for each of these axes, a unit where the value lacks it."""
        have = set(flat(self.dims(number)))
        return self.bring(number, tuple((name,) if name in have else () for name in axes))

    # The result

    def finish(self, number: int) -> Steps:
        """Add the bias and bring the value into the dimensions of the output."""
        output = self.bound.output
        order = flat(output)
        if self.bias is not None:
            have = {*flat(self.dims(number)), *self.bias}
            axes = tuple(name for name in order if name in have)
            number = self.add(number, len(self.inputs) - 1, axes)
        if self.dims(number) != output:
            number = self.repeat(self.spread(number, order), order)
            for place, dim in enumerate(output):
                number = self.fold(number, place, dim) if dim else self.unsqueeze(number, place)
        given = untold(self.inputs, self.steps, self.bound.needed, self.bound.sizes)
        return Steps(self.inputs, tuple(self.steps), number, given, self.integer)

    def repeat(self, number: int, order: Dim) -> int:
        """Repeat the value along the axes that it lacks."""
        goal = tuple((name,) for name in order)
        return number if self.dims(number) == goal else self.emit(Expand(number, goal))


def _broadcast(first: Dims, second: Dims) -> Dims:
    """The dimensions of two values together, aligned at the right."""
    width = max(len(first), len(second))
    wide = [((),) * (width - len(dims)) + dims for dims in (first, second)]
    return tuple(one or other for one, other in zip(*wide, strict=True))
