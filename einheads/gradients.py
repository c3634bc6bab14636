"""What the gradients of a contraction are: contractions again.

Each step of a plan makes one value of two. The gradient of either of the two is the gradient of
the result, contracted with the other one. This file writes these contractions down as patterns
with dimensions, so that they are lowered like any other, for the layout that the gradient really
has. It knows nothing of torch, nor of how or when a backward is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def pulls(plan: Plan, needs: Sequence[bool], *, bias: bool = False) -> tuple[Pull, ...]:
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
    """
    wanted = list(needs)
    for step in plan.contractions:
        wanted.append(wanted[step.left] or wanted[step.right])
    last = len(wanted) - 1
    found = [Pull(BIAS, last, None)] if bias else []
    for place, step in reversed(list(enumerate(plan.contractions))):
        result = len(plan.operands) + place
        for of, other in sorted(((step.left, step.right), (step.right, step.left))):
            if wanted[of]:
                found.append(Pull(of, result, other))
    return tuple(found)


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
