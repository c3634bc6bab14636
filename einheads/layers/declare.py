"""What may be declared as a layer: a pattern is declared once, and its mistakes hide, so it is
checked strictly.

Takes the pattern and the options of a layer; gives `Declared`, plain data. Knows nothing of tensors
or modules.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from einheads.errors import PatternError, SizeError
from einheads.pattern import Axis, Group, Item, Pattern, Term, Unit, parse, spaced

# The keyword namespace belongs to the axes; these few are the options of a layer.
RESERVED = ("inputs", "bias", "init", "names", "summed", "diagonal", "device", "dtype")


@dataclass(frozen=True, slots=True)
class Declared:
    """A checked declaration.

    Attributes:
        pattern: the pattern.
        inputs: how many operands are given at call time.
        names: the name of each weight.
        shapes: the shape of each weight.
        sizes: the sizes that were given, by axis.
        bias: the axes of the bias in the order in which it is stored, or None.
    """

    pattern: Pattern
    inputs: int
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    sizes: Mapping[str, int]
    bias: tuple[str, ...] | None

    @property
    def weights(self) -> tuple[Term, ...]:
        """The operands that are parameters."""
        return self.pattern.operands[self.inputs :]

    @property
    def given(self) -> tuple[tuple[str, int], ...]:
        """The sizes that no weight tells by itself, to be passed with every call."""
        told = {item.name for term in self.weights for item in term.items if isinstance(item, Axis)}
        return tuple((name, size) for name, size in self.sizes.items() if name not in told)

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the inputs are called in errors and sources."""
        return (
            ("x",)
            if self.inputs == 1
            else tuple(f"x{number}" for number in range(1, self.inputs + 1))
        )


def declare(
    text: str,
    inputs: int,
    sizes: Mapping[str, int],
    *,
    bias: str | bool | None = None,
    names: Sequence[str] | None = None,
    summed: str = "",
    diagonal: bool = False,
) -> Declared:
    """Check the declaration of a layer.

    Raises:
        PatternError: the pattern or an option cannot mean a layer.
        SizeError: a size is missing, superfluous or negative.
        TypeError: an option has the wrong type.
    """
    pattern = parse(text)
    _check_types(inputs, bias, names, summed, diagonal)
    if not 1 <= inputs <= len(pattern.operands):
        raise PatternError(
            f"inputs={inputs}, but the pattern has {len(pattern.operands)} operand(s), inputs first, then weights",
            text,
            notes=["write: inputs=1 for one input, the other operands are weights"],
        )
    _check_names_of_axes(pattern)
    _check_weights(pattern, inputs, diagonal=diagonal)
    _check_sizes(pattern, inputs, sizes)
    _check_sums(pattern, inputs, summed)
    weights = pattern.operands[inputs:]
    shapes = tuple(tuple(_size(item, sizes) for item in term.items) for term in weights)
    return Declared(
        pattern,
        inputs,
        _names(names, len(weights)),
        shapes,
        dict(sizes),
        _bias(pattern, inputs, bias, sizes),
    )


def _check_types(
    inputs: object, bias: object, names: object, summed: object, diagonal: object
) -> None:
    if isinstance(inputs, bool) or not isinstance(inputs, int):
        raise TypeError(f"inputs is the number of inputs, an integer, not {inputs!r}")
    if not (bias is None or isinstance(bias, (bool, str))):
        raise TypeError(f"bias is the axes of the bias such as 'h o', True or None, not {bias!r}")
    if isinstance(names, str) or not (
        names is None
        or (isinstance(names, Sequence) and all(isinstance(name, str) for name in names))
    ):
        raise TypeError(f"names is a tuple of strings, one for each weight, not {names!r}")
    if not isinstance(summed, str):
        raise TypeError(f"summed is the axes to sum, separated by spaces, not {summed!r}")
    if not isinstance(diagonal, bool):
        raise TypeError(f"diagonal is True or False, not {diagonal!r}")


def _check_names_of_axes(pattern: Pattern) -> None:
    for name in pattern.names:
        if name in RESERVED:
            raise PatternError(
                f"'{name}' is an option of the layer and cannot name an axis here",
                pattern.text,
                pattern.places(name),
                [f"write: another name, such as '{name}_'; the options are {', '.join(RESERVED)}"],
            )


def _check_weights(pattern: Pattern, inputs: int, *, diagonal: bool) -> None:
    for term in pattern.operands[inputs:]:
        if term.dots is not None:
            raise PatternError(
                f"'...' in a weight ('{term}'): the axes of a weight are declared, each with its size",
                pattern.text,
                [term.dots.span],
                ["write: a name for each axis of the weight"],
            )
        for name in term.names:
            if len(term.places(name)) > 1 and not diagonal:
                raise PatternError(
                    f"axis '{name}' stands twice in the weight '{term}': only its diagonal would ever be used",
                    pattern.text,
                    term.places(name),
                    ["write: two names for two axes, or diagonal=True if the diagonal is meant"],
                )


def _check_sizes(pattern: Pattern, inputs: int, sizes: Mapping[str, int]) -> None:
    weights = pattern.operands[inputs:]
    for name, size in sizes.items():
        if name not in pattern.names:
            missing = [axis for axis in pattern.names if axis not in sizes]
            nearest = difflib.get_close_matches(name, missing or pattern.names, 1)
            options = difflib.get_close_matches(name, RESERVED, 1)
            if nearest:
                fix = f"did you mean {nearest[0]}={size!r}?"
            elif options:
                fix = f"did you mean the option {options[0]}=...?"
            else:
                fix = f"remove {name}={size!r}"
            raise SizeError(
                f"a size is given for '{name}', which is no axis of the pattern",
                pattern.text,
                notes=[fix],
            )
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(
                f"the size of axis '{name}' is an integer, not {size!r} ({type(size).__name__})"
            )
        if size < 0:
            raise SizeError(
                f"the size of axis '{name}' is negative: {size}", pattern.text, pattern.places(name)
            )
    missing = list(
        dict.fromkeys(name for term in weights for name in term.names if name not in sizes)
    )
    if missing:
        spelling = spaced(pattern)
        known = [f"{name}={size}" for name, size in sizes.items()]
        raise SizeError(
            f"the weight needs the size of {_and([repr(name) for name in missing])}",
            pattern.text,
            [span for term in weights for name in missing for span in term.places(name)],
            [
                *([f"so far: {', '.join(known)}"] if known else []),
                f"axes are separated by spaces; did you mean '{spelling}'?"
                if spelling
                else f"write: Einsum(..., {', '.join(f'{name}=...' for name in missing)})",
            ],
        )
    for axis in pattern.output.axes:
        if axis.name not in sizes and not any(axis.name in term.names for term in pattern.operands):
            raise SizeError(
                f"axis '{axis.name}' is only in the output, and its size is not given",
                pattern.text,
                [axis.span],
                [_nearest(axis.name, pattern)],
            )


def _nearest(name: str, pattern: Pattern) -> str:
    others = [other for term in pattern.operands for other in term.names]
    nearest = difflib.get_close_matches(name, others, 1)
    if nearest:
        return f"did you mean '{nearest[0]}'?"
    return f"to repeat the result along it, give its size: {name}=..."


def _check_sums(pattern: Pattern, inputs: int, summed: str) -> None:
    allowed = summed.split()
    for name in allowed:
        if name != "..." and name not in pattern.names:
            raise PatternError(
                f"summed='{summed}' names '{name}', which is no axis of the pattern",
                pattern.text,
                notes=[f"write: summed with axes of the pattern only: {', '.join(pattern.names)}"],
            )
        if name in pattern.output.names or (name == "..." and pattern.output.dots is not None):
            raise PatternError(
                f"summed='{summed}' names '{name}', which the output keeps",
                pattern.text,
                pattern.places(name)
                if name != "..."
                else [term.dots.span for term in pattern.terms if term.dots],
                ["write: summed with axes that vanish only"],
            )
    for number, term in enumerate(pattern.operands):
        for name in dict.fromkeys(term.names):
            others = [other for place, other in enumerate(pattern.operands) if place != number]
            if (
                name in pattern.output.names
                or name in allowed
                or any(name in other.names for other in others)
            ):
                continue
            nearest = difflib.get_close_matches(
                name, [axis for other in (*others, pattern.output) for axis in other.names], 1, 0.5
            )
            kind = "the input" if number < inputs else "the weight"
            raise PatternError(
                f"axis '{name}' is only in {kind} '{term}', so it would be summed away",
                pattern.text,
                term.places(name),
                [
                    f"did you mean '{nearest[0]}'? or, to sum it, write: summed='{name}'"
                    if nearest
                    else f"write: summed='{name}' if that is meant, or '{name}' in the output"
                ],
            )
        if term.dots is not None and pattern.output.dots is None and "..." not in allowed:
            raise PatternError(
                "'...' is in an input but not in the output, so its axes would be summed away",
                pattern.text,
                [term.dots.span],
                ["write: '...' in the output, or summed='...' if the sum is meant"],
            )


def _names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if names is None:
        return (
            ("weight",)
            if count == 1
            else tuple(f"weight_{number}" for number in range(1, count + 1))
        )
    if len(names) != count:
        raise PatternError(f"names has {len(names)} name(s), but the pattern has {count} weight(s)")
    for name in names:
        if not name.isidentifier() or name == "bias":
            raise PatternError(
                f"names: {name!r} cannot name a weight",
                notes=["write: a Python identifier, not 'bias'"],
            )
    if len(set(names)) != len(names):
        raise PatternError(f"names: two weights have the same name: {', '.join(names)}")
    return tuple(names)


def _bias(
    pattern: Pattern, inputs: int, bias: object, sizes: Mapping[str, int]
) -> tuple[str, ...] | None:
    if not bias and not isinstance(bias, str):
        return None
    weighted = {name for term in pattern.operands[inputs:] for name in term.names}
    every = tuple(name for name in pattern.output.names if name in weighted)
    if not isinstance(bias, str):
        return every
    axes = tuple(bias.split())
    for name in axes:
        if name not in pattern.output.names:
            raise PatternError(
                f"bias='{bias}' names '{name}', which is no axis of the output",
                pattern.text,
                [pattern.output.span],
                [f"write: axes of the output only, such as bias='{' '.join(every)}'"],
            )
        if axes.count(name) > 1:
            raise PatternError(
                f"bias='{bias}' names '{name}' twice", pattern.text, pattern.output.places(name)
            )
        if name not in sizes:
            raise SizeError(
                f"bias='{bias}' needs the size of '{name}'",
                pattern.text,
                pattern.output.places(name),
                [f"write: Einsum(..., {name}=...)"],
            )
    return axes


def _size(item: Item, sizes: Mapping[str, int]) -> int:
    if isinstance(item, Axis):
        return sizes[item.name]
    if isinstance(item, Group):
        return math.prod(sizes[part.name] for part in item.parts if isinstance(part, Axis))
    assert isinstance(item, Unit)
    return 1


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
