"""The collection of layers as cards, each made from the class itself.

What a card says comes from the docstring, whose example is run to see the layer at work: its
pattern, its parameters, its costs and its pictures are those of that run. Order and headings are
those of the curated reference. The file is used by `hooks.py`, and is no page.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import inspect
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

import einheads

REFERENCE = Path(__file__).parent / "reference/layers.md"


@dataclass(frozen=True)
class Call:
    """A module that was called, what it was given, and its name within the whole."""

    module: nn.Module
    inputs: tuple[Any, ...]
    name: str = ""

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the tensors that it was given."""
        return [tuple(one.shape) for one in self.inputs if isinstance(one, torch.Tensor)]


def collection(figure: Callable[[str], str]) -> str:
    """All cards, in the order and under the headings of the curated reference.

    Args:
        figure: puts a drawing on a page.
    """
    parts = []
    for heading, names in families(REFERENCE.read_text(encoding="utf-8")):
        layers = [getattr(einheads, name) for name in names]
        layers = [one for one in layers if issubclass(one, nn.Module)]
        if layers:
            parts += [f"## {heading}", *(card(layer, figure) for layer in layers)]
    return "\n\n".join(parts) + "\n"


def families(text: str) -> Iterator[tuple[str, list[str]]]:
    """The headings of the reference, each with the public classes that stand under it."""
    heads = list(re.finditer(r"^## (.+)$", text, re.MULTILINE))
    for head, after in zip(heads, [*heads[1:], None], strict=True):
        under = text[head.end() : after.start() if after else None]
        named = re.findall(r"^::: einheads\.(\w+)$", under, re.MULTILINE)
        yield head[1], [name for name in named if inspect.isclass(getattr(einheads, name))]


def card(layer: type[nn.Module], figure: Callable[[str], str]) -> str:
    """What a layer is, what it holds and costs, and when to use it."""
    told = sections(inspect.getdoc(layer) or "")
    call = example(layer)
    parts = [call] if isinstance(call.module, einheads.Einsum) else list(called_within(call))
    rows = [("pattern", _lead(part) + f"`{pattern(part.module)}`") for part in parts]
    rows += [("formula", _lead(part) + f"`{formula(part.module)}`") for part in parts]
    rows += [
        ("example", f"`{construction(layer)}` on {_shapes(call.shapes)}"),
        ("parameters", held(call.module)),
        ("work", work(call, alone=parts == [call])),
    ]
    if "Reference" in told:
        rows.append(("paper", _flat(told["Reference"])))
    table = "".join(
        f"| {name if name != before else ''} | {words} |\n"
        for (before, _), (name, words) in zip([("", ""), *rows], rows, strict=False)
    )
    name = layer.__name__
    drawings = [figure(part.module.explain(*part.shapes).svg()) for part in parts]
    pieces = [f"### {name}", told[""], f"| | |\n| --- | --- |\n{table}", *drawings[:1]]
    if len(drawings) > 1:
        rest = ", ".join(part.name for part in parts[1:])
        pieces.append(_unfold("note", f"More pictures: {rest}", "\n\n".join(drawings[1:])))
    if "Equivalent" in told:
        pieces.append(_unfold("example", "The same in plain torch", told["Equivalent"]))
    pieces.append(f"[All arguments](reference/layers.md#einheads.{name})")
    return "\n\n".join(pieces)


def sections(docstring: str) -> dict[str, str]:
    """The parts of a docstring by their titles; what stands outside of all has none."""
    found: dict[str, list[str]] = {"": []}
    into = ""
    for line in docstring.splitlines():
        title = re.fullmatch(r"([A-Z]\w+):", line)
        if title:
            into = title[1]
            found[into] = []
        elif line and not line.startswith(" ") and into:
            into = ""
            found[into] += ["", line]
        else:
            found[into].append(line)
    return {title: inspect.cleandoc("\n".join(lines)) for title, lines in found.items()}


def example(layer: type[nn.Module]) -> Call:
    """Run the example of a docstring, and see what its layer was called with first."""
    calls: list[Call] = []

    def see(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if type(module) is layer:
            calls.append(Call(module, inputs))

    torch.manual_seed(0)
    namespace: dict[str, Any] = {}
    code = doctest.script_from_examples(inspect.getdoc(layer) or "")
    handle = register_module_forward_pre_hook(see)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, namespace)  # noqa: S102  the docstrings are ours
    finally:
        handle.remove()
    if not calls:
        raise ValueError(f"the example of {layer.__name__} does not call the layer")
    return calls[0]


def construction(layer: type[nn.Module]) -> str:
    """The expression of the example that makes the layer."""
    code = doctest.script_from_examples(inspect.getdoc(layer) or "")
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(layer.__name__):
            return _flat(ast.get_source_segment(code, node) or "")
    raise ValueError(f"the example of {layer.__name__} does not make the layer")


def called_within(whole: Call) -> Iterator[Call]:
    """The einheads layers that a module is made of, in the order in which it calls them."""
    names = {module: name for name, module in whole.module.named_modules()}
    calls: list[Call] = []

    def see(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, einheads.Einsum):
            calls.append(Call(module, inputs, names[module]))

    handle = register_module_forward_pre_hook(see)
    try:
        with torch.no_grad():
            whole.module(*whole.inputs)
    finally:
        handle.remove()
    yield from calls


def pattern(layer: Any) -> str:
    """The pattern of a layer, in its canonical spelling."""
    return str(layer.pattern)


def formula(layer: Any) -> str:
    """A pattern as a sum of products.

    Example:
        >>> formula(einheads.HeadLinear(h=8, i=64, o=32))
        'y[..., h, o] = \u03a3(i) x[..., h, i] \u00b7 weight[h, o, i] + bias[h, o]'
    """
    left, _, right = pattern(layer).partition(" ->")
    operands = [part.split() for part in left.split(",")]
    weights = list(layer.roles)
    bias = "bias" if layer.bias is not None else None
    weights = [name for name in weights if name != bias]
    count = len(operands) - len(weights)
    inputs = ["x"] if count == 1 else [f"x{number + 1}" for number in range(count)]
    named = [*zip([*inputs, *weights], map(_index, operands), strict=True)]
    axes = dict.fromkeys(re.findall(r"\w+", left))
    summed = [axis for axis in axes if axis not in re.findall(r"\w+", right) and axis != "1"]
    total = " \u00b7 ".join(f"{name}[{index}]" for name, index in named)
    if summed:
        total = f"\u03a3({', '.join(summed)}) {total}"
    if bias:
        total += f" + bias[{', '.join(layer.roles['bias'])}]"
    return f"y[{_index(right.split())}] = {total}"


def held(module: nn.Module) -> str:
    """The parameters, and how many numbers that is."""
    named = list(module.named_parameters())
    total = sum(one.numel() for _, one in named)
    each = ", ".join(f"`{name}` {tuple(one.shape)}" for name, one in named)
    return f"{each}: {total:,} numbers" if named else "none"


def work(call: Call, *, alone: bool) -> str:
    """The floating-point operations of the example; two for each multiply-add."""
    if alone:
        story = call.module.explain(*call.shapes)
        copied = f"{story.bytes_copied:,} bytes" if story.bytes_copied else "nothing"
        return f"{2 * story.multiply_adds:,} FLOPs; copies {copied}"
    counter = FlopCounterMode(display=False)
    # Fused attention is one operation, whose products torch does not count on every device.
    with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        call.module(*call.inputs)
    total = counter.get_total_flops()
    return f"{total:,} FLOPs in products of matrices" if total else "no products of matrices"


def _lead(part: Call) -> str:
    return f"`{part.name}`: " if part.name else ""


def _index(words: list[str]) -> str:
    """Axes, separated by commas; those in brackets stay one index."""
    return ", ".join(re.findall(r"\([^)]*\)|\S+", " ".join(words)))


def _shapes(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes))


def _flat(words: str) -> str:
    return " ".join(words.split())


def _unfold(kind: str, title: str, body: str) -> str:
    inside = "\n".join(f"    {line}".rstrip() for line in body.splitlines())
    return f'??? {kind} "{escape(title)}"\n\n{inside}'
