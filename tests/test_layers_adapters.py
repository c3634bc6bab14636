"""`LoRA` on layers of every kind, against the layer with the updated weight."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import checks
import einheads
import laws
from checks import randn
from einheads import EinheadsError, Einsum, LoRA

DOUBLE: dict[str, Any] = {"dtype": torch.float64}


@dataclass(frozen=True)
class Case:
    """A layer, an input, and how the factors make the update of its weight."""

    make: Callable[..., Einsum]
    shape: tuple[int, ...]
    update: str  # in torch's spelling
    samples: bool = True  # whether the first axis can be samples


def linear(**options: Any) -> Einsum:
    """A layer with the constructor of torch."""
    return einheads.Linear(3, 5, **options)


CASES = {
    "linear": Case(linear, (4, 7, 3), "ri,or->oi"),
    "to heads": Case(lambda **o: einheads.ToHeads(i=3, h=2, o=5, **o), (4, 7, 3), "ri,hor->hoi"),
    "head linear": Case(
        lambda **o: einheads.HeadLinear(h=2, i=3, o=5, **o), (4, 7, 2, 3), "hri,hor->hoi"
    ),
    "from heads": Case(
        lambda **o: einheads.FromHeads(h=2, i=3, o=5, **o), (4, 7, 2, 3), "rhi,or->ohi"
    ),
    "grouped": Case(
        lambda **o: einheads.GroupedLinear(g=2, i=3, o=5, **o), (4, 7, 6), "gri,gor->goi"
    ),
    "ensemble": Case(
        lambda **o: einheads.EnsembleLinear(e=2, i=3, o=5, **o),
        (2, 7, 3),
        "eri,eor->eoi",
        samples=False,
    ),
    "patches": Case(
        lambda **o: einheads.PatchEmbed(c=2, p=3, q=2, o=5, **o),
        (4, 2, 6, 4),
        "rcpq,or->ocpq",
    ),
    "along time, in before out": Case(
        lambda **o: Einsum("b t c, c t s -> b s c", bias=True, c=3, t=7, s=5, **o),
        (4, 7, 3),
        "crt,csr->cts",
    ),
}
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
sampled = pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.samples],
    ids=[name for name, case in CASES.items() if case.samples],
)


def adapted(case: Case, **options: Any) -> LoRA:
    """A layer in double precision with an update that does something."""
    layer = LoRA(case.make(**DOUBLE), r=2, alpha=3, **options)
    nn.init.normal_(layer.up)
    return layer


def updated(case: Case, layer: LoRA, x: Tensor, adapter: int | None = None) -> Tensor:
    """What the layer computes with the dense update in its weight."""
    down, up = layer.down, layer.up
    if adapter is not None:
        down, up = down[adapter], up[adapter]
    weight = layer.layer.weight + 3 / 2 * torch.einsum(case.update, down, up)
    parameters = {**dict(layer.layer.named_parameters()), "weight": weight}
    return torch.func.functional_call(layer.layer, parameters, x)  # type: ignore[no-any-return]


class TestOneAdapter:
    """Without a choice."""

    @each
    def test_updated_weight(self, case: Case) -> None:
        """Values and gradients are those of the layer with the updated weight."""
        layer = adapted(case)
        x = randn(*case.shape)
        laws.close(layer(x), updated(case, layer, x))
        leaves = [layer.down, layer.up]
        ours = checks.gradients(layer(x), leaves)
        for one, other in zip(ours, checks.gradients(updated(case, layer, x), leaves), strict=True):
            laws.close(one, other)
            assert one.any()
        laws.close(layer.update(), 3 / 2 * torch.einsum(case.update, layer.down, layer.up))

    @each
    def test_start_and_freeze(self, case: Case) -> None:
        """At first nothing changes, and only the factors are trained."""
        plain = case.make(**DOUBLE)
        layer = LoRA(plain, r=2)
        x = randn(*case.shape)
        assert torch.equal(layer(x), plain(x))
        trained = {name for name, value in layer.named_parameters() if value.requires_grad}
        assert trained == {"down", "up"}
        assert layer.down.all()
        assert {value.dtype for value in layer.parameters()} == {torch.float64}

    @each
    def test_merge_and_unmerge(self, case: Case) -> None:
        """The merged layer gives the same outputs alone; unmerged, it is what it was."""
        layer = adapted(case)
        x = randn(*case.shape)
        before, weight = layer(x), layer.layer.weight.clone()
        merged = layer.merge()
        assert merged is layer.layer
        laws.close(merged(x), before)
        laws.close(layer(x), before)
        assert (merged.weight - weight).abs().max() > 0.01
        layer.unmerge()
        laws.close(layer.layer.weight, weight)
        laws.close(layer(x), before)

    @each
    def test_compiled(self, case: Case) -> None:
        """One graph, same numbers."""
        layer = adapted(case)
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        x = randn(*case.shape)
        laws.close(compiled(x), layer(x))

    def test_equivalent(self) -> None:
        """The plain torch of the docstring, on a plain linear."""
        layer = adapted(CASES["linear"])
        plain = laws.equivalent(LoRA)
        x = randn(4, 3)
        laws.close(layer(x), plain(x, **laws.parameters_of(layer), scale=3 / 2))

    def test_state_dict(self) -> None:
        """The state dict is plain and loads into a layer of the same declaration."""
        one, two = adapted(CASES["grouped"]), adapted(CASES["grouped"])
        assert set(one.state_dict()) == {"down", "up", "layer.weight", "layer.bias"}
        two.load_state_dict(one.state_dict(), strict=True)
        x = randn(7, 6)
        assert torch.equal(one(x), two(x))
        assert repr(one).startswith("LoRA(\n  r=2, alpha=3.0\n  (layer): GroupedLinear(")


class TestSeveralAdapters:
    """Chosen per sample."""

    @sampled
    def test_each_sample_its_own(self, case: Case) -> None:
        """Every sample gets the update of its index, in values and gradients."""
        layer = adapted(case, adapters=3)
        x, index = randn(*case.shape), torch.tensor([2, 0, 2, 1])
        actual = layer(x, index)
        expected = torch.cat([updated(case, layer, x[k : k + 1], int(index[k])) for k in range(4)])
        laws.close(actual, expected)
        leaves = [layer.down, layer.up]
        for one, other in zip(
            checks.gradients(actual, leaves), checks.gradients(expected, leaves), strict=True
        ):
            laws.close(one, other)

    def test_compiled(self) -> None:
        """One graph, for other choices too."""
        layer = adapted(CASES["head linear"], adapters=3)
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        x = randn(4, 7, 2, 3)
        for index in ([2, 0, 2, 1], [1, 1, 0, 0]):
            laws.close(compiled(x, torch.tensor(index)), layer(x, torch.tensor(index)))

    def test_merge_one(self) -> None:
        """One of them can be merged; then there is nothing to choose."""
        layer = adapted(CASES["linear"], adapters=3)
        x = randn(4, 3)
        expected = layer(x, torch.full((4,), 1))
        laws.close(layer.merge(1)(x), expected)
        laws.close(layer(x), expected)
        with pytest.raises(EinheadsError, match="an adapter is merged into the layer"):
            layer(x, torch.full((4,), 1))
        layer.unmerge()
        laws.close(layer(x, torch.full((4,), 1)), expected)
        assert "adapters=3" in repr(layer)


# A layer of several weights or inputs, the weight, and the shapes of the inputs.
SEVERAL: dict[str, tuple[Callable[..., Any], str, tuple[tuple[int, ...], ...]]] = {
    "low rank, down": (lambda **o: einheads.LowRank(i=3, r=4, o=5, **o), "down", ((4, 3),)),
    "low rank per head, up": (
        lambda **o: einheads.LowRank(h=2, i=3, r=4, o=5, **o),
        "up",
        ((4, 2, 3),),
    ),
    "monarch": (lambda **o: einheads.Monarch(k=3, p=5, q=2, s=7, **o), "weight_2", ((4, 15),)),
    "ring": (
        lambda **o: einheads.TensorRing(i=(3, 5), o=(2, 7), r=2, **o),
        "weight_1",
        ((4, 15),),
    ),
    "tucker, core": (
        lambda **o: einheads.Tucker(i=(3, 5), o=(2, 7), r=2, s=3, **o),
        "weight_3",
        ((4, 15),),
    ),
    "bilinear": (lambda **o: einheads.Bilinear(3, 5, 7, **o), "weight", ((4, 3), (4, 5))),
    "hyper": (lambda **o: einheads.HyperLinear(i=3, z=5, o=7, **o), "weight", ((4, 2, 3), (4, 5))),
    "named samples": (
        lambda **o: Einsum("b t r, b z, o r z -> b t o", inputs=2, r=3, z=5, o=7, **o),
        "weight",
        ((4, 2, 3), (4, 5)),
    ),
    "einmix": (
        lambda **o: einheads.EinMix("a ... (b c) -> a (... d b)", "c d b", b=2, c=3, d=5, **o),
        "weight",
        ((4, 7, 2, 6),),
    ),
}


@pytest.mark.parametrize(("make", "name", "shapes"), SEVERAL.values(), ids=SEVERAL)
class TestSeveralWeightsOrInputs:
    """A layer is linear in each of its weights, so any of them can have an update."""

    def test_updated_weight(
        self, make: Callable[..., Any], name: str, shapes: tuple[tuple[int, ...], ...]
    ) -> None:
        """The outputs are those of the layer with the updated weight, for each sample its own."""
        inputs = [randn(*shape) for shape in shapes]
        one = LoRA(make(**DOUBLE), r=2, weight=name)
        several = LoRA(make(**DOUBLE), r=2, weight=name, adapters=3)
        for layer in (one, several):
            nn.init.normal_(layer.up)

        def updated(layer: LoRA, adapter: int | None = None) -> Tensor:
            parameters = dict(layer.layer.named_parameters())
            parameters[name] = parameters[name] + layer.update(adapter)
            return torch.func.functional_call(  # type: ignore[no-any-return]
                layer.layer, parameters, tuple(inputs)
            )

        laws.close(one(*inputs), updated(one))
        assert (one(*inputs) - one.layer(*inputs)).abs().max() > 1e-3
        index = torch.tensor([2, 0, 2, 1])
        actual = several(*inputs, index)
        for sample, adapter in enumerate(index.tolist()):
            laws.close(actual[sample], updated(several, adapter)[sample])
        laws.close(several(*inputs, adapter=index), actual)
        expected = one(*inputs)
        laws.close(one.merge()(*inputs), expected)
        assert f"weight={name!r}" in repr(one) or len(one.layer.declared.names) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_unmerge_is_exact(dtype: torch.dtype) -> None:
    """A weight comes back to the last digit, however small it is beside the update."""
    layer = LoRA(einheads.HeadLinear(h=2, i=3, o=5, dtype=dtype), r=2, alpha=1000)
    nn.init.normal_(layer.up)
    before = layer.layer.weight.clone()
    layer.merge()
    assert not torch.equal(layer.layer.weight - layer.update(), before)
    layer.unmerge()
    assert torch.equal(layer.layer.weight, before)


def test_state_dict_of_a_merged_layer() -> None:
    """It has the weight without the update, which would count twice; the layer's has it."""
    make = lambda: nn.Sequential(adapted(CASES["head linear"]))  # noqa: E731
    model, other, x = make(), make(), randn(4, 7, 2, 3)
    before = model.state_dict()["0.layer.weight"].clone()
    expected = model(x)
    merged = model[0].merge()
    assert set(model.state_dict()) == set(other.state_dict())
    assert torch.equal(model.state_dict()["0.layer.weight"], before)
    other.load_state_dict(model.state_dict(), strict=True)
    laws.close(other(x), expected)
    plain = CASES["head linear"].make(**DOUBLE)
    plain.load_state_dict(merged.state_dict(), strict=True)
    laws.close(plain(x), expected)
    with pytest.raises(EinheadsError, match=r"^the update is merged, so a weight that is loaded"):
        model.load_state_dict(other.state_dict())
    twin = copy.deepcopy(model)
    twin[0].unmerge()
    assert torch.equal(twin[0].layer.weight, before)


def test_inside_of_a_block() -> None:
    """Projections of attention can be adapted, with the cache too; so can a pair with a mask."""
    layer = einheads.Attention(i=6, h=2, causal=True, **DOUBLE)
    for name in ("query", "key", "value", "output"):
        part = LoRA(layer.get_submodule(name), r=2)
        nn.init.normal_(part.up)
        setattr(layer, name, part)
    x = randn(2, 5, 6)
    with torch.no_grad():
        cache = layer.cache(2, s=5)
        steps = [layer(part, cache=cache) for part in x.split(1, 1)]
    laws.close(torch.cat(steps, 1), layer(x))
    mean = einheads.OuterProductMean(m=3, c=5, z=7, **DOUBLE)
    x, mask = randn(4, 6, 3), torch.rand(4, 6) < 0.6
    expected = mean(x, mask)
    mean.pair = LoRA(mean.pair, r=2)
    laws.close(mean(x, mask), expected)
    assert LoRA(einheads.Linear(3, 5, bias=False), r=2).bias is None


def test_roles_of_the_factors() -> None:
    """An optimizer sees the factors as matrices, a stack of them for the adapters."""
    layer = LoRA(einheads.HeadLinear(h=2, i=3, o=5), r=4, adapters=7)
    roles = einheads.parameter_roles(layer)
    assert (roles["down"].kind, roles["up"].kind) == ("matrix", "matrix")
    assert (roles["down"].fan_in, roles["up"].fan_in) == (3, 4)
    assert roles["down"].stack(layer.down).shape == (14, 4, 3)
    assert roles["up"].stack(layer.up).shape == (14, 5, 4)
    assert torch.equal(roles["up"].stack(layer.up), layer.up.flatten(0, 1))
    taken = LoRA(Einsum("b r, r adapter -> b adapter", r=3, adapter=5), r=4, adapters=7)
    assert taken.axes == {"down": ("adapter_", "r_", "r"), "up": ("adapter_", "adapter", "r_")}
    assert einheads.parameter_roles(taken)["up"].stack(taken.up).shape == (7, 5, 4)
    groups = einheads.param_groups(layer)
    assert [name for group in groups for name in group["names"]] == ["down", "up"]


def test_scale() -> None:
    """`down` starts like a linear of the same inputs, whatever stands beside the matrices."""
    layer = LoRA(einheads.FromHeads(h=4, i=25, o=7), r=50)
    largest = float(layer.down.detach().abs().max())
    assert 0.099 < largest <= 0.1


def test_refusals() -> None:
    """What is wrong, and what to write instead."""
    plain, several = LoRA(linear(), r=2), LoRA(linear(), r=2, adapters=3)
    x = torch.ones(4, 3)
    cases: list[tuple[Callable[[], object], str]] = [
        (
            lambda: LoRA(nn.Linear(3, 5), r=2),  # type: ignore[arg-type]
            "a Linear does not tell the roles of its axes",
        ),
        (
            lambda: LoRA(einheads.LowRank(i=3, r=2, o=5), r=2),
            "the layer has 2 weights: down, up",
        ),
        (
            lambda: LoRA(einheads.LowRank(i=3, r=2, o=5), r=2, weight="upp"),
            "the layer has 2 weights: down, up; not 'upp'",
        ),
        (lambda: LoRA(Einsum("b i -> i b"), r=2), "the layer has no weight"),
        (
            lambda: LoRA(einheads.CP(i=(3, 5), o=(2, 7), r=4), r=2, weight="weight_2"),
            "the weight 'r i2' has no matrices, so nothing of low rank fits",
        ),
        (
            lambda: LoRA(Einsum("b i, i i o -> b o", diagonal=True, i=3, o=5), r=2),
            "the weight 'i i o' has no matrices, so nothing of low rank fits",
        ),
        (
            lambda: LoRA(einheads.Scale("d", d=3), r=2),
            "the weight 'd' has no matrices, so nothing of low rank fits",
        ),
        (lambda: LoRA(linear(), r=0), "r=0 is no number of one or more"),
        (
            lambda: LoRA(linear(), r=2, adapters=0),
            "adapters=0 is no number of one or more",
        ),
        (
            lambda: LoRA(einheads.EnsembleLinear(e=2, i=3, o=5), r=2, adapters=3),
            "the first axis of the input and of the output are not the samples",
        ),
        (
            lambda: plain(x, torch.zeros(4)),
            "there is one adapter, so none can be chosen",
        ),
        (lambda: several(x), "there are 3 adapters, and none is chosen"),
        (
            lambda: several(x, torch.tensor([0, 1])),
            "the indices have the shape (2,), but there are 4 samples",
        ),
        (several.merge, "one of several adapters has to be chosen"),
        (lambda: plain.merge(0), "there is one adapter, so none can be chosen"),
        (plain.unmerge, "the update is not merged"),
    ]
    for call, sentence in cases:
        with pytest.raises(EinheadsError) as caught:
            call()
        assert caught.value.sentence == sentence
        assert caught.value.notes
    plain.merge()
    with pytest.raises(EinheadsError, match=r"^the update is merged already"):
        plain.merge()
