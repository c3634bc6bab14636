"""The lowering: a plan and the layouts of its operands become `Steps`.

Each pairwise contraction becomes a multiply, a multiply and sum, or the cheapest matrix product
that `candidates` finds; between them values are permuted, folded and expanded, as views wherever
memory allows it. The file knows nothing of torch, of how the steps are spelled, or of why the plan
is as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .beam import schedules
from .build import Builder
from .candidates import Candidate, Elementwise, Traits, Way, readable
from .layout import Layout, in_order
from .plan import Plan
from .price import price
from .rates import rates_for
from .sizes import Bound, Dim, Dims
from .steps import (
    Add,
    Bmm,
    Linear,
    Matmul,
    Multiply,
    Reshape,
    Steps,
    Sum,
    flat,
    untold,
)
from .ways import SLACK, ways


def lower(
    bound: Bound,
    plan: Plan,
    layouts: Sequence[Layout] | None = None,
    traits: Traits | None = None,
    bias: Dim | None = None,
    *,
    free: bool = False,
    chosen: Sequence[Way] | None = None,
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
        free: whether the result may have its dimensions in any order, folded or not, since it is
            read by another program of ours; then it has no bias.
        chosen: a way for each contraction, if somebody has measured which are the best.
    """
    start = _start(bound, plan, layouts, traits, bias, free=free)
    return start.lower() if chosen is None else start.written(chosen).steps


def drafts(
    bound: Bound,
    plan: Plan,
    layouts: Sequence[Layout] | None = None,
    traits: Traits | None = None,
    bias: Dim | None = None,
    *,
    free: bool = False,
) -> list[Draft]:
    """Every lowering of one contraction, or the likeliest ones of several, the cheapest first.

    `lower` takes the first one; a tuner or a test wants them all.
    """
    start = _start(bound, plan, layouts, traits, bias, free=free)
    if len(plan.contractions) == 1:
        (step,) = plan.contractions
        left, right = start.layouts[step.left], start.layouts[step.right]
        alone = ways(step, left, right, plan.sizes, start.traits, start.output, every=True)
        every: list[tuple[Way, ...]] = [(way,) for _, way in alone]
    else:
        found = schedules(plan, start.layouts, start.traits, start.output, width=_WIDE)
        every = [chosen for _, chosen in found]
    written: dict[Steps, Draft] = {}
    for chosen in every:
        draft = start.written(chosen)
        written.setdefault(draft.steps, draft)
    return sorted(written.values(), key=lambda draft: draft.price)


@dataclass(frozen=True, slots=True)
class Draft:
    """Steps and their price.

    Attributes:
        steps: a complete lowering.
        price: in nanoseconds, the calls included.
        ways: what was chosen for each contraction.
    """

    steps: Steps
    price: float
    ways: tuple[Way, ...]


def _start(
    bound: Bound,
    plan: Plan,
    layouts: Sequence[Layout] | None,
    traits: Traits | None,
    bias: Dim | None,
    *,
    free: bool,
) -> _Lowering:
    dims = bound.operands if bias is None else (*bound.operands, tuple((name,) for name in bias))
    if layouts is None:
        layouts = [in_order(one, plan.sizes) for one in dims]
    build = Builder(dims, plan.sizes, known=dict(enumerate(layouts)))
    values = [build.prepare(number, lonely) for number, lonely in enumerate(plan.lonely)]
    output = None if free else bound.output
    return _Lowering(plan, output, bound.needed, traits or Traits(), bias, build, values)


# How many of the likeliest choices are written down and priced exactly at most: without a bias, and
# with one, which the search has not seen. Prices of a single contraction are less rough: two do.
_WRITTEN, _WITH_BIAS = 3, 4
# How many there are for somebody who measures them all.
_WIDE = 32


@dataclass
class _Lowering:
    """What the lowering starts from: a plan, and the operands prepared for it."""

    plan: Plan
    output: Dims | None
    needed: tuple[str, ...]
    traits: Traits
    bias: Dim | None
    build: Builder
    values: list[int]

    @property
    def layouts(self) -> list[Layout]:
        """How the prepared operands lie in memory."""
        return [self.build.known[value] for value in self.values]

    def lower(self) -> Steps:
        # Without a bias, the last contraction comes to what it is said to.
        count = len(self.plan.contractions)
        slack, most = 1.0, min(1 + count, _WRITTEN)
        if self.bias is not None:
            slack, most = SLACK, _WITH_BIAS
        best: Draft | None = None
        every = schedules(
            self.plan,
            self.layouts,
            self.traits,
            self.output,
            slack=slack,
            # What `torch.einsum` does is known of two operands alone.
            cautious=count == 1 and self.bias is None and self.output is not None,
        )
        for cost, chosen in every[:most]:
            if best is not None and best.price <= cost:
                break  # rough prices leave out, and add nothing
            draft = self.written(chosen)
            if best is None or draft.price < best.price:
                best = draft
        assert best is not None
        return best.steps

    def written(self, chosen: Sequence[Way]) -> Draft:
        """Write the chosen ways down, and price what came of it exactly."""
        writer = replace(self, build=self.build.copy(), values=list(self.values))
        result = writer.write(chosen)
        build = writer.build
        given = untold(build.inputs, build.steps, self.needed, self.plan.sizes)
        products = tuple(writer.values[len(self.values) :])
        steps = Steps(
            build.inputs, tuple(build.steps), result, given, self.traits.integer, products
        )
        layouts = [build.known[number] for number in range(len(build.inputs))]
        itemsize, dense = self.traits.itemsize, self.traits.dense
        rates = rates_for(self.traits.device)
        cost = price(steps, layouts, self.plan.sizes, itemsize, rates, dense=dense)
        return Draft(steps, cost, tuple(chosen))

    def write(self, chosen: Sequence[Way]) -> int:
        values = self.values
        bias = len(self.build.inputs) - 1 if self.bias is not None else None
        for place, (step, way) in enumerate(zip(self.plan.contractions, chosen, strict=True)):
            left, right = values[step.left], values[step.right]
            if isinstance(way, Elementwise):
                values.append(self.elementwise(way, left, right))
                continue
            final = place == len(self.plan.contractions) - 1
            fused = None
            if final and bias is not None and self.fuses(way, left, right):
                fused, bias = self.build.regroup(bias, self.shifts(way)), None
            values.append(self.product(way, left, right, fused))
        return self.finish(values[-1], bias)

    def fuses(self, way: Candidate, left: int, right: int) -> bool:
        """Whether the product can add the bias itself, from a view of it that broadcasts."""
        axes = set(self.bias or ())
        if way.each:
            return False
        if not way.batch:
            return bool(way.rows and way.columns) and set(way.columns) == axes
        # On CUDA, a product of stacks that adds a bias is slower than a product and a sum
        # (pytorch#187093). Under autocast it would narrow the bias before the sum.
        if self.traits.device != "cpu" or self.traits.autocast or self.traits.integer:
            return False
        whole = all(len(axes.intersection(dim)) in (0, len(dim)) for dim in way.result)
        first, second = (right, left) if way.swapped else (left, right)
        return whole and axes <= set(flat(way.result)) and not self.separate(way, first, second)

    def shifts(self, way: Candidate) -> Dims:
        """The dimensions in which a bias is added by a product."""
        if not way.batch:
            return (way.columns,)
        axes = set(self.bias or ())
        dims = tuple(dim if axes.issuperset(dim) else () for dim in way.result)
        return dims[next((place for place, dim in enumerate(dims) if dim), len(dims)) :]

    # The kinds of contraction

    def elementwise(self, way: Elementwise, left: int, right: int) -> int:
        values = []
        for number in (left, right):
            have = set(flat(self.build.dims(number)))
            dims = tuple((name,) if name in have else () for name in way.order)
            lead = next((place for place, dim in enumerate(dims) if dim), len(dims))
            values.append(self.build.regroup(number, dims[lead:]))
        dims = tuple((name,) for name in way.order)
        product = self.build.combine(Multiply, values[0], values[1], dims)
        if not way.contract:
            return product
        places = tuple(place for place, name in enumerate(way.order) if name in way.contract)
        return self.build.emit(Sum(product, places, way.result))

    def product(self, candidate: Candidate, left: int, right: int, bias: int | None) -> int:
        """Write a candidate down."""
        if candidate.swapped:
            left, right = right, left
        if candidate.batch:
            return self.stacked(candidate, left, right, bias)
        rows, columns, contract = candidate.rows, candidate.columns, candidate.contract
        if not rows:
            # A matrix and a vector: torch is twice as fast with the vector on the right.
            vector = self.build.arrange(left, (contract,))
            if not columns:
                right = self.build.arrange(right, (contract,))
                return self.build.emit(Matmul(vector, right, contract, ()))
            matrix = self.matrix(right, candidate, columns, (columns, contract), 1)
            return self.build.emit(Matmul(matrix, vector, contract, (columns,)))
        if self.readable(left, candidate, rows):
            # A linear with any number of leading dimensions folds them itself, as a view.
            apart = self.apart(left, rows)
            left = self.build.arrange(left, (*apart, contract))
        else:
            apart = (rows,)
            left = self.matrix(left, candidate, rows, (rows, contract), 0)
        if not columns:
            right = self.build.arrange(right, (contract,))
            return self.build.emit(Matmul(left, right, contract, apart))
        dims = (*apart, columns)
        free = self.readable(right, candidate, columns)
        stored = self.transposed(right, columns, contract) if free else candidate.near[1]
        if bias is not None or stored:
            right = self.matrix(right, candidate, columns, (columns, contract), 1)
            return self.build.emit(Linear(left, right, bias, contract, dims))
        right = self.matrix(right, candidate, columns, (contract, columns), 1)
        return self.build.emit(Matmul(left, right, contract, dims))

    def readable(self, number: int, candidate: Candidate, fold: Dim) -> bool:
        """Whether BLAS can read a value as it lies."""
        axes = flat(self.build.dims(number))
        have = tuple(name for name in axes if name not in candidate.contract)
        return readable(self.build.known[number], candidate.stack, fold, candidate.contract, have)

    def matrix(self, number: int, candidate: Candidate, fold: Dim, dims: Dims, side: int) -> int:
        """Bring a value into matrices of these dimensions, copied only if BLAS cannot read it.

        A copy is laid out as the candidate says; BLAS reads the transposed matrix as well.

        Args:
            number: of the value.
            candidate: what is written down.
            fold: the rows or columns that the value has.
            dims: the dimensions that are wanted.
            side: 0 for the left matrix, 1 for the right one.
        """
        free = self.readable(number, candidate, fold)
        *stack, first, second = dims
        turned = candidate.near[side] != (second == candidate.contract)
        if free and (fold or not stack):
            return self.build.arrange(number, dims)
        # Without rows of its own it is read either way, and its strides tell BLAS which.
        target = (*stack, second, first) if turned else dims
        before = len(self.build.steps)
        number = self.build.arrange(number, target)
        made = self.build.steps[before:]
        if not free and not any(isinstance(step, Reshape) and step.copies for step in made):
            # Nothing has been copied on the way, but the strides are none that BLAS can read.
            number = self.build.emit(Reshape(number, copies=True, dims=target))
        turn = (*range(len(stack)), len(stack) + 1, len(stack))
        return self.build.permute(number, turn) if turned else number

    def apart(self, number: int, axes: Dim) -> Dims:
        """The dimensions of a value for these axes: as they are, if they have this order."""
        dims = tuple(dim for dim in self.build.dims(number) if dim and set(dim) <= set(axes))
        return dims if flat(dims) == axes else tuple((name,) for name in axes)

    def transposed(self, number: int, columns: Dim, contract: Dim) -> bool:
        """Whether a weight is stored output axes first, as `nn.Linear` stores it."""
        axes = tuple(name for name in flat(self.build.dims(number)))
        if set(axes[: len(columns)]) == set(columns):
            return True
        if set(axes[: len(contract)]) == set(contract):
            return False
        return self.build.known[number].unit in contract

    def separate(self, candidate: Candidate, left: int, right: int) -> bool:
        """Whether the axes of a stack keep dimensions of their own, which matmul folds itself."""
        batch, rows, columns = candidate.result
        axes = [flat(self.build.dims(number)) for number in (left, right)]
        shared = all(name in one for name in batch for one in axes)
        single = max(len(rows), len(columns), len(candidate.contract)) <= 1
        if len(batch) < 2 or candidate.each or not shared or not single:
            return False
        return self.readable(left, candidate, rows) and self.readable(right, candidate, columns)

    def stacked(self, candidate: Candidate, left: int, right: int, bias: int | None) -> int:
        batch, rows, columns = candidate.result
        contract = candidate.contract
        apart = self.separate(candidate, left, right)
        stack: Dims = tuple((name,) for name in batch) if apart else (batch,)
        if candidate.each:
            stack = (batch[:1], candidate.stack)
        left = self.matrix(left, candidate, rows, (*stack, rows, contract), 0)
        right = self.matrix(right, candidate, columns, (*stack, contract, columns), 1)
        dims = (*stack, rows, columns)
        if apart:
            return self.build.emit(Matmul(left, right, contract, dims))
        return self.build.emit(Bmm(left, right, contract, dims, bias, candidate.each))

    # The result

    def finish(self, number: int, bias: int | None) -> int:
        """Add the bias, and bring the result into the order that the pattern wants."""
        if self.output is None:
            return number
        if bias is not None:
            axes = set(self.bias or ())
            have = set(flat(self.build.dims(number)))
            # Folded output axes of which the bias or the value has only some have to be apart
            # while they are added.
            mixed = any(
                0 < len(some.intersection(dim)) < len(dim)
                for dim in self.output
                for some in (axes, have)
            )
            wanted = tuple((name,) for name in flat(self.output)) if mixed else self.output
            value, small, both = (
                tuple(tuple(name for name in dim if name in some) for dim in wanted)
                for some in (have, axes, have | axes)
            )
            lead = next((place for place, dim in enumerate(small) if dim), len(small))
            number = self.build.regroup(number, value)
            bias = self.build.regroup(bias, small[lead:])
            number = self.build.combine(Add, number, bias, both)
        return self.build.arrange(number, self.output)
