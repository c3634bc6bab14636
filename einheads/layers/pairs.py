"""Layers for every pair of two positions: `Biaffine` and `OuterProductMean`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from einheads.errors import SizeError
from einheads.functional import einsum
from einheads.initializers import Initializer

from .arguments import arguments
from .base import Einsum


class Biaffine(nn.Module):
    """A score for every pair of positions: bilinear in both, plus linear in each, plus a bias.

    Formula: `y[o, s, t] = x_s^T W_o z_t + u_o x_s + v_o z_t + b_o`.

    - `pair`: `... s i, ... t j, o i j -> ... o s t`, with the bias `o`
    - `left`: `... s i, o i -> ... o s 1`
    - `right`: `... t j, o j -> ... o 1 t`

    Example:
        >>> import torch
        >>> from einheads import Biaffine
        >>> layer = Biaffine(i=64, j=64, o=5)
        >>> heads, dependents = torch.randn(2, 10, 64), torch.randn(2, 12, 64)
        >>> layer(heads, dependents).shape                 # 2 o s t
        torch.Size([2, 5, 10, 12])

    Equivalent:
        ```python
        def biaffine(x, z, pair_weight, pair_bias, left_weight, right_weight):
            x, z = x.unsqueeze(-3), z.unsqueeze(-3)              # ... 1 s i, ... 1 t j
            y = x @ pair_weight @ z.mT                           # ... o s t
            y = y + x @ left_weight.unsqueeze(-1)                # ... o s 1
            y = y + (z @ right_weight.unsqueeze(-1)).mT          # ... o 1 t
            return y + pair_bias[:, None, None]
        ```

    Used to parse sentences: arcs with `o=1`, labels with one `o` each. The linear parts start from
    zero, so that scores start with the scale of `pair`. Not for long sequences with many outputs:
    the result has `o s t` numbers.

    Args:
        i: features of the first input.
        j: features of the second input.
        o: scores for each pair.
        bias: whether there is a bias, `o`.
        init: how the weight of `pair` starts, see `einheads.Einsum`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Dozat and Manning, "Deep biaffine attention for neural dependency parsing" (2017),
        section 2.2, equations 1 to 3.
    """

    def __init__(
        self,
        *,
        i: int,
        j: int,
        o: int,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.i, self.j, self.o, self.bias, self.init = i, j, o, bias, init
        self.pair = Einsum(
            "... s i, ... t j, o i j -> ... o s t",
            inputs=2,
            bias="o" if bias else None,
            init=init,
            device=device,
            dtype=dtype,
            i=i,
            j=j,
            o=o,
        )
        self.left = Einsum(
            "... s i, o i -> ... o s 1", init="zeros", device=device, dtype=dtype, i=i, o=o
        )
        self.right = Einsum(
            "... t j, o j -> ... o 1 t", init="zeros", device=device, dtype=dtype, j=j, o=o
        )

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Score every pair.

        Args:
            x: `... s i`.
            z: `... t j`.

        Returns:
            `... o s t`.
        """
        return self.pair(x, z) + self.left(x) + self.right(z)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The arguments of the call that makes this layer."""
        return arguments(self) or ""


class OuterProductMean(nn.Module):
    """From rows of features to features of pairs: the outer product of two projections, averaged.

    Formula: `y[i, j] = U mean over s of (A x[s, i]) outer (B x[s, j]) + b`.

    - `left`: `... s i m, c m -> ... s i c`; `right`: `... s i m, d m -> ... s i d`
    - `pair`: `... s i c, ... s j d, z c d -> ... i j z`, with the bias `z`

    Example:
        >>> import torch
        >>> from einheads import OuterProductMean
        >>> layer = OuterProductMean(m=64, c=8, z=32)
        >>> layer(torch.randn(2, 5, 10, 64)).shape         # 2 s i m -> 2 i i z
        torch.Size([2, 10, 10, 32])

    Equivalent:
        ```python
        def outer_product_mean(x, left_weight, left_bias, right_weight, right_bias, **pair):
            a, b = x @ left_weight.T + left_bias, x @ right_weight.T + right_bias
            a, b = a.unsqueeze(-2).unsqueeze(-1), b.unsqueeze(-3).unsqueeze(-2)
            y = (a * b).mean(-5)                                 # ... s i j c d, mean over s
            return y.flatten(-2) @ pair["pair_weight"].flatten(1).T + pair["pair_bias"]
        ```

    Used to turn an alignment of sequences into relations of their positions; there, with an
    `nn.LayerNorm` in front. Not for many positions: the result has `i i z` numbers.

    Args:
        m: features of the input.
        c: features of the first projection.
        z: features of a pair.
        d: features of the second projection; by default `c`.
        bias: whether the projections and the output have biases.
        init: how the weights start, see `einheads.Einsum`; with "linear", the projections have unit
            scale and the last weight that of an `nn.Linear`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Jumper et al., "Highly accurate protein structure prediction with AlphaFold" (2021),
        supplement, algorithm 10.
    """

    def __init__(
        self,
        *,
        m: int,
        c: int,
        z: int,
        d: int | None = None,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        d = c if d is None else d
        self.m, self.c, self.z, self.d, self.bias, self.init = m, c, z, d, bias, init
        # As in a pattern of several weights: all but the last keep unit scale.
        first = "lecun" if init == "linear" else init
        self.left = Einsum(
            "... m, c m -> ... c", bias=bias, init=first, device=device, dtype=dtype, m=m, c=c
        )
        self.right = Einsum(
            "... m, d m -> ... d", bias=bias, init=first, device=device, dtype=dtype, m=m, d=d
        )
        self.pair = Einsum(
            "... s i c, ... s j d, z c d -> ... i j z",
            inputs=2,
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            c=c,
            d=d,
            z=z,
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Average over the rows.

        Args:
            x: `... s i m`.
            mask: `... s i`, one where a position counts and zero where it does not; pairs that
                never count together get the bias alone.

        Returns:
            `... i i z`.

        Raises:
            SizeError: the mask has another shape than the positions.
        """
        left, right = self.left(x), self.right(x)
        if mask is None:
            return self.pair(left / x.shape[-3], right)  # type: ignore[no-any-return]
        if mask.shape != x.shape[:-1]:
            raise SizeError(
                f"the mask has the shape {tuple(mask.shape)}, but the positions have "
                f"{tuple(x.shape[:-1])}",
                "... s i m",
                notes=["write: a mask of the shape '... s i'"],
            )
        mask = mask.to(x.dtype)
        count = einsum("... s i, ... s j -> ... i j", mask, mask).unsqueeze(-1)
        total = self.pair(left * mask.unsqueeze(-1), right * mask.unsqueeze(-1))
        offset = self.pair.bias if self.bias else 0.0
        # `count` can be zero where nothing was added either; the mean is over at least one row.
        kept = (total - offset) * (count > 0)
        return kept / count.clamp(min=1) + offset  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The arguments of the call that makes this layer."""
        return arguments(self) or ""


__all__ = ["Biaffine", "OuterProductMean"]
