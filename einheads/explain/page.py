"""An explanation as HTML, for notebooks: the drawing, the tables, and the code to unfold."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from .render import svg
from .spellings import dims_text
from .telling import action, memory, pair_roles, single_roles

if TYPE_CHECKING:
    from .story import Explanation


def html(story: Explanation) -> str:
    """Show an explanation on a page.

    Example:
        >>> from einheads.explain import explain
        >>> "<th>shape</th>" in html(explain("b i, o i -> b o"))
        True
    """
    roles = [
        row
        for pair in story.contractions
        for row in (
            (f"{', '.join(pair.operands)} \u2192 {pair.result}", *one) for one in pair_roles(pair)
        )
    ]
    roles += [("", *row) for row in single_roles(story)]
    steps = [
        (
            step.makes,
            action(step),
            dims_text(step.dims) or "a scalar",
            " \u00d7 ".join(map(str, step.shape)) or "1",
            memory(step),
        )
        for step in story.steps
    ]
    parts = [
        f'<div style="max-width:100%;overflow-x:auto">{svg(story)}</div>',
        _table(("contraction", "role", "axes", "meaning"), roles),
        _table(("value", "step", "axes", "shape", "memory"), steps),
        _code("what runs", story.source),
        *(
            _code(f"the same with {one.title}", one.text)
            for one in story.spellings
            if one.text is not None
        ),
    ]
    return f"<div>{''.join(parts)}</div>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(word)}</th>" for word in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _code(title: str, text: str) -> str:
    code = f"<pre><code>{escape(text)}</code></pre>"
    return f"<details><summary>{escape(title)}</summary>{code}</details>"
