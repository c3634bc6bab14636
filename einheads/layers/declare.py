"""What may be declared as a layer.

A pattern is declared once, and its mistakes hide, so it is checked strictly. Takes the pattern and
the options of a layer; gives `Declared`, plain data. Knows nothing of tensors or modules.
"""

from __future__ import annotations

import keyword
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from einheads.errors import PatternError, SizeError, count, keywords, kind, listed, nearest, so_far
from einheads.given import MOST, checked, fail_output, fix_spaces
from einheads.pattern import Axis, Pattern, Term, parse

# The keyword namespace belongs to the axes; these few are the options of a layer.
_DECLARES = ("inputs", "bias", "init", "names", "summed", "diagonal", "checkpoint")
RESERVED = (*_DECLARES, "device", "dtype")


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

    def fail_count(self, came: int) -> NoReturn:
        """Refuse a call with another number of inputs."""
        raise SizeError(
            f"the layer takes {count(self.inputs, 'input')}, but {came} came",
            self.pattern.text,
            [term.span for term in self.pattern.operands[: self.inputs]],
            [f"write: layer({', '.join(self.input_names)})"],
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

    Example:
        >>> declared = declare("b h i, h o i -> b h o", 1, {"h": 8, "i": 64, "o": 32}, bias=True)
        >>> declared.names, declared.shapes, declared.bias
        (('weight',), ((8, 32, 64),), ('h', 'o'))

    Raises:
        PatternError: the pattern or an option cannot mean a layer.
        SizeError: a size is missing, superfluous or impossible.
        TypeError: an option has the wrong type.
    """
    pattern = parse(text)
    _check_types(inputs, bias, names, summed, diagonal)
    if not 1 <= inputs <= len(pattern.operands):
        raise PatternError(
            f"inputs={inputs}, but the pattern has {count(len(pattern.operands), 'operand')}",
            text,
            [term.span for term in pattern.operands],
            ["write: inputs=1 if only the first operand is an input; all others are weights"],
        )
    _check_names_of_axes(pattern)
    _check_spaces(pattern, inputs, sizes)
    sizes = checked(pattern, sizes, RESERVED)
    _check_weights(pattern, inputs, sizes, diagonal=diagonal)
    for axis in pattern.output.axes:
        if axis.name not in sizes and not any(axis.name in term.names for term in pattern.operands):
            fail_output(axis, pattern)
    _check_sums(pattern, inputs, summed)
    weights = pattern.operands[inputs:]
    return Declared(
        pattern,
        inputs,
        _names(names, pattern, weights),
        tuple(_shape(term, sizes, pattern) for term in weights),
        sizes,
        _bias(pattern, inputs, bias, sizes),
    )


def _check_types(
    inputs: object, bias: object, names: object, summed: object, diagonal: object
) -> None:
    if isinstance(inputs, bool) or not isinstance(inputs, int):
        raise TypeError(f"inputs is the number of inputs, not {kind(inputs)}; write: inputs=1")
    if not (bias is None or isinstance(bias, (bool, str))):
        raise TypeError(
            f"bias is the axes of the bias, True or None, not {kind(bias)}; write: bias='h o'"
        )
    if names is not None:
        _check_type_of_names(names)
    if not isinstance(summed, str):
        raise TypeError(
            f"summed is the axes to sum, as one string, not {kind(summed)}; write: summed='s t'"
        )
    check_switch("diagonal", diagonal)


def check_switch(name: str, value: object) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is True or False, not {kind(value)}; write: {name}=True")


def _check_type_of_names(names: object) -> None:
    if isinstance(names, str):
        raise TypeError(f"names is a tuple of strings, not a string; write: names=({names!r},)")
    wrong = [names]
    if isinstance(names, Sequence):
        wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise TypeError(
            f"names is a tuple of strings, one for each weight, not {kind(wrong[0])}"
            f"{' in a ' + type(names).__name__ if wrong[0] is not names else ''}; "
            "write: names=('down', 'up')"
        )


def _check_names_of_axes(pattern: Pattern) -> None:
    for name in pattern.names:
        if name in RESERVED:
            raise PatternError(
                f"'{name}' is an option of the layer, so no axis can have that name",
                pattern.text,
                pattern.places(name),
                [f"write: another name, such as '{name}_'; the options are {listed(RESERVED)}"],
            )


def _check_spaces(pattern: Pattern, inputs: int, sizes: Mapping[str, int]) -> None:
    """Refuse the spelling of `torch.einsum` before its letters are missed among the sizes."""
    spaces = fix_spaces(pattern)
    for term in pattern.operands[inputs:]:
        if spaces and not set(term.names) <= sizes.keys():
            raise PatternError(
                f"the weight '{term}' is one axis, and no size is given for it",
                pattern.text,
                [term.span],
                [spaces],
            )


def _check_weights(
    pattern: Pattern, inputs: int, sizes: Mapping[str, int], *, diagonal: bool
) -> None:
    missing: dict[str, Term] = {}
    for term in pattern.operands[inputs:]:
        if term.dots is not None:
            raise PatternError(
                f"the weight '{term}' has '...', but every axis of a weight has a name and a size",
                pattern.text,
                [term.dots.span],
                ["write: a name for each axis of the weight"],
            )
        for name in term.names:
            if term.names.count(name) > 1 and not diagonal:
                raise PatternError(
                    f"axis '{name}' stands twice in the weight '{term}', "
                    "so only its diagonal would be used",
                    pattern.text,
                    term.places(name),
                    ["write: two names for two axes, or diagonal=True if the diagonal is meant"],
                )
            if name not in sizes:
                missing.setdefault(name, term)
    if missing:
        _fail_missing(pattern, missing, sizes)


def _fail_missing(
    pattern: Pattern, missing: Mapping[str, Term], sizes: Mapping[str, int]
) -> NoReturn:
    terms = list(dict.fromkeys(str(term) for term in missing.values()))
    notes = so_far(sizes)
    others = [name for name in pattern.names if name not in missing]
    meant = [meant for name in missing if (meant := _meant(name, others))]
    notes += [f"did you mean {listed([repr(name) for name in meant])}?"] if meant else []
    notes.append(f"write: Einsum(..., {', '.join(keywords(dict.fromkeys(missing, '...')))})")
    raise SizeError(
        f"the {'weight' if len(terms) == 1 else 'weights'} {listed([repr(one) for one in terms])} "
        f"{'needs' if len(terms) == 1 else 'need'} the {'size' if len(missing) == 1 else 'sizes'} "
        f"of {listed([repr(name) for name in missing])}",
        pattern.text,
        [span for name, term in missing.items() for span in term.places(name)],
        notes,
    )


def _meant(name: str, others: Sequence[str]) -> str | None:
    """The axes that were probably meant: a name like this one, or its letters if all are axes."""
    if len(name) > 1 and set(name) <= set(others):
        return " ".join(name)
    return nearest(name, others)


def _check_sums(pattern: Pattern, inputs: int, summed: str) -> None:
    allowed = _words(summed)
    vanish = [name for name in pattern.names if name not in pattern.output.names]
    for name in allowed:
        dots = name == "..."
        if not (any(term.dots for term in pattern.operands) if dots else name in pattern.names):
            raise PatternError(
                f"summed={summed!r} names {name!r}, which the pattern does not have",
                pattern.text,
                notes=[_fix_words("summed", name, pattern.names, vanish)],
            )
        if pattern.output.dots if dots else name in pattern.output.names:
            raise PatternError(
                f"summed={summed!r} names '{name}', which the output keeps",
                pattern.text,
                pattern.output.places(name) or [pattern.output.span],
                [f"remove '{name}' from summed, or from the output"],
            )
    for number, term in enumerate(pattern.operands):
        others = [other for place, other in enumerate(pattern.operands) if place != number]
        elsewhere = [name for other in (*others, pattern.output) for name in other.names]
        for name in term.names:
            if name in allowed or name in elsewhere:
                continue
            # One letter more or less, or two that changed places, are alike enough in short names.
            near = nearest(name, elsewhere, 0.5)
            sentence = f"axis '{name}' is only in the {'input' if number < inputs else 'weight'}"
            raise PatternError(
                f"{sentence} '{term}', so it would be summed away",
                pattern.text,
                term.places(name),
                [
                    *([f"did you mean '{near}'?"] if near else []),
                    f"write: '{name}' in the output too, or summed='{name}' if the sum is meant",
                ],
            )
        if term.dots is not None and pattern.output.dots is None and "..." not in allowed:
            raise PatternError(
                f"'...' is in the input '{term}', but not in the output, "
                "so its axes would be summed away",
                pattern.text,
                [term.dots.span],
                ["write: '...' in the output too, or summed='...' if the sum is meant"],
            )


# What a weight cannot be called: the source needs these, and the layer has them already.
_TAKEN = (*RESERVED, "training", "declared", "torch", "F", "zip")


def _names(
    names: Sequence[str] | None, pattern: Pattern, weights: Sequence[Term]
) -> tuple[str, ...]:
    if names is None:
        numbered = tuple(f"weight_{number}" for number in range(1, len(weights) + 1))
        return ("weight",) if len(weights) == 1 else numbered
    if len(names) != len(weights):
        raise PatternError(
            f"names has {count(len(names), 'name')}, "
            f"but the pattern has {count(len(weights), 'weight')}",
            pattern.text,
            [term.span for term in weights],
            ["write: one name for each weight, in their order"],
        )
    # Attributes are normalized by Python; a name that differs from its attribute cannot be reached.
    names = tuple(unicodedata.normalize("NFKC", name) for name in names)
    for name, term in zip(names, weights, strict=True):
        reason = _why_not(name)
        if reason:
            raise PatternError(
                f"names: {name!r} cannot name a weight: it is {reason}",
                pattern.text,
                [term.span],
                ["write: another name, such as 'up'"],
            )
        if names.count(name) > 1:
            raise PatternError(
                f"names: two weights have the name '{name}'",
                pattern.text,
                [one.span for one, other in zip(weights, names, strict=True) if other == name],
                ["write: a different name for each weight"],
            )
    return names


def _why_not(name: str) -> str | None:
    """What keeps a name from being an attribute of a layer and a variable of its source."""
    if not name.isidentifier():
        return "no identifier"
    if keyword.iskeyword(name):
        return "a keyword of Python"
    if name.startswith("_"):
        return "private to the layer"
    return "taken" if name in _TAKEN else None


def _bias(
    pattern: Pattern, inputs: int, bias: object, sizes: Mapping[str, int]
) -> tuple[str, ...] | None:
    if bias is None or bias is False:
        return None
    weighted = {name for term in pattern.operands[inputs:] for name in term.names}
    every = tuple(name for name in pattern.output.names if name in weighted)
    if not isinstance(bias, str):
        return every
    axes = _words(bias)
    for name in axes:
        if name not in pattern.output.names:
            raise PatternError(
                f"bias={bias!r} names {name!r}, which is no axis of the output",
                pattern.text,
                [pattern.output.span],
                [_fix_words("bias", name, pattern.output.names, every)],
            )
        if axes.count(name) > 1:
            raise PatternError(
                f"bias={bias!r} names '{name}' twice",
                pattern.text,
                pattern.output.places(name),
                [f"write: bias='{' '.join(dict.fromkeys(axes))}'"],
            )
        if name not in sizes:
            (call,) = keywords({name: "..."})
            raise SizeError(
                f"bias={bias!r} needs the size of '{name}'",
                pattern.text,
                pattern.output.places(name),
                [f"write: Einsum(..., {call}), or leave '{name}' out of the bias"],
            )
    return axes


def _words(text: str) -> tuple[str, ...]:
    """The names in an option, spelled as `parse` spells those of the pattern."""
    return tuple(unicodedata.normalize("NFKC", word) for word in text.split())


def _fix_words(option: str, name: str, axes: Sequence[str], likely: Sequence[str]) -> str:
    """What to write instead of a word that is no axis."""
    near = nearest(name, axes)
    if near:
        return f"did you mean '{near}'?"
    if not likely:
        return f"remove {option}=..."
    return f"write: axes separated by spaces, such as {option}='{' '.join(likely)}'"


def _shape(term: Term, sizes: Mapping[str, int], pattern: Pattern) -> tuple[int, ...]:
    shape = tuple(math.prod(sizes[name] for name in item.names) for item in term.items)
    if math.prod(shape) >= MOST:
        raise SizeError(
            f"the weight '{term}' would have {math.prod(shape)} numbers, more than any tensor",
            pattern.text,
            [term.span],
            ["write: smaller sizes"],
        )
    return shape
