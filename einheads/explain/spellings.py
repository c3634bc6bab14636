"""The same computation by hand: as it is defined, with `torch.matmul`, and with `vmap`.

Each spelling is the text of one function which takes the same tensors as the program and gives the
same result; tests run them. None of them is what runs. The first two are steps, written down by
`source`; the third is a small function of fewer axes, lowered like any other, and mapped over the
axes it lacks.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from einheads.lower import lower
from einheads.plan import Contraction, plan
from einheads.sizes import Bound, Dim, Dims
from einheads.source import write
from einheads.steps import Steps, flat

from .draft import Draft
from .subject import Subject


@dataclass(frozen=True, slots=True)
class Spelling:
    """One way to write a pattern by hand.

    Attributes:
        title: the way, in a few words.
        text: the function, which wants `torch` and `torch.nn.functional as F`; None where the way
            makes no
            sense for the pattern.
        reason: why there is no text.
    """

    title: str
    text: str | None
    reason: str = ""


def spellings(subject: Subject) -> tuple[Spelling, Spelling, Spelling]:
    """Spell a subject in the three ways.

    Example:
        >>> from einheads.explain.subject import Outline, prepare
        >>> for spelling in spellings(prepare(Outline("b h i, h o i -> b h o"))):
        ...     print(spelling.text)
        def by_definition(x1, x2):
            \"\"\"b h i, h o i -> b h o\"\"\"
            x1 = x1.unsqueeze(2)  # b h 1 i
            return (x1 * x2).sum(3)  # b h o
        <BLANKLINE>
        def with_matmul(x1, x2):
            \"\"\"b h i, h o i -> b h o\"\"\"
            x1 = x1.unsqueeze(3)  # b h i 1
            y = torch.matmul(x2, x1)  # b h o 1
            return y.squeeze(3)  # b h o
        <BLANKLINE>
        def with_vmap(x1, x2):
            \"\"\"b h i, h o i -> b h o\"\"\"
        <BLANKLINE>
            def one(x1, x2):
                \"\"\"b i, o i -> b o\"\"\"
                return F.linear(x1, x2)  # b o
        <BLANKLINE>
            each = torch.func.vmap(one, in_dims=(1, 0), out_dims=1)  # for each h
            return each(x1, x2)  # b h o
        <BLANKLINE>
    """
    return definition(subject), matmul(subject), vmap(subject)


def _draft(subject: Subject) -> Draft:
    return Draft(subject.bound, subject.bias, integer=subject.traits.integer)


def _write(subject: Subject, steps: Steps, name: str) -> str:
    return write(steps, subject.names, title=subject.title, name=name, given=subject.bound.sizes)


# As it is defined


def definition(subject: Subject) -> Spelling:
    """Lay every operand out along all axes, multiply, and sum those that the output lacks."""
    draft = _draft(subject)
    bound = subject.bound
    values = [draft.diagonals(number) for number in range(len(bound.operands))]
    present = dict.fromkeys(name for dims in bound.operands for name in flat(dims))
    kept = [name for name in flat(bound.output) if name in present]
    summed = [name for name in present if name not in kept]
    product = values[0]
    for value in values[1:]:
        product = draft.multiply(product, value, (*kept, *summed))
    steps = draft.finish(draft.sum(product, summed))
    return Spelling("unsqueeze, multiply, sum", _write(subject, steps, "by_definition"))


# As matrix products


def matmul(subject: Subject) -> Spelling:
    """Contract pair by pair with `torch.matmul`, whose leading dimensions broadcast."""
    title = "torch.matmul"
    contractions = subject.plan.contractions
    if not contractions:
        return Spelling(title, None, "there is one operand, and a matrix product takes two")
    if not any(step.contract for step in contractions):
        return Spelling(title, None, "no axis is contracted, so a multiply does it all")
    draft = _draft(subject)
    values = [
        draft.sum(draft.diagonals(number), subject.plan.lonely[number])
        for number in range(len(subject.bound.operands))
    ]
    output = flat(subject.bound.output)
    for step in contractions:
        # What the output wants comes in its order; what is contracted later comes last.
        order = tuple(
            sorted(
                step.result, key=lambda name: output.index(name) if name in output else len(output)
            )
        )
        left, right = values[step.left], values[step.right]
        if step.contract:
            draft, value = _shortest(draft, left, right, step, order)
        else:
            value = draft.multiply(left, right, order)
        values.append(value)
    text = _write(subject, draft.finish(values[-1]), "with_matmul")
    # Where both are matrices, `source` has the shorter word. Here, one word is for all; no name in
    # the text can have a point in it, so nothing else is replaced.
    return Spelling(title, text.replace("torch.mm(", "torch.matmul("))


def _shortest(
    draft: Draft, left: int, right: int, step: Contraction, order: Dim
) -> tuple[Draft, int]:
    """Try both operands on the left, with and without rows and columns; the fewest steps win."""
    tries = []
    for first, second, rows, columns in (
        (left, right, step.left_axes, step.right_axes),
        (right, left, step.right_axes, step.left_axes),
    ):
        for wide in (1, 0):
            column = order[-1:] if wide and order and order[-1] in columns else ()
            rest = order[: len(order) - len(column)]
            row = rest[-1:] if rest and rest[-1] in rows else ()
            trial = draft.copy()
            value = _product(
                trial, first, second, rest[: len(rest) - len(row)], row, column, step.contract
            )
            tries.append((trial, value))
    return min(tries, key=lambda one: len(one[0].steps))


def _product(
    draft: Draft, left: int, right: int, stack: Dim, row: Dim, column: Dim, contract: Dim
) -> int:
    """One matrix product; axes that are neither row nor column are stacked, by unit dimensions."""
    fold = _folded(draft, (left, right), contract)
    values = []
    for number, matrix, vector in ((left, (row, fold), row), (right, (fold, column), column)):
        have = set(flat(draft.dims(number)))
        stacked = tuple((name,) if name in have else () for name in stack)
        # Without a stack of its own, a lone row or column needs no dimension: torch takes a vector.
        alone = not vector and not any(stacked)
        values.append(draft.bring(number, (fold,) if alone else (*stacked, *matrix)))
    return draft.squeeze(draft.matmul(values[0], values[1], fold))


def _folded(draft: Draft, numbers: Sequence[int], contract: Dim) -> Dim:
    """The order in which the contracted axes are folded: as an operand has them already."""
    for number in numbers:
        for dim in draft.dims(number):
            if set(dim) == set(contract):
                return dim
    return tuple(name for name in flat(draft.dims(numbers[0])) if name in contract)


# As a mapped function


def vmap(subject: Subject) -> Spelling:
    """Write a small function of fewer axes, and map it over the others."""
    title = "torch.func.vmap"
    bound = subject.bound
    mapped = _mapped(bound)
    if len(bound.operands) == 1 and set(flat(bound.operands[0])) <= set(flat(bound.output)):
        return Spelling(title, None, "nothing is computed: the dimensions only move")
    if not mapped:
        return Spelling(title, None, "no axis of the result is left to map over")
    inputs = bound.operands
    if subject.bias is not None:
        inputs = (*inputs, tuple((name,) for name in subject.bias))
    apart = [_apart(dims, mapped) for dims in inputs]
    made = _apart(bound.output, mapped)
    small = replace(
        bound,
        operands=tuple(_without(dims, mapped) for dims in apart[: len(bound.operands)]),
        output=_without(made, mapped),
    )
    bias = (
        None if subject.bias is None else tuple(name for name in subject.bias if name not in mapped)
    )
    steps = lower(small, plan(small), None, subject.traits, bias)
    one, each = _free("one", subject.names), _free("each", subject.names)
    inner = write(steps, subject.names, title=_title(small, bias), name=one, given=bound.sizes)
    lines = [f'"""{subject.title}"""']
    for name, before, after in zip(subject.names, inputs, apart, strict=True):
        if before != after:
            lines.append(
                f"{name} = {name}{_unflatten(before, after, bound.sizes)}  # {_comment(after)}"
            )
    lines += ["", *inner.splitlines(), ""]
    lines += _maps(mapped, apart, made, (one, each))
    call = f"return {each}({', '.join(subject.names)}){_flatten(made, bound.output)}"
    lines.append(f"{call}  # {_comment(bound.output)}")
    body = textwrap.indent("\n".join(lines), "    ")
    return Spelling(title, f"def with_vmap({', '.join(subject.names)}):\n{body}\n")


def _mapped(bound: Bound) -> Dim:
    """The axes to map over: kept ones that operands share, else those of one operand."""
    operands = [flat(dims) for dims in bound.operands]
    # An axis that stands twice in an operand cannot be mapped over: its diagonal is not yet taken.
    # Nor can one of size zero: torch tries the function on a first element.
    able = [
        name
        for name in flat(bound.output)
        if bound.sizes[name] and all(names.count(name) <= 1 for names in operands)
    ]
    shared = tuple(name for name in able if sum(name in names for names in operands) > 1)
    if shared:
        return shared
    kept = (tuple(name for name in able if name in names) for names in operands)
    return next((names for names in kept if names), ())


def _apart(dims: Dims, mapped: Dim) -> Dims:
    """Give the factors of a composite dimensions of their own, where one of them is mapped over."""
    return tuple(
        part
        for dim in dims
        for part in (((name,) for name in dim) if set(dim) & set(mapped) else (dim,))
    )


def _without(dims: Dims, mapped: Dim) -> Dims:
    return tuple(dim for dim in dims if not set(dim) & set(mapped))


def _maps(mapped: Dim, inputs: Sequence[Dims], output: Dims, names: tuple[str, str]) -> list[str]:
    """The nested maps, from the innermost to the outermost axis."""
    one, each = names
    lines = []
    for depth in reversed(range(len(mapped))):
        axis = mapped[depth]
        places = [
            str(rest.index((axis,))) if (axis,) in rest else "None"
            for rest in (_without(dims, mapped[:depth]) for dims in inputs)
        ]
        out = _without(output, mapped[:depth]).index((axis,))
        where = f"{places[0]}" if len(places) == 1 else f"({', '.join(places)})"
        options = f"in_dims={where}" + (f", out_dims={out}" if out else "")
        inner = one if depth == len(mapped) - 1 else each
        lines.append(
            f"{each} = torch.func.vmap({inner}, {options})  # for each {_comment(((axis,),))}"
        )
    return lines


def _unflatten(before: Dims, after: Dims, sizes: Mapping[str, int]) -> str:
    text, place = "", 0
    for dim in before:
        if len(dim) > 1 and dim not in after:
            text += f".unflatten({place}, ({', '.join(str(sizes[name]) for name in dim)}))"
            place += len(dim)
        else:
            place += 1
    return text


def _flatten(before: Dims, after: Dims) -> str:
    folded = (place for place, dim in enumerate(after) if len(dim) > 1 and dim not in before)
    return "".join(f".flatten({place}, {place + len(after[place]) - 1})" for place in folded)


def _title(small: Bound, bias: Dim | None) -> str:
    text = f"{', '.join(map(_comment, small.operands))} -> {_comment(small.output)}".strip()
    return text if bias is None else f"{text}, plus a bias: {_comment((bias,)).strip('()')}"


def _comment(dims: Dims) -> str:
    # In code, the axes under '...' are called as `source` calls them: n1, n2.
    return dims_text(dims).replace("...", "n")


def dims_text(dims: Dims) -> str:
    """Dimensions in axis names, as a pattern spells them.

    Example:
        >>> dims_text((("...1",), ("h", "i"), ()))
        '...1 (h i) 1'
    """
    return " ".join(f"({' '.join(dim)})" if len(dim) > 1 else "".join(dim) or "1" for dim in dims)


def _free(wish: str, names: Sequence[str]) -> str:
    while wish in names:
        wish += "_"
    return wish
