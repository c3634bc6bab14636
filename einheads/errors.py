"""The errors of the library, and the few words that all of its messages share.

Every error a user can cause with a pattern or a size is an `EinheadsError`, and says three things:
what is wrong, where (a caret under the user's own pattern), and what to write instead.
This file knows nothing of patterns beyond their text and the positions in it.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from keyword import iskeyword

Span = tuple[int, int]


class EinheadsError(ValueError):
    """A pattern, a size or an operand that cannot mean anything.

    Args:
        sentence: what is wrong.
        text: the pattern, as the user wrote it.
        spans: the places in `text` to point at, as `(start, end)`.
        notes: further lines, such as the sizes so far and what to write instead.

    Example:
        >>> print(PatternError("no '->' in the pattern", "a b", [(3, 3)], ["write: a b -> ..."]))
        no '->' in the pattern
            a b
               ^
            write: a b -> ...
    """

    def __init__(
        self,
        sentence: str,
        text: str | None = None,
        spans: Iterable[Span] = (),
        notes: Iterable[str] = (),
    ) -> None:
        self.sentence = sentence
        self.text = text
        self.spans = tuple(spans)
        self.notes = tuple(notes)
        # All four go to `args`, so that the error survives pickling between processes.
        super().__init__(sentence, text, self.spans, self.notes)

    def __str__(self) -> str:
        lines = [self.sentence]
        if self.text is not None:
            lines.append(_one_line(self.text))
            if self.spans:
                lines.append(carets(self.spans, self.text))
        return "\n    ".join([*lines, *self.notes])


class PatternError(EinheadsError):
    """The pattern itself is wrong, whatever the tensors are."""


class SizeError(EinheadsError):
    """The pattern is fine, but the tensors or the given sizes do not fit it."""


def carets(spans: Sequence[Span], text: str = "") -> str:
    """Draw a caret under every character of the spans; an empty span gets one.

    Example:
        >>> carets([(1, 3), (6, 6)])
        ' ^^   ^'

    Args:
        spans: what to point at, as `(start, end)`.
        text: the line above; some of its characters may be wider than others on a terminal.
    """
    marked = {place for start, end in spans for place in range(start, max(end, start + 1))}
    return "".join(
        ("^" if place in marked else " ") * _width(text[place : place + 1])
        for place in range(max(marked, default=-1) + 1)
    )


def so_far(sizes: Mapping[str, int], *without: str) -> list[str]:
    """A note of the sizes that are known, but for those of axes that `...` stands for.

    Example:
        >>> so_far({"...1": 7, "b": 2, "i": 3}), so_far({"b": 2}, "b")
        (['so far: b=2, i=3'], [])

    Args:
        sizes: by axis.
        *without: axes to leave out.
    """
    known = [
        f"{name}={size}"
        for name, size in sizes.items()
        if name not in without and not name.startswith("...")
    ]
    return [f"so far: {', '.join(known)}"] if known else []


def keywords(sizes: Mapping[str, object]) -> list[str]:
    """How a call gives sizes, some of which may be of axes called like a keyword of Python.

    Example:
        >>> keywords({"in": 64, "out": 32})
        ['out=32', "**{'in': 64}"]
    """
    words = [f"{name}={size}" for name, size in sizes.items() if not iskeyword(name)]
    rest = ", ".join(f"{name!r}: {size}" for name, size in sizes.items() if iskeyword(name))
    return [*words, f"**{{{rest}}}"] if rest else words


def argument(name: str, size: object = "...") -> str:
    """How a call gives one size, such as `h=8`; by default a size that nobody knows yet."""
    (word,) = keywords({name: size})
    return word


def count(number: int, noun: str) -> str:
    """A number of things.

    Example:
        >>> count(1, "operand"), count(0, "axis")
        ('1 operand', '0 axes')
    """
    plural = {"axis": "axes"}.get(noun, noun + "s")
    return f"{number} {noun if number == 1 else plural}"


def listed(words: Sequence[str]) -> str:
    """Words in a row.

    Example:
        >>> listed(["a"]), listed(["a", "b", "c"])
        ('a', 'a, b and c')
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def kind(value: object) -> str:
    """What a value of the wrong type is, in a few words and one line.

    Example:
        >>> kind(None), kind("x"), kind(2.5), kind([1, 2])
        ('None', "'x'", '2.5', 'a list')
    """
    if value is None or isinstance(value, (str, bytes, int, float, complex)):
        return repr(value)
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' or name == 'ndarray' else 'a'} {name}"


def nearest(name: str, others: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name that was probably meant.

    Example:
        >>> nearest("chanels", ["time", "channels"])
        'channels'
        >>> nearest("B", ["b", "i"])
        'b'
        >>> nearest("b", ["i", "o"])

    Args:
        name: what was written.
        others: what there is.
        cutoff: how alike two names must be, from 0 to 1.
    """
    others = list(others)
    look = appearance(name).casefold()
    same = [other for other in others if appearance(other).casefold() == look]
    return next(iter(same or difflib.get_close_matches(name, others, 1, cutoff)), None)


# Letters that no reader can tell from Latin ones, as code points: Cyrillic small and capital
# letters, and the Greek omicron.
_LOOKALIKES = {
    0x430: "a", 0x435: "e", 0x43E: "o", 0x440: "p", 0x441: "c", 0x443: "y", 0x445: "x",
    0x455: "s", 0x456: "i", 0x458: "j", 0x4BB: "h", 0x4CF: "l", 0x501: "d", 0x51B: "q",
    0x51D: "w", 0x3BF: "o", 0x410: "A", 0x412: "B", 0x415: "E", 0x41A: "K", 0x41C: "M",
    0x41D: "H", 0x41E: "O", 0x420: "P", 0x421: "C", 0x422: "T", 0x425: "X", 0x405: "S",
    0x406: "I", 0x408: "J", 0x39F: "O",
}  # fmt: skip


def appearance(name: str) -> str:
    """A name as it looks: two names with one appearance cannot be told apart by reading.

    Example:
        >>> appearance("\u0441hannel")  # with the Cyrillic letter that sits on the same key as `c`
        'channel'
    """
    return name.translate(_LOOKALIKES)


def not_a_pattern(value: object) -> str:
    """What to tell somebody who gives something else where a pattern stands."""
    example = "write: the pattern first, such as 'b i, o i -> b o'"
    # Asked of the type, since a nested tensor has no shape and says so by an error of its own.
    if hasattr(type(value), "shape"):
        return f"the first argument is {kind(value)}, not a pattern; {example}, then the tensors"
    return f"the pattern is {kind(value)}, not a string; {example}"


def _one_line(text: str) -> str:
    # A line break, a tab or anything else that moves the cursor becomes exactly one space, so that
    # the carets below stay under their characters.
    return "".join(character if character.isprintable() else " " for character in text)


def _width(character: str) -> int:
    """How many columns a terminal gives to a character."""
    if character and unicodedata.combining(character):
        return 0
    return 2 if character and unicodedata.east_asian_width(character) in "WF" else 1
