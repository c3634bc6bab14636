"""`LoRA` on layers of every kind, against the layer with the updated weight."""

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
            "an update goes beside one weight and reads one input",
        ),
        (
            lambda: LoRA(einheads.Bilinear(2, 3, 5), r=2),
            "an update goes beside one weight and reads one input",
        ),
        (
            lambda: LoRA(einheads.Scale("d", d=3), r=2),
            "the weight 'd' has no matrices, so nothing of low rank fits",
        ),
        (
            lambda: LoRA(Einsum("... i, r i -> ... r", i=3, r=5), r=2),
            "axis 'r' is the name of an axis of the update",
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
