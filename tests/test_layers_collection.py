"""What every layer of the collection promises, each asked the same questions."""

import inspect
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import checks
import einheads as eh
import laws
from collection import COLLECTION, MARKS, PAGE, PLACE, Entry, counted, patterns, table, valued

DOUBLE: dict[str, Any] = {"dtype": torch.float64}
every = pytest.mark.parametrize("name", COLLECTION)
# Their constructors are those of other libraries, or they take everything from the layer they wrap.
OTHERS = {
    "Linear": {"in_features", "out_features", "bias", "device", "dtype"},
    "Bilinear": {"in1_features", "in2_features", "out_features", "bias", "device", "dtype"},
    "EinMix": {"pattern", "weight_shape", "bias_shape"},
    "LoRA": {"layer"},
}


def test_collection_is_complete() -> None:
    """Every public module is in it, but for `Einsum`, of which all are made, and rotations."""
    public = {
        name
        for name in eh.__all__
        if isinstance(one := getattr(eh, name), type) and issubclass(one, nn.Module)
    }
    assert set(COLLECTION) == public - {"Einsum", "Rotary"}


def test_table_of_the_reference() -> None:
    """The table on the page is the one that the code gives: `python tests/test_readme.py`."""
    shown = PAGE.read_text().split(MARKS[0])[1].split(MARKS[1])[0]
    assert shown.strip() == table().strip()


@every
def test_parameters_and_flops(name: str) -> None:
    """The formulas of the table are what the layer holds and what its contractions take."""
    one = COLLECTION[name]
    layer = one.make(**DOUBLE)
    held = sum(parameter.numel() for parameter in layer.parameters())
    assert held == valued(one.parameters, one.sizes)
    # Tokens that divide evenly among the experts, two for each.
    inputs = [torch.eye(5, **DOUBLE)[:4]] if name == "Experts" else one.inputs()
    with counted(layer) as multiply_adds:
        layer(*inputs)
    sums = {2 * sum(counts) for counts in itertools.product(*multiply_adds)}
    assert valued(one.flops, one.sizes) in sums


@every
def test_docstring(name: str) -> None:
    """A formula, a pattern, an example, plain torch, where to use it and where not, and a paper."""
    text = " ".join((getattr(eh, name).__doc__ or "").split())
    front, _, rest = text.partition("Equivalent:")
    advice, reference = front + rest.partition("Args:")[0], rest.partition("Reference:")[2]
    assert "Example: >>> " in front
    assert re.search(r"`[^`]*->[^`]*`", front), "no pattern"
    assert re.search(r"Formula: |`[xy]\w* = |`x \+ ", front), "no formula"
    assert re.search(r"\bUse(d|s)?\b", advice), "nobody uses it"
    assert re.search(r"\bNot (for|where|needed|with|several|as|if|many)\b", advice), "no limits"
    assert re.search(PLACE, reference), "no place in a paper"
    for parameter in inspect.signature(getattr(eh, name)).parameters:
        assert re.search(rf"Args:.*\b{parameter}\*?\*?: ", rest), parameter
    laws.equivalent(getattr(eh, name))


@every
def test_constructor(name: str) -> None:
    """Sizes are keywords; `bias`, `init`, `device` and `dtype` are everywhere."""
    signature = inspect.signature(getattr(eh, name))
    free = {
        name for name, one in signature.parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD
    }
    assert free == OTHERS.get(name, set())
    if name not in {"EinMix", "LoRA"}:
        assert {"bias", "init", "device", "dtype"} <= set(signature.parameters)
        made = COLLECTION[name].make(init="lecun", device="meta", dtype=torch.bfloat16)
        assert {value.device.type for value in made.parameters()} == {"meta"}
        assert {value.dtype for value in made.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "name", [name for name, one in COLLECTION.items() if one.front is not None]
)
def test_leading_axes(name: str) -> None:
    """None, one or two of them: each entry is computed as it is alone."""
    one = COLLECTION[name]
    assert one.front is not None
    torch.manual_seed(0)
    layer = one.make(**DOUBLE)
    inputs = one.inputs(2, 3)
    together = layer(*inputs)
    index = (slice(None),) * one.front
    for first in range(2):
        part = layer(*(x[(*index, first)] for x in inputs))
        laws.close(together[(*index, first)], part)
        for second in range(3):
            alone = layer(*(x[(*index, first, second)] for x in inputs))
            laws.close(part[(*index, second)], alone)


@pytest.mark.parametrize("name", ["Scale", "TalkingHeads", "Experts"])
def test_compiles(name: str) -> None:
    """One graph, forward and backward; the files of the other families compile all the others."""
    one = COLLECTION[name]
    checks.compiles(one.make(**DOUBLE), *one.inputs(*(() if one.front is None else (2,))))


@every
def test_wrong_sizes(name: str) -> None:
    """Features that do not fit are an error with the name of an axis of the pattern."""
    one = COLLECTION[name]
    layer = one.make(**DOUBLE)
    known = {axis for text in patterns(layer) for axis in re.findall(r"[a-z]\w*", text)}
    # The last axis of these is any number of keys.
    wrong = {"TalkingHeads": -3, "TokenMixer": -2, "AxisLinear": -2}.get(name, -1)
    for place in range(len(one.shapes)):
        inputs = one.inputs(*(() if one.front is None else (2,)))
        if name == "PatchEmbed":
            inputs[0] = inputs[0][..., :-1]
        else:
            extra = inputs[place].narrow(wrong, 0, 1)
            inputs[place] = torch.cat([inputs[place], extra], wrong)
        with pytest.raises(eh.SizeError) as caught:
            layer(*inputs)
        named = set(re.findall(r"\b[a-z]\w*\b", caught.value.sentence))
        assert named & known, caught.value.sentence
        assert caught.value.notes


COMPOSITES: dict[str, Callable[..., nn.Module]] = {
    "Attention": lambda **o: eh.Attention(i=30, h=4, d=15, k=2, c=20, o=25, **o),
    "FeedForward": lambda **o: eh.FeedForward(i=30, m=40, **o),
    "FeedForward, heads": lambda **o: eh.FeedForward(i=15, m=20, h=3, **o),
    "FeedForward, shared": lambda **o: eh.FeedForward(i=30, m=20, o=15, h=3, shared=True, **o),
    "SwiGLU": lambda **o: eh.SwiGLU(i=30, m=40, bias=True, **o),
    "SwiGLU, heads": lambda **o: eh.SwiGLU(i=15, m=20, h=3, bias=True, **o),
    "MLPMixer": lambda **o: eh.MLPMixer(t=15, c=30, s=20, m=25, **o),
    "MLPMixer, heads": lambda **o: eh.MLPMixer(t=15, c=30, s=20, m=25, h=3, **o),
    "TransformerBlock": lambda **o: eh.TransformerBlock(i=30, h=3, m=60, **o),
    "TransformerBlock, heads": lambda **o: eh.TransformerBlock(i=30, h=3, per_head=True, **o),
    "Experts": lambda **o: eh.Experts(e=12, k=2, i=30, m=20, **o),
    "SoftMoE": lambda **o: eh.SoftMoE(e=3, s=2, i=30, m=20, **o),
}


@pytest.mark.parametrize("init", ["linear", "lecun"])
@pytest.mark.parametrize("make", COMPOSITES.values(), ids=COMPOSITES)
def test_every_part_starts_right(make: Callable[..., nn.Module], init: str) -> None:
    """Inside of a block too, outputs have the scale of an `nn.Linear`, or unit scale."""
    whole = make(init=init)
    parts = [part for part in whole.modules() if isinstance(part, eh.Einsum)]
    assert parts
    for part in parts:
        (fan,) = part.fans.values()
        features = fan.fan_in(part.sizes)
        sizes = {**part.sizes}
        shape = []
        for item in map(str, part.declared.pattern.operands[0].items):
            lengths = [sizes.setdefault(axis, 7) for axis in re.findall(r"\w+", item)]
            shape.append(math.prod(lengths) if lengths else 8)
        bias = 1 / (3 * features) if part.bias is not None else 0.0
        wanted = 1 / 3 + bias if init == "linear" else 1.0
        assert 0.9 < laws.moment(part, 40, *shape) / wanted < 1.1, part


def test_entries_are_distinct() -> None:
    """No two axes of an entry that could be exchanged have the same size in its input."""
    for name, one in COLLECTION.items():
        assert isinstance(one, Entry)
        for shape in one.shapes:
            assert len(set(shape)) == len(shape), name
