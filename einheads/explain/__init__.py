"""The story of a pattern: from a pattern with shapes to an `Explanation`.

What is told is made from the same steps that become the program, so the two cannot drift apart.
This file knows nothing of colors or drawings (`render` does that), and nothing of torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from einheads.candidates import Traits
from einheads.layout import Layout
from einheads.pattern import parse
from einheads.sizes import Dim, Dims
from einheads.source import write
from einheads.steps import (
    PRODUCTS,
    Add,
    Bmm,
    Diagonal,
    Expand,
    Linear,
    Matmul,
    Permute,
    Reshape,
    Step,
    Sum,
    elements,
    flat,
    kept,
    sources,
)

from .choice import in_a_line, runner_up
from .spellings import Spelling, spellings
from .story import Effect, Explanation, Matrices, Operation, Pair, Value
from .subject import Outline, Subject, prepare, shapes_of, strides_of, traits_of


def explain(pattern: str, /, *operands: Any, **sizes: int) -> Explanation:
    r"""Explain a pattern: roles, steps, cost, and three other ways to write it.

    Example:
        >>> import einheads
        >>> story = einheads.explain("b w h i, h o i -> b w h o", b=4, w=10, h=8, i=64, o=32)
        >>> print(str(story).partition("\n\nThe same")[0])
        b w h i, h o i -> b w h o
        <BLANKLINE>
          x1      b w h i  (4, 10, 8, 64)
          x2      h o i    (8, 32, 64)
          result  b w h o  (4, 10, 8, 32)
        <BLANKLINE>
        Roles
          batch     h    in both and the result: a product for each
          contract  i    in both: multiplied, then summed
          left      b w  in x1 and the result
          right     o    in x2 and the result
        <BLANKLINE>
        Steps
          x1  fold b w           (b w) h i  (40, 8, 64)     view
          x1  permute            h (b w) i  (8, 40, 64)     view
          x2  permute            h i o      (8, 64, 32)     view
          y   bmm x1, x2 over i  h (b w) o  (8, 40, 32)     new, 40.0 KiB
          y   permute            (b w) h o  (40, 8, 32)     view
          y   unfold b w         b w h o    (4, 10, 8, 32)  view
          655,360 multiply-adds; copies nothing (operands and result hold 184.0 KiB)
          chosen over bmm h o i x h i (b w): its matrix products take longer

    Args:
        pattern: what to explain; see `einheads.einsum`.
        *operands: tensors, arrays, or shapes as tuples; without them, shapes are made from the
            sizes.
        **sizes: sizes by axis name. Those that nobody tells are assumed, and the story says so.

    Raises:
        PatternError: the pattern has no meaning.
        SizeError: operands or sizes do not fit it.
        TypeError: an operand has no shape, or a size is no integer.
    """
    parse(pattern)  # first of all: with the operands first, these would be blamed
    outline = Outline(
        pattern,
        sizes,
        layouts=strides_of(operands) if operands else None,
        traits=traits_of(operands),
    )
    return tell(prepare(outline, shapes_of(operands) if operands else None))


def explain_declared(
    text: str,
    shapes: Sequence[Sequence[int]] | None,
    given: Mapping[str, int],
    *,
    names: Sequence[str] | None = None,
    bias: str | None = None,
    layouts: Sequence[Layout | Sequence[int] | None] | None = None,
    itemsize: int = 4,
    device: str = "cpu",
) -> Explanation:
    """Explain a declaration; for layers, which have names of their own.

    Example:
        >>> names = ["x", "weight", "bias"]
        >>> story = explain_declared("b i, o i -> b o", None, {}, names=names, bias="o")
        >>> [(value.name, value.shape) for value in story.inputs]
        [('x', (2, 3)), ('weight', (4, 3)), ('bias', (4,))]

    Args:
        text: the pattern.
        shapes: one for each operand; without them, they are assumed from the given sizes.
        given: sizes by axis name.
        names: a name for each operand, and for the bias if there is one.
        bias: the axes of a bias, separated by spaces.
        layouts: how each input lies in memory, as a `Layout` or as strides; contiguous by default.
        itemsize: bytes for one number.
        device: the device type, such as "cpu" or "cuda".
    """
    return tell(
        prepare(Outline(text, given, names, bias, layouts, Traits(device, itemsize)), shapes)
    )


def tell(subject: Subject) -> Explanation:
    """Tell the story of a subject."""
    bound, plan, sizes = subject.bound, subject.plan, subject.bound.sizes
    names = _names(subject)
    inputs = tuple(
        Value(name, dims, _shape(dims, sizes))
        for name, dims in zip(subject.names, subject.steps.inputs, strict=True)
    )
    products = [
        names[len(inputs) + place]
        for place, step in enumerate(subject.steps.steps)
        if isinstance(step, PRODUCTS)
    ]
    values = [*subject.names[: len(bound.operands)], *products]
    contractions = tuple(
        Pair(
            (values[step.left], values[step.right]),
            result,
            step.batch,
            step.contract,
            step.left_axes,
            step.right_axes,
            step.multiply_adds,
        )
        for step, result in zip(plan.contractions, products, strict=True)
    )
    repeats = (flat(dims) for dims in bound.operands)
    definition, matmul, vmap = spellings(subject)
    return Explanation(
        pattern=str(bound.pattern),
        sizes=dict(sizes),
        assumed=subject.assumed,
        inputs=inputs,
        result=Value("result", bound.output, _shape(bound.output, sizes)),
        bias=subject.bias,
        diagonals=tuple(
            dict.fromkeys(name for axes in repeats for name in axes if axes.count(name) > 1)
        ),
        summed=tuple(name for axes in plan.lonely for name in axes),
        repeated=tuple(name for name in plan.repeated if name not in (subject.bias or ())),
        contractions=contractions,
        steps=tuple(
            _operation(subject, names, place, step)
            for place, step in enumerate(subject.steps.steps)
        ),
        chosen=in_a_line(subject.steps),
        runner_up=runner_up(subject) if contractions and not subject.measured else None,
        measured=subject.measured,
        kept=tuple(
            Value(
                names[number], subject.steps.dims(number), _shape(subject.steps.dims(number), sizes)
            )
            for number in (() if subject.checkpoint else kept(subject.steps))
        ),
        multiply_adds=plan.multiply_adds,
        naive=plan.naive,
        itemsize=subject.traits.itemsize,
        source=write(subject.steps, subject.names, title=subject.title, given=subject.given),
        unfollowed=_unfollowed(subject),
        definition=definition,
        matmul=matmul,
        vmap=vmap,
    )


def _unfollowed(subject: Subject) -> Spelling | None:
    steps = subject.unfollowed
    if steps is None:
        return None
    text = write(steps, subject.names, title=subject.title, given=subject.given)
    return Spelling(in_a_line(steps), text)


def _names(subject: Subject) -> list[str]:
    """A name for every value: a product has one of its own, the rest keep that of their source."""
    names = list(subject.names)
    count = sum(isinstance(step, PRODUCTS) for step in subject.steps.steps)
    numbers = iter(range(1, count + 1))
    for step in subject.steps.steps:
        if isinstance(step, PRODUCTS):
            name = "y" if count == 1 else f"y{next(numbers)}"
            while name in subject.names:
                name += "_"
            names.append(name)
        else:
            names.append(names[sources(step)[0]])
    return names


def _operation(subject: Subject, names: Sequence[str], place: int, step: Step) -> Operation:
    sizes, steps = subject.bound.sizes, subject.steps
    verb, axes = _verb(step, steps.dims(sources(step)[0]))
    effect = _effect(step)
    return Operation(
        verb,
        axes,
        tuple(names[number] for number in sources(step)),
        names[len(steps.inputs) + place],
        step.dims,
        _shape(step.dims, sizes),
        effect,
        0 if effect is Effect.VIEW else elements(step.dims, sizes) * subject.traits.itemsize,
        _multiply_adds(subject, step),
        _matrices(subject, step),
    )


def _matrices(subject: Subject, step: Step) -> Matrices | None:
    if not isinstance(step, (Matmul, Bmm, Linear)):
        return None
    left, right = subject.steps.dims(step.left), subject.steps.dims(step.right)
    if isinstance(step, Linear):
        return Matrices((), flat(left[:-1]), step.contract, right[0])
    columns = right[-1] if len(right) > 1 else ()
    if len(right) <= 2:
        # With one matrix on the right, torch folds all that leads on the left into rows.
        return Matrices((), flat(left[:-1]), step.contract, columns)
    return Matrices(flat(step.dims[: len(right) - 2]), left[-2], step.contract, columns)


def _multiply_adds(subject: Subject, step: Step) -> int:
    if not isinstance(step, PRODUCTS):
        return 0
    both = flat((*subject.steps.dims(step.left), *subject.steps.dims(step.right)))
    return elements((tuple(dict.fromkeys(both)),), subject.bound.sizes)


def _effect(step: Step) -> Effect:
    if isinstance(step, Reshape):
        return Effect.COPY if step.copies else Effect.VIEW
    return Effect.VIEW if isinstance(step, (Permute, Expand, Diagonal)) else Effect.NEW


def _verb(step: Step, before: Dims) -> tuple[str, Dim]:
    """What a step does, in a word, and the axes it is about."""
    if isinstance(step, Reshape):
        return _fold(before, step.dims)
    if isinstance(step, Sum):
        return "sum", flat(tuple(before[place] for place in step.places))
    if isinstance(step, Diagonal):
        return "diagonal", step.dims[-1]
    if isinstance(step, Expand):
        return "expand", tuple(name for name in flat(step.dims) if name not in flat(before))
    if isinstance(step, (Matmul, Bmm, Linear)):
        return type(step).__name__.lower(), step.contract
    if isinstance(step, Permute):
        return "permute", ()
    return ("add" if isinstance(step, Add) else "multiply"), ()


def _fold(before: Dims, after: Dims) -> tuple[str, Dim]:
    if before == after:
        return "copy", ()
    old, new = [{dim for dim in dims if dim} for dims in (before, after)]
    if old == new:
        return ("unsqueeze" if len(after) > len(before) else "squeeze"), ()
    made, gone = sorted(new - old), sorted(old - new)
    if any(len(dim) > 1 for dim in made) and not any(len(dim) > 1 for dim in gone):
        return "fold", flat(tuple(dim for dim in after if dim in made and len(dim) > 1))
    if any(len(dim) > 1 for dim in gone) and not any(len(dim) > 1 for dim in made):
        return "unfold", flat(tuple(dim for dim in before if dim in gone and len(dim) > 1))
    return "reshape", ()


def _shape(dims: Dims, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(elements((dim,), sizes) for dim in dims)
