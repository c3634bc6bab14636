"""How chosen ways are written down: steps that permute, fold, expand, multiply and sum.

Values are views wherever memory allows it. The file knows nothing of prices, of torch, or of how
the steps are spelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from .build import Builder
from .candidates import Candidate, Elementwise, Traits, Way, readable
from .layout import runs
from .plan import Plan
from .sizes import Dim, Dims
from .steps import Accumulate, Add, Bmm, Linear, Matmul, Multiply, Reshape, Steps, Sum, flat, untold


@dataclass
class Writer:
    """Writes the ways of all contractions of a plan into a builder.

    Attributes:
        plan: the contractions.
        output: the dimensions of the result; None if it may have any.
        needed: the axes whose size no shape tells.
        traits: device, dtype and autocast.
        bias: axes of a bias, the last input, if there is one.
        build: what is written so far.
        values: the numbers of the operands, and of the results of contractions.
    """

    plan: Plan
    output: Dims | None
    needed: tuple[str, ...]
    traits: Traits
    bias: Dim | None
    build: Builder
    values: list[int]

    def copy(self) -> Writer:
        """Another writer that begins like this one, to try something out."""
        build, values = self.build.copy(), list(self.values)
        return Writer(self.plan, self.output, self.needed, self.traits, self.bias, build, values)

    def steps(self, chosen: Sequence[Way]) -> Steps:
        """The steps of these ways, one for each contraction; may be asked for once."""
        first = len(self.values)
        result = self.write(chosen)
        build = self.build
        given = untold(build.inputs, build.steps, self.needed, self.plan.sizes)
        products = tuple(self.values[first:])
        return Steps(build.inputs, tuple(build.steps), result, given, self.traits.integer, products)

    def write(self, chosen: Sequence[Way]) -> int:
        """Write them down; gives the number of the result."""
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
        if way.each or way.added:
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
        """Write a multiply down, and a sum, or both in turns."""
        values = []
        for number, copied in zip((left, right), way.copies, strict=True):
            have = set(flat(self.build.dims(number)))
            dims = tuple((name,) if name in have else () for name in way.order)
            lead = next((place for place, dim in enumerate(dims) if dim), len(dims))
            value = self.build.regroup(number, dims[lead:])
            if copied:
                value = self.build.emit(Reshape(value, copies=True, dims=dims[lead:]))
            values.append(value)
        if way.each:
            each = partial(Multiply, each=True)
            return self.build.combine(each, values[0], values[1], way.result)
        dims = tuple((name,) for name in way.order)
        product = self.build.combine(Multiply, values[0], values[1], dims)
        if not way.contract:
            return product
        places = tuple(place for place, name in enumerate(way.order) if name in way.contract)
        return self.build.emit(Sum(product, places, way.result))

    def product(self, candidate: Candidate, left: int, right: int, bias: int | None) -> int:
        """Write a matrix product down, or one of stacks."""
        if candidate.swapped:
            left, right = right, left
        if candidate.batch:
            return self.stacked(candidate, left, right, bias)
        rows, columns, contract = candidate.rows, candidate.columns, candidate.contract
        if not rows:
            # A matrix and a vector: torch is twice as fast with the vector on the right.
            vector = self.vector(left, candidate, 0)
            if not columns:
                right = self.vector(right, candidate, 1)
                return self.build.emit(Matmul(vector, right, contract, ()))
            matrix = self.matrix(right, candidate, columns, (columns, contract), 1)
            return self.build.emit(Matmul(matrix, vector, contract, (columns,)))
        if self.readable(left, candidate, rows, 0):
            # A linear with any number of leading dimensions folds them itself, as a view.
            apart = self.apart(left, rows)
            left = self.build.arrange(left, (*apart, contract))
        else:
            apart = (rows,)
            left = self.matrix(left, candidate, rows, (rows, contract), 0)
        if not columns:
            right = self.vector(right, candidate, 1)
            return self.build.emit(Matmul(left, right, contract, apart))
        dims = (*apart, columns)
        free = self.readable(right, candidate, columns, 1)
        stored = self.transposed(right, columns, contract) if free else candidate.near[1]
        if bias is not None or stored:
            right = self.matrix(right, candidate, columns, (columns, contract), 1)
            return self.build.emit(Linear(left, right, bias, contract, dims))
        right = self.matrix(right, candidate, columns, (contract, columns), 1)
        return self.build.emit(Matmul(left, right, contract, dims))

    def readable(self, number: int, candidate: Candidate, fold: Dim, side: int) -> bool:
        """Whether BLAS can read a value as it lies, and it lies as the candidate says."""
        layout, contract = self.build.known[number], candidate.contract
        have = frozenset(flat(self.build.dims(number)))
        lies = readable(layout, candidate.stack, fold, contract, have)
        return lies is not None and (not fold or lies == candidate.near[side])

    def vector(self, number: int, candidate: Candidate, side: int) -> int:
        """Bring a value into a vector, which BLAS reads at any distance, but may read slowly so."""
        target = (candidate.contract,)
        number = self.build.arrange(number, target)
        if candidate.near[side] and not runs(self.build.known[number], candidate.contract):
            number = self.build.emit(Reshape(number, copies=True, dims=target))
        return number

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
        free = self.readable(number, candidate, fold, side)
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
        batch, rows, columns = candidate.batch, candidate.rows, candidate.columns
        axes = [flat(self.build.dims(number)) for number in (left, right)]
        shared = all(name in one for name in batch for one in axes)
        single = max(len(rows), len(columns), len(candidate.contract)) <= 1
        if len(batch) < 2 or candidate.each or not shared or not single:
            return False
        if not self.readable(left, candidate, rows, 0):
            return False
        return self.readable(right, candidate, columns, 1)

    def stacked(self, candidate: Candidate, left: int, right: int, bias: int | None) -> int:
        """Write a product of stacks down."""
        batch, rows, columns = candidate.batch, candidate.rows, candidate.columns
        contract = candidate.contract
        apart = self.separate(candidate, left, right)
        stack: Dims = tuple((name,) for name in batch) if apart else (batch,)
        if candidate.each:
            stack = (batch[:1], candidate.stack) if candidate.stack else (batch,)
        left = self.matrix(left, candidate, rows, (*stack, rows, contract), 0)
        right = self.matrix(right, candidate, columns, (*stack, contract, columns), 1)
        dims = (*stack, rows, columns)
        if candidate.each and candidate.added:
            return self.build.emit(Accumulate(left, right, contract, dims[1:]))
        if apart:
            number = self.build.emit(Matmul(left, right, contract, dims))
        else:
            number = self.build.emit(Bmm(left, right, contract, dims, bias, candidate.each))
        return self.added(number, candidate) if candidate.added else number

    def added(self, number: int, candidate: Candidate) -> int:
        """Add products of a stack up."""
        dims, added = self.build.dims(number), set(candidate.added)
        if not all(added.issuperset(dim) or added.isdisjoint(dim) for dim in dims):
            number = self.build.reshape(
                number, (*((name,) for name in candidate.batch), candidate.rows, candidate.columns)
            )
            dims = self.build.dims(number)
        places = tuple(place for place, dim in enumerate(dims) if added.intersection(dim))
        rest = tuple(dim for dim in dims if added.isdisjoint(dim))
        return self.build.emit(Sum(number, places, rest))

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
