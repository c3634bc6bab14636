"""The sizes that a caller gives as keywords, such as `h=8`.

Checks them against the pattern alone, before any shape is looked at, and knows which axes nobody
but the caller can tell. A function call and the declaration of a layer use the same checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NoReturn

from .errors import SizeError, argument, kind, nearest
from .pattern import Axis, Pattern, spaced

# The bytes of a tensor are counted in 64 bits, and a number has up to 16 of them.
MOST = 2**59


def checked(
    pattern: Pattern, given: Mapping[str, Any], options: Sequence[str] = ()
) -> dict[str, int]:
    """The given sizes as plain integers; the symbolic integers of a tracer stay what they are.

    Args:
        pattern: whose axes the sizes are of.
        given: the sizes.
        options: other keywords that may have been meant.

    Raises:
        SizeError: a size is of no axis, or no tensor can have it.
        TypeError: a size is no integer.
    """
    sizes: dict[str, int] = {}
    for name, size in given.items():
        if name not in pattern.names:
            raise SizeError(
                f"a size is given for {name!r}, which is no axis of the pattern",
                pattern.text,
                notes=[_fix_unknown(name, size, pattern, given, options)],
            )
        if not is_size(size):
            raise TypeError(
                f"the size of axis '{name}' is {kind(size)}, not an integer; "
                f"write: {argument(name, 'int(...)')}"
            )
        symbolic = not isinstance(size, Integral)
        sizes[name] = size if symbolic else int(size)
        if not symbolic and not 0 <= size < MOST:
            raise SizeError(
                f"no tensor has an axis of size {size}, which is given for '{name}'",
                pattern.text,
                pattern.places(name),
                [f"write: {argument(name)} with a {'positive' if size < 0 else 'smaller'} number"],
            )
    return sizes


def is_size(value: object) -> bool:
    """Whether a value counts things: an integer, or the symbolic integer of a tracer.

    Example:
        >>> is_size(3), is_size(True), is_size(3.0)
        (True, False, False)
    """
    # Booleans are integers to Python. A tensor is none: it may change after the call.
    symbolic = hasattr(value, "node") and hasattr(value, "__index__")
    return not isinstance(value, bool) and (isinstance(value, Integral) or symbolic)


def fail_output(axis: Axis, pattern: Pattern) -> NoReturn:
    """Refuse an axis of the output whose size nobody tells."""
    others = [name for term in pattern.operands for name in term.names]
    spaces, near = fix_spaces(pattern), nearest(axis.name, others)
    notes = [f"did you mean '{near}'?"] if near else []
    notes.append(f"to repeat the result along it, give its size: {argument(axis.name)}")
    raise SizeError(
        f"axis '{axis.name}' is only in the output, and its size is not given",
        pattern.text,
        [axis.span],
        [spaces] if spaces else notes,
    )


def fix_spaces(pattern: Pattern) -> str | None:
    """What to tell somebody who writes patterns the way of `torch.einsum`, without spaces.

    Example:
        >>> from einheads.pattern import parse
        >>> fix_spaces(parse("bi,oi->bo"))
        "axes are separated by spaces; did you mean 'b i, o i -> b o'?"
        >>> fix_spaces(parse("b i, o i -> b o"))
    """
    spelling = spaced(pattern)
    return f"axes are separated by spaces; did you mean '{spelling}'?" if spelling else None


def _fix_unknown(
    name: str, size: object, pattern: Pattern, given: Mapping[str, object], options: Sequence[str]
) -> str:
    spaces = fix_spaces(pattern)
    if spaces and len(name) == 1 and name in "".join(pattern.names):
        return spaces
    near = nearest(name, [axis for axis in pattern.names if axis not in given] or pattern.names)
    if near:
        return f"did you mean {argument(near, size if isinstance(size, Integral) else '...')}?"
    option = nearest(name, options)
    if option:
        return f"did you mean the option {option}=...?"
    if not name.isidentifier():
        return "remove it: no axis can have that name"
    return f"remove {name}=..., or write the axis '{name}' in the pattern"
