"""What steps cost, in nanoseconds.

A price ranks lowerings and promises nothing; whichever is chosen, the result is right. The file
sees steps and layouts, never a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .costs import Costs
from .layout import Layout, combined, contiguous, near
from .rates import Rates, rates_for
from .sizes import Dim, Dims
from .steps import (
    VIEWS,
    Accumulate,
    Add,
    Bmm,
    Linear,
    Multiply,
    Permute,
    Place,
    Product,
    Reshape,
    Step,
    Steps,
    Sum,
    elements,
    flat,
    in_turns,
    is_view,
)


def price(
    steps: Steps,
    layouts: Sequence[Layout],
    sizes: Mapping[str, int],
    itemsize: int = 4,
    rates: Rates | None = None,
    *,
    dense: bool = False,
) -> float:
    """Price the steps of a program.

    Args:
        steps: what is computed.
        layouts: how each input lies in memory.
        sizes: of every axis.
        itemsize: bytes for one number.
        rates: of the device; those of a CPU by default.
        dense: whether the reader of the result copies it, unless its dimensions lie in order.
    """
    costs = Costs(rates or rates_for("cpu"), sizes, itemsize)
    return _Program(steps, layouts, costs, dense=dense).total()


def parts(
    steps: Steps,
    layouts: Sequence[Layout],
    sizes: Mapping[str, int],
    itemsize: int = 4,
    rates: Rates | None = None,
) -> dict[str, float]:
    """What of a price is for copies, products, elementwise operations, views, and the reader.

    Args:
        steps: what is computed.
        layouts: how each input lies in memory.
        sizes: of every axis.
        itemsize: bytes for one number.
        rates: of the device; those of a CPU by default.
    """
    program = _Program(steps, layouts, Costs(rates or rates_for("cpu"), sizes, itemsize))
    found = dict.fromkeys(("copies", "products", "elementwise", "views", "reader"), 0.0)
    for step in steps.steps:
        found[_part(step)] += program.one(step)
        program.layouts.append(program.made(step))
    found["reader"] = program.reader()
    return found


def _part(step: Step) -> str:
    if isinstance(step, Reshape) and step.copies:
        return "copies"
    if isinstance(step, (Sum, Multiply, Add)):
        return "elementwise"
    return "views" if isinstance(step, VIEWS) else "products"


def layouts_of(steps: Steps, layouts: Sequence[Layout], sizes: Mapping[str, int]) -> list[Layout]:
    """How every value lies in memory, if the inputs lie like this."""
    program = _Program(steps, layouts, Costs(rates_for("cpu"), sizes, 4))
    for step in steps.steps:
        program.layouts.append(program.made(step))
    return program.layouts


class _Program:
    """The price of steps, one after the other."""

    def __init__(
        self, steps: Steps, layouts: Sequence[Layout], costs: Costs, *, dense: bool = False
    ) -> None:
        self.steps = steps
        self.costs = costs
        self.dense = dense
        self.layouts = list(layouts)

    def total(self) -> float:
        nanoseconds = 0.0
        for step in self.steps.steps:
            nanoseconds += self.one(step)
            self.layouts.append(self.made(step))
        return nanoseconds + self.reader()

    def reader(self) -> float:
        """What whoever reads the result pays, if it is a permuted view."""
        axes = flat(self.steps.dims(self.steps.result))
        layout = self.layouts[self.steps.result]
        if layout.folds(axes):
            return 0.0
        if self.dense:
            return self.costs.rates.copy_call + self.costs.copy(axes, layout)
        last = next((name for name in reversed(axes) if name in layout.order), None)
        return self.costs.reader(self.costs.count(axes), inner=last == layout.unit)

    def one(self, step: Step) -> float:
        rates, costs = self.costs.rates, self.costs
        if isinstance(step, Reshape) and step.copies:
            rows = costs.count(step.dims[0]) if len(step.dims) == 2 else 0
            return rates.copy_call + costs.copy(flat(step.dims), self.layouts[step.source], rows)
        if isinstance(step, VIEWS):
            return rates.view
        if isinstance(step, Sum):
            dims = self.steps.dims(step.source)
            summed = flat(tuple(dims[place] for place in step.places))
            return rates.sum_call + costs.sum(dims, self.layouts[step.source], summed)
        if isinstance(step, (Multiply, Add)):
            order = self.made(step).order
            left, right = self.layouts[step.left], self.layouts[step.right]
            if in_turns(step):
                (front,) = self.steps.dims(step.left)[0] or self.steps.dims(step.right)[0]
                return costs.multiply_in_turns(front, order, left, right)
            return rates.multiply_call + costs.multiply(order, left, right)
        if isinstance(step, Place):
            return self.product(Bmm(step.left, step.right, step.contract, step.product))
        return self.product(step)

    def made(self, step: Step) -> Layout:
        """The layout of what a step makes."""
        if is_view(step):
            return self.layouts[step.source]
        if isinstance(step, (Multiply, Add)):
            return combined(
                step.dims, self.layouts[step.left], self.layouts[step.right], self.costs.sizes
            )
        return contiguous(step.dims, self.costs.sizes)

    def product(self, step: Product | Accumulate) -> float:
        rates, costs = self.costs.rates, self.costs
        left, right = self.steps.dims(step.left), self.steps.dims(step.right)
        stack: Dims = ()
        rows: Dim = ()
        columns: Dim = ()
        stacked = isinstance(step, (Bmm, Accumulate)) or len(right) > 2
        call, turns = rates.mm_call, 1
        if stacked:
            *front, rows, columns = step.dims
            stack = tuple(front)
            call = rates.bmm_call if isinstance(step, Bmm) else rates.matmul_call
            if isinstance(step, Accumulate):
                turns, made = costs.count(left[0]), elements(step.dims, costs.sizes)
                call = costs.adding(turns, made)
                stack = (left[0], *stack)
            elif in_turns(step):
                call = costs.turns(costs.count(stack[0]))
            if isinstance(step, Bmm) and step.bias is not None:
                # The result is filled with the bias first, as a copy is.
                made = elements(step.dims, self.costs.sizes)
                across = not flat(self.steps.dims(step.bias)[-1:])
                each = rates.copy_strided if across else rates.copy_number
                call += rates.view + made * each * self.costs.scale
        elif len(right) == 2:
            *front, columns = step.dims
            rows = flat(tuple(front))
            call = rates.linear_call if isinstance(step, Linear) else call
            call += rates.fold_call if len(left) != 2 else 0.0
        else:
            rows = flat(step.dims)
        batch = flat(stack)
        lies = (
            self.near(step.left, rows, step.contract, natural=True),
            self.near(step.right, columns, step.contract, natural=False),
        )
        for number, near_, fold, others in zip(
            (step.left, step.right), lies, (rows, columns), (columns, rows), strict=True
        ):
            if near_ is not None:
                axes = batch, fold, step.contract
                call += costs.reading(self.layouts[number], axes, others, near=near_)
            if len(self.steps.dims(number)) == 1:
                work = costs.count((*rows, *columns, *step.contract))
                call += costs.apart(self.layouts[number], step.contract, work)
        return call + costs.product(
            costs.count(batch),
            costs.count(rows),
            costs.count(columns),
            costs.count(step.contract),
            left=lies[0],
            right=lies[1],
            stacked=stacked,
            different=(self.different(step.left, batch), self.different(step.right, batch)),
            turns=turns,
        )

    def different(self, number: int, batch: Dim) -> int:
        """How many matrices of a stack an operand holds, those that are expanded once."""
        held = self.layouts[number].order
        return self.costs.count(tuple(name for name in batch if name in held))

    def near(self, number: int, fold: Dim, contract: Dim, *, natural: bool) -> bool | None:
        """How BLAS finds an operand; see `Costs.product`."""
        if len(self.steps.dims(number)) == 1:
            return True  # a vector is read along its sum, at any distance
        found = near(self.layouts[number], fold, contract)
        if fold or not found:
            return found
        # A single row or column lies either way; its strides say what BLAS is told.
        place = number - len(self.steps.inputs)
        step = self.steps.steps[place] if place >= 0 else None
        turned = isinstance(step, Permute) and step.order[-1] == len(step.order) - 2
        return natural != turned
