"""The linear layers and the layers along chosen axes, each against torch's own layers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import einheads
import laws
from einheads import (
    AxisLinear,
    Einsum,
    FromHeads,
    GroupedLinear,
    HeadLinear,
    Linear,
    PatchEmbed,
    Scale,
    ToHeads,
)
from test_initializers import LIMIT, distance_between, drawn

DOUBLE: dict[str, Any] = {"dtype": torch.float64}


@dataclass(frozen=True)
class Case:
    """A layer, an input of it, and the same computed by somebody else."""

    make: Callable[..., Einsum]
    shape: tuple[int, ...]  # of an input without leading axes
    reference: Callable[[Einsum, Tensor], Tensor]
    features: int  # how many products are summed
    parameters: dict[str, tuple[int, ...]]

    @property
    def layer(self) -> Einsum:
        """A fresh layer in double precision."""
        return self.make(**DOUBLE)


def loop_to_heads(layer: Einsum, x: Tensor) -> Tensor:
    """A loop over F.linear."""
    pairs = zip(layer.weight, layer.bias, strict=True)
    return torch.stack([functional.linear(x, w, b) for w, b in pairs], -2)


def loop_heads(layer: Einsum, x: Tensor) -> Tensor:
    """A loop over F.linear, each with its own slice of the input."""
    triples = zip(x.unbind(-2), layer.weight, layer.bias, strict=True)
    return torch.stack([functional.linear(*triple) for triple in triples], -2)


def grouped_convolution(layer: Einsum, x: Tensor) -> Tensor:
    """A convolution with a window of one; its channels are the last axis here."""
    flat = x.reshape(-1, x.shape[-1], 1)
    groups = len(layer.weight)
    y = functional.conv1d(
        flat, layer.weight.flatten(0, 1).unsqueeze(-1), layer.bias.flatten(), groups=groups
    )
    return y.reshape(*x.shape[:-1], -1)


def along_time(layer: Einsum, x: Tensor) -> Tensor:
    """F.linear on the transposed input."""
    y = functional.linear(x.transpose(-1, -2), layer.weight, layer.bias)
    return y.transpose(-1, -2)


def along_time_per_channel(layer: Einsum, x: Tensor) -> Tensor:
    """F.linear for each channel."""
    columns = [
        functional.linear(x[..., c], layer.weight[c], layer.bias[:, c]) for c in range(x.shape[-1])
    ]
    return torch.stack(columns, -1)


def pooled(layer: Einsum, x: Tensor) -> Tensor:
    """The dense matrix over both axes of the picture."""
    matrix = layer.weight.flatten(1)
    return functional.linear(x.flatten(-3, -2).transpose(-1, -2), matrix, layer.bias).transpose(
        -1, -2
    )


def convolution(layer: Einsum, x: Tensor) -> Tensor:
    """The convolution whose stride is its window."""
    images = x.reshape(-1, *x.shape[-3:])
    y = functional.conv2d(images, layer.weight, layer.bias, stride=layer.weight.shape[2:])
    y = y.flatten(2).transpose(1, 2)
    return y.reshape(*x.shape[:-3], *y.shape[1:])


CASES = {
    "Linear": Case(
        lambda **options: Linear(7, 11, **options),
        (7,),
        lambda layer, x: functional.linear(x, layer.weight, layer.bias),
        7,
        {"weight": (11, 7), "bias": (11,)},
    ),
    "ToHeads": Case(
        lambda **options: ToHeads(i=7, h=5, o=11, **options),
        (7,),
        loop_to_heads,
        7,
        {"weight": (5, 11, 7), "bias": (5, 11)},
    ),
    "HeadLinear": Case(
        lambda **options: HeadLinear(h=5, i=7, o=11, **options),
        (5, 7),
        loop_heads,
        7,
        {"weight": (5, 11, 7), "bias": (5, 11)},
    ),
    "FromHeads": Case(
        lambda **options: FromHeads(h=5, i=7, o=11, **options),
        (5, 7),
        lambda layer, x: functional.linear(x.flatten(-2), layer.weight.flatten(1), layer.bias),
        35,
        {"weight": (11, 5, 7), "bias": (11,)},
    ),
    "GroupedLinear": Case(
        lambda **options: GroupedLinear(g=5, i=7, o=11, **options),
        (35,),
        grouped_convolution,
        7,
        {"weight": (5, 11, 7), "bias": (5, 11)},
    ),
    "AxisLinear": Case(
        lambda **options: AxisLinear("... t c -> ... s c", t=7, s=11, **options),
        (7, 3),
        along_time,
        7,
        {"weight": (11, 7), "bias": (11,)},
    ),
    "AxisLinear per channel": Case(
        lambda **options: AxisLinear("... t c -> ... s c", per="c", t=7, s=11, c=3, **options),
        (7, 3),
        along_time_per_channel,
        7,
        {"weight": (3, 11, 7), "bias": (11, 3)},
    ),
    "AxisLinear over two axes": Case(
        lambda **options: AxisLinear("... y x c -> ... n c", y=3, x=5, n=7, **options),
        (3, 5, 2),
        pooled,
        15,
        {"weight": (7, 3, 5), "bias": (7,)},
    ),
    "PatchEmbed": Case(
        lambda **options: PatchEmbed(c=3, p=2, q=5, o=11, **options),
        (3, 14, 15),
        convolution,
        30,
        {"weight": (11, 3, 2, 5), "bias": (11,)},
    ),
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
LEADING = ((), (2,), (2, 3))


class TestEveryLayer:
    """What holds for each of them."""

    @every_case
    @pytest.mark.parametrize("leading", LEADING, ids=str)
    def test_agrees_with_torch(self, case: Case, leading: tuple[int, ...]) -> None:
        """Values and all gradients are those of the reference, with any leading axes."""
        layer = case.layer
        laws.agrees(layer, lambda x: case.reference(layer, x), *leading, *case.shape)

    @pytest.mark.parametrize(
        "name", [name for name in CASES if "per" not in name and "over" not in name]
    )
    def test_equivalent_of_the_docstring(self, name: str) -> None:
        """The plain torch of the docstring gives the same values and gradients."""
        case = CASES[name]
        layer = case.layer
        plain = laws.equivalent(type(layer))
        laws.agrees(layer, lambda x: plain(x, **laws.parameters_of(layer)), 2, *case.shape)

    @every_case
    def test_parameters(self, case: Case) -> None:
        """Weights lie as in torch's layers: out before in."""
        layer = case.layer
        assert {k: tuple(v.shape) for k, v in layer.named_parameters()} == case.parameters
        assert list(case.make(bias=False).state_dict()) == ["weight"]
        assert {v.dtype for v in layer.parameters()} == {torch.float64}

    @every_case
    def test_without_bias(self, case: Case) -> None:
        """Without a bias, it is the layer with a bias of zero."""
        layer, bare = case.layer, case.make(bias=False, **DOUBLE)
        bare.load_state_dict({"weight": layer.weight})
        nn.init.zeros_(layer.bias)
        x = torch.randn(2, *case.shape, **DOUBLE)
        laws.close(bare(x), layer(x))

    @every_case
    def test_copies_and_stores(self, case: Case) -> None:
        """Repr, pickle, deepcopy and the state dict make the same layer again."""
        for options in ({}, {"bias": False}, {"init": "lecun"}):
            layer = case.make(**options)
            laws.copies_and_stores(layer, torch.randn(2, *case.shape))

    @every_case
    def test_meta(self, case: Case) -> None:
        """A layer without storage gets its initial values afterwards."""
        laws.born_on_meta(case.make)

    @every_case
    def test_initial_scale(self, case: Case) -> None:
        """Outputs start as those of one nn.Linear, or with unit scale."""
        seeds, shape = 60, (20, *case.shape)
        linear = nn.Linear(case.features, 50, **DOUBLE)
        theirs = laws.moment(linear, 100, 20, case.features)
        assert 0.9 < laws.moment(case.layer, seeds, *shape) / theirs < 1.1
        assert 0.9 < laws.moment(case.make(init="lecun", **DOUBLE), seeds, *shape) < 1.1

    @every_case
    def test_each_matrix_starts_as_its_own_linear(self, case: Case) -> None:
        """No statistic tells a matrix of the stack from the weight of an nn.Linear."""
        layer = case.layer
        linear = nn.Linear(case.features, layer.matrices().shape[1], **DOUBLE)
        theirs = drawn(linear, 2000)
        torch.manual_seed(5)
        heads: list[list[Tensor]] = [[] for _ in layer.matrices()]
        for _ in range(2000 // linear.weight.numel() + 1):
            layer.reset_parameters()
            for head, matrix in zip(heads, layer.matrices(), strict=True):
                head.append(matrix.detach().flatten().clone())
        for head in heads:
            assert distance_between(torch.cat(head).numpy(), theirs["weight"]) < LIMIT
        assert distance_between(drawn(layer, 2000)["bias"], theirs["bias"]) < LIMIT

    def test_compiles_without_a_break(self) -> None:
        """All of them fit into one graph, forward and backward."""
        layers = [case.layer for case in CASES.values()]
        inputs = [torch.randn(2, *case.shape, **DOUBLE) for case in CASES.values()]

        def run(*inputs: Tensor) -> list[Tensor]:
            return [layer(x) for layer, x in zip(layers, inputs, strict=True)]

        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        expected, actual = run(*inputs), compiled(*inputs)
        leaves = [value for layer in layers for value in layer.parameters()]
        ours = torch.autograd.grad(sum(y.square().sum() for y in actual), leaves)
        theirs = torch.autograd.grad(sum(y.square().sum() for y in expected), leaves)
        for one, other in zip((*actual, *ours), (*expected, *theirs), strict=True):
            laws.close(one, other)


class TestLinear:
    """A drop-in for nn.Linear."""

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_same_numbers_after_the_same_seed(self, *, bias: bool, dtype: torch.dtype) -> None:
        """The constructor draws what nn.Linear draws."""
        # The last digit of the bound depends on the size.
        for features in range(40, 0, -1):
            torch.manual_seed(11)
            theirs = nn.Linear(features, 13, bias, "cpu", dtype)
            torch.manual_seed(11)
            ours = Linear(features, 13, bias, "cpu", dtype)
            for name, value in theirs.state_dict().items():
                assert torch.equal(ours.state_dict()[name], value)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        x = torch.randn(3, 5, 1, dtype=dtype)
        torch.testing.assert_close(ours(x), theirs(x))

    def test_state_dicts_are_exchanged(self) -> None:
        """Each loads the other's, strictly, inside a model too."""
        theirs = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
        ours = nn.Sequential(Linear(7, 5), Linear(5, 3))
        ours.load_state_dict(theirs.state_dict(), strict=True)
        x = torch.randn(2, 7)
        torch.testing.assert_close(ours(x), theirs(x))
        nn.init.ones_(ours[0].weight)
        theirs.load_state_dict(ours.state_dict(), strict=True)
        torch.testing.assert_close(theirs(x), ours(x))

    def test_attributes_and_arguments_of_linear(self) -> None:
        """Code that was written for nn.Linear finds what it looks for."""
        layer = Linear(in_features=7, out_features=5, bias=False)
        assert (layer.in_features, layer.out_features, layer.bias) == (7, 5, None)
        assert repr(Linear(7, 5)) == "Linear(in_features=7, out_features=5)"
        assert repr(layer) == "Linear(in_features=7, out_features=5, bias=False)"
        named = Linear(7, 5, init="zeros", dtype=torch.float64)
        assert repr(named) == (
            "Linear(in_features=7, out_features=5, dtype=torch.float64, init='zeros')"
        )


class TestAxisLinear:
    """The weight is found from what happens to the axes."""

    @pytest.mark.parametrize(
        ("axes", "per", "sizes", "pattern"),
        [
            ("b t c -> b s c", "", {"t": 2, "s": 3}, "b t c, s t -> b s c"),
            ("b t c -> b c", "", {"t": 2}, "b t c, t -> b c"),
            ("b t (h d) -> b s (h d)", "h", {"t": 2, "s": 3, "h": 5},
             "b t (h d), h s t -> b s (h d)"),
            ("b c y x -> b c n m", "c", {"y": 2, "x": 3, "n": 5, "m": 7, "c": 2},
             "b c y x, c n m y x -> b c n m"),
        ],
    )  # fmt: skip
    def test_pattern(self, axes: str, per: str, sizes: dict[str, int], pattern: str) -> None:
        """Axes with a matrix each, then those that appear, then those that vanish."""
        layer = AxisLinear(axes, per=per, **sizes)
        assert layer.pattern == pattern
        laws.made_by_its_repr(layer)

    def test_nothing_vanishes(self) -> None:
        """A square matrix needs two names, and the error says so."""
        with pytest.raises(einheads.PatternError, match="no axis vanishes") as caught:
            AxisLinear("b t c -> b t c", t=3)
        assert "such as 'b t c -> b s c'" in str(caught.value)

    def test_weight_is_not_written(self) -> None:
        """Who writes the weight wants Einsum."""
        with pytest.raises(einheads.PatternError, match="only the input is written"):
            AxisLinear("b t c, s t -> b s c", t=3, s=5)

    @pytest.mark.parametrize("per", ["t", "s", "z"])
    def test_per_is_on_both_sides(self, per: str) -> None:
        """An axis with a matrix each is there before and after."""
        with pytest.raises(einheads.PatternError, match=f"names '{per}', which is not on both"):
            AxisLinear("b t c -> b s c", per=per, t=3, s=5)

    def test_per_is_text(self) -> None:
        """Anything else is refused with its type."""
        with pytest.raises(TypeError, match="per is the axes with a matrix each, as one string"):
            AxisLinear("b t c -> b s c", per=3, t=3, s=5)  # type: ignore[arg-type]


class TestScale:
    """A factor for each index of the axes that have a size."""

    @pytest.mark.parametrize(
        ("axes", "sizes", "shape", "factor"),
        [
            ("d", {"d": 7}, (2, 3, 7), (7,)),
            ("h d", {"h": 3, "d": 7}, (2, 3, 7), (3, 7)),
            ("h d", {"h": 3}, (2, 3, 7), (3, 1)),
            ("c y x", {"c": 5}, (2, 5, 3, 7), (5, 1, 1)),
            ("c y x", {"c": 5, "x": 7}, (5, 3, 7), (5, 1, 7)),
        ],
        ids=str,
    )
    def test_agrees_with_a_product(
        self, axes: str, sizes: dict[str, int], shape: tuple[int, ...], factor: tuple[int, ...]
    ) -> None:
        """It multiplies, and adds where a bias is asked for."""
        layer = Scale(axes, bias=True, value=0.3, **sizes, **DOUBLE)
        assert torch.equal(layer.weight, torch.full_like(layer.weight, 0.3))
        assert not layer.bias.any()
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
        laws.agrees(
            layer, lambda x: x * layer.weight.view(factor) + layer.bias.view(factor), *shape
        )

    def test_laws(self) -> None:
        """Equivalent, repr, copies, meta and roles."""
        layer = Scale("h d", h=3, d=5, value=1e-4, **DOUBLE)
        plain = laws.equivalent(Scale)
        laws.agrees(layer, lambda x: plain(x, **laws.parameters_of(layer)), 2, 3, 5)
        laws.copies_and_stores(layer, torch.randn(2, 3, 5, **DOUBLE))
        laws.born_on_meta(lambda **options: Scale("h d", h=3, d=5, value=0.1, **options))
        assert repr(layer) == "Scale('h d', value=0.0001, dtype=torch.float64, h=3, d=5)"
        assert layer.roles == {"weight": {"h": "batch", "d": "batch"}}
        assert laws.moment(Scale("d", d=50), 20, 40, 50) == pytest.approx(1, abs=0.1)

    def test_start(self) -> None:
        """The factors start with a value, or as any weight may."""
        torch.manual_seed(0)
        layer = Scale("h d", h=30, d=50, init="lecun", bias=True)
        assert repr(layer) == "Scale('h d', bias=True, init='lecun', h=30, d=50)"
        assert abs(float(layer.weight.detach().std()) - 1) < 0.1
        assert repr(Scale("d", d=3, value=0.5)) == "Scale('d', value=0.5, d=3)"

    def test_axes_are_text(self) -> None:
        """A number is refused, with what to write."""
        with pytest.raises(TypeError, match="such as 'h d'"):
            Scale(64, d=64)  # type: ignore[arg-type]


class TestPatchEmbed:
    """The convolution of vision transformers."""

    def test_state_dict_of_the_convolution(self) -> None:
        """Its checkpoint loads strictly, and the tokens are the same."""
        theirs = nn.Conv2d(3, 11, (2, 5), stride=(2, 5))
        ours = PatchEmbed(c=3, p=2, q=5, o=11)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        x = torch.randn(2, 3, 14, 15)
        torch.testing.assert_close(
            ours(x), theirs(x).flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5
        )

    def test_square_by_default(self) -> None:
        """A patch is as wide as it is high."""
        assert PatchEmbed(c=3, p=4, o=5).weight.shape == (5, 3, 4, 4)


class TestErrors:
    """Sizes that do not fit are named by the axes of the user."""

    @pytest.mark.parametrize(
        ("name", "shape", "words"),
        [
            ("Linear", (2, 8), ["'i'", "8", "7"]),
            ("ToHeads", (2, 8), ["'i'", "8", "7"]),
            ("HeadLinear", (2, 6, 7), ["'h'", "6", "5"]),
            ("HeadLinear", (2, 5, 1), ["'i'", "1", "7"]),
            ("FromHeads", (2, 5, 8), ["'i'", "8", "7"]),
            ("GroupedLinear", (2, 36), ["(g i)", "36"]),
            ("AxisLinear", (2, 8, 3), ["'t'", "8", "7"]),
            ("AxisLinear per channel", (2, 7, 4), ["'c'", "4", "3"]),
            ("PatchEmbed", (2, 3, 15, 15), ["(h p)", "15"]),
            ("PatchEmbed", (2, 4, 14, 15), ["'c'", "4", "3"]),
        ],
    )
    def test_input_of_another_size(
        self, name: str, shape: tuple[int, ...], words: list[str]
    ) -> None:
        """The message has the axis and both sizes."""
        with pytest.raises(einheads.SizeError) as caught:
            CASES[name].layer(torch.randn(shape, **DOUBLE))
        for word in words:
            assert word in str(caught.value)

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda: Linear(3, -5), "axis of size -5, which is given for 'o'"),
            (lambda: HeadLinear(h=-1, i=3, o=5), "axis of size -1, which is given for 'h'"),
            (lambda: AxisLinear("b t c -> b s c", t=3), "needs the size of 's'"),
            (lambda: Scale("h d", z=3), "'z'"),
        ],
    )
    def test_sizes_that_cannot_be(self, make: Callable[[], Einsum], words: str) -> None:
        """A layer that could not be called cannot be made."""
        with pytest.raises(einheads.EinheadsError, match=words):
            make()

    def test_sizes_of_another_type(self) -> None:
        """A size that is no integer is named by its axis."""
        with pytest.raises(TypeError, match=r"size of axis 'o' is .*, not an integer"):
            ToHeads(i=3, h=2, o=5.0)  # type: ignore[arg-type]
