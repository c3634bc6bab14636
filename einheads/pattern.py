"""The pattern language: text in, `Pattern` out.

This is the only file that reads characters. It keeps the place of everything it reads, so that
errors can point. It knows nothing of sizes, tensors, weights or the order of contraction.

    pattern  = operand {"," operand} "->" term
    term     = {axis | "1" | "..." | "(" {axis | "1"} ")"}
    axis     = a Python identifier of any length
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import PatternError, Span


@dataclass(frozen=True, slots=True)
class Axis:
    """A named dimension."""

    name: str
    span: Span

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Unit:
    """The axis `1`, which has no name and size one."""

    span: Span

    def __str__(self) -> str:
        return "1"


@dataclass(frozen=True, slots=True)
class Dots:
    """The axes under `...`."""

    span: Span

    def __str__(self) -> str:
        return "..."


@dataclass(frozen=True, slots=True)
class Group:
    """A composite axis such as `(h d)`: one dimension of the tensor, several axes of the pattern."""

    parts: tuple[Axis | Unit, ...]
    span: Span

    def __str__(self) -> str:
        return f"({' '.join(map(str, self.parts))})"


Item = Axis | Unit | Dots | Group


@dataclass(frozen=True, slots=True)
class Term:
    """One operand, or the output: its items from left to right."""

    items: tuple[Item, ...]
    span: Span

    def __str__(self) -> str:
        return " ".join(map(str, self.items))

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Every named axis, those inside parentheses too, in order."""
        return tuple(_axes(self.items))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of `axes`."""
        return tuple(axis.name for axis in self.axes)

    @property
    def dots(self) -> Dots | None:
        """The `...` of this term, if it has one."""
        return next((item for item in self.items if isinstance(item, Dots)), None)

    def places(self, name: str) -> list[Span]:
        """Where an axis stands in this term."""
        return [axis.span for axis in self.axes if axis.name == name]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A whole pattern, `"b w h i, h o i -> b w h o"`.

    `str(pattern)` is its canonical spelling; `text` is what the user wrote, which the spans refer
    to.
    """

    text: str
    operands: tuple[Term, ...]
    output: Term

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.operands))} -> {self.output}".strip()

    @property
    def terms(self) -> tuple[Term, ...]:
        """The operands and then the output."""
        return (*self.operands, self.output)

    @property
    def names(self) -> tuple[str, ...]:
        """Every axis of the pattern once, in the order of first appearance."""
        return tuple(dict.fromkeys(name for term in self.terms for name in term.names))

    def places(self, name: str) -> list[Span]:
        """Where an axis stands in the whole pattern."""
        return [span for term in self.terms for span in term.places(name)]


def parse(text: str) -> Pattern:
    """Read a pattern.

    Example:
        >>> pattern = parse("b t (h d), h  d o->b t o")
        >>> print(pattern)
        b t (h d), h d o -> b t o
        >>> pattern.operands[0].names
        ('b', 't', 'h', 'd')

    Raises:
        PatternError: the text is no pattern; the message points at the place.
        TypeError: the pattern is no string.
    """
    if not isinstance(text, str):
        raise TypeError(_not_text(text))
    tokens = list(_tokens(text))
    arrows = [token for token in tokens if token.text == "->"]
    if not arrows:
        raise PatternError(
            "the pattern has no '->': the output has to be written",
            text,
            [(len(text), len(text))],
            [
                f"write: {' '.join(text.split())} -> ..., with the axes of the output in place of '...'"
            ],
        )
    if len(arrows) > 1:
        raise PatternError(
            "the pattern has more than one '->'",
            text,
            [token.span for token in arrows],
            ["write: one '->', the operands before it and the output after it"],
        )
    where = tokens.index(arrows[0])
    operands = tuple(
        _term(text, chunk, span) for chunk, span in _split(tokens[:where], arrows[0].span[0])
    )
    after = tokens[where + 1 :]
    comma = next((token for token in after if token.text == ","), None)
    if comma is not None:
        raise PatternError(
            "the output is one term, and here is a comma in it",
            text,
            [comma.span],
            ["write: axes separated by spaces, such as 'b h o'"],
        )
    output = _term(text, after, (arrows[0].span[1], len(text)))
    for axis in output.axes:
        if len(output.places(axis.name)) > 1:
            raise PatternError(
                f"axis '{axis.name}' stands twice in the output",
                text,
                output.places(axis.name),
                [
                    "write: each axis once in the output; there is no spelling that puts values on a diagonal"
                ],
            )
    if output.dots is not None and not any(term.dots for term in operands):
        raise PatternError(
            "the output has '...', but no operand has",
            text,
            [output.dots.span],
            ["write: '...' in the operand whose axes these are, or name the axes"],
        )
    return Pattern(text, operands, output)


def spaced(pattern: Pattern) -> str | None:
    """The spelling with spaces of a pattern written the way of `torch.einsum`, if it looks like
    one.

    Example:
        >>> spaced(parse("bwhi,hoi->bwho"))
        'b w h i, h o i -> b w h o'
        >>> spaced(parse("batch time, time -> batch"))
    """
    words = [[item for item in term.items if not isinstance(item, Dots)] for term in pattern.terms]
    plain = all(
        len(items) <= 1 and all(isinstance(item, Axis) for item in items) for items in words
    )
    if not plain or all(len(name) == 1 for name in pattern.names):
        return None
    letters = [set("".join(map(str, items))) for items in words]
    if not letters[-1] <= set().union(*letters[:-1]):
        return None

    def spread(term: Term) -> str:
        return " ".join(
            "..." if isinstance(item, Dots) else " ".join(str(item)) for item in term.items
        )

    return f"{', '.join(map(spread, pattern.operands))} -> {spread(pattern.output)}"


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    span: Span


# A word is anything that could be meant as a name, so that `2d` is refused as one thing.
_TOKEN = re.compile(r"\s+|->|\.\.\.|[(),]|\w+")


def _tokens(text: str) -> Iterator[_Token]:
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            character = text[place]
            raise PatternError(
                f"{character!r} has no meaning in a pattern",
                text,
                [(place, place + 1)],
                [_FIXES.get(character, _FIX)],
            )
        word = match.group()
        if not word.isspace():
            yield _Token(word, match.span())
        place = match.end()


_FIX = "write: axis names separated by spaces, ',' between operands, '->' before the output"
_FIXES = {
    ".": "write: '...' (three points) for any number of axes",
    "…": "write: '...' (three points) for any number of axes",
    "-": "write: '->' before the output",
    ">": "write: '->' before the output",
    "→": "write: '->' before the output",
    "[": "write: parentheses for a composite axis, such as '(h d)'",
    "*": "write: '...' for any number of axes, '(h d)' for a product of two",
}


def _split(tokens: list[_Token], end: int) -> Iterator[tuple[list[_Token], Span]]:
    """Cut the left side at its commas; a term without tokens is a scalar operand."""
    chunk: list[_Token] = []
    start = 0
    for token in tokens:
        if token.text == ",":
            yield chunk, (start, token.span[0])
            chunk, start = [], token.span[1]
        else:
            chunk.append(token)
    yield chunk, (start, end)


def _term(text: str, tokens: list[_Token], span: Span) -> Term:
    items: list[Item] = []
    parts: list[Axis | Unit] = []
    opened: _Token | None = None
    for token in tokens:
        if token.text == "(":
            if opened is not None:
                raise PatternError(
                    "parentheses inside parentheses",
                    text,
                    [opened.span, token.span],
                    ["write: one level, '(a b c)' instead of '(a (b c))': the product is the same"],
                )
            opened, parts = token, []
        elif token.text == ")":
            if opened is None:
                raise PatternError(
                    "')' without '('", text, [token.span], ["write: '(' before its first axis"]
                )
            group = Group(tuple(parts), (opened.span[0], token.span[1]))
            # An empty product is one: `()` is einops' other spelling of `1`.
            items.append(group if parts else Unit(group.span))
            opened = None
        elif token.text == "...":
            if opened is not None:
                raise PatternError(
                    "'...' inside parentheses",
                    text,
                    [token.span],
                    [
                        "write: '...' outside, and flatten the result, or name the axes inside the parentheses"
                    ],
                )
            before = [item.span for item in items if isinstance(item, Dots)]
            if before:
                raise PatternError(
                    "'...' stands twice in one term",
                    text,
                    [*before, token.span],
                    ["write: one '...', and names for the other axes"],
                )
            items.append(Dots(token.span))
        else:
            axis = _axis(text, token)
            (items if opened is None else parts).append(axis)
    if opened is not None:
        raise PatternError(
            "'(' without ')'", text, [opened.span], ["write: ')' after its last axis"]
        )
    return Term(tuple(items), span)


def _axis(text: str, token: _Token) -> Axis | Unit:
    word = token.text
    if word == "1":
        return Unit(token.span)
    if word.isdigit():
        raise PatternError(
            f"a size other than 1 stands in the pattern: {word}",
            text,
            [token.span],
            [f"write: a name, and its size as a keyword, such as n={word}"],
        )
    # Python normalizes the names of keyword arguments; an axis must be the same name as its size.
    name = unicodedata.normalize("NFKC", word)
    if not name.isidentifier():
        raise PatternError(
            f"{word!r} cannot name an axis",
            text,
            [token.span],
            ["write: a name that begins with a letter, such as 'h1'"],
        )
    return Axis(name, token.span)


def _axes(items: tuple[Item, ...] | tuple[Axis | Unit, ...]) -> Iterator[Axis]:
    for item in items:
        if isinstance(item, Axis):
            yield item
        elif isinstance(item, Group):
            yield from _axes(item.parts)


def _not_text(value: object) -> str:
    kind = type(value).__name__
    if hasattr(value, "shape"):
        return f"the pattern comes first, then the tensors, but the first argument is a {kind}"
    return f"the pattern is a string such as 'b i, o i -> b o', not a {kind}"
