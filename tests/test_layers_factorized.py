"""The factorized layers, each against its dense matrix made by somebody else, and their fits."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import checks
import laws
from cases import as_numpy
from checks import randn
from einheads import (
    CP,
    BlockTensorTrain,
    EinheadsError,
    Einsum,
    HeadLinear,
    Kronecker,
    LowRank,
    Monarch,
    SizeError,
    TensorRing,
    TensorTrain,
    ToHeads,
    Tucker,
)
from einheads.layers.factorized import Factorized
from einheads.layers.fitting import alternate, difference
from oracle import oracle


def low_rank(layer: Any) -> Tensor:
    """The product of the two matrices of every head."""
    return layer.up @ layer.down  # type: ignore[no-any-return]


def kronecker(layer: Any) -> Tensor:
    """The sum of Kronecker products."""
    weights = [weight if weight.ndim == 3 else weight[None] for weight in layer.parameters()]
    weights = [w for w, name in zip(weights, dict(layer.named_parameters()), strict=True)
               if name != "bias"]  # fmt: skip
    return sum(reduce(torch.kron, terms) for terms in zip(*weights, strict=True))  # type: ignore[return-value]


def blocks(layer: Any) -> Tensor:
    """Block by block: output `s q` and input `k p` meet in a product of small rank."""
    first, second = layer.weight_1, layer.weight_2
    if first.ndim == 3:
        first, second = first[:, :, None], second[..., None]
    (k, q, _, p), s = first.shape, second.shape[1]
    dense = first.new_zeros(s * q, k * p)
    for b in range(k):
        for c in range(q):
            dense[c::q, b * p : (b + 1) * p] += second[c, :, b] @ first[b, c]
    return dense


def network(pattern: str) -> Callable[[Any], Tensor]:
    """The contraction of all weights by its definition."""

    def dense(layer: Any) -> Tensor:
        weights = [as_numpy(getattr(layer, name)) for name in layer.declared.names]
        return torch.from_numpy(np.asarray(oracle(pattern, *weights)))

    return dense


@dataclass(frozen=True)
class Case:
    """A layer, its dense weight computed by somebody else, and larger sizes for its scale."""

    kind: type[Factorized]
    sizes: dict[str, Any]
    dense: Callable[[Any], Tensor]
    parameters: int  # without the bias
    large: dict[str, Any]

    def make(self, **options: Any) -> Factorized:
        """A fresh layer."""
        kind: Any = self.kind
        return kind(**self.sizes, **options)  # type: ignore[no-any-return]

    def layer(self) -> Factorized:
        """A fresh layer in double precision."""
        return self.make(dtype=torch.float64)


def inputs_of(layer: Factorized, *leading: int) -> Tensor:
    """A random input."""
    shape = layer.dense_weight().shape
    return randn(*leading, *shape[:-2], shape[-1])


PAIR, TRIPLE = {"i": (3, 5), "o": (2, 7)}, {"i": (3, 2, 5), "o": (2, 7, 3)}
CASES = {
    "low rank": Case(LowRank, {"i": 7, "r": 3, "o": 5}, low_rank, 36, {"i": 40, "r": 30, "o": 20}),
    "low rank per head": Case(
        LowRank,
        {"i": 7, "r": 3, "o": 5, "h": 2},
        low_rank,
        72,
        {"i": 40, "r": 30, "o": 20, "h": 3},
    ),
    "kronecker": Case(Kronecker, PAIR, kronecker, 6 + 35, {"i": (20, 11), "o": (13, 9)}),
    "kronecker sum": Case(
        Kronecker, {**PAIR, "r": 3}, kronecker, 3 * 41, {"i": (20, 11), "o": (13, 9), "r": 5}
    ),
    "kronecker of three": Case(
        Kronecker, {**TRIPLE, "r": 2}, kronecker, 2 * 35, {"i": (8, 9, 7), "o": (7, 5, 9), "r": 5}
    ),
    "monarch": Case(
        Monarch, {"k": 3, "p": 5, "q": 2, "s": 7}, blocks, 72, {"k": 9, "p": 11, "q": 8, "s": 7}
    ),
    "block tensor train": Case(
        BlockTensorTrain,
        {"k": 3, "p": 5, "q": 2, "s": 7, "r": 4},
        blocks,
        288,
        {"k": 9, "p": 11, "q": 8, "s": 7, "r": 3},
    ),
    "tensor train": Case(
        TensorTrain,
        {**TRIPLE, "r": (2, 3)},
        network("a r u, b s v r, c w s -> (a b c) (u v w)"),
        12 + 84 + 45,
        {"i": (8, 9, 7), "o": (7, 5, 9), "r": (7, 8)},
    ),
    "cp": Case(
        CP,
        {**PAIR, "r": 4},
        network("r u, r v, a r, b r -> (a b) (u v)"),
        4 * 17,
        {"i": (12, 11), "o": (13, 9), "r": 60},
    ),
    "tucker": Case(
        Tucker,
        {**PAIR, "r": (2, 3), "s": 2},
        network("p u, q v, s t p q, a s, b t -> (a b) (u v)"),
        6 + 15 + 24 + 4 + 14,
        {"i": (12, 11), "o": (13, 9), "r": (7, 8), "s": 9},
    ),
    "tensor ring": Case(
        TensorRing,
        {**TRIPLE, "r": (2, 3, 5)},
        network("a r u z, b s v r, c z w s -> (a b c) (u v w)"),
        6 * 6 + 14 * 15 + 15 * 10,
        {"i": (8, 9, 7), "o": (7, 5, 9), "r": 7},
    ),
}
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
# No docstring writes out three Kronecker factors.
written = pytest.mark.parametrize(
    "case",
    [case for name, case in CASES.items() if name != "kronecker of three"],
    ids=[name for name in CASES if name != "kronecker of three"],
)


class TestEveryLayer:
    """What all of them promise."""

    @each
    @pytest.mark.parametrize("leading", [(), (4,), (2, 3)], ids=str)
    def test_dense(self, case: Case, leading: tuple[int, ...]) -> None:
        """The output is that of the dense matrix, with any number of leading axes."""
        layer = case.layer()
        dense = case.dense(layer)
        laws.close(layer.dense_weight(), dense)
        x = inputs_of(layer, *leading)
        bias: Any = layer.bias
        expected = (dense @ x.unsqueeze(-1)).squeeze(-1) + bias.reshape(dense.shape[:-1])
        laws.close(layer(x), expected)

    @written
    def test_equivalent(self, case: Case) -> None:
        """The plain torch of the docstring gives the same values and gradients."""
        layer = case.layer()
        checks.agrees(layer, checks.equivalent(layer), inputs_of(layer, 2, 3))

    @each
    def test_without_bias(self, case: Case) -> None:
        """`bias=False` leaves it away."""
        layer = case.make(bias=False, dtype=torch.float64)
        assert "bias" not in dict(layer.named_parameters())
        x = inputs_of(layer, 4)
        laws.close(layer(x), (case.dense(layer) @ x.unsqueeze(-1)).squeeze(-1))

    @each
    def test_compiled(self, case: Case) -> None:
        """One graph, same numbers."""
        layer = case.layer()
        checks.compiles(layer, inputs_of(layer, 4))

    @each
    def test_stored(self, case: Case) -> None:
        """Pickles, copies, state dicts, the repr and the meta device give the layer again."""
        layer = case.layer()
        laws.copies_and_stores(layer, inputs_of(layer, 4))
        laws.born_on_meta(case.make)

    @each
    def test_costs(self, case: Case) -> None:
        """Parameters and operations beside those of the dense layer."""
        layer = case.layer()
        dense = layer.dense_weight().numel()
        assert (layer.costs.parameters, layer.costs.dense_parameters) == (case.parameters, dense)
        assert layer.costs.dense_flops == 2 * dense
        # The fewest that a row can take; the program may take more where that is faster.
        runs = layer.explain(inputs_of(layer, 1)).multiply_adds
        assert layer.costs.flops <= 2 * runs <= 4 * layer.costs.flops

    @each
    @pytest.mark.parametrize("init", ["linear", "lecun"])
    def test_scale(self, case: Case, init: str) -> None:
        """The outputs start with the scale of an `nn.Linear`, or with unit scale."""
        kind: Any = case.kind
        layer = kind(**case.large, init=init)
        shape = layer.dense_weight().shape
        single = 1 / 3 + 1 / (3 * shape[-1])
        value = laws.moment(layer, 80, 8, *shape[:-2], shape[-1])
        assert 0.9 < value / (single if init == "linear" else 1.0) < 1.1

    @each
    def test_wrong_size(self, case: Case) -> None:
        """An input that does not fit is an error that shows the pattern."""
        layer = case.layer()
        x = inputs_of(layer, 4)
        with pytest.raises(SizeError, match=r"has size|has two sizes") as caught:
            layer(torch.cat([x, x], -1))
        assert layer.pattern in str(caught.value)

    @each
    def test_roles(self, case: Case) -> None:
        """Input axes are summed, output axes are brought, the rest is rank; heads are a batch."""
        layer = case.layer()
        meaning = dict.fromkeys("ipk", "in") | dict.fromkeys("osq", "out") | {"h": "batch"}
        # Blocks are kept by one factor and mixed or brought by the other.
        blocked = {"weight_1 k": "batch", "weight_2 q": "batch"}
        for name in layer.declared.names:
            for axis, role in layer.roles[name].items():
                if axis[0] == "r" or (case.kind is Tucker and axis[0] == "s"):
                    assert role == "rank"
                elif case.kind in {Monarch, BlockTensorTrain}:
                    assert role == blocked.get(f"{name} {axis}", meaning[axis])
                else:
                    assert role == meaning[axis[0]]


class TestFits:
    """`from_dense` and `to_dense`."""

    @each
    def test_exact(self, case: Case) -> None:
        """A weight of the right structure is found again, up to rounding, and the error says so."""
        target = case.layer().dense_weight().detach()
        fit = type(case.layer()).from_dense(target, **case.sizes)
        assert type(fit.layer) is case.kind
        assert fit.error < 1e-8
        torch.testing.assert_close(fit.layer.dense_weight(), target, rtol=1e-8, atol=1e-8)
        assert fit.layer.bias is None
        assert (fit.sweeps == 0) is case.layer().closed_form
        assert fit.costs == case.layer().costs

    @each
    def test_nearest(self, case: Case) -> None:
        """For a random weight the error is what it says, and no small change makes it smaller."""
        target = torch.randn_like(case.layer().dense_weight())
        fit = type(case.layer()).from_dense(target, **case.sizes)
        distance = (fit.layer.dense_weight() - target).norm()
        assert 0.1 < fit.error < 1
        assert abs(float(distance.detach() / target.norm()) - fit.error) < 1e-12
        # At a minimum the derivative of the error vanishes, whatever led there.
        every = torch.autograd.grad(
            distance, [value for name, value in fit.layer.named_parameters() if name != "bias"]
        )
        assert max(float(one.abs().max()) for one in every) < 1e-2 * float(distance.detach())

    def test_singular_values(self) -> None:
        """The error of a truncated decomposition is the norm of the values that were cut."""
        weight = randn(7, 5)
        values = torch.linalg.svdvals(weight)
        fit = LowRank.from_dense(weight, r=2)
        assert abs(fit.error - float(values[2:].norm() / values.norm())) < 1e-12
        grid = weight.new_tensor(np.random.default_rng(0).normal(size=(6, 35)))
        rearranged = grid.reshape(2, 3, 5, 7).permute(0, 2, 1, 3).reshape(10, 21)
        values = torch.linalg.svdvals(rearranged)
        fit_k = Kronecker.from_dense(grid, i=(5, 7), o=(2, 3), r=4)
        assert abs(fit_k.error - float(values[4:].norm() / values.norm())) < 1e-12

    def test_linear_and_back(self) -> None:
        """A full rank keeps every output of `nn.Linear`, and its bias, dtype and mode."""
        linear = nn.Linear(6, 15, dtype=torch.float64).eval().requires_grad_(False)
        x = randn(4, 6)
        for fit in (
            LowRank.from_dense(linear, r=6),
            Kronecker.from_dense(linear, i=(2, 3), o=(3, 5), r=6),
            BlockTensorTrain.from_dense(linear, k=2, q=3, r=3),
            TensorTrain.from_dense(linear, i=(2, 3), o=(3, 5), r=6),
            TensorRing.from_dense(linear, i=(2, 3), o=(3, 5), r=(1, 6)),
            Tucker.from_dense(linear, i=(2, 3), o=(3, 5), r=(2, 3), s=(3, 5)),
        ):
            assert fit.error < 1e-12
            laws.close(fit.layer(x), linear(x))
            assert not fit.layer.training
            assert not any(value.requires_grad for value in fit.layer.parameters())
            dense = fit.layer.to_dense()
            assert type(dense) is nn.Linear
            assert not dense.training
            assert not dense.weight.requires_grad
            laws.close(dense(x), linear(x))

    def test_heads_and_back(self) -> None:
        """A linear per head becomes factors per head, with the same bias, and again a linear."""
        heads = HeadLinear(h=2, i=5, o=7, dtype=torch.float64)
        x = randn(4, 2, 5)
        layer = LowRank.from_dense(heads, r=5).layer
        assert repr(layer) == "LowRank(i=5, r=5, o=7, h=2, dtype=torch.float64)"
        laws.close(layer(x), heads(x))
        dense = layer.to_dense()
        assert type(dense) is HeadLinear
        laws.close(dense(x), heads(x))
        other = Einsum("b g a, g a z -> b g z", bias=True, g=2, a=5, z=7, dtype=torch.float64)
        laws.close(LowRank.from_dense(other, r=5).layer(x), other(x))

    @pytest.mark.parametrize("frozen", ["weight", "bias"])
    def test_frozen_parts(self, frozen: str) -> None:
        """Weight and bias are frozen or trained each for itself, there and back."""
        linear = nn.Linear(6, 15)
        linear.get_parameter(frozen).requires_grad_(False)
        layer = LowRank.from_dense(linear, r=3).layer
        for module in (layer, layer.to_dense()):
            for name, value in module.named_parameters():
                assert value.requires_grad is ((name == "bias") is (frozen == "weight"))
        state = torch.get_rng_state()
        layer.to_dense()
        assert torch.equal(state, torch.get_rng_state())

    def test_single_precision(self) -> None:
        """The fit is made in double precision and stored as the weight is."""
        fit = TensorTrain.from_dense(torch.randn(12, 10), i=(2, 5), o=(3, 4), r=6)
        assert {value.dtype for value in fit.layer.parameters()} == {torch.float32}
        assert 1e-9 < fit.error < 1e-6
        assert str(fit) == (
            f"relative error {fit.error:.3g} ({fit.sweeps} sweeps); "
            "156 parameters (dense: 120), 768 FLOPs a row (dense: 240)"
        )

    @pytest.mark.parametrize("name", ["low rank", "kronecker sum", "tensor train", "tucker", "cp"])
    def test_complex(self, name: str) -> None:
        """A complex weight is found again too: nothing is conjugated on the way."""
        case = CASES[name]
        target = case.make(dtype=torch.complex128).dense_weight().detach()
        fit = type(case.layer()).from_dense(target, **case.sizes)
        assert fit.error < 1e-8
        torch.testing.assert_close(fit.layer.dense_weight(), target, rtol=1e-8, atol=1e-8)

    def test_sweeps_improve(self) -> None:
        """Every sweep of least squares lowers the error, and the last one stops it."""
        target = randn(3, 5, 7)
        terms, start = ["ar", "br", "cr"], [randn(3, 2), randn(5, 2), randn(7, 2)]
        errors = []
        for sweeps in (1, 2, 5, 200):
            factors, made = alternate(terms, "abc", target, start, sweeps)
            assert (made == sweeps) is (sweeps < 200)
            value = torch.einsum("ar,br,cr->abc", *factors)
            errors.append(difference(value, target))
            norms = [float(factor.norm()) for factor in factors]
            assert max(norms) - min(norms) < 1e-9
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < errors[0]

    def test_zeros(self) -> None:
        """The zero matrix has the error zero, in closed form and by least squares."""
        assert LowRank.from_dense(torch.zeros(5, 7), r=2).error == 0
        assert CP.from_dense(torch.zeros(6, 6), i=(2, 3), o=(3, 2), r=2).error == 0


class TestErrors:
    """Messages in the user's axis names."""

    def test_full_texts(self) -> None:
        """What is wrong, where, and what to write instead."""
        linear = nn.Linear(15, 14)
        texts = {
            "o1 * o2": (
                lambda: Kronecker.from_dense(linear, i=(3, 5), o=(3, 7)),
                "the dense weight has the shape (14, 15), but the layer has (o1 o2)=21, (i1 i2)=15",
            ),
            "rank": (
                lambda: LowRank.from_dense(linear, r=15),
                "r=15, but matrices of 14 x 15 have at most rank 14",
            ),
            "train rank": (
                lambda: TensorTrain.from_dense(linear, i=(3, 5), o=(2, 7), r=7),
                "r1=7, but matrices of 6 x 35 have at most rank 6",
            ),
            "factors": (
                lambda: Kronecker(i=(3, 5), o=(2, 7, 1)),
                "i has 2 factors and o has 3, but each weight takes one of both",
            ),
            "one factor": (
                lambda: CP(i=(15,), o=(2, 7), r=2),
                "i has 1 factor, but a product needs two or more",
            ),
            "ranks": (
                lambda: TensorTrain(i=(3, 5, 2), o=(2, 7, 2), r=(2, 3, 4)),
                "r has 3 ranks, but there are 2: r1, r2",
            ),
            "weight": (
                lambda: LowRank.from_dense(torch.ones(5), r=2),
                "the dense weight has 1 dimension",
            ),
            "module": (
                lambda: LowRank.from_dense(ToHeads(i=2, h=3, o=5), r=2),
                "a ToHeads is no dense linear layer",
            ),
        }
        for call, text in texts.values():
            with pytest.raises(EinheadsError) as caught:
                call()
            assert caught.value.sentence == text
            assert any(note.startswith("write: ") for note in caught.value.notes)
        with pytest.raises(TypeError, match=r"^i is a tuple with the size of each factor, not 15;"):
            Kronecker(i=15, o=(2, 7))  # type: ignore[arg-type]
