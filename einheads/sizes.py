"""The size of every axis.

Takes a pattern and the shapes of its operands; gives `Bound`: the pattern with its `...` spelled
out, and the size of each axis. A shape is a tuple of integers here, so this file needs no torch
(the symbolic integers of a tracer work as well, since sizes are only compared, multiplied and
divided). Its true product is its error messages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from .errors import SizeError, Span, argument, count, listed, so_far
from .given import MOST, checked, fail_output, fix_spaces
from .pattern import Axis, Dots, Group, Item, Pattern, Unit

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
            the left, and is `()` in an operand where it broadcasts.
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
        {'...1': 10, 'h': 4, 'i': 64, 'o': 32}

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


class _Origin(NamedTuple):
    """Where a size was met first."""

    label: str
    place: int | None = None
    span: Span | None = None

    def __str__(self) -> str:
        return self.label if self.place is None else f"{self.label}, dimension {self.place + 1}"


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
        self.given = checked(pattern, given)
        self.labels = labels or [
            f"operand {number}" for number in range(1, len(pattern.operands) + 1)
        ]
        self.sizes = dict(self.given)
        self.origins = dict.fromkeys(self.given, _Origin("given"))
        self.seen: set[str] = set()

    def bind(self) -> Bound:
        if len(self.shapes) != len(self.pattern.operands):
            self.fail_count()
        widths = [self.width_of_dots(number) for number in range(len(self.shapes))]
        width = max(widths)
        dotted = self.bind_dots(widths, width)
        for number in range(len(self.shapes)):
            self.bind_single(number, widths[number])
        self.bind_composites(widths)
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

    def width_of_dots(self, number: int) -> int:
        """How many axes stand under the `...` of an operand; refuses a wrong rank."""
        term, shape = self.pattern.operands[number], self.shapes[number]
        named = sum(not isinstance(item, Dots) for item in term.items)
        extra = len(shape) - named
        if extra < 0 or (extra > 0 and term.dots is None):
            wanted = f"{'at least ' if term.dots else ''}{count(named, 'axis')}"
            raise SizeError(
                f"{self.labels[number]} has {count(len(shape), 'dimension')}, shape {_shape(shape)}"
                + (f", but '{term}' names {wanted}" if term.items else ", but stands for a scalar"),
                self.pattern.text,
                [term.span],
                self.fix_rank(number, extra),
            )
        return extra

    def fix_rank(self, number: int, extra: int) -> list[str]:
        term, rank = self.pattern.operands[number], len(self.shapes[number])
        spaces = fix_spaces(self.pattern)
        if spaces and rank == len("".join(term.names)):
            return [spaces]
        # A single name is as likely a word: `"time, time -> time"`.
        notes = [spaces] if spaces and len(self.pattern.names) > 1 else []
        if extra < 0:
            return [*notes, f"remove {count(-extra, 'axis')} from '{term}', or give another tensor"]
        first, them = ("dimension", "it") if extra == 1 else (f"{extra} dimensions", "them")
        dots = f"'... {term}'" if term.items else "'...'"
        return [*notes, f"write: {dots} if the first {first} may be anything, or name {them}"]

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
                span = term.dots.span if term.dots else term.span
                here = _Origin(self.labels[number], place + offset, span)
                self.seen.add(name)
                known = self.sizes.setdefault(name, size)
                self.origins.setdefault(name, here)
                if known != size:
                    if known == 1:
                        self.sizes[name], self.origins[name] = size, here
                    elif size != 1:
                        self.fail_dots(name, here, size)
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
                self.meet(item.name, size, _Origin(self.labels[number], place, item.span))
            elif _is_unit(item) and size != 1:
                raise SizeError(
                    f"dimension {place + 1} of {self.labels[number]} has size {size}, "
                    f"but '{item}' stands for size 1",
                    self.pattern.text,
                    [item.span],
                    [f"write: a name in place of '{item}'"],
                )

    def meet(self, name: str, size: int, here: _Origin) -> None:
        self.seen.add(name)
        if name not in self.sizes:
            self.sizes[name], self.origins[name] = size, here
        elif self.sizes[name] != size:
            self.fail_clash(name, size, here)

    def bind_composites(self, widths: Sequence[int]) -> None:
        pending = [
            (number, place, item)
            for number, width in enumerate(widths)
            for place, item in self.items(number, width)
            if isinstance(item, Group)
        ]
        while pending:
            # One composite may solve another. What is left in the end cannot be solved, and `solve`
            # says why.
            solvable = [entry for entry in pending if self.solvable(entry[2])] or pending
            for entry in solvable:
                self.solve(*entry)
            pending = [entry for entry in pending if entry not in solvable]

    def solvable(self, group: Group) -> bool:
        """Whether the sizes met so far leave at most one factor open, which a division tells."""
        names = group.names
        unknown = [name for name in names if name not in self.sizes]
        return not unknown or (
            len(unknown) == 1 and all(self.sizes[name] != 0 for name in names if name in self.sizes)
        )

    def solve(self, number: int, place: int, group: Group) -> None:
        size = self.shapes[number][place]
        names = group.names
        factors = {name: self.sizes[name] for name in names if name in self.sizes}
        unknown = [name for name in dict.fromkeys(names) if name not in factors]
        known = math.prod(factors.get(name, 1) for name in names)
        told = ", ".join(f"{name}={factors[name]}" for name in factors)
        here = _Origin(self.labels[number], place, group.span)
        sentence = f"'{group}' ({here}) has size {size}"
        if len(unknown) > 1:
            self.fail_composite(
                group,
                f"{sentence}, and more than one factor is unknown: {listed(unknown)}",
                f"give all but one of them, such as {argument(unknown[0])}",
            )
        if unknown and names.count(unknown[0]) > 1:
            self.fail_composite(
                group,
                f"{sentence}, and its unknown factor '{unknown[0]}' stands in it more than once",
                f"give it as a keyword: {argument(unknown[0])}",
            )
        if unknown and known == 0 and size == 0:
            self.fail_composite(
                group,
                f"{sentence}, whatever '{unknown[0]}' is, since {told}",
                f"give it as a keyword: {argument(unknown[0])}",
            )
        fix = f"write: sizes whose product is {size}, or give another tensor"
        if unknown:
            if known == 0 or size % known != 0:
                self.fail_composite(group, f"{sentence}, which is no multiple of {told}", fix)
            self.sizes[unknown[0]] = size // known
            self.origins[unknown[0]] = here
            self.seen.add(unknown[0])
        elif known != size:
            self.fail_composite(group, f"{sentence}, but {told} would make it {known}", fix)

    def check_output(self) -> None:
        for axis in self.pattern.output.axes:
            if axis.name not in self.sizes:
                fail_output(axis, self.pattern)
        # Shapes are those of tensors; only a given size can make a result that no tensor can be.
        sizes = [self.sizes[axis.name] for axis in self.pattern.output.axes]
        if self.given and all(type(size) is int for size in sizes) and math.prod(sizes) >= MOST:
            raise SizeError(
                f"the result would have {math.prod(sizes)} numbers, more than any tensor",
                self.pattern.text,
                [self.pattern.output.span],
                [*so_far(self.sizes), "write: smaller sizes"],
            )

    def dims(self, items: Sequence[Item], dotted: Sequence[str]) -> Dims:
        dims: list[Dim] = []
        for item in items:
            if isinstance(item, Dots):
                dims.extend((name,) if name else () for name in dotted)
            else:
                dims.append(item.names)
        return tuple(dims)

    def fail_clash(self, name: str, size: int, here: _Origin) -> NoReturn:
        known, origin = self.sizes[name], self.origins[name]
        if origin.span is None:
            fix = f"write: {argument(name, size)}, or leave it out: the shapes tell it"
        elif 1 in (known, size):
            one = origin.label if known == 1 else here.label
            fix = f"write: '1' in place of '{name}' in {one}, if it is meant to broadcast"
        else:
            fix = f"give tensors that agree in '{name}', or write two names for two axes"
        raise SizeError(
            f"axis '{name}' has two sizes: {known} ({origin}) and {size} ({here})",
            self.pattern.text,
            [span for span in (origin.span, here.span) if span is not None],
            [*so_far(self.sizes, name), fix],
        )

    def fail_dots(self, name: str, here: _Origin, size: int) -> NoReturn:
        origin = self.origins[name]
        spans = [span for span in (origin.span, here.span) if span is not None]
        raise SizeError(
            f"an axis under '...' has two sizes: {self.sizes[name]} ({origin}) and {size} ({here})",
            self.pattern.text,
            spans,
            [
                *so_far(self.sizes),
                "sizes under '...' are aligned at the right, and have to be equal or 1",
            ],
        )

    def fail_composite(self, group: Group, sentence: str, fix: str) -> NoReturn:
        raise SizeError(sentence, self.pattern.text, [group.span], [*so_far(self.sizes), fix])

    def fail_count(self) -> NoReturn:
        operands = self.pattern.operands
        wanted, got = len(operands), len(self.shapes)
        single = [str(term) for term in operands if len(term.items) == 1]
        if got and len(single) == wanted == sum(map(len, self.shapes)):
            # As many names as dimensions: commas stand where spaces belong.
            names = iter(single)
            terms = [" ".join(next(names) for _ in shape) for shape in self.shapes]
            meant = f"{', '.join(terms)} -> {self.pattern.output}".strip()
            fix = f"commas separate operands, and spaces their axes; did you mean '{meant}'?"
        elif got < wanted:
            each = [repr(str(term)) if term.items else "a scalar" for term in operands]
            fix = f"write: one tensor {'each ' if wanted > 1 else ''}for {listed(each)}"
        else:
            fix = "write: one operand for each tensor, separated by commas"
        end = operands[-1].span[1]
        raise SizeError(
            f"the pattern has {count(wanted, 'operand')}, but {count(got, 'tensor')} came",
            self.pattern.text,
            [term.span for term in operands[got:]] or [(end, end)],
            [fix],
        )


def _is_unit(item: Item) -> bool:
    """Whether an item is `1`, or nothing but that in parentheses."""
    return isinstance(item, (Unit, Group)) and not item.names


def _dot_names(width: int) -> list[str]:
    return [f"...{number}" for number in range(1, width + 1)]


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
