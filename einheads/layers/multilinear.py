"""Layers of several inputs: linear in each of them."""

from __future__ import annotations

import torch

from einheads.initializers import Initializer

from .base import Einsum


class Bilinear(Einsum):
    """A bilinear form for each output: `y_o = x1^T W_o x2 + b_o`.

    A drop-in for `torch.nn.Bilinear`: the same arguments, the same state dict, the same outputs.
    It starts differently: torch takes its bound from the first input alone, so that outputs grow
    with the second; here outputs have the scale of an `nn.Linear`'s.

    Pattern: `... i, ... j, o i j -> ... o`.

    Example:
        >>> import torch
        >>> from einheads import Bilinear
        >>> layer = Bilinear(20, 30, 40)
        >>> layer(torch.randn(128, 20), torch.randn(128, 30)).shape
        torch.Size([128, 40])
        >>> layer
        Bilinear(in1_features=20, in2_features=30, out_features=40)

    Equivalent:
        ```python
        def bilinear(x1, x2, weight, bias):
            pairs = x1.unsqueeze(-1) * x2.unsqueeze(-2)    # ... i j
            y = pairs.flatten(-2) @ weight.flatten(1).T    # ... (i j), (i j) o -> ... o
            return y + bias
        ```

    Used to compare or to join two vectors: similarity scores, relations, style and content.

    Not for large features: the weight has `o i j` numbers; see `LowRankBilinear`.

    Args:
        in1_features: size of the axis `i` of the first input.
        in2_features: size of the axis `j` of the second input.
        out_features: size of the axis `o`.
        bias: whether there is a bias, `o`.
        device: where the parameters are made.
        dtype: of the parameters.
        init: how the weight starts, see `einheads.Einsum`.

    Reference:
        Tenenbaum and Freeman, "Separating style and content with bilinear models" (2000),
        section 2.
    """

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,  # noqa: FBT001, FBT002  torch.nn.Bilinear takes it by position
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        init: str | Initializer = "linear",
    ) -> None:
        super().__init__(
            "... i, ... j, o i j -> ... o",
            inputs=2,
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            i=in1_features,
            j=in2_features,
            o=out_features,
        )
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features


class LowRankBilinear(Einsum):
    """Two inputs projected to `r` numbers each, multiplied, and projected to the output.

    Formula: `y = U ((A x1) * (B x2)) + b`.

    Pattern: `... i, ... j, r i, r j, o r -> ... o`, named `left`, `right` and `up`.

    Example:
        >>> import torch
        >>> from einheads import LowRankBilinear
        >>> layer = LowRankBilinear(i=64, j=32, r=16, o=8)
        >>> layer(torch.randn(10, 64), torch.randn(10, 32)).shape
        torch.Size([10, 8])

    Equivalent:
        ```python
        def low_rank_bilinear(x1, x2, left, right, up, bias):
            return ((x1 @ left.T) * (x2 @ right.T)) @ up.T + bias
        ```

    Used to fuse images and questions. Not where either input alone should matter: a zero in one of
    them silences the other.

    Args:
        i: features of the first input.
        j: features of the second input.
        r: the rank.
        o: features of the output.
        bias: whether there is a bias, `o`.
        init: how the weights start, see `einheads.Einsum`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Kim et al., "Hadamard product for low-rank bilinear pooling" (MLB, 2017), section 3.1;
        Ben-younes et al., "MUTAN" (2017).
    """

    def __init__(
        self,
        *,
        i: int,
        j: int,
        r: int,
        o: int,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            "... i, ... j, r i, r j, o r -> ... o",
            inputs=2,
            names=("left", "right", "up"),
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            i=i,
            j=j,
            r=r,
            o=o,
        )


class HyperLinear(Einsum):
    """A linear whose matrix is made from a second input: `y_t = W(z) x_t + b`.

    Formula: `W(z) = sum over z of z W_z`; add a constant 1 to `z` for a part that does not depend
    on it.

    Pattern: `... t i, ... z, o i z -> ... t o`.

    Example:
        >>> import torch
        >>> from einheads import HyperLinear
        >>> layer = HyperLinear(i=64, z=8, o=32)
        >>> layer(torch.randn(4, 10, 64), torch.randn(4, 8)).shape       # 4 t i, 4 z -> 4 t o
        torch.Size([4, 10, 32])

    Equivalent:
        ```python
        def hyper_linear(x1, x2, weight, bias):
            matrix = (weight * x2[..., None, None, :]).sum(-1)   # ... o i: one for each sample
            return x1 @ matrix.mT + bias                         # ... t o
        ```

    Used for layers that depend on a task, a speaker or a style. Not where scaling and shifting the
    features would do (FiLM): this has `z` times the parameters of a linear.

    Args:
        i: features of the input.
        z: features of what the matrix is made from.
        o: features of the output.
        bias: whether there is a bias, `o`.
        init: how the weight starts, see `einheads.Einsum`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Ha et al., "HyperNetworks" (2016), section 3; Jayakumar et al., "Multiplicative interactions
        and where to find them" (2020), section 3.
    """

    def __init__(
        self,
        *,
        i: int,
        z: int,
        o: int,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            "... t i, ... z, o i z -> ... t o",
            inputs=2,
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            i=i,
            z=z,
            o=o,
        )


__all__ = ["Bilinear", "HyperLinear", "LowRankBilinear"]
