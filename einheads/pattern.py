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
from typing import NamedTuple

from .errors import PatternError, Span, appearance, not_a_pattern


class _Named:
    """What has named axes."""

    __slots__ = ()

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The named axes in it, in order."""
        return ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of `axes`."""
        return tuple([axis.name for axis in self.axes])


@dataclass(frozen=True, slots=True)
class Axis(_Named):
    """A named dimension."""

    name: str
    span: Span

    def __str__(self) -> str:
        return self.name

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Itself."""
        return (self,)


@dataclass(frozen=True, slots=True)
class Unit(_Named):
    """The axis `1`, which has no name and size one."""

    span: Span

    def __str__(self) -> str:
        return "1"


@dataclass(frozen=True, slots=True)
class Dots(_Named):
    """The axes under `...`."""

    span: Span

    def __str__(self) -> str:
        return "..."


@dataclass(frozen=True, slots=True)
class Group(_Named):
    """A composite axis such as `(h d)`: one dimension of the tensor, several axes."""

    parts: tuple[Axis | Unit, ...]
    span: Span

    def __str__(self) -> str:
        return f"({' '.join(map(str, self.parts))})"

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Its factors, those called `1` aside."""
        return tuple([part for part in self.parts if isinstance(part, Axis)])


Item = Axis | Unit | Dots | Group


@dataclass(frozen=True, slots=True)
class Term(_Named):
    """One operand, or the output: its items from left to right."""

    items: tuple[Item, ...]
    span: Span

    def __str__(self) -> str:
        return " ".join(map(str, self.items))

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Every named axis, those inside parentheses too, in order."""
        return tuple([axis for item in self.items for axis in item.axes])

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
        raise TypeError(not_a_pattern(text))
    tokens = list(_tokens(text))
    if not tokens:
        raise PatternError("the pattern is empty", notes=[f"write: {_ARROW}"])
    arrows = [token for token in tokens if token.text == "->"]
    if not arrows:
        end = tokens[-1].span[1]
        raise PatternError(
            "the pattern has no '->', and the output has to be written",
            text,
            [(end, end)],
            [f"write: {_ARROW}"],
        )
    if len(arrows) > 1:
        raise PatternError(
            "the pattern has more than one '->'",
            text,
            [token.span for token in arrows],
            ["write: one '->', the operands before it and the output after it"],
        )
    where = tokens.index(arrows[0])
    operands = tuple(_term(text, chunk, start) for chunk, start in _split(tokens[:where]))
    after = tokens[where + 1 :]
    commas = [token.span for token in after if token.text == ","]
    if commas:
        rest = " ".join(token.text for token in after if token.text != ",")
        raise PatternError(
            "the output has a comma, but commas separate operands, and spaces their axes",
            text,
            commas,
            [f"write: -> {rest}".rstrip()],
        )
    output = _term(text, after, arrows[0].span[1])
    pattern = Pattern(text, operands, output)
    _check_output(pattern)
    _check_lookalikes(pattern)
    return pattern


_ARROW = "the operands, '->', and the axes of the output, as in 'b i, o i -> b o'"


def _check_output(pattern: Pattern) -> None:
    output = pattern.output
    names = output.names
    for name in names:
        if names.count(name) > 1:
            raise PatternError(
                f"axis '{name}' stands twice in the output",
                pattern.text,
                output.places(name),
                ["write: each axis once; no pattern puts values on a diagonal"],
            )
    if output.dots is not None and not any(term.dots for term in pattern.operands):
        raise PatternError(
            "the output has '...', but no operand has",
            pattern.text,
            [output.dots.span],
            ["write: '...' in the operand whose axes these are, or name the axes"],
        )


def _check_lookalikes(pattern: Pattern) -> None:
    """Refuse two names that look the same: a sum over both would be silent nonsense."""
    if pattern.text.isascii():
        return  # a look that two names share is one of several alphabets
    looks: dict[str, str] = {}
    for name in pattern.names:
        other = looks.setdefault(appearance(name), name)
        if other != name:
            raise PatternError(
                f"two axes look the same, but are not: {other!a} and {name!a}",
                pattern.text,
                pattern.places(other) + pattern.places(name),
                ["write: both with letters of one alphabet"],
            )


def spaced(pattern: Pattern) -> str | None:
    """The spelling with spaces of a pattern that looks as if it were written for `torch.einsum`.

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
    *operands, output = ("".join(map(str, items)) for items in words)
    if not set(output) <= set("".join(operands)) or len(set(output)) < len(output):
        return None

    def spread(term: Term) -> str:
        return " ".join(
            "..." if isinstance(item, Dots) else " ".join(str(item)) for item in term.items
        )

    return f"{', '.join(map(spread, pattern.operands))} -> {spread(pattern.output)}"


class _Token(NamedTuple):
    text: str
    span: Span


# A word of ASCII is read at once; with other letters, not all is a letter that continues a name.
_TOKEN = re.compile(r"(?P<space>\s+)|->|\.\.\.|[(),]|[A-Za-z0-9_]+(?!\w|[^\x00-\x7f])")


def _tokens(text: str) -> Iterator[_Token]:
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        end = match.end() if match else _word_end(text, place)
        if end == place:
            character = text[place]
            raise PatternError(
                f"{character!r} has no meaning in a pattern",
                text,
                [(place, place + 1)],
                [_FIXES.get(character, _FIX)],
            )
        if match is None or match["space"] is None:
            yield _Token(text[place:end], (place, end))
        place = end


def _word_end(text: str, place: int) -> int:
    """Where a word ends: all that could be meant as a name, so `2d` is refused as one thing."""
    # What may continue an identifier: letters, digits and, in some alphabets, marks.
    while place < len(text) and (text[place].isalnum() or f"a{text[place]}".isidentifier()):
        place += 1
    return place


_FIX = "write: axis names separated by spaces, ',' between operands, '->' before the output"
_FIXES = (
    dict.fromkeys(".\u2026", "write: '...' (three points) for any number of axes")
    | dict.fromkeys("-=>\u2013\u2192\u21d2", "write: '->' before the output")
    | dict.fromkeys("[]{}", "write: parentheses for a composite axis, such as '(h d)'")
    | {"*": "write: '...' for any number of axes, '(h d)' for a product of two"}
)


def _split(tokens: list[_Token]) -> Iterator[tuple[list[_Token], int]]:
    """Cut the left side at its commas; with each part, where it starts."""
    chunk: list[_Token] = []
    start = 0
    for token in tokens:
        if token.text == ",":
            yield chunk, start
            chunk, start = [], token.span[1]
        else:
            chunk.append(token)
    yield chunk, start


def _term(text: str, tokens: list[_Token], start: int) -> Term:
    """Read one term; without tokens it is a scalar."""
    span = (tokens[0].span[0], tokens[-1].span[1]) if tokens else (start, start)
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
                    ["write: one level, such as '(a b c)' for '(a (b c))'"],
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
                    ["write: '...' outside, or a name for each axis inside"],
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
    # Python normalizes the names of keyword arguments; an axis must be the same name as its size.
    word = unicodedata.normalize("NFKC", token.text)
    if word == "1":
        return Unit(token.span)
    if word.isdecimal():
        # The digits of other alphabets, too; and `int` refuses thousands of digits.
        size = "".join(str(unicodedata.decimal(digit)) for digit in word).lstrip("0") or "0"
        raise PatternError(
            f"the only size that may stand in a pattern is 1, not {token.text}",
            text,
            [token.span],
            [f"write: a name, and its size as a keyword, such as n={size}"],
        )
    # Python compiles no function that assigns to `__debug__`.
    if not word.isidentifier() or word == "__debug__":
        raise PatternError(
            f"{token.text!r} cannot name an axis",
            text,
            [token.span],
            ["write: a name that begins with a letter, such as 'h1'"],
        )
    return Axis(word, token.span)
