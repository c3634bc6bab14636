"""The story of an explanation as plain text, for terminals and for `print`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .spellings import Spelling, dims_text

if TYPE_CHECKING:
    from .story import Explanation, Operation, Pair

_MEANINGS = {
    "batch": "in both and the result: a product for each",
    "contract": "in both: multiplied, then summed",
    "left": "in {left} and the result",
    "right": "in {right} and the result",
}


def text(story: Explanation) -> str:
    """Tell an explanation, line by line."""
    sections = [
        _head(story),
        _roles(story),
        _steps(story),
        *(_spelling(one) for one in story.spellings),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def amount(count: int) -> str:
    """A number of bytes, for people.

    Example:
        >>> amount(640), amount(81920), amount(3 * 2**30)
        ('640 bytes', '80.0 KiB', '3.0 GiB')
    """
    if count < 10_000:
        return f"{count:,} bytes"
    units = ("KiB", "MiB", "GiB", "TiB", "PiB")
    power = min((count.bit_length() - 1) // 10, len(units))
    return f"{count / 1024**power:,.1f} {units[power - 1]}"


def action(step: Operation) -> str:
    """What a step does, in a few words."""
    if step.verb in _PRODUCTS:
        over = f" over {' '.join(step.axes)}" if step.axes else ""
        return f"{step.verb} {', '.join(step.reads)}{over}"
    if step.verb == "add":
        return f"add {step.reads[1]}"
    words = {"sum": "sum over", "expand": "expand along", "diagonal": "diagonal of"}
    return f"{words.get(step.verb, step.verb)} {' '.join(step.axes)}".rstrip()


_PRODUCTS = {"bmm", "matmul", "linear", "multiply"}


def memory(step: Operation) -> str:
    """What a step does to memory, in a few words."""
    return step.effect.value if not step.bytes else f"{step.effect.value}, {amount(step.bytes)}"


def summary(story: Explanation) -> str:
    """The cost in one line."""
    plural = "multiply-add" if story.multiply_adds == 1 else "multiply-adds"
    copied = amount(story.bytes_copied) if story.bytes_copied else "nothing"
    return (
        f"{story.multiply_adds:,} {plural}; copies {copied} "
        f"(operands and result hold {amount(story.bytes_held)})"
    )


def choice(story: Explanation) -> str:
    """What the steps were chosen over, and why."""
    if story.measured:
        return "measured by einheads.tune: the fastest of all that it tried"
    other = story.runner_up
    if other is None:
        return ""
    return f"chosen over {other.steps}: {other.reason}"


def alone(story: Explanation) -> str:
    """What runs instead where nobody follows it."""
    if story.unfollowed is None:
        return ""
    return f"without gradients: {story.unfollowed.title}, one after the other"


def keeping(story: Explanation) -> str:
    """What gradients need besides the operands, unless the backward is planned."""
    if not story.kept:
        return ""
    names = " and ".join(dict.fromkeys(value.name for value in story.kept))
    return f"for gradients, autograd keeps {names} beside the operands: {amount(story.bytes_kept)}"


def assumption(story: Explanation) -> str:
    """Which sizes are made up."""
    if not story.assumed:
        return ""
    sizes = " ".join(f"{name}={story.sizes[name]}" for name in story.assumed)
    return f"assumed: {sizes} (other sizes may have other steps)"


def single_roles(story: Explanation) -> list[tuple[str, str, str]]:
    """Role, axes and meaning, for what is not part of a contraction."""
    alone = (
        []
        if story.contractions
        else [name for name, roles in story.roles.items() if roles == ("keep",)]
    )
    rows = [
        ("keep", alone, "in the operand and the result"),
        ("sum", story.summed, "in one operand only: summed first"),
        ("diagonal", story.diagonals, "more than once in an operand"),
        ("repeat", story.repeated, "only in the result"),
        ("bias", story.bias or (), f"added from {story.inputs[-1].name}"),
    ]
    return [(role, " ".join(axes), meaning) for role, axes, meaning in rows if axes]


def pair_roles(pair: Pair) -> list[tuple[str, str, str]]:
    """Role, axes and meaning, in a contraction."""
    left, right = pair.operands
    return [
        (role, " ".join(axes), _MEANINGS[role].format(left=left, right=right))
        for role, axes in pair.roles.items()
        if axes
    ]


def _head(story: Explanation) -> list[str]:
    rows = [
        (value.name, dims_text(value.dims) or "a scalar", _shape(value.shape))
        for value in (*story.inputs, story.result)
    ]
    lines = [story.pattern, "", *_table(rows)]
    return [*lines, f"  {assumption(story)}"] if story.assumed else lines


def _roles(story: Explanation) -> list[str]:
    rows = single_roles(story)
    if len(story.contractions) == 1:
        rows = pair_roles(story.contractions[0]) + rows
    lines = ["Roles", *_table(rows)] if rows else []
    if len(story.contractions) > 1:
        title = (
            f"Contractions: {story.multiply_adds:,} multiply-adds pair by pair, "
            f"{story.naive:,} all at once"
        )
        pairs = [
            (
                f"{', '.join(pair.operands)} -> {pair.result}",
                *(f"{role} {' '.join(axes)}" if axes else "" for role, axes in pair.roles.items()),
                f"{pair.multiply_adds:,}",
            )
            for pair in story.contractions
        ]
        lines += [*([""] if lines else []), title, *_table(pairs)]
    return lines


def _steps(story: Explanation) -> list[str]:
    if not story.steps:
        return ["Steps", "  none: the result is a view of the operand"]
    rows = [
        (
            step.makes,
            action(step),
            dims_text(step.dims) or "a scalar",
            _shape(step.shape),
            memory(step),
        )
        for step in story.steps
    ]
    last = [
        f"  {line}"
        for line in (summary(story), choice(story), alone(story), keeping(story))
        if line
    ]
    return ["Steps", *_table(rows), *last]


def _spelling(spelling: Spelling) -> list[str]:
    title = f"The same with {spelling.title}"
    if spelling.text is None:
        return [title, f"  not written: {spelling.reason}"]
    return [title, *textwrap.indent(spelling.text.rstrip(), "  ").splitlines()]


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns, aligned; a column that is empty everywhere goes."""
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]
