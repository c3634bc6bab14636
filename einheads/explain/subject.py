"""What there is to explain or write down: a pattern with shapes, planned and lowered.

Shapes come from operands, or are assumed from the sizes that somebody gave. Whatever an operand
tells about its memory (strides, bytes for one number, device) is used, so that the steps are those
that would run. The file knows nothing of torch: it asks operands only for attributes that tensors
and arrays have.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from einheads.candidates import Traits
from einheads.choices import Choice, fits, measured, problem
from einheads.errors import SizeError, kind
from einheads.given import MOST, checked, is_size
from einheads.layout import Layout, in_order, layout
from einheads.pattern import Axis, Dots, Item, Pattern, parse
from einheads.plan import Plan
from einheads.planning import planned
from einheads.rates import several_threads
from einheads.sizes import Bound, Dim, Dims, bind
from einheads.steps import Steps

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """A declaration with its sizes and its steps.

    Attributes:
        bound: the pattern with its dimensions and sizes.
        plan: the order of contraction.
        steps: what runs.
        names: a name for each input: the operands, then the bias if there is one.
        bias: the axes of the bias, in its order.
        given: sizes that a caller of the function has to give, as far as somebody told them.
        assumed: axes whose size nobody told; the numbers are made up.
        traits: what else the steps were chosen for.
        layouts: how each input lies in memory; None if all are contiguous.
        measured: whether the steps are a choice that was measured, not the cheapest by price.
        checkpoint: whether inner results are computed again for gradients, not kept.
        unfollowed: what runs instead where nobody follows what is done, if anything.
    """

    bound: Bound
    plan: Plan
    steps: Steps
    names: tuple[str, ...]
    bias: Dim | None
    given: Mapping[str, int]
    assumed: tuple[str, ...]
    traits: Traits
    layouts: Sequence[Layout] | None
    measured: bool = False
    checkpoint: bool = False
    unfollowed: Steps | None = None

    @property
    def title(self) -> str:
        """The pattern in its canonical spelling, and the bias."""
        text = str(self.bound.pattern)
        return text if self.bias is None else f"{text}, plus a bias: {' '.join(self.bias)}"


# Float32 on the CPU: what is assumed of operands of which only the shapes are known.
_TRAITS = Traits()


@dataclass(frozen=True, slots=True)
class Outline:
    """What is computed, before any shape is known.

    Attributes:
        text: the pattern.
        given: sizes by axis name.
        names: a name for each input, the bias too; `x1`, `x2`, ... and `bias` by default.
        bias: the axes of a bias, separated by spaces.
        layouts: how each input lies in memory, as a `Layout` or as strides counted in numbers;
            contiguous
            by default.
        traits: bytes for one number, device, and whether the numbers are integers.
        checkpoint: whether inner results are computed again for gradients.
    """

    text: str
    given: Mapping[str, int] = field(default_factory=dict)
    names: Sequence[str] | None = None
    bias: str | None = None
    layouts: Sequence[Layout | Sequence[int] | None] | None = None
    traits: Traits = _TRAITS
    checkpoint: bool = False

    def input_names(self) -> tuple[str, ...]:
        """What the inputs are called, made up where nobody said it."""
        if self.names is not None:
            return tuple(self.names)
        count = len(parse(self.text).operands)
        names = ("x",) if count == 1 else tuple(f"x{number}" for number in range(1, count + 1))
        return names if self.bias is None else (*names, "bias")


def prepare(outline: Outline, shapes: Sequence[Sequence[int]] | None = None) -> Subject:
    """Carry a declaration through binding, planning and lowering.

    Example:
        >>> subject = prepare(Outline("b (h i), h o i -> b h o", {"o": 7}))
        >>> subject.bound.sizes
        {'b': 2, 'h': 3, 'i': 4, 'o': 7}
        >>> subject.assumed
        ('b', 'h', 'i')

    Args:
        outline: what is computed.
        shapes: one for each operand; without them, they are assumed from the given sizes.

    Raises:
        PatternError: the text is no pattern.
        SizeError: shapes or sizes do not fit it.
        TypeError: a size is no integer.
    """
    pattern = parse(outline.text)
    names = outline.input_names()
    labels = None if outline.names is None else names[: len(pattern.operands)]
    given = outline.given
    assumed: Dim = ()
    if shapes is None:
        guess = assume(pattern, given)
        shapes, assumed = guess.shapes, guess.assumed
        # All sizes are checked here; below, only those stay that no shape tells.
        bind(pattern, shapes, {**guess.needed, **given}, labels)
        given = guess.needed
    bound = bind(pattern, shapes, given, labels)
    bias = None if outline.bias is None else tuple(outline.bias.split())
    dims = bound.operands if bias is None else (*bound.operands, tuple((name,) for name in bias))
    layouts = _layouts(outline.layouts, dims, bound.sizes)
    lie = layouts or [in_order(one, bound.sizes) for one in dims]
    found = _measured(bound, lie, outline.traits, bias)
    made = planned(bound, bound.sizes, lie, outline.traits, bias, choice=found)
    chosen, steps = made.plan, made.steps
    ways = None if found is None else found.ways
    # Python wants parameters without a default first: a size that nobody told takes the default
    # from those in front of it.
    last = max((place for place, name in enumerate(steps.given) if name in assumed), default=-1)
    shown = {name: bound.sizes[name] for name in steps.given[last + 1 :]}
    return Subject(
        bound,
        chosen,
        steps,
        names,
        bias,
        shown,
        assumed,
        outline.traits,
        layouts,
        measured=ways is not None and fits(chosen, ways, outline.traits),
        checkpoint=outline.checkpoint,
        unfollowed=made.alone,
    )


def _measured(
    bound: Bound, layouts: Sequence[Layout], traits: Traits, bias: Dim | None
) -> Choice | None:
    """What somebody has measured to be the best, with gradients wanted or not as here."""
    if not measured:
        return None
    found = measured.get(problem(bound, bound.sizes, layouts, traits, bias, free=False))
    if found is None or (found.ways is None and found.turns is None):
        return None
    return found


def _layouts(
    told: Sequence[Layout | Sequence[int] | None] | None,
    dims: Sequence[Dims],
    sizes: Mapping[str, int],
) -> list[Layout] | None:
    if told is None:
        return None
    layouts = []
    for one, where in zip(told, dims, strict=True):
        if isinstance(one, Layout):
            layouts.append(one)
        else:
            layouts.append(layout(where, _dense(where, sizes) if one is None else one, sizes))
    return layouts


def _dense(dims: Dims, sizes: Mapping[str, int]) -> Shape:
    """The strides of a contiguous value."""
    shape = [math.prod(sizes[name] for name in dim) for dim in dims]
    return tuple(
        math.prod(max(size, 1) for size in shape[place + 1 :]) for place in range(len(shape))
    )


# Shapes that nobody gave


@dataclass(frozen=True, slots=True)
class Guess:
    """Shapes made from sizes.

    Attributes:
        shapes: of each operand.
        needed: the sizes that such shapes do not tell.
        assumed: the axes whose size was made up; `...1` is the one axis that stands for `...`.
    """

    shapes: tuple[Shape, ...]
    needed: dict[str, int]
    assumed: tuple[str, ...]


# As many axes have a made-up size above one; with more, no tensor could hold the result.
_MOST = 12


def assume(pattern: Pattern, given: Mapping[str, object]) -> Guess:
    """Make up shapes: `...` is one axis, and sizes that are not given are small different numbers.

    Example:
        >>> assume(parse("... (h i), h o i -> ... h o"), {"h": 8})
        Guess(shapes=((4, 16), (8, 3, 2)), needed={}, assumed=('i', 'o', '...1'))
        >>> assume(parse("b (h d) -> b h d n"), {"d": 5, "n": 7}).needed
        {'d': 5, 'n': 7}

    An axis that is only in the output is not assumed: it is more likely a slip than meant.
    """
    sizes = checked(pattern, given)
    wanted = list(dict.fromkeys(name for term in pattern.operands for name in term.names))
    if any(term.dots for term in pattern.operands):
        wanted.append("...1")
    assumed = tuple(name for name in wanted if name not in sizes)
    different = [
        number for number in range(2, _MOST + len(sizes) + 2) if number not in sizes.values()
    ]
    numbers = (*different[:_MOST], *(1 for _ in wanted))
    sizes |= dict(zip(assumed, numbers, strict=False))
    shapes = tuple(tuple(_size(item, sizes) for item in term.items) for term in pattern.operands)
    return Guess(shapes, _needed(pattern, given, sizes), assumed)


def _size(item: Item, sizes: Mapping[str, int]) -> int:
    if isinstance(item, Dots):
        return sizes["...1"]
    return math.prod(sizes[name] for name in item.names)


def _needed(
    pattern: Pattern, given: Mapping[str, object], sizes: Mapping[str, int]
) -> dict[str, int]:
    """The fewest sizes that solve every composite, preferably some that were given."""
    items = [item for term in pattern.operands for item in term.items]
    known = {item.name for item in items if isinstance(item, Axis)}
    needed: dict[str, int] = {}
    composites = [item.names for item in items if not isinstance(item, Axis)]
    while True:
        unsolved = [dim for dim in composites if not known.issuperset(dim)]
        solved = next(
            (name for dim in unsolved if (name := _solution(dim, known, sizes)) is not None), None
        )
        if solved is not None:
            known.add(solved)
        elif unsolved:
            unknown = [name for name in unsolved[0] if name not in known]
            name = next((name for name in unknown if name in given), unknown[0])
            needed[name] = sizes[name]
            known.add(name)
        else:
            break
    needed |= {
        name: sizes[name] for name in pattern.output.names if name in given and name not in known
    }
    return {name: needed[name] for name in pattern.names if name in needed}


def _solution(dim: Dim, known: set[str], sizes: Mapping[str, int]) -> str | None:
    """The one unknown factor of a composite, if its size follows from the others."""
    unknown = [name for name in dim if name not in known]
    solvable = len(unknown) == 1 and all(sizes[name] for name in dim if name in known)
    return unknown[0] if solvable else None


# Operands that somebody gave


def shapes_of(operands: Sequence[Any]) -> list[Shape]:
    """The shapes of operands: tensors, arrays, anything with a shape, or the shapes themselves.

    Example:
        >>> shapes_of([(2, 3), [5]])
        [(2, 3), (5,)]
    """
    return [_shape_of(number, operand) for number, operand in enumerate(operands, start=1)]


def _shape_of(number: int, operand: Any) -> Shape:
    _check_operand(number, operand)
    shape = getattr(operand, "shape", operand)
    example = "write: a tensor, or its shape as a tuple such as (2, 3)"
    if not isinstance(shape, (tuple, list)):
        raise TypeError(f"operand {number} is {kind(operand)}, which has no shape; {example}")
    sizes: list[int] = []
    for size in shape:
        if not is_size(size):
            raise TypeError(
                f"operand {number} is {kind(shape)} with {kind(size)} in it, which is no shape; "
                f"{example}"
            )
        # The symbolic integers of a tracer stay what they are.
        sizes.append(int(size) if isinstance(size, Integral) else size)
        if type(sizes[-1]) is int and not 0 <= sizes[-1] < MOST:
            raise SizeError(
                f"operand {number} has a dimension of size {size}, which no tensor has",
                notes=["write: a shape of positive numbers such as (2, 3)"],
            )
    return tuple(sizes)


def _check_operand(number: int, operand: Any) -> None:
    """Refuse what `einsum` refuses: what is no dense tensor of numbers that can be summed."""
    if hasattr(operand, "materialize"):
        raise TypeError(f"operand {number} is not initialized; write: .materialize(...)")
    if getattr(operand, "is_nested", False):
        raise TypeError(f"operand {number} is a nested tensor; write: .to_padded_tensor(0.0)")
    stored = str(getattr(operand, "layout", ""))
    if stored.startswith("torch.") and stored != "torch.strided":
        raise TypeError(f"operand {number} is not dense ({stored}); write: .to_dense()")
    if getattr(operand, "is_quantized", False):
        raise TypeError(f"operand {number} is quantized; write: .dequantize()")
    if str(getattr(operand, "dtype", "")).rpartition(".")[2] == "bool":
        raise TypeError(
            f"operand {number} is boolean, and has no sum of products; write: a float tensor"
        )


def strides_of(operands: Sequence[Any]) -> list[Shape | None]:
    """The strides of operands, counted in numbers, where they tell them."""
    strides: list[Shape | None] = []
    for number, operand in enumerate(operands, start=1):
        _check_operand(number, operand)
        if callable(stride := getattr(operand, "stride", None)):
            strides.append(tuple(stride()))
        elif isinstance(steps := getattr(operand, "strides", None), tuple):
            strides.append(tuple(step // operand.itemsize for step in steps))
        else:
            strides.append(None)
    return strides


def traits_of(operands: Sequence[Any]) -> Traits:
    """What the first operand tells of its device and numbers; float32 on the CPU by default."""
    first = operands[0] if operands else None
    trains = len(operands) > 2 and any(getattr(one, "requires_grad", False) for one in operands)
    dtype = getattr(first, "dtype", None)
    exact = not (getattr(dtype, "is_floating_point", True) or getattr(dtype, "is_complex", True))
    device = str(getattr(getattr(first, "device", None), "type", "cpu"))
    return Traits(
        device=device,
        itemsize=int(getattr(first, "itemsize", 4)),
        integer=exact or getattr(dtype, "kind", "f") in "iu",
        half=str(dtype).rpartition(".")[2] == "float16",
        # Whoever has a tensor that wants a gradient has imported torch.
        trains=trains and sys.modules["torch"].is_grad_enabled(),
        shared=device == "cpu" and several_threads(),
    )
