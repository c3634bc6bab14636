"""The collection as data: one call of every layer, what it holds, what it costs, and its paper.

The table of the reference is made of this, and the laws of `test_layers_collection` go through it.
Formulas are sums of products, `2 h o i + h o`; the sizes in the calls are all different.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import einheads as eh
from einheads.pattern import parse
from einheads.plan import plans
from einheads.sizes import bind

# What says where in a paper a layer is found.
PLACE = r"(?:sections?|equations?|algorithm|tutorial)"
PAGE = Path(__file__).parent.parent / "docs/reference/layers.md"
MARKS = "<!-- the table is written by tests/test_readme.py -->\n", "<!-- end of the table -->\n"


@dataclass(frozen=True)
class Entry:
    """A layer of the collection.

    Attributes:
        make: the call, to which options can be added.
        shapes: of the inputs, without leading axes.
        parameters: how many numbers the layer holds.
        flops: the operations for inputs of these shapes.
        sizes: the value of every letter of the formulas.
        front: how many axes of an input stand in front of the leading ones; None if there are none.
    """

    make: Callable[..., nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    parameters: str
    flops: str
    sizes: dict[str, int]
    front: int | None = 0

    def inputs(self, *leading: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """Random inputs with leading axes."""
        front = self.front or 0
        return [
            torch.randn(*shape[:front], *leading, *shape[front:], dtype=dtype)
            for shape in self.shapes
        ]


def entry(
    make: Callable[..., nn.Module],
    shapes: str,
    parameters: str,
    flops: str,
    front: int | None = 0,
    **sizes: int,
) -> Entry:
    """An entry whose shapes are written in axis names, `s i, t j`."""
    lengths = tuple(
        tuple(math.prod(sizes[axis] for axis in item.strip("()").split())
              for item in re.findall(r"\([^)]*\)|\w+", shape))
        for shape in shapes.split(",")
    )  # fmt: skip
    return Entry(make, lengths, parameters, flops, sizes, front)


def balanced(**options: Any) -> nn.Module:
    """Experts among which these tokens, one-hot vectors, divide evenly: the k-th is the first."""
    layer = eh.Experts(e=4, k=2, i=5, m=7, **options)
    with torch.no_grad():
        layer.router.weight.zero_()
        for expert in range(4):
            layer.router.weight[expert, [expert, (expert + 1) % 4]] = 1.0
    return layer


PAIR: dict[str, Any] = {"i": (3, 4), "o": (2, 7)}
PAIRED = {"i1": 3, "i2": 4, "o1": 2, "o2": 7}

COLLECTION: dict[str, Entry] = {
    "Linear": entry(lambda **o: eh.Linear(7, 5, **o), "i", "o i + o", "2 o i", i=7, o=5),
    "ToHeads": entry(
        lambda **o: eh.ToHeads(i=7, h=3, o=5, **o),
        "i", "h o i + h o", "2 h o i", i=7, h=3, o=5,
    ),
    "HeadLinear": entry(
        lambda **o: eh.HeadLinear(h=3, i=7, o=5, **o),
        "h i", "h o i + h o", "2 h o i", i=7, h=3, o=5,
    ),
    "FromHeads": entry(
        lambda **o: eh.FromHeads(h=3, i=7, o=5, **o),
        "h i", "o h i + o", "2 o h i", i=7, h=3, o=5,
    ),
    "GroupedLinear": entry(
        lambda **o: eh.GroupedLinear(g=3, i=7, o=5, **o),
        "(g i)", "g o i + g o", "2 g o i", i=7, g=3, o=5,
    ),
    "AxisLinear": entry(
        lambda **o: eh.AxisLinear("... t c -> ... s c", t=7, s=5, **o),
        "t c", "s t + s", "2 s t c", t=7, s=5, c=3,
    ),
    "TokenMixer": entry(
        lambda **o: eh.TokenMixer(t=7, s=5, **o), "t c", "s t + s", "2 s t c", t=7, s=5, c=3
    ),
    "PatchEmbed": entry(
        lambda **o: eh.PatchEmbed(c=3, p=2, q=5, o=11, **o),
        "c (h p) (w q)", "o c p q + o", "2 h w o c p q", c=3, p=2, q=5, o=11, h=7, w=4,
    ),
    "Scale": entry(
        lambda **o: eh.Scale("h d", h=3, d=7, **o), "h d", "h d", "2 h d", h=3, d=7
    ),
    "Attention": entry(
        lambda **o: eh.Attention(i=15, h=6, d=4, k=2, **o),
        "t i", "2 h d i + 2 k d i + h d + 2 k d + i", "4 t h d i + 4 t k d i + 4 h t t d",
        i=15, h=6, d=4, k=2, t=7,
    ),
    "TalkingHeads": entry(
        lambda **o: eh.TalkingHeads(h=3, k=4, **o),
        "h t s", "k h", "2 k h t s", h=3, k=4, t=5, s=7,
    ),
    "FeedForward": entry(
        lambda **o: eh.FeedForward(i=7, m=11, **o),
        "i", "2 m i + m + i", "4 m i", i=7, m=11,
    ),
    "SwiGLU": entry(lambda **o: eh.SwiGLU(i=7, m=11, **o), "i", "3 m i", "6 m i", i=7, m=11),
    "TransformerBlock": entry(
        lambda **o: eh.TransformerBlock(i=12, h=3, m=20, **o),
        "t i", "4 i i + 2 m i + m + 9 i", "8 t i i + 4 t t i + 4 t m i", i=12, m=20, t=7,
    ),
    "MLPMixer": entry(
        lambda **o: eh.MLPMixer(t=7, c=12, s=5, m=11, **o),
        "t c", "2 s t + 2 m c + s + t + m + 5 c", "4 s t c + 4 t m c", t=7, c=12, s=5, m=11,
    ),
    "EnsembleLinear": entry(
        lambda **o: eh.EnsembleLinear(e=3, i=7, o=5, **o),
        "e i", "e o i + e o", "2 e o i", front=1, e=3, i=7, o=5,
    ),
    "BatchEnsemble": entry(
        lambda **o: eh.BatchEnsemble(e=3, i=7, o=5, **o),
        "e i", "o i + e i + 2 e o", "2 e o i + 2 e i + 2 e o", front=1, e=3, i=7, o=5,
    ),
    "LowRank": entry(
        lambda **o: eh.LowRank(i=7, r=3, o=5, **o),
        "i", "r i + o r + o", "2 r i + 2 o r", i=7, r=3, o=5,
    ),
    "Monarch": entry(
        lambda **o: eh.Monarch(k=3, p=4, q=2, s=5, **o),
        "(k p)", "k q p + q s k + s q", "2 k q p + 2 q s k", k=3, p=4, q=2, s=5,
    ),
    "BlockTensorTrain": entry(
        lambda **o: eh.BlockTensorTrain(k=3, p=7, q=2, s=5, r=4, **o),
        "(k p)", "k q r p + q s k r + s q", "2 k q r p + 2 q s k r", k=3, p=7, q=2, s=5, r=4,
    ),
    "Kronecker": entry(
        lambda **o: eh.Kronecker(**PAIR, **o),
        "(i1 i2)", "o1 i1 + o2 i2 + o1 o2", "2 o1 i1 i2 + 2 o1 o2 i2", **PAIRED,
    ),
    "TensorTrain": entry(
        lambda **o: eh.TensorTrain(**PAIR, r=3, **o),
        "(i1 i2)", "o1 r1 i1 + o2 i2 r1 + o1 o2", "2 o1 r1 i1 i2 + 2 o1 o2 r1 i2", r1=3, **PAIRED,
    ),
    "TensorRing": entry(
        lambda **o: eh.TensorRing(**PAIR, r=(2, 3), **o),
        "(i1 i2)", "o1 r1 i1 r0 + o2 r0 i2 r1 + o1 o2",
        "2 o1 r1 i1 r0 i2 + 2 o1 o2 r0 i2 r1", r0=2, r1=3, **PAIRED,
    ),
    "CP": entry(
        lambda **o: eh.CP(**PAIR, r=3, **o),
        "(i1 i2)", "r i1 + r i2 + o1 r + o2 r + o1 o2",
        "2 r i1 i2 + 2 r i1 + 2 o1 r + 2 o1 o2 r", r=3, **PAIRED,
    ),
    "Tucker": entry(
        lambda **o: eh.Tucker(i=(4, 3), o=(2, 7), r=2, s=(2, 3), **o),
        "(i1 i2)", "r1 i1 + r2 i2 + s1 s2 r1 r2 + o1 s1 + o2 s2 + o1 o2",
        "2 r1 i1 i2 + 2 r1 r2 i2 + 2 s1 s2 r1 r2 + 2 o1 s1 s2 + 2 o1 o2 s2",
        r1=2, r2=2, s1=2, s2=3, i1=4, i2=3, o1=2, o2=7,
    ),
    "LoRA": entry(
        lambda **o: eh.LoRA(eh.Linear(7, 5, **o), r=3),
        "i", "o i + o + r i + o r", "2 o i + 2 r i + 2 o r", i=7, o=5, r=3,
    ),
    "Bilinear": entry(
        lambda **o: eh.Bilinear(7, 11, 5, **o),
        "i, j", "o i j + o", "2 o i j + 2 o i", i=7, j=11, o=5,
    ),
    "LowRankBilinear": entry(
        lambda **o: eh.LowRankBilinear(i=7, j=11, r=3, o=5, **o),
        "i, j", "r i + r j + o r + o", "2 r i + 2 r j + 2 o r + 2 r", i=7, j=11, r=3, o=5,
    ),
    "Biaffine": entry(
        lambda **o: eh.Biaffine(i=7, j=11, o=5, **o),
        "s i, t j", "o i j + o i + o j + o",
        "2 s o i j + 2 s t o j + 2 s o i + 2 t o j", i=7, j=11, o=5, s=2, t=3,
    ),
    "HyperLinear": entry(
        lambda **o: eh.HyperLinear(i=7, z=2, o=5, **o),
        "t i, z", "o i z + o", "2 o i z + 2 t o i", i=7, z=2, o=5, t=3,
    ),
    "OuterProductMean": entry(
        lambda **o: eh.OuterProductMean(m=7, c=2, d=3, z=11, **o),
        "s i m", "c m + d m + z c d + c + d + z",
        "2 s i m c + 2 s i m d + 2 s i i c d + 2 i i z c d", m=7, c=2, d=3, z=11, s=4, i=5,
    ),
    "Experts": entry(
        balanced, "n i", "e i + 2 e m i + e m + e i", "2 n e i + 4 n k m i", front=None,
        e=4, k=2, i=5, m=7, n=4,
    ),
    "SoftMoE": entry(
        lambda **o: eh.SoftMoE(e=3, s=2, i=7, m=11, **o),
        "t i", "e s i + 2 e m i + e m + e i", "6 t e s i + 4 e s m i", e=3, s=2, i=7, m=11, t=5,
    ),
    "EinMix": entry(
        lambda **o: eh.EinMix("t b (h c) -> t b (h o)", "h c o", "h o", h=3, c=7, o=5, **o),
        "t b (h c)", "h c o + h o", "2 t b h c o", front=None, h=3, c=7, o=5, t=2, b=4,
    ),
}  # fmt: skip


def valued(formula: str, sizes: dict[str, int]) -> int:
    """The value of a sum of products.

    Example:
        >>> valued("2 h o i + h o", {"h": 3, "o": 5, "i": 7})
        225
    """
    return sum(
        math.prod(int(word) if word.isdecimal() else sizes[word] for word in term.split())
        for term in formula.split("+")
    )


@contextmanager
def counted(module: nn.Module) -> Iterator[list[set[int]]]:
    """Collect the multiply-adds of everything that a module contracts while it is called.

    Where several orders of contraction come into question, all of their counts: the formula tells
    the one that a person would write, and the program takes the one that is cheapest for its sizes.
    """
    found: list[set[int]] = []

    def orders(pattern: str, tensors: Sequence[Tensor], sizes: dict[str, int]) -> set[int]:
        bound = bind(parse(pattern), [tuple(one.shape) for one in tensors], sizes)
        return {one.multiply_adds for one in plans(bound)}

    def layer_called(layer: eh.Einsum, inputs: tuple[Tensor, ...]) -> None:
        weights = [layer.get_parameter(name) for name in layer.declared.names]
        found.append(orders(layer.pattern, [*inputs, *weights], dict(layer.declared.given)))

    def wrapped(einsum: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(pattern: str, *tensors: Tensor, **sizes: int) -> Tensor:
            found.append(orders(pattern, tensors, sizes))
            return einsum(pattern, *tensors, **sizes)

        return call

    def attended(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        found.append({query.numel() * (key.shape[-2] + value.shape[-2])})
        return attend(query, key, value, **options)

    attend = functional.scaled_dot_product_attention
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functional, "scaled_dot_product_attention", attended)
        for name in ("adapters", "attention", "experts", "pairs"):
            place = f"einheads.layers.{name}.einsum"
            patch.setattr(place, wrapped(eh.einsum))
        for part in module.modules():
            if isinstance(part, eh.Einsum):
                part.register_forward_pre_hook(layer_called)
        yield found


def patterns(layer: nn.Module) -> list[str]:
    """The patterns of a layer, or of its parts."""
    parts = [part for part in layer.modules() if isinstance(part, eh.Einsum)]
    return list(dict.fromkeys(part.pattern for part in parts))


def paper(name: str) -> str:
    """The first reference of a docstring that names a place in it, on one line."""
    text = " ".join((getattr(eh, name).__doc__ or "").partition("Reference:")[2].split())
    every = re.split(r";\s+|\.\s*$|\.\s+(?=[A-Z])", text)
    found = next((one for one in every if re.search(PLACE, one)), "")
    return re.sub(rf"({PLACE} [\d.]+(?: (?:and|to) [\d.]+)?),? .*", r"\1", found)


def table() -> str:
    """The table of the reference."""
    lines = ["| layer | pattern | parameters | FLOPs | paper |", "| --- | --- | --- | --- | --- |"]
    for name, one in COLLECTION.items():
        written = "<br>".join(f"`{pattern}`" for pattern in patterns(one.make()))
        lines.append(
            f"| [{name}](#einheads.{name}) | {written} | `{one.parameters}` | `{one.flops}` "
            f"| {paper(name)} |"
        )
    return "\n".join(lines) + "\n"


def refresh() -> None:
    """Write the table into the page."""
    front, rest = PAGE.read_text().split(MARKS[0])
    back = rest.split(MARKS[1])[1]
    PAGE.write_text(f"{front}{MARKS[0]}\n{table()}\n{MARKS[1]}{back}")
