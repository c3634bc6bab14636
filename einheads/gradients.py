"""What the gradients of a contraction are: contractions again.

Each step of a plan makes one value of two. The gradient of either of the two is the gradient of
the result, contracted with the other one. This file writes these contractions down as patterns
with dimensions, so that they are lowered like any other, for the layout that the gradient really
has. It knows nothing of torch, nor of how or when a backward is run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .pattern import Pattern
from .plan import Plan
from .sizes import Bound, Dims
from .steps import flat, tellable

# A value that is added, not contracted, has no number in a plan.
BIAS = -1


@dataclass(frozen=True, slots=True)
class Pull:
    """One gradient, pulled back through one contraction.

    Values have the numbers of the plan: the operands first, then the result of each contraction.

    Attributes:
        of: the value whose gradient is made, or `BIAS`.
        result: the value whose gradient is read.
        other: the value that is contracted with it; None for a bias, whose gradient is a sum.
    """

    of: int
    result: int
    other: int | None


def pulls(
    plan: Plan, needs: Sequence[bool], *, bias: bool = False, deep: bool = False
) -> tuple[Pull, ...]:
    """The gradients that have to be made, in an order in which each finds what it reads.

    Of the two of a contraction, that of an operand comes first: when it has read an inner value,
    this is let go before the gradient of another one is made.

    Example:
        >>> from einheads.pattern import parse
        >>> from einheads.plan import plan
        >>> from einheads.sizes import bind
        >>> low_rank = plan(bind(parse("b i, i r, r o -> b o"), [(8, 64), (64, 4), (4, 32)]))
        >>> for pull in pulls(low_rank, [False, True, True]):
        ...     print(pull)
        Pull(of=2, result=4, other=3)
        Pull(of=3, result=4, other=2)
        Pull(of=1, result=3, other=0)

    Args:
        plan: the contractions.
        needs: whether each operand needs a gradient.
        bias: whether there is a bias that needs one.
        deep: the gradient of an inner value goes on to the operands that it is made of, before
            that of any other inner value is made.
    """
    wanted = list(needs)
    for step in plan.contractions:
        wanted.append(wanted[step.left] or wanted[step.right])
    count = len(plan.operands)

    def through(result: int) -> Iterator[Pull]:
        step = plan.contractions[result - count]
        for of, other in sorted(((step.left, step.right), (step.right, step.left))):
            if wanted[of]:
                yield Pull(of, result, other)
                if deep and of >= count:
                    yield from through(of)

    last = len(wanted) - 1
    found = [Pull(BIAS, last, None)] if bias else []
    for result in [last] if deep else range(last, count - 1, -1):
        found += through(result)
    return tuple(found)


def held(plan: Plan, pulled: Sequence[Pull]) -> int:
    """How many numbers a backward holds at most, if it makes every inner value when it is read.

    The gradient that comes in and the operands are others', and the bias is not counted.

    Example:
        >>> from einheads.pattern import parse
        >>> from einheads.plan import plan
        >>> from einheads.sizes import bind
        >>> low_rank = plan(bind(parse("b i, i r, r o -> b o"), [(8, 64), (64, 4), (4, 32)]))
        >>> held(low_rank, pulls(low_rank, [True, True, True])) - (8 * 64 + 64 * 4 + 4 * 32)
        32
    """
    count = len(plan.operands)
    size = [math.prod(plan.sizes[axis] for axis in axes) for axes in plan.values]

    def making(value: int) -> int:
        step = plan.contractions[value - count]
        most = made = 0
        for part in sorted((step.left, step.right)):
            if part >= count:
                most = max(most, made + making(part))
                made += size[part]
        return max(most, made + size[value])

    now = most = 0
    for place, pull in enumerate(pulled):
        if pull.other is None:
            continue
        inner = pull.other >= count
        if inner:
            most = max(most, now + making(pull.other))
        now += size[pull.of]
        most = max(most, now + inner * size[pull.other])
        done = all(later.result != pull.result for later in pulled[place + 1 :])
        if done and pull.result < len(size) - 1:
            now -= size[pull.result]
    return most


def remade(plan: Plan, pulled: Sequence[Pull]) -> int:
    """The multiply-adds that make all inner values which are read, each from the operands."""
    each = [0] * len(plan.operands)
    for step in plan.contractions:
        each.append(step.multiply_adds + each[step.left] + each[step.right])
    return sum(each[value] for value in read(pulled))


def read(pulled: Sequence[Pull]) -> tuple[int, ...]:
    """The values that have to be kept for a backward, in order."""
    return tuple(sorted({pull.other for pull in pulled if pull.other is not None}))


def pulled(
    pattern: Pattern,
    gradient: Dims,
    other: Dims | None,
    target: Dims,
    sizes: Mapping[str, int],
) -> Bound:
    """The contraction that gives one gradient.

    Example:
        >>> from einheads.pattern import parse
        >>> heads = parse("b h i, h o i -> b h o")
        >>> b, h, i, o = ("b",), ("h",), ("i",), ("o",)
        >>> sizes = {"b": 2, "h": 3, "i": 5, "o": 7}
        >>> bound = pulled(heads, (b, h, o), (b, h, i), (h, o, i), sizes)
        >>> spelled(bound)
        'b h o, b h i -> h o i'

    Args:
        pattern: the one whose gradient this is, for messages.
        gradient: the dimensions of the gradient of the result.
        other: those of the value that is contracted with it.
        target: those of the value whose gradient is made.
        sizes: of every axis.
    """
    operands = (gradient,) if other is None else (gradient, other)
    names = dict.fromkeys(flat((*(dim for dims in operands for dim in dims), *target)))
    told = tellable(operands)
    return Bound(
        pattern,
        operands,
        target,
        {name: sizes[name] for name in names},
        tuple(name for name in names if name not in told),
    )


def spelled(bound: Bound) -> str:
    """A contraction as a pattern.

    Example:
        >>> from einheads.pattern import parse
        >>> from einheads.sizes import bind
        >>> spelled(bind(parse("... (h i), h o i -> ... h o"), [(10, 256), (4, 32, 64)]))
        '...1 (h i), h o i -> ...1 h o'
    """

    def words(dims: Dims) -> str:
        return " ".join(
            f"({' '.join(dim)})" if len(dim) > 1 else dim[0] if dim else "1" for dim in dims
        )

    return f"{', '.join(map(words, bound.operands))} -> {words(bound.output)}"


def plannable(bound: Bound, plan: Plan) -> bool:
    """Whether the gradients of a pattern are contractions.

    Without a contraction there is nothing to plan; the gradient of a diagonal is none.
    """
    axes = [flat(dims) for dims in bound.operands]
    return bool(plan.contractions) and all(len(set(one)) == len(one) for one in axes)
