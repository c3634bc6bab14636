"""Layers of several weights as layers of one."""

from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor

import einheads
import laws

LAYERS: list[tuple[str, int, tuple[tuple[int, ...], ...], dict[str, Any], str]] = [
    # pattern, inputs, shapes of the inputs, options, the merged pattern
    (
        "... i, r i, o r -> ... o",
        1,
        ((3, 5, 7),),
        {"i": 7, "r": 2, "o": 11, "bias": "o"},
        "... i, o i -> ... o",
    ),
    (
        "b h i, h r i, h o r -> b h o",
        1,
        ((3, 5, 7),),
        {"h": 5, "i": 7, "r": 2, "o": 11, "bias": "h"},
        "b h i, h o i -> b h o",
    ),
    (
        "... (k p), k q p, s q k -> ... (s q)",
        1,
        ((5, 21),),
        {"k": 3, "p": 7, "q": 2, "s": 11},
        "... (k p), q s k p -> ... (s q)",
    ),
    (
        "... i, ... j, r i, r j, o r -> ... o",
        2,
        ((3, 5), (3, 7)),
        {"i": 5, "j": 7, "r": 2, "o": 11, "bias": True},
        "... i, ... j, o i j -> ... o",
    ),
    ("b i, i, o i -> b o", 1, ((3, 5),), {"i": 5, "o": 7}, "b i, o i -> b o"),
    ("b i, o i, o -> b o", 1, ((3, 5),), {"i": 5, "o": 7, "bias": "o"}, "b i, o i -> b o"),
    (
        "b t i, i r, r o -> b o",
        1,
        ((3, 5, 7),),
        {"i": 7, "r": 2, "o": 11, "summed": "t", "b": 3},
        "b t i, o i -> b o",
    ),
    (
        "... i, r i, o r -> o",
        1,
        ((3, 7),),
        {"i": 7, "r": 2, "o": 3, "summed": "..."},
        "... i, o i -> o",
    ),
    ("b i, o i -> b o", 1, ((3, 5),), {"i": 5, "o": 7}, "b i, o i -> b o"),
    ("b i, i i o -> b o", 1, ((3, 5),), {"i": 5, "o": 7, "diagonal": True}, "b i, o i -> b o"),
]


def inputs(shapes: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    """Random inputs."""
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize(
    ("pattern", "count", "shapes", "options", "wanted"), LAYERS, ids=[one[0] for one in LAYERS]
)
def test_values(
    pattern: str,
    count: int,
    shapes: tuple[tuple[int, ...], ...],
    options: dict[str, Any],
    wanted: str,
) -> None:
    """The merged layer computes the same, with one weight and without the axes between."""
    layer = einheads.Einsum(pattern, inputs=count, dtype=torch.float64, **options)
    merged = layer.merge()
    assert type(merged) is einheads.Einsum
    assert merged.pattern == wanted
    names = ["weight"] if layer.bias is None else ["weight", "bias"]
    assert list(dict(merged.named_parameters())) == names
    xs = inputs(shapes)
    laws.close(merged(*xs), layer(*xs))


@pytest.mark.parametrize(
    "layer",
    [
        einheads.LowRank(i=7, r=2, o=11, dtype=torch.float64),
        einheads.Monarch(k=3, p=5, q=2, s=7, dtype=torch.float64),
        einheads.HeadLinear(h=3, i=5, o=7, dtype=torch.float64),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_named_layers(layer: einheads.Einsum) -> None:
    """A named layer becomes a plain `Einsum`."""
    width = {"LowRank": (7,), "Monarch": (15,), "HeadLinear": (3, 5)}[type(layer).__name__]
    x = torch.randn(2, *width, dtype=torch.float64)
    merged = layer.eval().merge()
    assert type(merged) is einheads.Einsum
    assert not merged.training
    laws.close(merged(x), layer(x))


def test_what_is_frozen_stays_frozen() -> None:
    """A weight is trained if any of those that it is made of is."""
    layer = einheads.Einsum("b i, i r, r o -> b o", i=5, r=2, o=7, bias="o").requires_grad_(False)
    assert not any(one.requires_grad for one in layer.merge().parameters())
    layer.weight_2.requires_grad_()
    merged = layer.merge()
    assert merged.weight.requires_grad
    assert not merged.bias.requires_grad


@pytest.mark.parametrize("pattern", ["... i, o i -> ... o", "... i, i o -> ... o"])
def test_a_single_weight_is_copied(pattern: str) -> None:
    """Also where it could be a view of the parameter."""
    layer = einheads.Einsum(pattern, i=5, o=7)
    merged = layer.merge()
    assert merged.weight.is_contiguous()
    before = layer.weight.detach().clone()
    with torch.no_grad():
        merged.weight.add_(1)
    assert torch.equal(layer.weight, before)


def test_a_parametrized_layer() -> None:
    """What weight norm makes of the parameters is merged."""
    layer = einheads.Einsum("b i, i r, r o -> b o", i=5, r=2, o=7, dtype=torch.float64)
    torch.nn.utils.parametrizations.weight_norm(layer, "weight_1")
    x = torch.randn(3, 5, dtype=torch.float64)
    laws.close(layer.merge()(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_under_autocast(dtype: torch.dtype) -> None:
    """The weight keeps its dtype, and all of its digits."""
    layer = einheads.Einsum("b i, i r, r o -> b o", i=31, r=7, o=11, bias="o", dtype=dtype)
    x = torch.randn(3, 31, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        merged = layer.merge()
    assert {one.dtype for one in merged.parameters()} == {dtype}
    torch.testing.assert_close(merged(x), layer(x))


def test_its_repr_makes_it() -> None:
    """Also if the factors of a product start in a way of their own."""
    merged = einheads.BatchEnsemble(e=3, i=5, o=7).merge()
    names = {"Einsum": einheads.Einsum, **vars(einheads)}
    assert repr(eval(repr(merged), names)) == repr(merged)


def test_parameters_are_its_own() -> None:
    """Training the merged layer leaves the first one alone, and draws no random numbers."""
    layer = einheads.LowRank(i=7, r=2, o=11)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    state = torch.get_rng_state()
    merged = layer.merge()
    assert torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        for parameter in merged.parameters():
            assert parameter.requires_grad
            parameter.add_(1)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])
    merged.reset_parameters()
    assert einheads.Einsum(merged.pattern, bias="o", **merged.sizes).declared == merged.declared


def test_a_layer_that_does_more_than_its_pattern() -> None:
    """Its weight alone would be another layer."""
    layer = einheads.EinMix("... (h c) -> (...) (h d)", weight_shape="h c d", h=2, c=3, d=5)
    with pytest.raises(einheads.EinheadsError, match="EinMix does more than its pattern"):
        layer.merge()


def test_hooks_are_not_lost() -> None:
    """What changes the inputs or the result is no part of any weight."""
    layer = einheads.Einsum("b i, r i, o r -> b o", i=7, r=2, o=11)
    for register in (layer.register_forward_hook, layer.register_forward_pre_hook):
        handle = register(lambda *_: None)  # type: ignore[operator]
        with pytest.raises(einheads.EinheadsError, match=r"Einsum has hooks.*\n(.*\n)*.*remove"):
            layer.merge()
        handle.remove()
    # Torch's own make a weight, which is there.
    torch.nn.utils.prune.random_unstructured(layer, "weight_1", 0.5)
    x = torch.randn(3, 7)
    torch.testing.assert_close(layer.merge()(x), layer(x))


def test_a_weight_that_is_gone() -> None:
    """It is named."""
    layer = einheads.Einsum("b i, r i, o r -> b o", i=7, r=2, o=11)
    layer.weight_1 = None
    message = r"^weight_1 is None, not a tensor; write: layer.weight_1 = nn.Parameter"
    with pytest.raises(TypeError, match=message):
        layer.merge()
