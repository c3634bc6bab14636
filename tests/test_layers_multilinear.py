"""Layers of several inputs, against torch's own and against their definitions."""

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
from einheads import Bilinear, SizeError

DOUBLE: dict[str, Any] = {"dtype": torch.float64}


@dataclass(frozen=True)
class Case:
    """A layer, the shapes of its inputs, an einsum of inputs and weights, and larger sizes."""

    make: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    definition: Callable[..., Tensor]
    large: Callable[..., Any]
    large_shapes: tuple[tuple[int, ...], ...]
    features: int  # how many products are summed: what the bias of a linear starts with


def bilinear(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    """Torch's own function."""
    return nn.functional.bilinear(x, z, p["weight"], p["bias"])


def low_rank(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    """The bilinear form of rank `r`, with its dense weight."""
    weight = torch.einsum("or,ri,rj->oij", p["up"], p["left"], p["right"])
    return torch.einsum("...i,...j,oij->...o", x, z, weight) + p["bias"]


def hyper(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    """A matrix for each sample."""
    weight = torch.einsum("...z,oiz->...oi", z, p["weight"])
    return torch.einsum("...ti,...oi->...to", x, weight) + p["bias"]


def biaffine(p: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    """One bilinear form of inputs with a constant 1 appended."""
    big = nn.functional.pad(p["pair.weight"], (0, 1, 0, 1))
    big = big + nn.functional.pad(
        p["left.weight"][:, :, None], (p["right.weight"].shape[1], 0, 0, 1)
    )
    big = big + nn.functional.pad(p["right.weight"][:, None], (0, 1, p["left.weight"].shape[1], 0))
    x, z = (nn.functional.pad(one, (0, 1), value=1.0) for one in (x, z))
    y = torch.einsum("...si,...tj,oij->...ost", x, z, big)
    return y + p["pair.bias"][:, None, None]


def outer(p: dict[str, Tensor], x: Tensor) -> Tensor:
    """A loop over rows."""
    total: Any = 0
    for row in x.unbind(-3):
        a = row @ p["left.weight"].T + p["left.bias"]
        b = row @ p["right.weight"].T + p["right.bias"]
        total = total + torch.einsum("...ic,...jd,zcd->...ijz", a, b, p["pair.weight"])
    return total / x.shape[-3] + p["pair.bias"]


CASES = {
    "bilinear": Case(
        lambda **options: Bilinear(3, 5, 7, **options),
        ((3,), (5,)),
        bilinear,
        lambda **options: Bilinear(17, 13, 19, **options),
        ((8, 17), (8, 13)),
        17 * 13,
    ),
    "low rank": Case(
        lambda **options: einheads.LowRankBilinear(i=3, j=5, r=2, o=7, **options),
        ((3,), (5,)),
        low_rank,
        lambda **options: einheads.LowRankBilinear(i=17, j=13, r=23, o=19, **options),
        ((8, 17), (8, 13)),
        17 * 13,
    ),
    "hyper": Case(
        lambda **options: einheads.HyperLinear(i=3, z=5, o=7, **options),
        ((2, 3), (5,)),
        hyper,
        lambda **options: einheads.HyperLinear(i=17, z=13, o=19, **options),
        ((8, 3, 17), (8, 13)),
        17 * 13,
    ),
    "biaffine": Case(
        lambda **options: einheads.Biaffine(i=3, j=5, o=7, **options),
        ((2, 3), (11, 5)),
        biaffine,
        lambda **options: einheads.Biaffine(i=17, j=13, o=19, **options),
        ((8, 2, 17), (8, 3, 13)),
        17 * 13,
    ),
    "outer product mean": Case(
        lambda **options: einheads.OuterProductMean(m=3, c=5, d=2, z=7, **options),
        ((4, 6, 3),),
        outer,
        # The projections have unit scale without their biases, whose scale is another question.
        lambda **options: einheads.OuterProductMean(m=17, c=13, d=11, z=19, **options),
        ((8, 1, 3, 17),),
        13 * 11,
    ),
}
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def made(case: Case) -> nn.Module:
    """A layer in double precision, with no parameter at zero."""
    layer: nn.Module = case.make(**DOUBLE)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


@each
class TestEveryLayer:
    """What all of them promise."""

    @pytest.mark.parametrize("leading", [(), (4,), (2, 4)], ids=str)
    def test_definition(self, case: Case, leading: tuple[int, ...]) -> None:
        """Values and gradients are those of the definition, with any leading axes."""
        layer = made(case)
        inputs = [randn(*leading, *shape) for shape in case.shapes]
        checks.agrees(
            layer, lambda *xs: case.definition(dict(layer.named_parameters()), *xs), *inputs
        )

    def test_equivalent(self, case: Case) -> None:
        """The plain torch of the docstring gives the same values and gradients."""
        layer = made(case)
        checks.agrees(layer, checks.equivalent(layer), *(randn(4, *shape) for shape in case.shapes))

    def test_compiled(self, case: Case) -> None:
        """One graph, same numbers."""
        checks.compiles(made(case), *(randn(4, *shape) for shape in case.shapes))

    def test_stored(self, case: Case) -> None:
        """The repr makes the layer again, its state dict loads, the meta device works."""
        layer = made(case)
        again = laws.made_by_its_repr(layer)
        again.load_state_dict(layer.state_dict())
        inputs = [randn(4, *shape) for shape in case.shapes]
        laws.close(again(*inputs), layer(*inputs))
        laws.born_on_meta(case.make)

    @pytest.mark.parametrize("init", ["linear", "lecun"])
    def test_scale(self, case: Case, init: str) -> None:
        """The outputs start with the scale of an `nn.Linear`, or with unit scale."""
        value = checks.moment(
            lambda: case.large(init=init),
            lambda: [torch.randn(shape) for shape in case.large_shapes],
            100,
        )
        wanted = 1.0 if init == "lecun" else 1 / 3 + 1 / (3 * case.features)
        assert 0.9 < value / wanted < 1.1

    def test_without_bias(self, case: Case) -> None:
        """`bias=False` leaves every bias away."""
        layer = case.make(bias=False, **DOUBLE)
        assert not [name for name, _ in layer.named_parameters() if "bias" in name]
        zeros = layer(*(torch.zeros(4, *shape, dtype=torch.float64) for shape in case.shapes))
        assert not zeros.any()


def test_bilinear_is_a_drop_in() -> None:
    """The constructor, the state dict and the outputs are those of `nn.Bilinear`."""
    theirs = nn.Bilinear(3, 5, 7, False, dtype=torch.float64)
    ours = Bilinear(3, 5, 7, False, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, z = randn(2, 11, 3), randn(2, 11, 5)
    laws.close(ours(x, z), theirs(x, z))
    assert (ours.in1_features, ours.in2_features, ours.out_features) == (3, 5, 7)


def test_biaffine_starts_bilinear() -> None:
    """The linear parts start from zero."""
    layer = einheads.Biaffine(i=3, j=5, o=7)
    assert not layer.left.weight.any()
    assert not layer.right.weight.any()
    assert layer.pair.weight.all()


class TestMask:
    """The mask of `OuterProductMean`."""

    @pytest.mark.parametrize("bias", [False, True])
    def test_mean_over_what_counts(self, *, bias: bool) -> None:
        """A pair is averaged over the rows in which both positions count."""
        layer = einheads.OuterProductMean(m=3, c=5, d=2, z=7, bias=bias, **DOUBLE)
        x = randn(4, 6, 3)
        mask = torch.rand(4, 6) < 0.6
        mask[:, 2] = False
        y = layer(x, mask)
        empty = layer.pair.bias if bias else torch.zeros(7, dtype=torch.float64)
        for i in range(6):
            for j in range(6):
                rows = mask[:, i] & mask[:, j]
                expected = layer(x[rows][:, [i, j]])[0, 1] if rows.any() else empty
                laws.close(y[i, j], expected)
        laws.close(layer(x, torch.ones(4, 6)), layer(x))

    def test_wrong_shape(self) -> None:
        """A mask of another shape is refused instead of broadcast."""
        layer = einheads.OuterProductMean(m=3, c=5, z=7)
        with pytest.raises(SizeError, match=r"^the mask has the shape \(6,\), but the positions"):
            layer(torch.ones(4, 6, 3), torch.ones(6))


def test_wrong_sizes() -> None:
    """Errors name the axes of the pattern."""
    with pytest.raises(SizeError, match=r"axis 'j' has two sizes: 4 \(x2, dimension 2\) and 5"):
        Bilinear(3, 5, 7)(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(SizeError, match=r"^the layer takes 2 inputs, but 1 came"):
        Bilinear(3, 5, 7)(torch.ones(2, 3))
