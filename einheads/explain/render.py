"""Drawings of an explanation, as SVG: the standard library only, no font from elsewhere.

Axes are columns, each with one color; operands are rows, so that a gap is what broadcasting fills.
The file knows how to draw and nothing of how anything was computed.
"""

from __future__ import annotations

import colorsys
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from einheads.steps import elements, flat

from .spellings import dims_text
from .telling import assumption, summary

if TYPE_CHECKING:
    from .story import Explanation, Matrices, Operation, Pair

_MARGIN, _CELL, _GAP, _ROW, _CHIP = 20.0, 44.0, 8.0, 60.0, 26.0

# The card has a ground of its own: it is readable on any page, whatever the page thinks of light
# and dark.
_STYLE = """
.eh-card{fill:#ffffff;stroke:#d3d8e0}
.eh-ink{fill:#1b1f27}
.eh-soft{fill:#5d6675}
.eh-cell{fill:#14171c}
.eh-hole{fill:none;stroke:#b4bcc9;stroke-dasharray:3 4}
.eh-box{fill:none;stroke:#9aa4b3}
.eh-line{fill:none;stroke:#5d6675;stroke-width:2}
.eh-knot{fill:#ffffff;stroke:#5d6675;stroke-width:1.5}
.eh text{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}
@media (prefers-color-scheme:dark){
.eh-card{fill:#161920;stroke:#343b48}
.eh-ink{fill:#e9ecf2}
.eh-soft{fill:#a3acbb}
.eh-hole{stroke:#4a5261}
.eh-box{stroke:#687284}
.eh-line{stroke:#a3acbb}
.eh-knot{fill:#161920;stroke:#a3acbb}
}
"""


def svg(story: Explanation) -> str:
    """Draw an explanation.

    Example:
        >>> from einheads.explain import explain
        >>> drawing = svg(explain("b i, o i -> b o"))
        >>> drawing.startswith("<svg xmlns=") and "<title>b i, o i -&gt; b o</title>" in drawing
        True
    """
    return _Drawing(story).draw()


class _Drawing:
    """The elements so far, and how far they reach."""

    def __init__(self, story: Explanation) -> None:
        self.story = story
        self.parts: list[str] = []
        self.right = self.bottom = 0.0
        kept = flat(story.result.dims)
        # The columns: what the result has, in its order, and behind it what is summed.
        self.order = [*kept, *(axis for axis in story.sizes if axis not in kept)]
        self.colors = dict(zip(story.sizes, _palette(len(story.sizes)), strict=True))

    def draw(self) -> str:
        story = self.story
        self.text(_MARGIN, _MARGIN + 14, _cut(story.pattern, 120), size=16, weight="bold")
        y = self.operands(_MARGIN + 34)
        y = self.products(y + 14)
        if len(story.contractions) > 1:
            y = self.tree(y + 14)
        # What it costs and what it is compared with, one below the other: a phone is narrow.
        cost, _, held = summary(story).rstrip(")").partition(" (")
        for line in filter(None, (cost, held, assumption(story))):
            y += 18
            self.text(_MARGIN, y, line, size=12, kind="soft")
        # Whole pixels: where a page cuts half a pixel off, the frame would lose a side.
        width, height = math.ceil(self.right + _MARGIN), math.ceil(self.bottom + _MARGIN)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="eh" role="img" width="{width}" '
            f'height="{height}" viewBox="0 0 {width} {height}">'
            f"<title>{escape(story.pattern)}</title><desc>{escape(description(story))}</desc>"
            f"<style>{_STYLE}</style>"
            f'<rect class="eh-card" x="1" y="1" width="{width - 2}" '
            f'height="{height - 2}" rx="10"/>' + "".join(self.parts) + "</svg>\n"
        )

    # Elements

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 13,
        kind: str = "ink",
        anchor: str = "start",
        weight: str = "normal",
    ) -> None:
        width = _width(words, size)
        self.reach(x + {"start": width, "middle": width / 2, "end": 0.0}[anchor], y + 5)
        self.parts.append(
            f'<text class="eh-{kind}" x="{x:g}" y="{y:g}" font-size="{size:g}" '
            f'text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'
        )

    def rect(
        self, x: float, y: float, width: float, height: float, *, kind: str = "", fill: str = ""
    ) -> None:
        self.reach(x + width, y + height)
        look = f"class={quoteattr(f'eh-{kind}')}" if kind else f"fill={quoteattr(fill)}"
        self.parts.append(
            f'<rect {look} x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>'
        )

    def line(self, *points: tuple[float, float]) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline class="eh-line" points="{path}"/>')

    def knot(self, x: float, y: float, sign: str) -> None:
        self.reach(x + 11, y + 11)
        self.parts.append(f'<circle class="eh-knot" cx="{x:g}" cy="{y:g}" r="11"/>')
        self.text(x, y + 4.5, sign, size=13, anchor="middle")

    def reach(self, x: float, y: float) -> None:
        self.right, self.bottom = max(self.right, x), max(self.bottom, y)

    # The operands, axis by axis

    def operands(self, y: float) -> float:
        story = self.story
        kept = flat(story.result.dims)
        axes = self.order
        values = (*story.inputs, story.result)
        signs = ["", *["\u00d7"] * (len(story.inputs) - 1), "="]
        if story.bias is not None:
            signs[-2] = "+"
        # The sum comes after the last factor: in the row of the bias, where there is one.
        factors = story.inputs if story.bias is None else story.inputs[:-1]
        after = values[len(factors)]
        terms = [_cut(dims_text(value.dims) or "a scalar", 40) for value in values]
        labels = max(
            max(_width(value.name, 14), _width(term, 11))
            for value, term in zip(values, terms, strict=True)
        )
        places = self.columns(_MARGIN + 22 + labels + 16, axes)
        if len(story.contractions) == 1:
            for axis, roles in story.roles.items():
                x, width = places[axis]
                self.text(x + width / 2, y, roles[0], size=10, kind="soft", anchor="middle")
            y += 8
        self.threads(y, places, y + len(factors) * _ROW + _CELL / 2)
        for value, sign, term in zip(values, signs, terms, strict=True):
            middle = y + _CELL / 2
            self.text(_MARGIN + 6, middle + 5, sign, size=16, anchor="middle")
            self.text(_MARGIN + 22, middle - 3, value.name, size=14, weight="bold")
            self.text(_MARGIN + 22, middle + 14, term, size=11, kind="soft")
            names = flat(value.dims)
            for axis in axes:
                x, width = places[axis]
                if axis in names:
                    self.cell(x, y, width, axis, names.count(axis))
                elif axis in kept or value in factors:
                    self.rect(x, y, width, _CELL, kind="hole")
                elif value is after:
                    self.knot(x + width / 2, middle, "\u03a3")
            y += _ROW
        return y

    def columns(self, x: float, axes: Sequence[str]) -> dict[str, tuple[float, float]]:
        """Where each axis has its column, and how wide it is."""
        places = {}
        for axis in axes:
            times = max(flat(value.dims).count(axis) for value in self.story.inputs) or 1
            role = self.story.roles[axis][0]
            words = (" ".join([axis] * times), f"{self.story.sizes[axis]:,}")
            width = max(_CELL, *(_width(word, 14) + 14 for word in words), _width(role, 10) + 6)
            places[axis] = x, width
            x += width + _GAP
        return places

    def threads(self, y: float, places: Mapping[str, tuple[float, float]], end: float) -> None:
        """A line through everything that a summed axis joins, down to its sum."""
        for axis, (x, width) in places.items():
            if axis not in flat(self.story.result.dims):
                rows = [axis in flat(value.dims) for value in self.story.inputs]
                middle = x + width / 2
                self.line((middle, y + rows.index(True) * _ROW + _CELL / 2), (middle, end))

    def cell(self, x: float, y: float, width: float, axis: str, times: int) -> None:
        self.rect(x, y, width, _CELL, fill=self.colors[axis])
        words = " ".join([axis] * times)
        self.text(
            x + width / 2, y + 19, words, size=14, kind="cell", anchor="middle", weight="bold"
        )
        self.text(
            x + width / 2,
            y + 35,
            f"{self.story.sizes[axis]:,}",
            size=11,
            kind="cell",
            anchor="middle",
        )

    def chips(self, x: float, y: float, axes: Sequence[str]) -> None:
        """Axes as small cells, in a row."""
        for axis in axes:
            width = _chips((axis,))
            self.rect(x, y, width, _CHIP, fill=self.colors[axis])
            self.text(
                x + width / 2, y + 17.5, axis, size=12, kind="cell", anchor="middle", weight="bold"
            )
            x += width + 4

    # The products, as matrices

    def products(self, y: float) -> float:
        steps = [
            step
            for step in self.story.steps
            if step.verb in ("multiply", "matmul", "bmm", "linear")
        ]
        if not steps:
            return y - 14
        heads = [f"{step.makes} = {step.verb}({', '.join(step.reads)})" for step in steps]
        x = _MARGIN + max(_width(head, 12) for head in heads) + 18
        for step, head in zip(steps, heads, strict=True):
            self.text(_MARGIN, y + 21, head, size=12)
            self.groups(x, y, _groups(step))
            y += _CHIP + 32
        return y

    def groups(self, x: float, y: float, groups: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Boxes of axes that are treated alike, with a word and their size together."""
        for word, axes in groups:
            caption = f"{word} {elements((tuple(axes),), self.story.sizes):,}"
            chips = _chips(axes)
            width = max(chips + 12, _width(caption, 10) + 4)
            self.rect(x, y, width, _CHIP + 12, kind="box")
            self.chips(x + (width - chips) / 2, y + 6, axes)
            self.text(x + width / 2, y + _CHIP + 24, caption, size=10, kind="soft", anchor="middle")
            x += width + 12

    # The plan, as a tree

    def tree(self, y: float) -> float:
        """Operands at the left, each contraction to the right of what it contracts."""
        story = self.story
        made = {pair.result: pair for pair in story.contractions}
        dims = {value.name: flat(value.dims) for value in story.inputs}
        leaves: list[str] = []
        depth: dict[str, int] = {}
        _walk(story.contractions[-1].result, made, leaves, depth)
        step = _CHIP + 18
        height = {name: y + place * step for place, name in enumerate(leaves)}
        axes = {name: tuple(dict.fromkeys(dims[name])) for name in leaves}
        for pair in story.contractions:
            height[pair.result] = sum(height[name] for name in pair.operands) / 2
            made_of = {*pair.batch, *pair.left, *pair.right}
            axes[pair.result] = tuple(axis for axis in self.order if axis in made_of)
        nodes = [*leaves, *made]
        widths = {name: _width(name, 12) + 8 + _chips(axes[name]) for name in nodes}
        notes = {name: _note(pair) for name, pair in made.items()}
        start = [_MARGIN]
        for level in range(max(depth.values())):
            ends = [
                max(widths[name], _width(notes.get(name, ""), 10))
                for name in nodes
                if depth[name] == level
            ]
            start.append(start[-1] + max(ends) + 44)
        for name in nodes:
            x, middle = start[depth[name]], height[name] + _CHIP / 2
            self.text(x, height[name] + 17.5, name, size=12, weight="bold")
            self.chips(x + _width(name, 12) + 8, height[name], axes[name])
            self.text(x, height[name] + _CHIP + 12, notes.get(name, ""), size=10, kind="soft")
            above = next(
                (pair.result for pair in story.contractions if name in pair.operands), None
            )
            if above is not None:
                end, goal = start[depth[above]] - 6, height[above] + _CHIP / 2
                self.line(
                    (x + widths[name] + 6, middle),
                    (end - 16, middle),
                    (end - 16, goal),
                    (end, goal),
                )
        return y + len(leaves) * step


def _walk(name: str, made: Mapping[str, Pair], leaves: list[str], depth: dict[str, int]) -> int:
    """Collect the operands of a value from top to bottom, and how deep each value lies."""
    if name not in made:
        leaves.append(name)
        depth[name] = 0
    else:
        depth[name] = 1 + max(_walk(one, made, leaves, depth) for one in made[name].operands)
    return depth[name]


def _note(pair: Pair) -> str:
    """What a contraction sums, and what it costs."""
    over = f"\u03a3 {' '.join(pair.contract)}: " if pair.contract else ""
    return f"{over}{pair.multiply_adds:,}"


def _cut(words: str, most: int) -> str:
    """A text, shortened where it would make the drawing wider than its cells do."""
    return words if len(words) <= most else words[: most - 3] + "\u2026"


def _chips(axes: Sequence[str]) -> float:
    """How wide a row of small cells is."""
    return max(sum(_width(axis, 12) + 16 for axis in axes) - 4, 0.0)


def _groups(step: Operation) -> list[tuple[str, Sequence[str]]]:
    if step.matrices is None:
        return [("one by one", flat(step.dims))]
    matrices: Matrices = step.matrices
    groups = [
        ("looped", matrices.loop),
        ("rows", matrices.rows),
        ("sum", matrices.inner),
        ("columns", matrices.columns),
    ]
    return [(_folded(word, axes), axes) for word, axes in groups if axes]


def _folded(word: str, axes: Sequence[str]) -> str:
    return f"folded {word}" if len(axes) > 1 and word != "looped" else word


def description(story: Explanation) -> str:
    """The drawing in words, for those who cannot see it."""
    operands = "; ".join(
        f"{value.name} has {_named(value.dims, story.sizes)}"
        for value in (*story.inputs, story.result)
    )
    summed = [axis for axis in story.sizes if axis not in flat(story.result.dims)]
    ending = f" Summed: {', '.join(summed)}." if summed else ""
    return f"Operands and their axes, aligned. {operands}.{ending} {summary(story)}."


def _named(dims: Sequence[Sequence[str]], sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{axis} ({sizes[axis]})" for dim in dims for axis in dim) or "no axes"


def _palette(count: int) -> list[str]:
    """Colors that dark text is readable on, neighbors far apart in hue."""
    colors = []
    for number in range(count):
        # Steps of the golden ratio never come back to the same hue; lightness tells close hues
        # apart.
        hue = (0.58 + number * 0.618034) % 1.0
        red, green, blue = colorsys.hls_to_rgb(hue, (0.74, 0.82, 0.66)[number // 8 % 3], 0.62)
        colors.append(f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}")
    return colors


def _width(words: str, size: float) -> float:
    """How wide a text is, on the safe side: fixed-width fonts differ by a few percent."""
    columns = sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1
        for one in words
    )
    return columns * size * 0.62
