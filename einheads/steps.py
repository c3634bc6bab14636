"""What is computed, as data: one small class for each kind of tensor operation.

`Steps` is the result of the lowering (`lower.py` makes it) and the only thing that `source` writes
down and `explain` tells, so that the program and its explanation cannot drift apart. Values are
numbered by single assignment: the inputs first, then the result of each step. A value is described
by its dimensions in axis names; sizes are not part of the steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from .sizes import Dim, Dims


@dataclass(frozen=True, slots=True)
class Diagonal:
    """Take the diagonal of two dimensions with the same axis; it becomes the last dimension."""

    source: int
    first: int
    second: int
    dims: Dims


@dataclass(frozen=True, slots=True)
class Sum:
    """Sum over dimensions."""

    source: int
    places: tuple[int, ...]
    dims: Dims


@dataclass(frozen=True, slots=True)
class Permute:
    """Put the dimensions into another order; always a view."""

    source: int
    order: tuple[int, ...]
    dims: Dims


@dataclass(frozen=True, slots=True)
class Reshape:
    """Fold neighboring axes into one dimension, or unfold them; the order of the axes stays.

    Attributes:
        copies: whether the axes are apart in memory, so that folding them copies the value.
    """

    source: int
    copies: bool
    dims: Dims


@dataclass(frozen=True, slots=True)
class Expand:
    """Repeat along dimensions at stride zero, as a view; new dimensions may come in front."""

    source: int
    dims: Dims


@dataclass(frozen=True, slots=True)
class Strided:
    """Some views at once, whose shape and strides are known."""

    source: int
    dims: Dims


@dataclass(frozen=True, slots=True)
class Multiply:
    """Multiply elementwise; unit dimensions broadcast.

    Attributes:
        each: the values have one dimension more in front. The products along it are added up, one
            after the other, into one result; autograd cannot follow that.
    """

    left: int
    right: int
    dims: Dims
    each: bool = False


@dataclass(frozen=True, slots=True)
class Add:
    """Add elementwise; unit dimensions broadcast."""

    left: int
    right: int
    dims: Dims


@dataclass(frozen=True, slots=True)
class Matmul:
    """Multiply (stacks of) matrices: `... rows inner, ... inner columns -> ... rows columns`.

    Without stacks, either side may be a vector, and the left side may have any number of leading
    dimensions.
    """

    left: int
    right: int
    contract: Dim
    dims: Dims


@dataclass(frozen=True, slots=True)
class Bmm:
    """Multiply stacks of matrices: `batch rows inner, batch inner columns`, summed over `inner`.

    Attributes:
        bias: broadcasts to the result and is added to it, if there is one.
        each: there is one dimension more in front. No stride covers it and the batch, so that the
            stacks are multiplied one after the other, into one result; autograd cannot follow that.
    """

    left: int
    right: int
    contract: Dim
    dims: Dims
    bias: int | None = None
    each: bool = False


@dataclass(frozen=True, slots=True)
class Accumulate:
    """Multiply matrices, or stacks of them, and add each product to the result as it is made.

    The values have one dimension more in front, along which the products are added up: by one
    operation of torch, or in a loop where they are stacks, which autograd cannot follow.
    """

    left: int
    right: int
    contract: Dim
    dims: Dims


@dataclass(frozen=True, slots=True)
class Place:
    """A stack of products at once, written into a new tensor of other dimensions through a view.

    Attributes:
        dims: of the new tensor, which is contiguous.
        product: `batch rows columns`, the dimensions of the view.
        folded: the same dimensions, in the order in which they lie in the new tensor.
    """

    left: int
    right: int
    contract: Dim
    dims: Dims
    product: Dims
    folded: Dims


@dataclass(frozen=True, slots=True)
class Linear:
    """A plain linear: `... inner, columns inner -> ... columns`, with a bias or without."""

    left: int
    right: int
    bias: int | None
    contract: Dim
    dims: Dims


Product = Matmul | Bmm | Linear
Step = (
    Diagonal
    | Sum
    | Permute
    | Reshape
    | Expand
    | Strided
    | Multiply
    | Add
    | Product
    | Accumulate
    | Place
)
# Those that take no memory, but for a reshape that copies.
VIEWS = (Diagonal, Expand, Permute, Reshape, Strided)


# Those that multiply two values, whether or not they also sum.
PRODUCTS = (Multiply, Matmul, Bmm, Linear, Accumulate)


def is_view(step: Step) -> TypeGuard[Diagonal | Permute | Reshape | Expand | Strided]:
    """Whether a step takes no memory.

    Example:
        >>> is_view(Reshape(0, False, ())), is_view(Reshape(0, True, ()))
        (True, False)
    """
    return isinstance(step, VIEWS) and not (isinstance(step, Reshape) and step.copies)


@dataclass(frozen=True, slots=True)
class Steps:
    """A whole program as data.

    Attributes:
        inputs: the dimensions of each input: the operands, then the bias if there is one.
        steps: the operations in order; step `k` makes value `len(inputs) + k`.
        result: the number of the value that is returned.
        given: axes whose size no input tells, in the order in which the program takes them.
        integer: whether the values are integers, which torch sums into int64 unless told otherwise.
        products: the number of the value that each contraction of the plan makes.
    """

    inputs: tuple[Dims, ...]
    steps: tuple[Step, ...]
    result: int
    given: tuple[str, ...] = ()
    integer: bool = False
    products: tuple[int, ...] = ()

    def dims(self, number: int) -> Dims:
        """The dimensions of a value."""
        return (
            self.inputs[number]
            if number < len(self.inputs)
            else self.steps[number - len(self.inputs)].dims
        )

    @property
    def copies(self) -> tuple[int, ...]:
        """The numbers of the values that are copies of another value."""
        first = len(self.inputs)
        return tuple(
            first + k
            for k, step in enumerate(self.steps)
            if isinstance(step, Reshape) and step.copies
        )


def in_turns(step: Step) -> TypeGuard[Bmm | Multiply | Accumulate]:
    """Whether it makes one product after the other, into one result.

    Example:
        >>> in_turns(Bmm(0, 1, ("i",), (("b",), ("h",), ("t",), ("s",)), each=True))
        True
    """
    return isinstance(step, Accumulate) or (isinstance(step, (Bmm, Multiply)) and step.each)


def verb(step: Step) -> str:
    """What a step is called in a line.

    Example:
        >>> verb(Bmm(0, 1, ("i",), (("h",), ("b",), ("o",)))), verb(Sum(0, (1,), (("b",),)))
        ('bmm', 'sum')
    """
    name = "bmm" if isinstance(step, Accumulate) else type(step).__name__.lower()
    return f"each {name}" if in_turns(step) else name


def sources(step: Step) -> tuple[int, ...]:
    """The values a step reads."""
    if isinstance(step, (Linear, Bmm)):
        return (step.left, step.right) if step.bias is None else (step.left, step.right, step.bias)
    if isinstance(step, (Multiply, Add, Matmul, Accumulate, Place)):
        return (step.left, step.right)
    return (step.source,)


def renumbered(step: Step, number: Callable[[int], int]) -> Step:
    """The same step, which reads values that have other numbers.

    Example:
        >>> renumbered(Multiply(0, 1, (("b",),)), lambda value: value + 3)
        Multiply(left=3, right=4, dims=(('b',),), each=False)
    """
    changed: dict[str, Any] = {
        name: number(value)
        for name in ("source", "left", "right", "bias")
        if (value := getattr(step, name, None)) is not None
    }
    return replace(step, **changed)


def live(steps: Steps, results: Iterable[int]) -> set[int]:
    """The values without which some results cannot be had, themselves included."""
    needed = set(results)
    for number in range(len(steps.inputs) + len(steps.steps) - 1, len(steps.inputs) - 1, -1):
        if number in needed:
            needed.update(sources(steps.steps[number - len(steps.inputs)]))
    return needed


def kept(steps: Steps) -> tuple[int, ...]:
    """The values, besides the inputs, that products read, so that their gradients do as well.

    A view keeps what it is a view of: an inner product, or a copy.
    """
    first = len(steps.inputs)
    found: set[int] = set()
    for step in steps.steps:
        if not isinstance(step, (*PRODUCTS, Place)):
            continue
        for value in (step.left, step.right):
            root = value
            while root >= first and is_view(made := steps.steps[root - first]):
                root = made.source
            if root >= first:
                found.add(root)
    return tuple(sorted(found))


def elements(dims: Dims, sizes: Mapping[str, int]) -> int:
    """How many numbers a value with these dimensions holds.

    Example:
        >>> elements((("b", "w"), (), ("i",)), {"b": 2, "w": 3, "i": 5})
        30
    """
    count = 1
    for dim in dims:
        for name in dim:
            count *= sizes[name]
    return count


def flat(dims: Dims) -> Dim:
    """The axes of a value, folded or not, in order.

    Example:
        >>> flat((("h",), ("b", "w"), ()))
        ('h', 'b', 'w')
    """
    return tuple(itertools.chain.from_iterable(dims))


def tellable(inputs: Sequence[Dims], given: Sequence[str] = ()) -> set[str]:
    """The axes whose size follows from the shapes, if the sizes of `given` are known.

    Example:
        >>> sorted(tellable([((), ("h", "d"), ("h",)), (("p", "q"),)]))
        ['d', 'h']
    """
    told = set(given) | {dim[0] for dims in inputs for dim in dims if len(dim) == 1}
    composites = [dim for dims in inputs for dim in dims if len(dim) > 1]
    while True:
        solved = {
            unknown[0]
            for unknown in ([name for name in dim if name not in told] for dim in composites)
            if len(unknown) == 1
        }
        if not solved:
            return told - set(given)
        told |= solved


def untold(
    inputs: Sequence[Dims], steps: Sequence[Step], needed: Sequence[str], sizes: Mapping[str, int]
) -> tuple[str, ...]:
    """The sizes a program has to be given: it uses them, or solves a composite with them.

    Args:
        inputs: the dimensions of each input.
        steps: the operations.
        needed: the axes whose size no shape tells.
        sizes: of every axis.
    """
    dims = [
        step.dims
        for step in steps
        if isinstance(step, (Reshape, Expand)) or (isinstance(step, Bmm) and step.each)
    ]
    used = {name for one in dims for dim in one for name in dim}
    if 0 in [sizes[name] for one in inputs for dim in one for name in dim]:
        # Nothing is divided by an empty axis: where there is one, no composite is solved.
        single = {dim[0] for one in inputs for dim in one if len(dim) == 1}
        return tuple(name for name in sizes if name in used and name not in single)
    open_ = used - tellable(inputs)
    together = [set(dim) for one in inputs for dim in one if open_.intersection(dim)]
    return tuple(name for name in needed if name in used or any(name in dim for dim in together))
