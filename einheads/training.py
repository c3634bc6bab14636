"""The planned backward: an autograd function whose gradients are contractions of our own.

Autograd undoes the views of a program one by one, and copies where they do not fit. Here, each
gradient is lowered like any other contraction, for the layout that the incoming gradient really
has, and comes out with the order of the tensor that it belongs to. What is kept meanwhile is what
the gradients read: operands, and the results of inner contractions, which can be computed again
instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .compiled import Program
from .gradients import BIAS, Pull, held, plannable, pulled, pulls, read, remade, spelled
from .layout import Layout, contiguous
from .operands import Declaration, input_names, layout_of, unfollowed
from .price import layouts_of, price
from .program import Lowered, Prepared, Request, autocasts, cache, lowered, uncast
from .rates import Rates
from .sizes import Dims
from .steps import elements
from .unplanned import price_undone

# Whether `torch.autograd.grad(..., is_grads_batched=True)` and its relatives are at work, whose
# older vmap has rules for few operations.
_functorch: Any = torch._C._functorch  # noqa: SLF001
_is_batched: Callable[[Tensor], bool] = _functorch.is_legacy_batchedtensor


@dataclass(frozen=True, slots=True)
class _Task:
    """One gradient, ready to run.

    Attributes:
        pull: which one.
        lowered: its program; takes the gradient of the result, the other value if there is one,
            and then sizes.
        extra: these sizes.
        last: whether nobody reads the gradient of the result after this.
    """

    pull: Pull
    lowered: Lowered
    extra: tuple[int, ...]
    last: bool

    def run(
        self, gradients: dict[int, Tensor], values: dict[int, Tensor], *, watched: bool
    ) -> None:
        """Make the gradient; `watched` by whoever follows how it is made, as autograd may."""
        pull = self.pull
        # What nobody reads any more is let go, so that a chain never holds all of its gradients.
        gradient = gradients.pop(pull.result) if self.last else gradients[pull.result]
        function = self.lowered.program.run if watched else self.lowered.unwatched.run
        if pull.other is None:
            gradients[pull.of] = function(gradient, *self.extra)
        else:
            gradients[pull.of] = function(gradient, values.pop(pull.other), *self.extra)


def trainable(prepared: Prepared, tensors: Sequence[Tensor]) -> bool:
    """Whether the backward of a call can be planned, or only autograd's own is right."""
    # Autocast changes dtypes inside of the program; a complex gradient conjugates the operands.
    if prepared.traits.autocast or prepared.traits.integer or tensors[0].is_complex():
        return False
    return plannable(prepared.bound, prepared.lowered.plan)


# What the call of an autograd function and each task of its backward cost beside the operations,
# and each of autograd's own nodes, which are made and run in C++: in views, which take Python's
# time as well. Measured with AVX-512 (11, 1 and 0.8 us); on 180 random contractions on an EPYC,
# choices with the rates of AVX2 lose 1.8% to the better backward, where microseconds had lost 2.4%.
_FUNCTION, _TASK, _NODE = 14.3, 1.3, 1.04
# Prices are wrong by a tenth in the middle; who is not sure leaves autograd alone. On 450 random
# contractions on an EPYC of the fifth generation, 0.75 to 1.05 are alike to half a percent.
_MARGIN = 0.89


def pays(schedule: Schedule) -> bool:
    """Whether a planned backward is cheaper than autograd's own, as measured or by price."""
    lower = schedule.prepared.lowered
    found = lower.planned.get(schedule.needs)
    if found is None:
        measured = cache.choices.get(lower.request.problem) if cache.choices else None
        found = None if measured is None else measured.planned.get(schedule.key)
        if found is None:
            steps, layouts = lower.program.steps, lower.request.layouts
            traits, rates = lower.request.traits, lower.request.traits.rates
            own = price_undone(steps, layouts, schedule.needs, lower.plan.sizes, traits)
            most = _MARGIN * (own + _NODE * rates.view * len(steps.steps))
            # Where the call alone costs more, no gradient has to be lowered to know the answer.
            found = most > _FUNCTION * rates.view and _price_planned(schedule, rates) < most
        lower.planned[schedule.needs] = found
    return found


def _price_planned(schedule: Schedule, rates: Rates) -> float:
    nanoseconds = _FUNCTION * rates.view
    for task in schedule.predicted():
        request = task.lowered.request
        nanoseconds += _TASK * rates.view + price(
            task.lowered.unwatched.steps,
            request.layouts,
            request.sizes,
            request.traits.itemsize,
            rates,
            dense=request.traits.dense,
        )
    return nanoseconds


# Where nothing is kept, each inner value is made when it is read, so that there is one at a time.
# What it is made of is made every time: beyond so many forwards, they are made together instead.
_FORWARDS = 3
# Nor are there more programs than this for one backward.
_MAKERS = 32
# So many strides of incoming gradients are remembered; a part of a tensor whose size changes has
# others every time. Their programs are found again by their layouts.
_STRIDES = 64


def scheduled(
    declaration: Declaration, prepared: Prepared, needs: tuple[bool, ...]
) -> Schedule | None:
    """What is run and kept if these tensors need gradients; None if autograd's own is cheaper."""
    schedule = Schedule(declaration, prepared, needs)
    planned = declaration.checkpoint or (schedule.lean and pays(schedule))
    return schedule if planned else None


class Schedule:
    """What is run, kept and pulled back for one set of needs.

    Attributes:
        extra: the sizes it takes behind the tensors.
        kept: which of the tensors are kept.
        inner: the numbers, in the plan, of the inner values that the gradients read.
        keeps: whether these are kept as well, or made again.
        singly: whether each of them is made again when it is read, or all of them before.
    """

    def __init__(
        self, declaration: Declaration, prepared: Prepared, needs: tuple[bool, ...]
    ) -> None:
        self.prepared = prepared
        self.needs = needs
        self.count = len(prepared.bound.operands)
        plan = prepared.lowered.plan
        self.last = self.count + len(plan.contractions) - 1
        bias = len(needs) > self.count and needs[-1]
        self.pulls = pulls(plan, needs[: self.count], bias=bias)
        self.names = input_names(declaration, len(needs))
        values = read(self.pulls)
        self.inner = tuple(value for value in values if value >= self.count)
        self.keeps = bool(self.inner) and not declaration.checkpoint
        self.singly = (
            declaration.checkpoint
            and 0 < len(self.inner) <= _MAKERS
            and remade(plan, self.pulls) <= _FORWARDS * plan.multiply_adds
        )
        if self.singly:
            deep = pulls(plan, needs[: self.count], bias=bias, deep=True)
            self.pulls = min(self.pulls, deep, key=lambda order: held(plan, order))
        # Inner values are made again from the operands, if their gradients need gradients.
        self.kept = tuple(range(self.count)) if self.inner else values
        self.extra = prepared.extra
        self.tasks: dict[bool | tuple[int, ...], tuple[_Task, ...]] = {}

    @cached_property
    def lean(self) -> bool:
        """Whether no more than twice as many numbers are kept as first derivatives read.

        Autograd keeps these alone. What is more are operands that only second derivatives read,
        and those whose lonely axes autograd sums before it keeps them.
        """
        values = self.prepared.lowered.plan.values
        needed = sum(self.size((values[value],)) for value in read(self.pulls))
        inner = sum(self.size((values[value],)) for value in self.inner)
        return inner + sum(self.size(self.dims(number)) for number in self.kept) <= 2 * needed

    @property
    def key(self) -> str:
        """The needs as a choice spells them, such as "110"."""
        return "".join(str(int(need)) for need in self.needs)

    @cached_property
    def run(self) -> Callable[..., Any]:
        """The forward; gives the result, and with it the values of `inner` if `keeps`.

        It is written when it first runs: many a schedule is only priced, and then left alone.
        """
        return self.giving(self.prepared.lowered.unwatched)

    @cached_property
    def followed(self) -> Callable[..., Any]:
        """The same, for whoever follows the single operations."""
        return self.giving(self.prepared.lowered.program)

    def giving(self, program: Program) -> Callable[..., Any]:
        """A program that gives the result, and the values of `inner` if they are kept."""
        if not self.keeps:
            return program.run
        inner = self.numbers(program, self.inner)
        return program.keeping([program.steps.result, *inner], self.names)

    def numbers(self, program: Program, values: Sequence[int]) -> list[int]:
        """What a program calls the values that contractions make."""
        return [program.steps.products[value - self.count] for value in values]

    @cached_property
    def again(self) -> Callable[..., tuple[Tensor, ...]]:
        """Makes all inner values from the tensors."""
        return self.making(self.inner)

    @cached_property
    def makers(self) -> dict[int, Callable[..., tuple[Tensor, ...]]]:
        """For each inner value, what makes it alone."""
        return {value: self.making([value]) for value in self.inner}

    def making(self, values: Sequence[int]) -> Callable[..., tuple[Tensor, ...]]:
        """What makes these inner values from the tensors."""
        # Their gradients may be wanted too, so nothing is written in place here.
        program = self.prepared.lowered.program
        return program.keeping(self.numbers(program, values), self.names)

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The result, and what has to be kept."""
        lower = self.prepared.lowered
        alike = lower.unwatched is lower.program
        made = (self.run if alike or unfollowed(tensors) else self.followed)(*tensors, *self.extra)
        kept = [tensors[number] for number in self.kept]
        if not self.keeps:
            return made, kept
        result, *inner = made
        return result, kept + inner

    def backward(self, gradient: Tensor, kept: Sequence[Tensor]) -> list[Tensor | None]:
        """The gradients of all tensors, None for those that need none."""
        if _is_batched(gradient):
            return self.by_autograd(gradient, kept)
        values = dict(zip(self.kept, kept, strict=False))
        watched = torch.is_grad_enabled()
        remake: tuple[Any, ...] = ()
        if self.inner and not watched and self.keeps:
            values.update(zip(self.inner, kept[len(self.kept) :], strict=True))
        elif self.inner:
            # A program may read sizes off the bias; its numbers count for nothing here.
            spare = [
                gradient.new_empty(()).expand(self.shape(dims))
                for dims in self.prepared.lowered.program.steps.inputs[self.count :]
            ]
            remake = (*kept[: self.count], *spare, *self.extra)
            if watched or not self.singly:
                values.update(zip(self.inner, self.again(*remake), strict=True))
        gradients = {self.last: gradient}
        key = gradient.is_contiguous() or gradient.stride()
        tasks = self.tasks.get(key)
        if tasks is None:
            bound = self.prepared.bound
            tasks = self.planned(layout_of(bound.output, gradient, bound))
            if len(self.tasks) >= _STRIDES:
                self.tasks.clear()
            self.tasks[key] = tasks
        # Whoever wants the gradients may follow how they are made: a transform, or another type of
        # tensor.
        followed = watched or not unfollowed([gradient, *kept])
        for task in tasks:
            other = task.pull.other
            if other is not None and other not in values:
                (values[other],) = self.makers[other](*remake)
            task.run(gradients, values, watched=followed)
        every = [gradients.get(number) for number in range(self.count)]
        return every if len(self.needs) == self.count else [*every, gradients.get(BIAS)]

    def by_autograd(self, gradient: Tensor, kept: Sequence[Tensor]) -> list[Tensor | None]:
        """The same without a plan: many gradients at once pass only through autograd's own."""
        known = dict(zip(self.kept, kept, strict=False))
        steps = self.prepared.lowered.program.steps
        graph = torch.is_grad_enabled()
        leaves = []
        with torch.enable_grad():
            for number, needed in enumerate(self.needs):
                tensor = known.get(number)
                if tensor is None:
                    # Nothing that is wanted depends on its numbers, or it would have been kept.
                    shape = self.shape(steps.inputs[number])
                    tensor = torch.zeros(shape, dtype=gradient.dtype, device=gradient.device)
                if graph and tensor.requires_grad:
                    # An operand may be made of another one, whose gradient is a matter of its own.
                    leaves.append(tensor.view_as(tensor))
                else:
                    leaves.append(tensor.detach().requires_grad_(needed))
            result = self.prepared.lowered.program.run(*leaves, *self.extra)
        wanted = [leaf for leaf, needed in zip(leaves, self.needs, strict=True) if needed]
        found = iter(torch.autograd.grad(result, wanted, gradient, create_graph=graph))
        return [next(found) if needed else None for needed in self.needs]

    def size(self, dims: Dims) -> int:
        """How many numbers a value with these dimensions holds."""
        return elements(dims, self.prepared.bound.sizes)

    def shape(self, dims: Dims) -> list[int]:
        """The shape of a value with these dimensions."""
        return [self.size((dim,)) for dim in dims]

    def dims(self, value: int) -> Dims:
        """The dimensions of an operand, an inner value or the bias."""
        steps = self.prepared.lowered.program.steps
        if value == BIAS:
            return steps.inputs[-1]
        if value < self.count:
            return steps.inputs[value]
        return steps.dims(steps.products[value - self.count])

    def predicted(self) -> tuple[_Task, ...]:
        """The gradients, if the one that comes in lies in order, as it mostly does."""
        found = self.tasks.get(True)
        if found is None:
            bound = self.prepared.bound
            found = self.tasks[True] = self.planned(
                contiguous(bound.output, self.prepared.lowered.plan.sizes)
            )
        return found

    def planned(self, gradient: Layout) -> tuple[_Task, ...]:
        """The gradients, for the layout of the one that comes in."""
        bound, lower = self.prepared.bound, self.prepared.lowered
        every = layouts_of(lower.program.steps, lower.request.layouts, lower.plan.sizes)
        places = (*range(self.count), *lower.program.steps.products)
        # The gradient of an inner value has whatever dimensions suit the one who makes it.
        made = {self.last: (bound.output, gradient)}
        tasks = []
        for place, pull in enumerate(self.pulls):
            free = pull.of >= self.count
            dims, known = made[pull.result]
            layouts: tuple[Layout, ...] = (known,)
            names: tuple[str, ...] = ("g",)
            other = None
            if pull.other is not None:
                other = self.dims(pull.other)
                layouts = (known, every[places[pull.other]])
                called = self.names[pull.other] if pull.other < self.count else "y"
                names = ("g_" if called == "g" else "g", called)
            found = pulled(bound.pattern, dims, other, self.dims(pull.of), bound.sizes)
            title = f"gradient in {lower.program.title}: {spelled(found)}"
            traits = replace(self.prepared.traits, dense=not free)
            chosen = lowered(Request(title, names, found, layouts, traits, free=free))
            steps = chosen.program.steps
            made[pull.of] = (
                steps.dims(steps.result),
                layouts_of(steps, layouts, chosen.plan.sizes)[steps.result],
            )
            last = all(later.result != pull.result for later in self.pulls[place + 1 :])
            tasks.append(_Task(pull, chosen, chosen.program.trailing(found), last))
        return tuple(tasks)


class _Contract(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, schedule: Schedule, *tensors: Tensor) -> Tensor:
        result, kept = schedule.forward(tensors)
        ctx.save_for_backward(*kept)
        ctx.schedule = schedule
        # Where no gradient arrives, none leaves, as with torch's own operations.
        ctx.set_materialize_grads(False)
        # A view would be refused by whoever writes into the result, as `relu_` does; nobody else
        # holds what it is a view of.
        return result.data

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * (1 + len(ctx.schedule.needs))
        if autocasts():
            # The forward ran without it, or nothing would have been planned; so does the backward.
            with uncast(gradient.device.type):
                return (None, *ctx.schedule.backward(gradient, ctx.saved_tensors))
        return (None, *ctx.schedule.backward(gradient, ctx.saved_tensors))


# What `_Contract.apply` calls after it has made sure that no transform of torch.func is active,
# which `call.py` does for all of its calls.
contract: Callable[..., Tensor] = super(torch.autograd.Function, _Contract).apply
