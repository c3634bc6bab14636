"""The size of every axis.

Takes a pattern and the shapes of its operands; gives `Bound`: the pattern with its `...` spelled
out, and the size of each axis. A shape is a tuple of integers here, so this file needs no torch
(the symbolic integers of a tracer work as well, since sizes are only compared, multiplied and
divided). Its true product is its error messages.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from .errors import SizeError, Span
from .pattern import Axis, Dots, Group, Item, Pattern, Unit, spaced

# One dimension of a tensor: the axes folded into it. `("h", "d")` is the composite `(h d)`, `()` is
# `1`.
Dim = tuple[str, ...]
Dims = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """A pattern whose `...` are spelled out and whose sizes are known.

    Attributes:
        pattern: what was bound.
        operands: the dimensions of each operand; an axis under `...` is called `...1`, `...2` from
            the left,
            and is `()` in an operand where it broadcasts.
        output: the dimensions of the result.
        sizes: the size of every axis.
        needed: the axes whose size no shape tells, so that it must be given at every call.
    """

    pattern: Pattern
    operands: tuple[Dims, ...]
    output: Dims
    sizes: Mapping[str, int]
    needed: tuple[str, ...]


def bind(
    pattern: Pattern,
    shapes: Sequence[Sequence[int]],
    given: Mapping[str, int] | None = None,
    labels: Sequence[str] | None = None,
) -> Bound:
    """Find the size of every axis of a pattern.

    Example:
        >>> from einheads.pattern import parse
        >>> bound = bind(parse("... (h i), h o i -> ... (h o)"), [(10, 256), (4, 32, 64)])
        >>> bound.operands
        ((('...1',), ('h', 'i')), (('h',), ('o',), ('i',)))
        >>> bound.sizes
        {'...1': 10, 'h': 4, 'o': 32, 'i': 64}

    Args:
        pattern: what the operands are meant to be.
        shapes: one shape for each operand, in order.
        given: sizes the caller insists on, such as `{"i": 64}`.
        labels: what to call the operands in errors; "operand 1", "operand 2" by default.

    Raises:
        SizeError: the shapes do not fit the pattern or each other, or a size cannot be known.
        TypeError: a given size is no integer.
    """
    return _Binder(pattern, shapes, given or {}, labels).bind()


class _Binder:
    """The sizes met so far, and where: what every message needs."""

    def __init__(
        self,
        pattern: Pattern,
        shapes: Sequence[Sequence[int]],
        given: Mapping[str, int],
        labels: Sequence[str] | None,
    ) -> None:
        self.pattern = pattern
        self.shapes = shapes
        self.given = given
        self.labels = labels or [
            f"operand {number}" for number in range(1, len(pattern.operands) + 1)
        ]
        self.sizes: dict[str, int] = {}
        # Where a size was met first: what to say of it, and the place in the pattern.
        self.origins: dict[str, tuple[str, Span | None]] = {}
        self.seen: set[str] = set()

    def bind(self) -> Bound:
        self.check_given()
        if len(self.shapes) != len(self.pattern.operands):
            self.fail_count()
        widths = [self.width_of_dots(number) for number in range(len(self.shapes))]
        width = max(widths, default=0)
        for name, size in self.given.items():
            self.sizes[name] = size
            self.origins[name] = ("given", None)
        dotted = self.bind_dots(widths, width)
        for number in range(len(self.shapes)):
            self.bind_single(number, widths[number])
        for number in range(len(self.shapes)):
            self.bind_composite(number, widths[number])
        self.check_output()
        operands = tuple(
            self.dims(term.items, dotted[number])
            for number, term in enumerate(self.pattern.operands)
        )
        output = self.dims(self.pattern.output.items, _dot_names(width))
        needed = tuple(name for name in self.given if name not in self.seen)
        # The order of first appearance in the pattern, with the axes under '...' where these stand.
        order = dict.fromkeys(name for dims in (*operands, output) for dim in dims for name in dim)
        return Bound(
            self.pattern, operands, output, {name: self.sizes[name] for name in order}, needed
        )

    def check_given(self) -> None:
        for name, size in self.given.items():
            if name not in self.pattern.names:
                nearest = difflib.get_close_matches(name, self.pattern.names, 1)
                raise SizeError(
                    f"a size is given for '{name}', which is no axis of the pattern",
                    self.pattern.text,
                    notes=[f"did you mean {nearest[0]}={size}?"]
                    if nearest
                    else [f"remove {name}={size}"],
                )
            # Booleans are integers to Python; symbolic integers are none, but can index.
            if isinstance(size, bool) or not hasattr(size, "__index__"):
                raise TypeError(
                    f"the size of axis '{name}' is an integer, not {size!r} ({type(size).__name__})"
                )
            if isinstance(size, int) and size < 0:
                raise SizeError(
                    f"the size of axis '{name}' is negative: {size}",
                    self.pattern.text,
                    self.pattern.places(name),
                )

    def width_of_dots(self, number: int) -> int:
        """How many axes stand under the `...` of an operand; refuses a wrong rank."""
        term, shape = self.pattern.operands[number], self.shapes[number]
        named = sum(not isinstance(item, Dots) for item in term.items)
        extra = len(shape) - named
        if extra < 0 or (extra > 0 and term.dots is None):
            spelling = spaced(self.pattern)
            least = "at least " if term.dots else ""
            raise SizeError(
                f"{self.labels[number]} has {_count(len(shape), 'dimension')}, shape {_shape(shape)}, "
                f"but '{term}' names {least}{named}",
                self.pattern.text,
                [_visible(term.span, self.pattern.text)],
                [f"axes are separated by spaces; did you mean '{spelling}'?"]
                if spelling and term.names and len(shape) == len(term.names[0])
                else [self.fix_rank(number, extra)],
            )
        return extra

    def fix_rank(self, number: int, extra: int) -> str:
        term = self.pattern.operands[number]
        if extra < 0:
            return f"write: {_count(len(self.shapes[number]), 'axis')} in '{term}', or give a tensor with more dimensions"
        return (
            f"write: '... {term}'".rstrip()
            + f" if the first {_count(extra, 'dimension')} may be anything, or name them"
        )

    def bind_dots(self, widths: Sequence[int], width: int) -> list[list[str]]:
        """Name the axes under `...`, aligned at the right; '' where an operand broadcasts."""
        names = _dot_names(width)
        dotted: list[list[str]] = []
        for number, term in enumerate(self.pattern.operands):
            mine = names[width - widths[number] :] if term.dots else []
            dotted.append(list(mine))
            place = term.items.index(term.dots) if term.dots else 0
            for offset, name in enumerate(mine):
                size = self.shapes[number][place + offset]
                known = self.sizes.setdefault(name, size)
                self.seen.add(name)
                if known != size:
                    if known == 1:
                        self.sizes[name] = size
                    elif size != 1:
                        self.fail_clash(
                            name,
                            number,
                            place + offset,
                            size,
                            term.dots.span if term.dots else term.span,
                        )
                self.origins[name] = (
                    f"{self.labels[number]}, dimension {place + offset + 1}",
                    None,
                )
        for number, term in enumerate(self.pattern.operands):
            place = term.items.index(term.dots) if term.dots else 0
            for offset, name in enumerate(dotted[number]):
                # Numpy's rule: where the operands agree on size one, nothing broadcasts.
                if self.shapes[number][place + offset] != self.sizes[name]:
                    dotted[number][offset] = ""
        return dotted

    def items(self, number: int, width: int) -> list[tuple[int, Item]]:
        """The items of an operand with the dimension each one stands for, `...` left out."""
        pairs: list[tuple[int, Item]] = []
        place = 0
        for item in self.pattern.operands[number].items:
            if isinstance(item, Dots):
                place += width
            else:
                pairs.append((place, item))
                place += 1
        return pairs

    def bind_single(self, number: int, width: int) -> None:
        for place, item in self.items(number, width):
            size = self.shapes[number][place]
            if isinstance(item, Axis):
                self.meet(item.name, number, place, size, item.span)
            elif isinstance(item, Unit) and size != 1:
                raise SizeError(
                    f"a '1' stands for dimension {place + 1} of {self.labels[number]}, which has size {size}",
                    self.pattern.text,
                    [item.span],
                    [
                        f"shape of {self.labels[number]}: {_shape(self.shapes[number])}",
                        "write: a name in place of '1'",
                    ],
                )

    def meet(self, name: str, number: int, place: int, size: int, span: Span) -> None:
        self.seen.add(name)
        if name not in self.sizes:
            self.sizes[name] = size
            self.origins[name] = (f"{self.labels[number]}, dimension {place + 1}", span)
        elif self.sizes[name] != size:
            self.fail_clash(name, number, place, size, span)

    def bind_composite(self, number: int, width: int) -> None:
        for place, item in self.items(number, width):
            if isinstance(item, Group):
                self.solve(number, place, item)

    def solve(self, number: int, place: int, group: Group) -> None:
        size = self.shapes[number][place]
        names = [part.name for part in group.parts if isinstance(part, Axis)]
        unknown = [name for name in dict.fromkeys(names) if name not in self.sizes]
        known = 1
        for name in names:
            known *= self.sizes.get(name, 1)
        factors = ", ".join(
            f"{name}={self.sizes[name]}" for name in dict.fromkeys(names) if name in self.sizes
        )
        where = f"dimension {place + 1} of {self.labels[number]}"
        if len(unknown) > 1 or (unknown and names.count(unknown[0]) > 1):
            raise SizeError(
                f"'{group}' has size {size}, and more than one of its factors is unknown: {_and(unknown)}"
                if len(unknown) > 1
                else f"'{group}' has size {size}, and its factor '{unknown[0]}' stands in it more than once",
                self.pattern.text,
                [group.span],
                [*self.so_far(), f"give one of them as a keyword, such as {unknown[0]}=..."],
            )
        if unknown:
            if known == 0 or size % known != 0:
                raise SizeError(
                    f"'{group}' is {where}, of size {size}, which is no multiple of {factors or known}",
                    self.pattern.text,
                    [group.span],
                    self.so_far(),
                )
            self.sizes[unknown[0]] = size // known
            self.origins[unknown[0]] = (where, group.span)
            self.seen.add(unknown[0])
        elif known != size:
            raise SizeError(
                f"'{group}' is {where}, of size {size}, but {factors} make {known}",
                self.pattern.text,
                [group.span],
                self.so_far(),
            )

    def check_output(self) -> None:
        for axis in self.pattern.output.axes:
            if axis.name not in self.sizes:
                known = [name for name in self.pattern.names if name in self.sizes]
                nearest = difflib.get_close_matches(axis.name, known, 1)
                spelling = spaced(self.pattern)
                if spelling:
                    note = f"axes are separated by spaces; did you mean '{spelling}'?"
                elif nearest:
                    note = f"did you mean '{nearest[0]}'?"
                else:
                    note = f"to repeat the result along it, give its size: {axis.name}=..."
                raise SizeError(
                    f"axis '{axis.name}' is only in the output, and its size is not given",
                    self.pattern.text,
                    [axis.span],
                    [note],
                )

    def dims(self, items: Sequence[Item], dotted: Sequence[str]) -> Dims:
        dims: list[Dim] = []
        for item in items:
            if isinstance(item, Axis):
                dims.append((item.name,))
            elif isinstance(item, Dots):
                dims.extend((name,) if name else () for name in dotted)
            elif isinstance(item, Group):
                dims.append(tuple(part.name for part in item.parts if isinstance(part, Axis)))
            else:
                dims.append(())
        return tuple(dims)

    def so_far(self, *without: str) -> list[str]:
        known = [f"{name}={size}" for name, size in self.sizes.items() if name not in without]
        return [f"so far: {', '.join(known)}"] if known else []

    def fail_clash(self, name: str, number: int, place: int, size: int, span: Span) -> NoReturn:
        origin, first = self.origins[name]
        known = self.sizes[name]
        shown = f"axis '{name}'" if not name.startswith("...") else f"an axis under '...' ({name})"
        notes = self.so_far(name)
        if 1 in (known, size) and first is not None:
            one = origin.split(",")[0] if known == 1 else self.labels[number]
            notes.append(
                f"a size 1 does not stretch by itself: write '1' in place of '{name}' in {one} to broadcast it"
            )
        elif origin == "given":
            notes.append(f"give {name}={size}, or leave {name}= out: the shapes tell it")
        raise SizeError(
            f"{shown} has two sizes: {known} ({origin}) and {size} ({self.labels[number]}, dimension {place + 1})",
            self.pattern.text,
            [span] if first is None or first == span else [first, span],
            notes,
        )

    def fail_count(self) -> NoReturn:
        wanted, got = len(self.pattern.operands), len(self.shapes)
        raise SizeError(
            f"the pattern has {_count(wanted, 'operand')}, but {_count(got, 'tensor')} came",
            self.pattern.text,
            [_visible(term.span, self.pattern.text) for term in self.pattern.operands[got:]],
            [
                f"write: one tensor for each of {_and([repr(str(term)) for term in self.pattern.operands])}"
            ]
            if got < wanted
            else ["write: one operand for each tensor, separated by commas"],
        )


def _dot_names(width: int) -> list[str]:
    return [f"...{number}" for number in range(1, width + 1)]


def _visible(span: Span, text: str) -> Span:
    """A span without the white space at its ends."""
    start, end = span
    inner = text[start:end]
    if not inner.strip():
        return start, start
    return start + len(inner) - len(inner.lstrip()), start + len(inner.rstrip())


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _count(number: int, noun: str) -> str:
    plural = {"axis": "axes"}.get(noun, noun + "s")
    return f"{number} {noun if number == 1 else plural}"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
