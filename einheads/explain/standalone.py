"""Stand-alone PyTorch for a pattern: the code to leave with.

The text is that of the program, with the imports it needs and with default values for the sizes
that no tensor tells. The file knows nothing of how the text came about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from einheads.candidates import Traits
from einheads.layout import Layout
from einheads.pattern import parse
from einheads.source import write
from einheads.steps import Bmm, Linear, Matmul

from .subject import Outline, Subject, prepare, shapes_of, strides_of, traits_of


def source(pattern: str, /, *operands: Any, **sizes: int) -> str:
    """Write a pattern down as one plain PyTorch function, ready to paste.

    Example:
        >>> import einheads
        >>> print(einheads.source("b w h i, h o i -> b w h o", b=4, w=10, h=8, i=64, o=32))
        import torch
        <BLANKLINE>
        <BLANKLINE>
        def contract(x1, x2):
            \"\"\"b w h i, h o i -> b w h o\"\"\"
            b, w, h, _ = x1.shape
            o = x2.shape[1]
            x1 = x1.flatten(0, 1).transpose(0, 1)  # h (b w) i
            x2 = x2.mT  # h i o
            y = torch.bmm(x1, x2)  # h (b w) o
            return y.transpose(0, 1).reshape(b, w, h, o)  # b w h o
        <BLANKLINE>

    Args:
        pattern: what to compute; see `einheads.einsum`.
        *operands: tensors, arrays, or shapes as tuples; without them, shapes are made from the
            sizes. They
            decide which of several equal functions is written; the text reads its sizes from its
            tensors.
        **sizes: sizes by axis name. Those that no tensor tells become default values of the
            function.

    Returns:
        The text of a module with the function `contract`.

    Raises:
        PatternError: the pattern has no meaning.
        SizeError: operands or sizes do not fit it.
        TypeError: an operand has no shape, or a size is no integer.
    """
    parse(pattern)  # first of all: with the operands first, these would be blamed
    outline = Outline(
        pattern,
        sizes,
        layouts=strides_of(operands) if operands else None,
        traits=traits_of(operands),
    )
    return stand_alone(prepare(outline, shapes_of(operands) if operands else None))


def source_declared(
    text: str,
    shapes: Sequence[Sequence[int]] | None,
    given: Mapping[str, int],
    *,
    names: Sequence[str] | None = None,
    bias: str | None = None,
    layouts: Sequence[Layout | Sequence[int] | None] | None = None,
    itemsize: int = 4,
    device: str = "cpu",
) -> str:
    """Write a declaration down as one plain PyTorch function; for layers, with their names.

    Example:
        >>> names = ["x", "weight", "bias"]
        >>> print(source_declared("b i, o i -> b o", None, {}, names=names, bias="o"))
        import torch.nn.functional as F
        <BLANKLINE>
        <BLANKLINE>
        def contract(x, weight, bias):
            \"\"\"b i, o i -> b o, plus a bias: o\"\"\"
            return F.linear(x, weight, bias)  # b o
        <BLANKLINE>

    Args:
        text: the pattern.
        shapes: one for each operand; without them, they are assumed from the given sizes.
        given: sizes by axis name.
        names: a name for each operand, and for the bias if there is one.
        bias: the axes of a bias, separated by spaces.
        layouts: how each input lies in memory, as a `Layout` or as strides; contiguous by default.
        itemsize: bytes for one number.
        device: the device type, such as "cpu" or "cuda".
    """
    return stand_alone(
        prepare(Outline(text, given, names, bias, layouts, Traits(device, itemsize)), shapes)
    )


def stand_alone(subject: Subject, name: str = "contract") -> str:
    """The text of a module with one function, and only the imports that it needs."""
    kinds = {type(step) for step in subject.steps.steps}
    imports = []
    if kinds & {Bmm, Matmul}:
        imports.append("import torch\n")
    if Linear in kinds:
        imports.append("import torch.nn.functional as F\n")
    if imports:
        imports.append("\n\n")
    function = write(
        subject.steps, subject.names, title=subject.title, name=name, given=subject.given
    )
    return "".join(imports) + function
