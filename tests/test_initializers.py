"""How weights start: the scale follows from the roles of the axes, whatever the stored shape.

Distributions are compared by Kolmogorov and Smirnov's distance, second moments over many seeds. All
seeds are fixed, so a test that passes once passes always.
"""

from itertools import pairwise
from math import prod, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import einheads
from cases import Array, as_numpy


def drawn(layer: nn.Module, count: int) -> dict[str, Array]:
    """Values of each parameter, drawn as often as gives about `count` of the rarest."""
    torch.manual_seed(7)
    rarest = min(x.numel() for x in layer.parameters())
    values: dict[str, list[Array]] = {name: [] for name, _ in layer.named_parameters()}
    for _ in range(-(-count // rarest)):
        layer.reset_parameters()  # type: ignore[operator]
        for name, x in layer.named_parameters():
            values[name].append(as_numpy(x).ravel().copy())
    return {name: np.concatenate(parts)[: 4 * count] for name, parts in values.items()}


def distance_to_uniform(values: Array, bound: float) -> float:
    """The greatest gap between the values' distribution and the uniform one, in units of chance.

    Below 1.95 in 999 of 1000 samples that are uniform.
    """
    places = np.sort((values + bound) / (2 * bound))
    ranks = np.arange(len(places) + 1) / len(places)
    gap = max(np.abs(places - ranks[1:]).max(), np.abs(places - ranks[:-1]).max())
    return float(gap) * sqrt(len(places))


def distance_between(first: Array, second: Array) -> float:
    """The greatest gap between two samples' distributions, in units of chance."""
    everything = np.sort(np.concatenate([first, second]))
    shares = [np.searchsorted(np.sort(x), everything, "right") / len(x) for x in (first, second)]
    gap = np.abs(shares[0] - shares[1]).max()
    return float(gap) * sqrt(len(first) * len(second) / (len(first) + len(second)))


LIMIT = 1.95

LINEARS = (
    # pattern, sizes, the features that one output sums
    ("b i, o i -> b o", {"i": 7, "o": 61}, 7),
    ("b i, i o -> b o", {"i": 7, "o": 61}, 7),
    ("... h i, h o i -> ... h o", {"h": 11, "o": 13, "i": 7}, 7),
    ("... h i, i h o -> ... h o", {"h": 11, "o": 13, "i": 7}, 7),
    ("... i, h o i -> ... h o", {"h": 11, "o": 13, "i": 7}, 7),
    ("... (h i), h i o -> ... (h o)", {"h": 11, "o": 13, "i": 7}, 7),
    ("... h d, h d m -> ... m", {"h": 3, "d": 5, "m": 61}, 15),
    ("b t c, t s -> b s c", {"t": 7, "s": 61}, 7),
    ("b c (h p) (w q), c p q d -> b (h w) d", {"c": 3, "p": 2, "q": 5, "d": 61}, 30),
    ("b t i, s h i d -> s b h t d", {"s": 3, "h": 2, "i": 7, "d": 13}, 7),
    ("... f i, f i o -> ... f o", {"f": 13, "i": 1, "o": 5}, 1),
)

every_linear = pytest.mark.parametrize(
    ("pattern", "sizes", "features"), LINEARS, ids=[pattern for pattern, *_ in LINEARS]
)


class TestJudges:
    """The statistics can tell a wrong scale from a right one."""

    def test_distances_see_a_wrong_bound(self) -> None:
        """A bound that is a tenth off, or the wrong shape of distribution, is far away."""
        generator = np.random.default_rng(0)
        right = generator.uniform(-1, 1, 8000)
        assert distance_to_uniform(right, 1.0) < LIMIT
        assert distance_between(right, generator.uniform(-1, 1, 8000)) < LIMIT
        for wrong in (
            0.9 * right,
            1.1 * right,
            right + 0.1,
            generator.normal(0, sqrt(1 / 3), 8000),
        ):
            assert distance_to_uniform(wrong, 1.0) > 2 * LIMIT
            assert distance_between(right, wrong) > 1.2 * LIMIT


class TestLinear:
    """By default, each matrix starts exactly as its own nn.Linear does."""

    @every_linear
    def test_weight_and_bias_are_uniform(
        self, pattern: str, sizes: dict[str, int], features: int
    ) -> None:
        """Weight and bias fill the interval of one over the root of the summed features."""
        layer = einheads.Einsum(pattern, bias=True, **sizes, dtype=torch.float64)
        bound = 1 / sqrt(features)
        for values in drawn(layer, 4000).values():
            assert np.abs(values).max() <= bound
            assert np.abs(values).max() > 0.99 * bound
            assert distance_to_uniform(values, bound) < LIMIT

    @every_linear
    def test_same_distribution_as_linear(
        self, pattern: str, sizes: dict[str, int], features: int
    ) -> None:
        """Values drawn by nn.Linear itself cannot be told from the layer's."""
        layer = einheads.Einsum(pattern, bias=True, **sizes, dtype=torch.float64)
        linear = nn.Linear(features, 61, dtype=torch.float64)
        ours, theirs = drawn(layer, 4000), drawn(linear, 5000)
        for name in ("weight", "bias"):
            assert distance_between(ours[name], theirs[name]) < LIMIT

    @pytest.mark.parametrize("place", range(5))
    def test_each_head_on_its_own(self, place: int) -> None:
        """Every single head has the distribution, not only all of them together."""
        layer = einheads.Einsum("... h i, i h o -> ... h o", h=5, i=7, o=11, dtype=torch.float64)
        values = []
        for seed in range(100):
            torch.manual_seed(seed)
            layer.reset_parameters()
            values.append(as_numpy(layer.matrices("weight")[place]).ravel().copy())
        assert distance_to_uniform(np.concatenate(values), 1 / sqrt(7)) < LIMIT

    def test_is_the_default(self) -> None:
        """Leaving `init` out is saying "linear"."""
        torch.manual_seed(5)
        one = einheads.Einsum("... h i, h o i -> ... h o", bias=True, h=2, i=3, o=5)
        torch.manual_seed(5)
        two = einheads.Einsum("... h i, h o i -> ... h o", bias=True, init="linear", h=2, i=3, o=5)
        assert all(map(torch.equal, one.parameters(), two.parameters()))

    def test_seed_decides(self) -> None:
        """The same seed gives the same weights, another seed others."""

        def weights(seed: int) -> list[Tensor]:
            torch.manual_seed(seed)
            return list(einheads.Einsum("b i, i r, r o -> b o", i=3, r=2, o=5).parameters())

        assert all(map(torch.equal, weights(1), weights(1)))
        assert not any(map(torch.equal, weights(1), weights(2)))


# The families of layers: pattern, shapes of the inputs, sizes of the weights' axes.
FAMILIES: tuple[tuple[str, str, list[tuple[int, ...]], dict[str, int]], ...] = (
    ("linear", "... i, o i -> ... o", [(16, 24)], {"i": 24, "o": 16}),
    ("heads", "... h i, h i o -> ... h o", [(16, 4, 12)], {"h": 4, "i": 12, "o": 8}),
    ("heads of one input", "... i, h i o -> ... h o", [(16, 12)], {"h": 4, "i": 12, "o": 8}),
    ("grouped", "... (h i), h i o -> ... (h o)", [(16, 48)], {"h": 4, "i": 12, "o": 8}),
    ("merge", "... h d, h d m -> ... m", [(16, 4, 6)], {"h": 4, "d": 6, "m": 16}),
    (
        "query key value",
        "b t i, s h i d -> s b h t d",
        [(2, 8, 12)],
        {"s": 3, "h": 2, "i": 12, "d": 8},
    ),
    ("talking heads", "b h i j, h k -> b k i j", [(2, 12, 4, 4)], {"h": 12, "k": 16}),
    ("token mixing", "b t c, t s -> b s c", [(4, 12, 8)], {"t": 12, "s": 16}),
    ("per channel", "b t c, c t p -> b p c", [(8, 12, 6)], {"c": 6, "t": 12, "p": 8}),
    ("scale", "... h d, h d -> ... h d", [(16, 8, 16)], {"h": 8, "d": 16}),
    (
        "patches",
        "b c (h p) (w q), c p q d -> b (h w) d",
        [(4, 3, 4, 6)],
        {"c": 3, "p": 2, "q": 2, "d": 16},
    ),
    ("ensemble", "e b i, e i o -> e b o", [(4, 8, 12)], {"e": 4, "i": 12, "o": 8}),
    ("shared ensemble", "b i, e i o -> e b o", [(16, 12)], {"e": 4, "i": 12, "o": 8}),
    ("batch ensemble", "e b i, e i, i o, e o -> e b o", [(4, 8, 16)], {"e": 4, "i": 16, "o": 16}),
    ("low rank", "... i, i r, r o -> ... o", [(16, 12)], {"i": 12, "r": 10, "o": 16}),
    (
        "low rank per head",
        "... h i, h i r, h r o -> ... h o",
        [(16, 4, 12)],
        {"h": 4, "i": 12, "r": 8, "o": 8},
    ),
    (
        "kronecker",
        "... (i1 i2), i1 o1, i2 o2 -> ... (o1 o2)",
        [(16, 48)],
        {"i1": 6, "i2": 8, "o1": 10, "o2": 9},
    ),
    (
        "kronecker sum",
        "... (i1 i2), i1 o1 r, i2 o2 r -> ... (o1 o2)",
        [(16, 48)],
        {"i1": 6, "i2": 8, "o1": 10, "o2": 9, "r": 5},
    ),
    (
        "monarch",
        "... (k p), k p q, q k s -> ... (q s)",
        [(16, 30)],
        {"k": 5, "p": 6, "q": 7, "s": 8},
    ),
    (
        "block tensor train",
        "... (k p), k p q r, q k r s -> ... (q s)",
        [(16, 30)],
        {"k": 5, "p": 6, "q": 7, "r": 3, "s": 8},
    ),
    (
        "two cores",
        "... (g b a), f d r g a, f e r g b -> ... (f e d)",
        [(16, 60)],
        {"g": 3, "b": 4, "a": 5, "f": 4, "d": 6, "r": 3, "e": 5},
    ),
    (
        "tensor train",
        "... (i1 i2 i3), i1 o1 r1, r1 i2 o2 r2, r2 i3 o3 -> ... (o1 o2 o3)",
        [(8, 60)],
        {"i1": 3, "i2": 4, "i3": 5, "o1": 5, "o2": 4, "o3": 6, "r1": 5, "r2": 6},
    ),
    (
        "canonical polyadic",
        "... (i1 i2), i1 r, i2 r, o1 r, o2 r -> ... (o1 o2)",
        [(8, 30)],
        {"i1": 5, "i2": 6, "o1": 6, "o2": 5, "r": 12},
    ),
    (
        "tucker",
        "... (i1 i2), i1 p, i2 q, p q s t, o1 s, o2 t -> ... (o1 o2)",
        [(8, 56)],
        {"i1": 7, "i2": 8, "p": 7, "q": 6, "s": 6, "t": 7, "o1": 8, "o2": 7},
    ),
    (
        "tensor ring",
        "... (i1 i2), p i1 q, q i2 s, s o1 t, t o2 p -> ... (o1 o2)",
        [(8, 30)],
        {"i1": 5, "i2": 6, "o1": 6, "o2": 5, "p": 5, "q": 6, "s": 5, "t": 6},
    ),
    ("bilinear", "... i, ... j, o i j -> ... o", [(16, 12), (16, 10)], {"i": 12, "j": 10, "o": 16}),
    (
        "low rank bilinear",
        "... i, ... j, i r, j r, r o -> ... o",
        [(16, 12), (16, 10)],
        {"i": 12, "j": 10, "r": 12, "o": 16},
    ),
    (
        "biaffine",
        "b h i, b d j, i l j -> b l h d",
        [(2, 8, 12), (2, 8, 10)],
        {"i": 12, "l": 8, "j": 10},
    ),
    (
        "hyper linear",
        "b t i, b z, z i o -> b t o",
        [(4, 8, 12), (4, 10)],
        {"z": 10, "i": 12, "o": 16},
    ),
    (
        "gated experts",
        "b t i, b t e, e i o -> b t o",
        [(4, 8, 12), (4, 8, 6)],
        {"e": 6, "i": 12, "o": 16},
    ),
    (
        "mixture by factors",
        "b t i, b t e, i r, e r, o r -> b t o",
        [(4, 8, 12), (4, 8, 6)],
        {"e": 6, "i": 12, "r": 16, "o": 16},
    ),
    ("basis", "r n i, r k, k i o -> r n o", [(6, 8, 12)], {"r": 6, "k": 8, "i": 12, "o": 8}),
    ("capsules", "b n i, n m i o -> b n m o", [(4, 6, 12)], {"n": 6, "m": 4, "i": 12, "o": 6}),
)

every_family = pytest.mark.parametrize(
    ("pattern", "shapes", "sizes"),
    [family[1:] for family in FAMILIES],
    ids=[family[0] for family in FAMILIES],
)


SEEDS = 200


def second_moment(layer: einheads.Einsum, shapes: list[tuple[int, ...]], seeds: int) -> float:
    """The mean square of the output on normal inputs, over many seeds."""
    total = 0.0
    for seed in range(seeds):
        torch.manual_seed(seed)
        layer.reset_parameters()
        with torch.no_grad():
            result = layer(*(torch.randn(shape, dtype=torch.float64) for shape in shapes))
        total += result.square().mean().item()
    return total / seeds


class TestScale:
    """Whatever the pattern, inputs of unit scale give outputs of the scale that is asked for."""

    @every_family
    def test_lecun_keeps_unit_scale(
        self, pattern: str, shapes: list[tuple[int, ...]], sizes: dict[str, int]
    ) -> None:
        """Outputs have the second moment of the inputs."""
        layer = einheads.Einsum(
            pattern, inputs=len(shapes), init="lecun", **sizes, dtype=torch.float64
        )
        assert 0.9 < second_moment(layer, shapes, SEEDS) < 1.1

    @every_family
    def test_linear_keeps_the_scale_of_linear(
        self, pattern: str, shapes: list[tuple[int, ...]], sizes: dict[str, int]
    ) -> None:
        """Outputs have a third of it, as those of nn.Linear without bias have."""
        layer = einheads.Einsum(pattern, inputs=len(shapes), **sizes, dtype=torch.float64)
        assert 0.9 < 3 * second_moment(layer, shapes, SEEDS) < 1.1

    @pytest.mark.parametrize("init", ["lecun", "linear"])
    def test_stored_order_does_not_matter(self, init: str) -> None:
        """However the axes of a weight are written, its variance is the same."""
        for stored in ("h o i", "i o h", "o h i", "i h o"):
            layer = einheads.Einsum(
                f"... h i, {stored} -> ... h o", init=init, h=3, i=7, o=13, dtype=torch.float64
            )
            variance = np.square(drawn(layer, 20000)["weight"]).mean()
            assert abs(variance * 7 * (1 if init == "lecun" else 3) - 1) < 0.05

    @every_linear
    def test_kaiming(self, pattern: str, sizes: dict[str, int], features: int) -> None:
        """The variance is two over the summed features, made for a relu."""
        layer = einheads.Einsum(pattern, init="kaiming", **sizes, dtype=torch.float64)
        values = drawn(layer, 20000)["weight"]
        assert abs(np.square(values).mean() * features / 2 - 1) < 0.05
        assert abs(values.mean()) < 0.05 / sqrt(features)

    @pytest.mark.parametrize(
        ("pattern", "sizes", "fan"),
        [
            ("b i, o i -> b o", {"i": 7, "o": 5}, 12),
            ("... h i, h o i -> ... h o", {"h": 11, "o": 5, "i": 7}, 12),
            ("... h i, i h o -> ... h o", {"h": 11, "o": 5, "i": 7}, 12),
            ("... (h i), h i o -> ... (h o)", {"h": 11, "o": 5, "i": 7}, 12),
            ("... h d, h d m -> ... m", {"h": 3, "d": 5, "m": 7}, 22),
            ("b t c, t s -> b s c", {"t": 7, "s": 5}, 12),
        ],
    )
    def test_xavier(self, pattern: str, sizes: dict[str, int], fan: int) -> None:
        """The variance is two over the sum of both fans of one matrix; heads do not count."""
        layer = einheads.Einsum(pattern, init="xavier", **sizes, dtype=torch.float64)
        values = drawn(layer, 20000)["weight"]
        assert abs(np.square(values).mean() * fan / 2 - 1) < 0.05

    @pytest.mark.parametrize("init", ["linear", "lecun", "kaiming", "xavier"])
    def test_means_are_zero(self, init: str) -> None:
        """Weights are as often positive as negative."""
        layer = einheads.Einsum(
            "... h i, h o i -> ... h o", init=init, h=3, i=7, o=13, dtype=torch.float64
        )
        values = drawn(layer, 20000)["weight"]
        assert abs(values.mean()) < 4 * values.std() / sqrt(len(values))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
    @pytest.mark.parametrize("init", ["linear", "lecun", "orthogonal"])
    def test_lower_precision(self, init: str, dtype: torch.dtype) -> None:
        """Weights of lower precision start at the same scale."""
        layer = einheads.Einsum("... h i, h o i -> ... h o", init=init, h=5, i=7, o=7, dtype=dtype)
        variance = np.square(drawn(layer, 20000)["weight"]).mean()
        assert abs(variance * 7 * (3 if init == "linear" else 1) - 1) < 0.06


class TestOrthogonal:
    """Each matrix of a weight is orthogonal by itself."""

    @pytest.mark.parametrize(
        ("pattern", "sizes"),
        [
            ("b i, o i -> b o", {"i": 7, "o": 5}),
            ("b i, o i -> b o", {"i": 5, "o": 7}),
            ("b i, i o -> b o", {"i": 7, "o": 7}),
            ("... h i, h o i -> ... h o", {"h": 3, "o": 5, "i": 7}),
            ("... h i, i h o -> ... h o", {"h": 3, "o": 7, "i": 5}),
            ("... i, h o i -> ... h o", {"h": 2, "o": 3, "i": 7}),
            ("... h d, h d m -> ... m", {"h": 2, "d": 3, "m": 5}),
            ("... (h i), h i o -> ... (h o)", {"h": 3, "o": 5, "i": 2}),
        ],
    )
    def test_matrices(self, pattern: str, sizes: dict[str, int]) -> None:
        """Rows or columns, whichever are fewer, are orthonormal; and heads differ."""
        layer = einheads.Einsum(pattern, init="orthogonal", **sizes, dtype=torch.float64)
        matrices = as_numpy(layer.matrices("weight"))
        assert matrices.size == prod(layer.weight.shape)
        for matrix in matrices:
            wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            np.testing.assert_allclose(wide @ wide.T, np.eye(len(wide)), atol=1e-12)
        for first, second in pairwise(matrices):
            assert np.abs(first - second).max() > 0.01

    def test_several_weights(self) -> None:
        """Every weight of a layer is orthogonal."""
        layer = einheads.Einsum(
            "... i, i r, r o -> ... o", init="orthogonal", i=7, r=3, o=5, dtype=torch.float64
        )
        for name in ("weight_1", "weight_2"):
            (matrix,) = as_numpy(layer.matrices(name))
            wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            np.testing.assert_allclose(wide @ wide.T, np.eye(3), atol=1e-12)


class TestOther:
    """Zeros, functions, and what is no initializer."""

    def test_zeros(self) -> None:
        """All parameters are zero, and so is the output."""
        layer = einheads.Einsum("... h i, h o i -> ... h o", init="zeros", bias=True, h=2, i=3, o=5)
        assert not layer.weight.any()
        result = layer(torch.randn(7, 2, 3))
        assert result.shape == (7, 2, 5)
        assert not (result - layer.bias).any()
        with torch.no_grad():
            layer.weight.fill_(1)
        layer.reset_parameters()
        assert not layer.weight.any()

    def test_callable_gets_tensor_and_roles(self) -> None:
        """A function fills each weight, knowing what each of its axes does."""
        seen: list[tuple[tuple[int, ...], dict[str, Any]]] = []

        def fill(tensor: Tensor, roles: dict[str, str]) -> None:
            seen.append((tuple(tensor.shape), dict(roles)))
            tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape))

        layer = einheads.Einsum("... i, i r, r o -> ... o", init=fill, i=3, r=2, o=5)
        assert seen == [
            ((3, 2), {"i": "in", "r": "rank"}),
            ((2, 5), {"r": "rank", "o": "out"}),
        ]
        assert seen == [
            (tuple(x.shape), dict(layer.roles[name])) for name, x in layer.named_parameters()
        ]
        assert torch.equal(layer.weight_1, torch.arange(6.0).reshape(3, 2))
        layer.reset_parameters()
        assert len(seen) == 4

    def test_torch_initializers_serve(self) -> None:
        """The functions of torch.nn.init can be used as they are."""
        layer = einheads.Einsum(
            "b i, o i -> b o", init=lambda tensor, roles: nn.init.constant_(tensor, 0.5), i=3, o=5
        )
        assert (layer.weight == 0.5).all()

    @pytest.mark.parametrize("init", ["glorot uniform", "", 3])
    def test_unknown_names_are_refused(self, init: Any) -> None:
        """What is neither a known name nor a function is refused when the layer is built."""
        with pytest.raises((einheads.EinheadsError, TypeError)):
            einheads.Einsum("b i, o i -> b o", init=init, i=3, o=5)
