"""The errors of the library.

Every error a user can cause with a pattern or a size is an `EinheadsError`, and says three things:
what is wrong, where (a caret under the user's own pattern), and what to write instead.
This file knows nothing of patterns beyond their text and the positions in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
            lines.append("    " + _one_line(self.text))
            if self.spans:
                lines.append("    " + carets(self.spans))
        lines += ["    " + note for note in self.notes]
        return "\n".join(lines)


class PatternError(EinheadsError):
    """The pattern itself is wrong, whatever the tensors are."""


class SizeError(EinheadsError):
    """The pattern is fine, but the tensors or the given sizes do not fit it."""


def carets(spans: Sequence[Span]) -> str:
    """Draw a caret under every character of the spans; an empty span gets one.

    Example:
        >>> carets([(1, 3), (6, 6)])
        ' ^^   ^'
    """
    marked = {place for start, end in spans for place in range(start, max(end, start + 1))}
    return "".join("^" if place in marked else " " for place in range(max(marked, default=-1) + 1))


def _one_line(text: str) -> str:
    # Each line break or tab becomes exactly one space: the carets below stay under their
    # characters.
    return "".join(" " if character.isspace() else character for character in text)
