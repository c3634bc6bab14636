"""The lowering: a plan and the layouts of its operands become `Steps`.

Each pairwise contraction becomes a multiply, a multiply and sum, or the cheapest matrix product
that `candidates` finds; between them values are permuted, folded and expanded, as views wherever
memory allows it. The file knows nothing of torch, of how the steps are spelled, or of why the plan
is as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .candidates import PER_CALL, Candidate, Elementwise, Traits, Way, ways
from .layout import Layout, contiguous
from .plan import Plan
from .sizes import Bound, Dim, Dims
from .steps import (
    Add,
    Bmm,
    Diagonal,
    Expand,
    Linear,
    Matmul,
    Multiply,
    Permute,
    Reshape,
    Step,
    Steps,
    Sum,
    flat,
)


def lower(
    bound: Bound,
    plan: Plan,
    layouts: Sequence[Layout] | None = None,
    traits: Traits | None = None,
    bias: Dim | None = None,
) -> Steps:
    """Choose the tensor operations for a plan.

    Example:
        >>> from einheads.pattern import parse
        >>> from einheads.plan import plan
        >>> from einheads.sizes import bind
        >>> bound = bind(parse("b i, o i -> b o"), [(8, 64), (32, 64)])
        >>> lower(bound, plan(bound)).steps
        (Linear(left=0, right=1, bias=None, contract=('i',), dims=(('b',), ('o',))),)

    Args:
        bound: the pattern with its dimensions.
        plan: the order of contraction, and the sizes to price with.
        layouts: how each operand (and then the bias) lies in memory; contiguous by default.
        traits: device, dtype and autocast, as far as they matter.
        bias: axes of a bias which is added to the result; it is the last input.
    """
    dims = bound.operands if bias is None else (*bound.operands, tuple((name,) for name in bias))
    if layouts is None:
        layouts = [
            contiguous(tuple((name,) for name in dict.fromkeys(flat(one))), plan.sizes)
            for one in dims
        ]
    return _Lowering(
        plan, dims, bound.output, bound.needed, layouts, traits or Traits(), bias
    ).lower()


# How many schedules are followed, and how far above the cheapest (in nanoseconds) one may be to be
# written down and judged by its calls as well.
_BEAM = 6
_MANY_CALLS = 10 * PER_CALL


@dataclass
class _Lowering:
    """The steps so far. Values are numbers; known of each are its dimensions and its layout."""

    plan: Plan
    inputs: tuple[Dims, ...]
    output: Dims
    needed: tuple[str, ...]
    layouts: Sequence[Layout]
    traits: Traits
    bias: Dim | None
    steps: list[Step] = field(default_factory=list)
    known: dict[int, Layout] = field(default_factory=dict)
    finished: Steps = field(init=False)
    price: float = field(init=False)

    def lower(self) -> Steps:
        self.known = dict(enumerate(self.layouts))
        values = [self.prepare(number) for number in range(len(self.plan.operands))]
        drafts = [
            self.copy().write(values, ways, price)
            for price, ways in self.schedules([self.known[value] for value in values])
        ]
        return min(drafts, key=lambda draft: draft.price).finished

    def copy(self) -> _Lowering:
        return replace(self, steps=list(self.steps), known=dict(self.known))

    def schedules(self, layouts: list[Layout]) -> list[tuple[float, tuple[Way, ...]]]:
        """The best ways to go through the contractions, each with its price.

        The result of one step is born in a layout that may suit the next one or not, so the steps
        are chosen together: a beam search over the ways, by the sum of their prices.
        """
        beam: list[tuple[float, tuple[Way, ...], list[Layout]]] = [(0.0, (), layouts)]
        for place, step in enumerate(self.plan.contractions):
            final = place == len(self.plan.contractions) - 1
            output = self.output if final else None
            found = [
                (before + more, (*chosen, way), [*known, contiguous(way.result, self.plan.sizes)])
                for before, chosen, known in beam
                for more, way in ways(
                    step, known[step.left], known[step.right], self.plan.sizes, self.traits, output
                )
            ]
            found.sort(key=lambda entry: entry[0])
            beam = found[:_BEAM]
        # Where the arithmetic is dear, the calls around it do not decide.
        worst = beam[0][0] * 1.02 + _MANY_CALLS
        return [(total, chosen) for total, chosen, _ in beam if total <= worst]

    def write(self, values: list[int], chosen: Sequence[Way], price: float) -> _Lowering:
        """Write the chosen ways down; afterwards `finished` and `price` are final."""
        values = list(values)
        bias = len(self.inputs) - 1 if self.bias is not None else None
        for place, (step, way) in enumerate(zip(self.plan.contractions, chosen, strict=True)):
            left, right = values[step.left], values[step.right]
            if isinstance(way, Elementwise):
                values.append(self.elementwise(way, left, right))
                continue
            final = place == len(self.plan.contractions) - 1
            fused = None
            if final and bias is not None and self.fuses(way):
                fused, bias = self.arrange(bias, (way.columns,)), None
            values.append(self.product(way, left, right, fused))
        result = self.finish(values[-1], bias)
        dims = [step.dims for step in self.steps if isinstance(step, (Reshape, Expand))]
        used = {name for one in dims for name in flat(one)}
        given = _given(self.inputs, used, self.needed)
        self.finished = Steps(self.inputs, tuple(self.steps), result, given, self.traits.integer)
        self.price = price + PER_CALL * len(self.steps)
        return self

    def fuses(self, way: Candidate) -> bool:
        """Whether a linear can add the bias itself."""
        return not way.batch and bool(way.columns) and set(way.columns) == set(self.bias or ())

    # What is known of a value

    def dims(self, number: int) -> Dims:
        count = len(self.inputs)
        return self.inputs[number] if number < count else self.steps[number - count].dims

    def emit(self, step: Step, layout: Layout) -> int:
        self.steps.append(step)
        number = len(self.inputs) + len(self.steps) - 1
        self.known[number] = layout
        return number

    def fresh(self, dims: Dims) -> Layout:
        return contiguous(dims, self.plan.sizes)

    # Bringing a value into the dimensions that the next operation wants

    def prepare(self, number: int) -> int:
        """Take the diagonals of an operand and sum its lonely axes."""
        names = flat(self.dims(number))
        axes = tuple(dict.fromkeys(names))
        lonely = self.plan.lonely[number]
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
            value = self.emit(Sum(value, places, rest), self.fresh(rest))
        return value

    def split(self, number: int) -> int:
        """Give every axis a dimension of its own."""
        dims = self.dims(number)
        if all(len(dim) <= 1 for dim in dims):
            return number
        return self.reshape(number, tuple((name,) for dim in dims for name in dim))

    def reshape(self, number: int, dims: Dims) -> int:
        if dims == self.dims(number):
            return number
        copies = not all(self.known[number].folds(dim) for dim in dims)
        return self.emit(
            Reshape(number, copies, dims), self.fresh(dims) if copies else self.known[number]
        )

    def permute(self, number: int, order: Sequence[int]) -> int:
        if list(order) == sorted(order):
            return number
        dims = tuple(self.dims(number)[place] for place in order)
        return self.emit(Permute(number, tuple(order), dims), self.known[number])

    def regroup(self, number: int, target: Dims) -> int:
        """Bring the axes into these dimensions: permute, then fold, each at most once."""
        goal = flat(target)
        if flat(self.dims(number)) != goal:
            if not all(_consecutive(dim, goal) for dim in self.dims(number)):
                number = self.split(number)
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
        layout = self.known[number]
        number = self.emit(Expand(number, apart), layout)
        if apart != target:
            number = self.emit(Reshape(number, True, target), self.fresh(target))
        return number

    # The kinds of contraction

    def elementwise(self, way: Elementwise, left: int, right: int) -> int:
        axes = (*way.axes, *way.contract)
        values = []
        for number in (left, right):
            have = set(flat(self.dims(number)))
            dims = tuple((name,) if name in have else () for name in axes)
            lead = next((place for place, dim in enumerate(dims) if dim), len(dims))
            values.append(self.regroup(number, dims[lead:]))
        dims = tuple((name,) for name in axes)
        product = self.emit(Multiply(values[0], values[1], dims), self.fresh(dims))
        if not way.contract:
            return product
        places = tuple(range(len(way.axes), len(axes)))
        return self.emit(Sum(product, places, way.result), self.fresh(way.result))

    def product(self, candidate: Candidate, left: int, right: int, bias: int | None) -> int:
        """Write a candidate down."""
        if candidate.swapped:
            left, right = right, left
        if candidate.batch:
            return self.stacked(candidate, left, right)
        rows, columns, contract = candidate.rows, candidate.columns, candidate.contract
        # A linear with any number of leading dimensions folds them itself, as a view where they
        # fold.
        folds = self.known[left].folds(rows) and self.known[left].folds(contract)
        apart = self.apart(left, rows) if folds else (rows,)
        left = self.arrange(left, (*(apart if rows else ()), contract))
        dims = (*(apart if rows else ()), *((columns,) if columns else ()))
        if not columns:
            right = self.arrange(right, (contract,))
            return self.emit(Matmul(left, right, contract, dims), self.fresh(dims))
        if bias is not None or self.transposed(right, columns, contract):
            right = self.arrange(right, (columns, contract))
            return self.emit(Linear(left, right, bias, contract, dims), self.fresh(dims))
        right = self.arrange(right, (contract, columns))
        return self.emit(Matmul(left, right, contract, dims), self.fresh(dims))

    def apart(self, number: int, axes: Dim) -> Dims:
        """The dimensions of a value for these axes: as they are, if they have this order."""
        dims = tuple(dim for dim in self.dims(number) if dim and set(dim) <= set(axes))
        return dims if flat(dims) == axes else tuple((name,) for name in axes)

    def transposed(self, number: int, columns: Dim, contract: Dim) -> bool:
        """Whether a weight is stored output axes first, as `nn.Linear` stores it."""
        axes = tuple(name for name in flat(self.dims(number)))
        if set(axes[: len(columns)]) == set(columns):
            return True
        if set(axes[: len(contract)]) == set(contract):
            return False
        return self.known[number].unit in contract

    def stacked(self, candidate: Candidate, left: int, right: int) -> int:
        batch, rows, columns, contract = (
            candidate.batch,
            candidate.rows,
            candidate.columns,
            candidate.contract,
        )
        shared = set(flat(self.dims(left))).intersection(flat(self.dims(right))).issuperset(batch)
        folds = self.known[left].folds(batch) and self.known[right].folds(batch)
        if len(batch) > 1 and shared and folds and max(len(rows), len(columns), len(contract)) <= 1:
            # matmul folds the batch itself; several batch dimensions then need no reshape of ours.
            stack: Dims = tuple((name,) for name in batch)
            left = self.arrange(left, (*stack, rows, contract))
            right = self.arrange(right, (*stack, contract, columns))
            dims = (*stack, rows, columns)
            return self.emit(Matmul(left, right, contract, dims), self.fresh(dims))
        left = self.arrange(left, (batch, rows, contract))
        right = self.arrange(right, (batch, contract, columns))
        dims = (batch, rows, columns)
        return self.emit(Bmm(left, right, contract, dims), self.fresh(dims))

    # The result

    def finish(self, number: int, bias: int | None) -> int:
        """Add the bias, and bring the result into the order that the pattern wants."""
        if bias is not None:
            axes = set(self.bias or ())
            # Folded output axes of which the bias has only some have to be apart while it is added.
            mixed = any(0 < len(axes.intersection(dim)) < len(dim) for dim in self.output)
            have = set(flat(self.dims(number))) | axes
            wanted = tuple((name,) for dim in self.output for name in dim) if mixed else self.output
            known = tuple(tuple(name for name in dim if name in have) for dim in wanted)
            small = tuple(tuple(name for name in dim if name in axes) for dim in wanted)
            lead = next((place for place, dim in enumerate(small) if dim), len(small))
            have_now = set(flat(self.dims(number)))
            number = self.regroup(
                number, tuple(tuple(name for name in dim if name in have_now) for dim in known)
            )
            bias = self.regroup(bias, small[lead:])
            number = self.emit(Add(number, bias, known), self.fresh(known))
        return self.arrange(number, self.output)


def _consecutive(dim: Dim, goal: Dim) -> bool:
    if not dim:
        return True
    if dim[0] not in goal:
        return False
    start = goal.index(dim[0])
    return goal[start : start + len(dim)] == dim


def _given(inputs: Sequence[Dims], used: set[str], needed: Sequence[str]) -> tuple[str, ...]:
    """The sizes a program has to be told, since it uses them or solves a composite with them."""
    untold = used - tellable(inputs)
    together = [set(dim) for dims in inputs for dim in dims if untold.intersection(dim)]
    return tuple(name for name in needed if name in untold or any(name in dim for dim in together))


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
