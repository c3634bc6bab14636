"""Experts against a loop over tokens, in both executions; soft experts against their definition."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import checks
import einheads
import laws
from checks import randn
from einheads import EinheadsError, Experts, SizeError, SoftMoE

DOUBLE: dict[str, Any] = {"dtype": torch.float64}
SIZES: dict[str, Any] = {"e": 5, "k": 2, "i": 3, "m": 7}
EXECUTIONS = ("dense", "grouped")


def loop(layer: Experts, x: Tensor, k: int = 2, *, normalize: bool = True) -> Tensor:
    """Token by token, expert by expert."""
    p: Any = dict(layer.named_parameters())
    rows = []
    for token in x.reshape(-1, x.shape[-1]):
        chances = (p["router.weight"] @ token).softmax(0)
        best = sorted(range(len(chances)), key=lambda e: -float(chances[e].detach()))[:k]
        total = sum(chances[e] for e in best) if normalize else 1.0
        y: Any = 0
        for e in best:
            inside = p["up.weight"][e] @ token + (p["up.bias"][e] if "up.bias" in p else 0)
            out = p["down.weight"][e] @ functional.gelu(inside)
            out = out + (p["down.bias"][e] if "down.bias" in p else 0)
            y = y + chances[e] / total * out
        rows.append(y)
    return torch.stack(rows).reshape(*x.shape[:-1], -1)


@pytest.mark.parametrize("execution", EXECUTIONS)
class TestExperts:
    """Both executions compute the definition."""

    @pytest.mark.parametrize("leading", [(), (11,), (2, 3)], ids=str)
    @pytest.mark.parametrize(
        "options", [{}, {"normalize": False}, {"bias": False}, {"o": 4}], ids=str
    )
    def test_loop(self, execution: str, leading: tuple[int, ...], options: dict[str, Any]) -> None:
        """Values and gradients are those of a loop, the router's too."""
        layer = Experts(**SIZES, execution=execution, **options, **DOUBLE)
        x = randn(*leading, 3).requires_grad_()
        reference = loop(layer, x, normalize=options.get("normalize", True))
        laws.close(layer(x), reference)
        leaves = [x, *layer.parameters()]
        for one, other in zip(
            checks.gradients(layer(x), leaves), checks.gradients(reference, leaves), strict=True
        ):
            laws.close(one, other)

    @pytest.mark.parametrize("k", [1, 3, 5])
    def test_equivalent(self, execution: str, k: int) -> None:
        """The plain torch of the docstring gives the same."""
        layer = Experts(**{**SIZES, "k": k}, execution=execution, **DOUBLE)
        plain = laws.equivalent(Experts)
        x = randn(11, 3)
        expected = plain(x, **laws.parameters_of(layer), k=k, bend=functional.gelu)
        laws.close(layer(x), expected)

    def test_no_token_is_dropped(self, execution: str) -> None:
        """When all tokens want the same expert, each of them gets it."""
        layer = Experts(**{**SIZES, "k": 1}, execution=execution, **DOUBLE)
        with torch.no_grad():
            layer.router.weight.zero_()
            layer.router.weight[3] = 10.0
        x = randn(101, 3).abs()
        routed = layer.route(x)
        assert (routed.chosen == 3).all()
        assert routed.load.tolist() == [0, 0, 0, 1, 0]
        laws.close(routed.output, loop(layer, x, 1))
        assert (routed.output != 0).all()

    def test_no_tokens(self, execution: str) -> None:
        """An empty batch gives an empty result."""
        layer = Experts(**SIZES, execution=execution, **DOUBLE)
        assert layer(randn(0, 3)).shape == (0, 3)

    def test_stored(self, execution: str) -> None:
        """Pickles, copies, state dicts, the repr and the meta device give the layer again."""
        layer = Experts(**SIZES, execution=execution, activation="relu", **DOUBLE)
        laws.copies_and_stores(layer, randn(4, 3))
        laws.born_on_meta(lambda **options: Experts(**SIZES, execution=execution, **options))


class TestRouting:
    """What `route` tells."""

    def test_balance(self) -> None:
        """The loss is `e` times the sum of load times mean chance; 1 for an even router."""
        layer = Experts(**SIZES, **DOUBLE)
        x = randn(4, 11, 3)
        routed = layer.route(x)
        chances = layer.router(x).softmax(-1)
        load = torch.zeros(5, dtype=torch.float64)
        for e in routed.chosen.flatten():
            load[e] += 1 / (44 * 2)
        laws.close(routed.load, load)
        laws.close(routed.balance, 5 * (load * chances.mean((0, 1))).sum())
        assert routed.chosen.shape == routed.weights.shape == (4, 11, 2)
        laws.close(routed.weights.sum(-1), torch.ones(4, 11, dtype=torch.float64))
        with torch.no_grad():
            layer.router.weight.zero_()
        laws.close(layer.route(x).balance, torch.ones((), dtype=torch.float64))

    def test_balance_teaches_the_router(self) -> None:
        """Following the loss spreads the tokens over the experts."""
        layer = Experts(**{**SIZES, "k": 1}, **DOUBLE)
        x = randn(200, 3) + torch.tensor([3.0, 0, 0])
        optimizer = torch.optim.SGD(layer.router.parameters(), lr=0.3)
        before = layer.route(x)
        for _ in range(60):
            optimizer.zero_grad()
            layer.route(x).balance.backward()
            optimizer.step()
        after = layer.route(x)
        assert float(after.balance.detach()) < float(before.balance.detach())
        assert float(after.load.max()) < float(before.load.max())
        assert all(part.grad is None for part in layer.up.parameters())

    def test_half_precision(self) -> None:
        """The chances are computed in single precision, the output keeps its dtype."""
        layer = Experts(**SIZES, dtype=torch.bfloat16)
        routed = layer.route(torch.randn(4, 3, dtype=torch.bfloat16))
        assert routed.output.dtype == routed.weights.dtype == torch.bfloat16
        assert routed.balance.dtype == torch.float32


def soft(layer: Any, x: Tensor) -> Tensor:
    """Slot by slot, for one sequence."""
    slots = layer.slots.weight
    logits = torch.einsum("ti,esi->tes", x, slots)
    combine = (logits - logits.logsumexp((1, 2), keepdim=True)).exp()
    y: Any = 0
    for e in range(slots.shape[0]):
        for s in range(slots.shape[1]):
            read = (logits[:, e, s].softmax(0).unsqueeze(1) * x).sum(0)
            inside = functional.gelu(layer.up.weight[e] @ read + layer.up.bias[e])
            out = layer.down.weight[e] @ inside + layer.down.bias[e]
            y = y + combine[:, e, s].unsqueeze(1) * out
    return y  # type: ignore[no-any-return]


class TestSoft:
    """`SoftMoE`."""

    @pytest.mark.parametrize("leading", [(), (4,), (2, 2)], ids=str)
    def test_definition(self, leading: tuple[int, ...]) -> None:
        """Values and gradients are those of the definition and of the docstring."""
        layer = SoftMoE(e=2, s=5, i=3, m=7, o=4, **DOUBLE)
        x = randn(*leading, 11, 3)

        def each(x: Tensor) -> Tensor:
            rows = [soft(layer, row) for row in x.reshape(-1, 11, 3)]
            return torch.stack(rows).reshape(*leading, 11, 4)

        checks.agrees(layer, each, x)
        plain = laws.equivalent(SoftMoE)
        parameters = laws.parameters_of(layer)
        checks.agrees(layer, lambda x: plain(x, **parameters, bend=functional.gelu), x)

    def test_compiled_and_stored(self) -> None:
        """One graph; pickles, copies, state dicts, the repr and the meta device."""
        layer = SoftMoE(e=2, s=5, i=3, m=7, activation="tanh", **DOUBLE)
        x = randn(4, 11, 3)
        checks.compiles(layer, x)
        laws.copies_and_stores(layer, x)
        laws.born_on_meta(lambda **options: SoftMoE(e=2, s=5, i=3, m=7, **options))

    def test_without_bias(self) -> None:
        """`bias=False` leaves every bias away."""
        names = set(dict(SoftMoE(e=2, s=5, i=3, m=7, bias=False).named_parameters()))
        assert names == {"slots.weight", "up.weight", "down.weight"}


def test_dense_compiles_as_one_graph() -> None:
    """The dense execution has no sizes that depend on the data."""
    checks.compiles(Experts(**SIZES, execution="dense", **DOUBLE), randn(11, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: Experts(e=4, k=1, i=41, m=37, **options),
        lambda **options: SoftMoE(e=4, s=3, i=41, m=37, **options),
    ],
    ids=["experts", "soft"],
)
def test_scale(make: Callable[..., Any]) -> None:
    """Every layer of every expert starts with the scale of an `nn.Linear`, or with unit scale."""
    for init, wanted in (("linear", 1 / 3), ("lecun", 1.0)):
        layer = make(init=init, bias=False)
        for part, size in ((layer.up, 41), (layer.down, 37)):
            front = (4, 3) if make(bias=False).__class__ is SoftMoE else (4, 16)
            assert 0.9 < laws.moment(part, 60, *front, size) / wanted < 1.1


def test_refusals() -> None:
    """What is wrong, and what to write instead."""
    with pytest.raises(SizeError, match=r"^k=6, but a token can use 1 to e=5 experts"):
        Experts(e=5, k=6, i=3, m=7)
    with pytest.raises(EinheadsError, match=r"^execution='fast' is none"):
        Experts(**SIZES, execution="fast")
    with pytest.raises(SizeError, match="axis 'i' has two sizes: 4"):
        Experts(**SIZES)(torch.ones(2, 4))
    with pytest.raises(SizeError, match="axis 'i' has two sizes: 4"):
        SoftMoE(e=2, s=5, i=3, m=7)(torch.ones(2, 4))
    assert einheads.Routed._fields == ("output", "balance", "load", "chosen", "weights")
