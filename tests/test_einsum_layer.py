"""`einheads.Einsum` as a declaration: parameters, bias, values, strictness, roles, repr, pickle."""

import pickle
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import einheads
from cases import Array, as_numpy, assert_agrees
from oracle import oracle

DOUBLE: dict[str, Any] = {"dtype": torch.float64}


def expected(
    pattern: str, layer: einheads.Einsum, *inputs: Tensor, bias: str = "", **sizes: int
) -> Array:
    """What the definition gives for the inputs and the parameters of a layer."""
    parameters = dict(layer.named_parameters())
    offset = parameters.pop("bias", None)
    value = oracle(pattern, *map(as_numpy, (*inputs, *parameters.values())), **sizes)
    if offset is None:
        assert not bias
        return value
    output = pattern.split("->")[1]
    ones = np.ones_like(value)
    return value + oracle(f"{bias}, {output} -> {output}", as_numpy(offset), ones)


def check(result: Tensor, value: Array) -> None:
    """Assert that a result in double precision has these values."""
    assert result.dtype == torch.float64
    assert_agrees(result, value, np.abs(value) + 10, 64)


def shapes_of(layer: nn.Module) -> dict[str, tuple[int, ...]]:
    """The parameters of a layer, in order, with their shapes."""
    return {name: tuple(x.shape) for name, x in layer.named_parameters()}


class TestParameters:
    """Weights are plain parameters, named and shaped as the pattern writes them."""

    @pytest.mark.parametrize(
        ("pattern", "inputs", "sizes", "shapes"),
        [
            ("b i, o i -> b o", 1, {"o": 5, "i": 3}, {"weight": (5, 3)}),
            ("b i, i o -> b o", 1, {"o": 5, "i": 3}, {"weight": (3, 5)}),
            (
                "... h i, o h i -> ... h o",
                1,
                {"h": 2, "i": 3, "o": 5},
                {"weight": (5, 2, 3)},
            ),
            ("b i, (g o) i -> b g o", 1, {"g": 2, "i": 3, "o": 5}, {"weight": (10, 3)}),
            ("b i, 1 i o -> b o", 1, {"i": 3, "o": 5}, {"weight": (1, 3, 5)}),
            ("... d, d -> ... d", 1, {"d": 7}, {"weight": (7,)}),
            (
                "... i, i r, r o -> ... o",
                1,
                {"i": 3, "r": 2, "o": 5},
                {"weight_1": (3, 2), "weight_2": (2, 5)},
            ),
            ("b i, b j, o i j -> b o", 2, {"i": 3, "j": 5, "o": 7}, {"weight": (7, 3, 5)}),
            (
                "b i, b j, i r, j r, r o -> b o",
                2,
                {"i": 3, "j": 5, "r": 2, "o": 7},
                {"weight_1": (3, 2), "weight_2": (5, 2), "weight_3": (2, 7)},
            ),
            ("b i, o i -> b o", 1, {"o": 1, "i": 1}, {"weight": (1, 1)}),
        ],
    )
    def test_names_and_shapes(
        self,
        pattern: str,
        inputs: int,
        sizes: dict[str, int],
        shapes: dict[str, tuple[int, ...]],
    ) -> None:
        """One weight is `weight`, several are numbered, each in the order of its axes."""
        layer = einheads.Einsum(pattern, inputs=inputs, **sizes)
        assert isinstance(layer, nn.Module)
        assert shapes_of(layer) == shapes
        for name, x in layer.named_parameters():
            assert type(x) is nn.Parameter
            assert getattr(layer, name) is x
            assert x.requires_grad
            assert x.is_leaf
            assert x.is_contiguous()
        assert not list(layer.buffers())

    def test_names_can_be_chosen(self) -> None:
        """`names` replaces the numbers, in the order of the weights."""
        layer = einheads.Einsum(
            "... i, i r, r o -> ... o", names=("down", "up"), bias="o", i=3, r=2, o=5, **DOUBLE
        )
        assert shapes_of(layer) == {"down": (3, 2), "up": (2, 5), "bias": (5,)}
        x = torch.randn(7, 3, **DOUBLE)
        check(layer(x), as_numpy(x @ layer.down @ layer.up + layer.bias))
        assert set(layer.roles) >= {"down", "up"}
        single = einheads.Einsum("b i, i o -> b o", names=("kernel",), i=3, o=5)
        assert shapes_of(single) == {"kernel": (3, 5)}

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.complex64], ids=str)
    def test_dtype(self, dtype: torch.dtype) -> None:
        """All parameters have the dtype that is asked for, and the default one otherwise."""
        layer = einheads.Einsum("b i, o i -> b o", bias="o", i=3, o=5, dtype=dtype)
        assert {x.dtype for x in layer.parameters()} == {dtype}
        assert layer(torch.ones(2, 3, dtype=dtype)).dtype == dtype
        default = einheads.Einsum("b i, o i -> b o", bias="o", i=3, o=5)
        assert {x.dtype for x in default.parameters()} == {torch.get_default_dtype()}

    def test_moves_like_any_module(self) -> None:
        """`to` and `double` convert the parameters, and calls follow."""
        layer = einheads.Einsum("b h i, h o i -> b h o", bias="h o", h=2, i=3, o=5)
        layer.double()
        x = torch.randn(7, 2, 3, **DOUBLE)
        check(layer(x), expected("b h i, h o i -> b h o", layer, x, bias="h o"))
        layer.to(torch.bfloat16)
        assert layer(x.bfloat16()).dtype == torch.bfloat16

    def test_reset_keeps_the_parameters_and_changes_their_values(self) -> None:
        """`reset_parameters` draws anew, into the same tensors."""
        layer = einheads.Einsum("b i, i r, r o -> b o", bias="o", i=3, r=5, o=7)
        before = {name: (x, x.detach().clone()) for name, x in layer.named_parameters()}
        layer.reset_parameters()
        for name, x in layer.named_parameters():
            same, old = before[name]
            assert x is same
            assert x.requires_grad
            assert not torch.equal(x, old)


class TestBias:
    """A bias is declared by axes of the output and stored in the order that it is written."""

    PATTERNS = (
        ("b i, o i -> b o", "o", {"o": 5, "i": 3}, (2, 3), (5,)),
        ("b w h i, h o i -> b w h o", "h o", {"h": 5, "o": 11, "i": 7}, (2, 3, 5, 7), (5, 11)),
        ("b w h i, h o i -> b w h o", "o h", {"h": 5, "o": 11, "i": 7}, (2, 3, 5, 7), (11, 5)),
        ("b w h i, h o i -> b w h o", "h", {"h": 5, "o": 11, "i": 7}, (2, 3, 5, 7), (5,)),
        ("b w h i, h o i -> b w h o", "o", {"h": 5, "o": 11, "i": 7}, (2, 3, 5, 7), (11,)),
        ("b w h i, h o i -> b h w o", "h o", {"h": 5, "o": 11, "i": 7}, (2, 3, 5, 7), (5, 11)),
        ("b w h i, h o i -> o b w h", "h o", {"h": 5, "o": 11, "i": 7}, (2, 3, 5, 7), (5, 11)),
        ("... i, h o i -> ... h o", "h o", {"h": 2, "o": 11, "i": 7}, (3, 5, 7), (2, 11)),
        ("... i, h o i -> h ... o", "o h", {"h": 2, "o": 11, "i": 7}, (3, 5, 7), (11, 2)),
        ("... i, o i -> o ...", "o", {"o": 11, "i": 7}, (3, 5, 7), (11,)),
        ("b t c, t s -> b s c", "s", {"t": 5, "s": 7}, (2, 5, 3), (7,)),
        ("b t c, t s -> b s c", "s c", {"t": 5, "s": 7, "c": 3}, (2, 5, 3), (7, 3)),
        ("b t i, o i -> b t o", "t o", {"t": 3, "o": 7, "i": 5}, (2, 3, 5), (3, 7)),
        ("b t (h i), h i o -> b t (h o)", "h o", {"h": 2, "i": 5, "o": 7}, (2, 3, 10), (2, 7)),
        ("b t (h i), h i o -> b t (h o)", "o h", {"h": 2, "i": 5, "o": 7}, (2, 3, 10), (7, 2)),
        ("b t (h i), h i o -> b t (h o)", "o", {"h": 2, "i": 5, "o": 7}, (2, 3, 10), (7,)),
        (
            "b (k p), k p q, q k s -> b (q s)",
            "q s",
            {"k": 2, "p": 5, "q": 7, "s": 3},
            (2, 10),
            (7, 3),
        ),
        ("b i, i o -> b 1 o", "o", {"i": 3, "o": 5}, (2, 3), (5,)),
        ("b i, i o -> b n o", "n o", {"i": 3, "o": 5, "n": 7}, (2, 3), (7, 5)),
    )

    @pytest.mark.parametrize(("pattern", "bias", "sizes", "shape", "stored"), PATTERNS, ids=str)
    def test_values_and_stored_shape(
        self,
        pattern: str,
        bias: str,
        sizes: dict[str, int],
        shape: tuple[int, ...],
        stored: tuple[int, ...],
    ) -> None:
        """The bias is added along its axes, wherever they stand in the output."""
        layer = einheads.Einsum(pattern, bias=bias, **sizes, **DOUBLE)
        assert shapes_of(layer)["bias"] == stored
        assert list(shapes_of(layer))[-1] == "bias"
        x = torch.randn(shape, **DOUBLE)
        check(layer(x), expected(pattern, layer, x, bias=bias, **sizes))

    def test_true_is_every_output_axis_of_a_weight(self) -> None:
        """`bias=True` takes the axes of the output that a weight has, in the output's order."""
        x = torch.randn(2, 3, 5, 7, **DOUBLE)
        pattern = "b w h i, o h i -> b w h o"
        layer = einheads.Einsum(pattern, bias=True, h=5, o=11, i=7, **DOUBLE)
        assert shapes_of(layer)["bias"] == (5, 11)
        check(layer(x), expected(pattern, layer, x, bias="h o"))
        mixing = einheads.Einsum("b t c, t s -> b s c", bias=True, t=3, s=5, **DOUBLE)
        assert shapes_of(mixing)["bias"] == (5,)
        pattern = "b (k p), k p q, q k s -> b (s q)"
        monarch = einheads.Einsum(pattern, bias=True, k=3, p=7, q=5, s=2, **DOUBLE)
        assert shapes_of(monarch)["bias"] == (2, 5)
        x = torch.randn(2, 21, **DOUBLE)
        check(monarch(x), expected(pattern, monarch, x, bias="s q"))

    @pytest.mark.parametrize("none", [{}, {"bias": None}, {"bias": False}], ids=str)
    def test_none_is_no_parameter(self, none: dict[str, Any]) -> None:
        """Without a bias there is none in the parameters nor in the state dict."""
        layer = einheads.Einsum("b i, o i -> b o", i=3, o=5, **none)
        assert list(layer.state_dict()) == ["weight"]
        assert list(shapes_of(layer)) == ["weight"]

    @pytest.mark.parametrize("bias", ["i", "z", "o o", "(h o)", "..."])
    def test_must_name_axes_of_the_output(self, bias: str) -> None:
        """An axis that the output lacks, twice the same, or no axis at all is refused."""
        with pytest.raises(einheads.EinheadsError):
            einheads.Einsum("... h i, h o i -> ... h o", bias=bias, h=2, i=3, o=5)


class TestValues:
    """A layer gives what the definition gives for its parameters."""

    @pytest.mark.parametrize(
        ("pattern", "shapes", "sizes"),
        [
            ("... i, o i -> ... o", [(2, 3, 5)], {"i": 5, "o": 7}),
            ("... h i, h i o -> ... h o", [(2, 3, 5)], {"h": 3, "i": 5, "o": 7}),
            ("... (h i), h i o -> ... (h o)", [(2, 3, 35)], {"h": 5, "i": 7, "o": 11}),
            ("... h d, h d m -> ... m", [(2, 3, 5, 7)], {"h": 5, "d": 7, "m": 11}),
            ("b t i, s h i d -> s b h t d", [(2, 5, 7)], {"s": 3, "h": 2, "i": 7, "d": 11}),
            ("b h i j, h k -> b k i j", [(2, 3, 5, 7)], {"h": 3, "k": 11}),
            (
                "b c (h p) (w q), c p q d -> b (h w) d",
                [(2, 3, 10, 21)],
                {"c": 3, "p": 2, "q": 7, "d": 11},
            ),
            ("e b i, e i o -> e b o", [(2, 3, 5)], {"e": 2, "i": 5, "o": 7}),
            ("b i, e i o -> e b o", [(3, 5)], {"e": 2, "i": 5, "o": 7}),
            ("e b i, e i, i o, e o -> e b o", [(2, 3, 5)], {"e": 2, "i": 5, "o": 7}),
            (
                "... (i1 i2 i3), i1 o1 r1, r1 i2 o2 r2, r2 i3 o3 -> ... (o1 o2 o3)",
                [(3, 30)],
                {"i1": 2, "i2": 3, "i3": 5, "o1": 3, "o2": 2, "o3": 7, "r1": 2, "r2": 3},
            ),
            ("b t i, b z, z i o -> b t o", [(2, 3, 5), (2, 7)], {"z": 7, "i": 5, "o": 11}),
            ("... i, ... j, o i j -> ... o", [(2, 3, 5), (2, 3, 7)], {"i": 5, "j": 7, "o": 11}),
            ("... i, ... j, o i j -> ... o", [(2, 1, 5), (3, 7)], {"i": 5, "j": 7, "o": 11}),
            (
                "b s i c, b s j d, c d z -> b i j z",
                [(2, 3, 5, 7), (2, 3, 11, 2)],
                {"c": 7, "d": 2, "z": 3},
            ),
            (
                "a i, b j, c k, i j k o -> a b c o",
                [(2, 3), (5, 2), (3, 5)],
                {"i": 3, "j": 2, "k": 5, "o": 7},
            ),
        ],
    )
    def test_collection(
        self, pattern: str, shapes: list[tuple[int, ...]], sizes: dict[str, int]
    ) -> None:
        """The well-known layers, with one and several inputs and weights."""
        layer = einheads.Einsum(pattern, inputs=len(shapes), **sizes, **DOUBLE)
        inputs = [torch.randn(shape, **DOUBLE) for shape in shapes]
        check(layer(*inputs), expected(pattern, layer, *inputs))
        spread = [x.mT.contiguous().mT if x.ndim > 1 else x for x in inputs]
        check(layer(*spread), expected(pattern, layer, *inputs))

    def test_is_the_loop_over_linears(self) -> None:
        """Each head is an nn.Linear of its own: `x` to `h` heads, and each through a second."""
        h, i, o, p = 5, 7, 11, 3
        first = [nn.Linear(i, o, **DOUBLE) for _ in range(h)]
        second = [nn.Linear(o, p, **DOUBLE) for _ in range(h)]
        split = einheads.Einsum("... i, h o i -> ... h o", bias="h o", h=h, i=i, o=o, **DOUBLE)
        heads = einheads.Einsum("... h i, h o i -> ... h o", bias="h o", h=h, i=o, o=p, **DOUBLE)
        for layer, linears in ((split, first), (heads, second)):
            layer.load_state_dict(
                {
                    "weight": torch.stack([linear.weight for linear in linears]),
                    "bias": torch.stack([linear.bias for linear in linears]),
                }
            )
        for lead in ((), (2,), (2, 3), (2, 3, 2)):
            x = torch.randn(*lead, i, **DOUBLE)
            loop = torch.stack([b(a(x)) for a, b in zip(first, second, strict=True)], dim=-2)
            check(heads(split(x)), as_numpy(loop))

    def test_any_rank_and_batch(self) -> None:
        """One layer serves every number of leading axes and every size of them."""
        pattern = "... i, h o i -> ... h o"
        layer = einheads.Einsum(pattern, bias="o", h=2, o=5, i=3, **DOUBLE)
        for lead in [(2, 7), (), (11,), (0, 2), (1, 1), (2, 3, 2, 2), (5,)]:
            x = torch.randn(*lead, 3, **DOUBLE)
            check(layer(x), expected(pattern, layer, x, bias="o"))

    def test_uses_the_parameter_that_it_has_now(self) -> None:
        """A weight that is replaced, tied or parametrized is the one that is used."""
        layer = einheads.Einsum("b i, o i -> b o", i=3, o=5, **DOUBLE)
        other = einheads.Einsum("b i, o i -> b o", i=3, o=5, **DOUBLE)
        x = torch.randn(2, 3, **DOUBLE)
        layer(x)
        layer.weight = other.weight
        check(layer(x), as_numpy(x @ other.weight.T))

        class Tripled(nn.Module):
            """Three times the original."""

            def forward(self, weight: Tensor) -> Tensor:
                """Scale the weight."""
                return 3 * weight

        parametrize.register_parametrization(layer, "weight", Tripled())
        check(layer(x), as_numpy(3 * (x @ other.weight.T)))

    def test_learns(self) -> None:
        """Gradient descent on a layer of two weights finds a low-rank map."""
        target = torch.randn(5, 2, **DOUBLE) @ torch.randn(2, 3, **DOUBLE)
        layer = einheads.Einsum("b i, i r, r o -> b o", i=5, r=2, o=3, **DOUBLE)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
        x = torch.randn(64, 5, **DOUBLE)
        losses = []
        for _ in range(300):
            loss = (layer(x) - x @ target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 1e-3 * losses[0]

    def test_wrong_sizes_are_refused_at_every_call(self) -> None:
        """An input that does not fit is an error, also where it would broadcast."""
        layer = einheads.Einsum("... h i, h o i -> ... h o", h=5, i=7, o=3)
        assert layer(torch.randn(2, 5, 7)).shape == (2, 5, 3)
        for shape in [(2, 1, 7), (2, 5, 1), (2, 7, 5), (2, 4, 7)]:
            with pytest.raises(einheads.SizeError):
                layer(torch.randn(shape))


class TestStrictness:
    """A declaration that hides a mistake is refused, unless it says that it is meant."""

    @pytest.mark.parametrize(
        ("pattern", "sizes"),
        [
            ("b t i, o i -> b o", {"i": 3, "o": 5}),
            ("b i, o j -> b o", {"i": 3, "j": 3, "o": 5}),
            ("b i, o i k -> b o", {"i": 3, "k": 2, "o": 5}),
            ("... i, o i -> o", {"i": 3, "o": 5}),
            ("b i, i i -> b i", {"i": 3}),
            ("b n d, n d d -> b n d", {"n": 3, "d": 5}),
            ("b i, o i", {"i": 3, "o": 5}),
        ],
    )
    def test_refused_when_built(self, pattern: str, sizes: dict[str, int]) -> None:
        """Unannounced sums, typos and accidental diagonals do not become layers."""
        with pytest.raises(einheads.PatternError):
            einheads.Einsum(pattern, **sizes)

    def test_axes_without_spaces_are_refused(self) -> None:
        """The likeliest mistake is no layer of two long axes."""
        for sizes in ({"i": 3, "o": 5}, {"oi": 15}, {}):
            with pytest.raises(einheads.EinheadsError):
                einheads.Einsum("bi,oi->bo", **sizes)

    def test_every_axis_of_a_weight_needs_a_size(self) -> None:
        """A size is missing, unknown to the pattern, or no size."""
        for sizes in ({"o": 5}, {"i": 3}, {}, {"i": 3, "o": 5, "z": 2}, {"i": 3, "o": -1}):
            with pytest.raises(einheads.EinheadsError):
                einheads.Einsum("b i, o i -> b o", **sizes)

    @pytest.mark.parametrize("option", ["bias", "init", "names", "summed", "inputs", "dtype"])
    def test_options_are_no_axes(self, option: str) -> None:
        """A pattern whose axis is called like an option is refused."""
        with pytest.raises(einheads.PatternError):
            einheads.Einsum(f"b {option}, o {option} -> b o", o=5)

    def test_sums_that_are_announced(self) -> None:
        """`summed` names what a layer sums in one operand alone."""
        x = torch.randn(2, 3, 5, **DOUBLE)
        for pattern, summed, sizes in (
            ("b t i, o i -> b o", "t", {"i": 5, "o": 7}),
            ("b t i, o i -> o", "b t", {"i": 5, "o": 7}),
            ("b t i, o i k -> b t o", "k", {"i": 5, "o": 7, "k": 3}),
            ("... i, o i -> o", "...", {"i": 5, "o": 7}),
            ("... t i, o i -> o", "... t", {"i": 5, "o": 7}),
        ):
            layer = einheads.Einsum(pattern, summed=summed, **sizes, **DOUBLE)
            check(layer(x), expected(pattern, layer, x))
        with pytest.raises(einheads.PatternError):
            einheads.Einsum("b t i, o i -> b o", summed="b", i=5, o=7)

    def test_diagonals_that_are_announced(self) -> None:
        """`diagonal=True` allows a repeated axis in a weight, which is then stored in full."""
        pattern = "b n d, n d d -> b n d"
        layer = einheads.Einsum(pattern, diagonal=True, n=3, d=5, **DOUBLE)
        assert shapes_of(layer) == {"weight": (3, 5, 5)}
        x = torch.randn(2, 3, 5, **DOUBLE)
        check(layer(x), expected(pattern, layer, x))

    def test_diagonals_of_inputs_are_allowed(self) -> None:
        """The refusal is about weights; an input may have a repeated axis."""
        layer = einheads.Einsum("t t i, o i -> t o", i=5, o=7, **DOUBLE)
        x = torch.randn(3, 3, 5, **DOUBLE)
        check(layer(x), expected("t t i, o i -> t o", layer, x))


class TestRoles:
    """What every axis of a weight does, and the matrices that a weight holds."""

    @pytest.mark.parametrize(
        ("pattern", "inputs", "sizes", "roles"),
        [
            ("b i, o i -> b o", 1, {"i": 3, "o": 5}, {"weight": {"o": "out", "i": "in"}}),
            (
                "b w h i, h o i -> b w h o",
                1,
                {"h": 2, "i": 3, "o": 5},
                {"weight": {"h": "batch", "o": "out", "i": "in"}},
            ),
            (
                "... i, h o i -> ... h o",
                1,
                {"h": 2, "i": 3, "o": 5},
                {"weight": {"h": "out", "o": "out", "i": "in"}},
            ),
            (
                "... h d, h d m -> ... m",
                1,
                {"h": 2, "d": 3, "m": 5},
                {"weight": {"h": "in", "d": "in", "m": "out"}},
            ),
            ("b t c, t s -> b s c", 1, {"t": 3, "s": 5}, {"weight": {"t": "in", "s": "out"}}),
            ("... d, d -> ... d", 1, {"d": 3}, {"weight": {"d": "batch"}}),
            (
                "... (h i), h i o -> ... (h o)",
                1,
                {"h": 2, "i": 3, "o": 5},
                {"weight": {"h": "batch", "i": "in", "o": "out"}},
            ),
            (
                "... i, i r, r o -> ... o",
                1,
                {"i": 3, "r": 2, "o": 5},
                {"weight_1": {"i": "in", "r": "rank"}, "weight_2": {"r": "rank", "o": "out"}},
            ),
            (
                "b i, b j, o i j -> b o",
                2,
                {"i": 3, "j": 2, "o": 5},
                {"weight": {"o": "out", "i": "in", "j": "in"}},
            ),
        ],
    )
    def test_roles(
        self,
        pattern: str,
        inputs: int,
        sizes: dict[str, int],
        roles: dict[str, dict[str, str]],
    ) -> None:
        """Roles are read off the pattern, in the order of the weight's axes."""
        layer = einheads.Einsum(pattern, inputs=inputs, **sizes)
        found = {name: dict(layer.roles[name]) for name in shapes_of(layer)}
        assert found == roles
        assert all(list(found[name]) == list(roles[name]) for name in roles)

    @pytest.mark.parametrize(
        ("pattern", "sizes", "sorted_to", "shape"),
        [
            ("... h i, h o i -> ... h o", {"h": 2, "o": 5, "i": 3}, "h o i", (2, 5, 3)),
            ("... h i, i h o -> ... h o", {"h": 2, "o": 5, "i": 3}, "h o i", (2, 5, 3)),
            ("... h i, o i h -> ... h o", {"h": 2, "o": 5, "i": 3}, "h o i", (2, 5, 3)),
            ("... i, i o -> ... o", {"o": 5, "i": 3}, "1 o i", (1, 5, 3)),
            ("... i, h o i -> ... h o", {"h": 2, "o": 5, "i": 3}, "1 (h o) i", (1, 10, 3)),
            ("... h d, h d m -> ... m", {"h": 2, "d": 3, "m": 5}, "1 m (h d)", (1, 5, 6)),
            ("... d, d -> ... d", {"d": 3}, "d 1 1", (3, 1, 1)),
            (
                "... g h i, g h i o -> ... g h o",
                {"g": 2, "h": 3, "i": 5, "o": 7},
                "(g h) o i",
                (6, 7, 5),
            ),
        ],
    )
    def test_matrices(
        self, pattern: str, sizes: dict[str, int], sorted_to: str, shape: tuple[int, ...]
    ) -> None:
        """A weight is seen as (batch, out, in), sharing its memory."""
        layer = einheads.Einsum(pattern, **sizes)
        view = layer.matrices("weight")
        stored = pattern.split("->", maxsplit=1)[0].split(",")[1]
        assert tuple(view.shape) == shape
        value = oracle(f"{stored} -> {sorted_to}", as_numpy(layer.weight))
        np.testing.assert_array_equal(as_numpy(view), value)
        with torch.no_grad():
            view[-1, -1, -1] = 99
        assert (layer.weight == 99).sum() == 1
        value = oracle(f"{stored} -> {sorted_to}", as_numpy(layer.weight))
        np.testing.assert_array_equal(as_numpy(layer.matrices("weight")), value)

    def test_matrices_of_several_weights(self) -> None:
        """Each weight has its own matrices, and their product is the layer."""
        layer = einheads.Einsum("... i, i r, r o -> ... o", i=3, r=2, o=5, **DOUBLE)
        down, up = layer.matrices("weight_1"), layer.matrices("weight_2")
        assert (down.shape, up.shape) == ((1, 2, 3), (1, 5, 2))
        x = torch.randn(7, 3, **DOUBLE)
        check(layer(x), as_numpy(x @ (up[0] @ down[0]).T))

    def test_matrices_let_gradients_through(self) -> None:
        """A penalty on the matrices reaches the parameter."""
        layer = einheads.Einsum("... h i, i h o -> ... h o", h=2, o=5, i=3)
        layer.matrices("weight").square().sum().backward()
        assert layer.weight.grad is not None
        torch.testing.assert_close(layer.weight.grad, 2 * layer.weight.detach())


DECLARATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("b i, o i -> b o", {"i": 3, "o": 5}),
    ("... h i, h o i -> ... h o", {"h": 2, "i": 3, "o": 5, "bias": "h o"}),
    ("... h i, h o i -> ... h o", {"h": 2, "i": 3, "o": 5, "bias": True}),
    ("... (h i), h i o -> ... (h o)", {"h": 2, "i": 3, "o": 5, "init": "lecun"}),
    ("... i, i r, r o -> ... o", {"i": 3, "r": 2, "o": 5, "names": ("down", "up")}),
    ("b i, b j, o i j -> b o", {"inputs": 2, "i": 3, "j": 2, "o": 5, "bias": "o"}),
    ("b t i, o i -> b o", {"i": 3, "o": 5, "summed": "t", "init": "zeros"}),
    ("... i, o i -> o", {"i": 3, "o": 5, "summed": "..."}),
    ("b n d, n d d -> b n d", {"n": 2, "d": 3, "diagonal": True}),
    ("größe 時間, η 時間 -> größe η", {"時間": 3, "η": 5}),
    ("b if, if for -> b for", {"if": 3, "for": 5}),
    ("b i, i o -> b n o", {"i": 3, "o": 5, "n": 2}),
)

every_declaration = pytest.mark.parametrize(
    ("pattern", "options"), DECLARATIONS, ids=[f"{p} {o}" for p, o in DECLARATIONS]
)


class TestDeclaration:
    """A layer shows, keeps and copies its declaration."""

    @every_declaration
    def test_repr_is_the_call_that_makes_it(self, pattern: str, options: dict[str, Any]) -> None:
        """Evaluating the repr makes a layer declared alike, with the same starting values."""
        layer = einheads.Einsum(pattern, **options)
        torch.manual_seed(1)
        layer.reset_parameters()
        torch.manual_seed(1)
        twin = eval(repr(layer), {"Einsum": einheads.Einsum})
        assert type(twin) is einheads.Einsum
        assert repr(twin) == repr(layer)
        assert pattern in repr(layer)
        assert shapes_of(twin) == shapes_of(layer)
        assert twin.roles == layer.roles
        for x, y in zip(twin.parameters(), layer.parameters(), strict=True):
            assert torch.equal(x, y)

    def test_repr_differs_where_the_declaration_does(self) -> None:
        """Of two declarations that differ, no two look the same."""
        different = [each for each in DECLARATIONS if each[1].get("bias") is not True]
        shown = [repr(einheads.Einsum(pattern, **options)) for pattern, options in different]
        assert len(set(shown)) == len(shown)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
    def test_repr_tells_a_dtype(self, dtype: torch.dtype) -> None:
        """A dtype that is not the usual one comes back with the repr."""
        layer = einheads.Einsum("b i, o i -> b o", i=3, o=5, dtype=dtype)
        twin = eval(repr(layer), {"Einsum": einheads.Einsum, "torch": torch})
        assert twin.weight.dtype == dtype

    def test_repr_in_a_model(self) -> None:
        """A model prints each layer on a line of its own."""
        layer = einheads.Einsum("b i, o i -> b o", i=3, o=5)
        assert f"(0): {layer!r}\n" in repr(nn.Sequential(layer, nn.ReLU()))

    @every_declaration
    def test_pickle_holds_the_declaration_alone(
        self, pattern: str, options: dict[str, Any]
    ) -> None:
        """Calling a layer adds nothing to its pickle, and the copy is declared alike."""
        layer = einheads.Einsum(pattern, **options, dtype=torch.float64)
        before = pickle.dumps(layer)
        inputs = options.get("inputs", 1)
        sizes = {"b": 7, "t": 11, "größe": 2} | options
        terms = pattern.split("->", maxsplit=1)[0].split(",")[:inputs]
        tensors = []
        for term in terms:
            axes = term.replace("...", "b").replace("(h i)", "b").split()
            tensors.append(torch.randn([sizes[axis] for axis in axes], dtype=torch.float64))
        if "(h i)" in pattern:
            tensors = [torch.randn(7, 6, dtype=torch.float64)]
        value = layer(*tensors)
        after = pickle.dumps(layer)
        assert len(after) == len(before)
        twin = pickle.loads(after)
        assert repr(twin) == repr(layer)
        assert torch.equal(twin(*tensors), value)
        torch.manual_seed(1)
        twin.reset_parameters()
        torch.manual_seed(1)
        layer.reset_parameters()
        assert all(map(torch.equal, twin.parameters(), layer.parameters()))

    def test_state_dict_is_plain(self) -> None:
        """The state dict has the parameters by name and no word of einheads."""
        layer = einheads.Einsum("... i, i r, r o -> ... o", bias="o", i=3, r=2, o=5)
        layer(torch.randn(7, 3))
        state = layer.state_dict()
        assert list(state) == ["weight_1", "weight_2", "bias"]
        assert all(type(x) is Tensor for x in state.values())
        with pytest.raises(RuntimeError):
            layer.load_state_dict({**state, "extra": torch.ones(1)})
        with pytest.raises(RuntimeError):
            layer.load_state_dict({"weight_1": state["weight_1"]})

    def test_state_dict_of_a_linear(self) -> None:
        """A plain linear reads the state dict of nn.Linear, and the other way round."""
        linear = nn.Linear(3, 5, **DOUBLE)
        layer = einheads.Einsum("... i, o i -> ... o", bias="o", i=3, o=5, **DOUBLE)
        layer.load_state_dict(linear.state_dict())
        x = torch.randn(2, 7, 3, **DOUBLE)
        check(layer(x), as_numpy(linear(x)))
        layer.reset_parameters()
        linear.load_state_dict(layer.state_dict())
        check(layer(x), as_numpy(linear(x)))

    def test_safetensors(self) -> None:
        """The state dict goes through safetensors and back."""
        options = {"bias": "h o", "h": 2, "i": 3, "o": 5}
        layer = einheads.Einsum("... h i, i h o -> ... h o", **options, **DOUBLE)
        other = einheads.Einsum("... h i, i h o -> ... h o", **options, **DOUBLE)
        other.load_state_dict(safetensors.torch.load(safetensors.torch.save(layer.state_dict())))
        assert all(map(torch.equal, other.parameters(), layer.parameters()))
