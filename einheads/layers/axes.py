"""Layers along chosen axes: a linear along any axis, a factor for each index, patches to tokens.

Each is a pattern with a name, some of them one that is put together from what the caller says about
the axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from einheads.errors import PatternError, kind
from einheads.initializers import Initializer, Roles
from einheads.pattern import parse

from .base import Einsum


class AxisLinear(Einsum):
    """A linear along any axes, declared by what it does to them: `b t c -> b s c`.

    Formula: `y_s = sum over t of W_st x_t + b_s`, whatever other axes there are.

    Axes that vanish are summed with a weight that brings those that appear; here `b t c, s t ->
    b s c`. With `per="c"` there is a matrix for each `c`: `b t c, c s t -> b s c`.

    Example:
        >>> import torch
        >>> from einheads import AxisLinear
        >>> layer = AxisLinear("... t c -> ... s c", t=10, s=7)
        >>> layer(torch.randn(4, 10, 3)).shape
        torch.Size([4, 7, 3])
        >>> layer.pattern
        '... t c, s t -> ... s c'
        >>> forecast = AxisLinear("b past c -> b future c", per="c", past=96, future=24, c=7)
        >>> forecast.weight.shape                          # c future past
        torch.Size([7, 24, 96])

    Equivalent:
        ```python
        def axis_linear(x, weight, bias):                  # "... t c -> ... s c"
            y = x.transpose(-1, -2) @ weight.T             # ... c t, t s -> ... c s
            return (y + bias).transpose(-1, -2)            # ... s c
        ```

    Used for the mixing of tokens in MLP-Mixer, and with a matrix for each channel to forecast time
    series (DLinear).

    Not for an axis whose size changes from call to call.

    Args:
        axes: what happens to the axes, `input -> output`.
        per: axes that have a matrix each, separated by spaces.
        bias: whether there is a bias, with all axes of the weight that the output has.
        init: how the weight starts, see `einheads.Einsum`; each matrix as its own `nn.Linear`.
        device: where the parameters are made.
        dtype: of the parameters.
        **sizes: the size of each axis that vanishes, appears or has a matrix each.

    Raises:
        PatternError: no axis vanishes, or an axis of `per` is not in the output.

    Reference:
        Tolstikhin et al., "MLP-Mixer: an all-MLP architecture for vision" (2021), section 2; Zeng
        et al., "Are transformers effective for time series forecasting?" (2023), section 4.
    """

    def __init__(
        self,
        axes: str,
        /,
        *,
        per: str = "",
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **sizes: int,
    ) -> None:
        given: dict[str, Any] = dict(sizes)
        pattern = _along(axes, per)
        super().__init__(pattern, bias=bias, init=init, device=device, dtype=dtype, **given)
        self.axes = axes
        self.per = per


def _along(axes: str, per: str) -> str:
    """The pattern with the weight that `AxisLinear` needs."""
    pattern = parse(axes)
    if len(pattern.operands) != 1:
        raise PatternError(
            "the weight is found from what happens to the axes, so only the input is written",
            axes,
            [term.span for term in pattern.operands[1:]],
            ["write: 'b t c -> b s c', or the whole pattern for einheads.Einsum"],
        )
    before, after = pattern.operands[0], pattern.output
    if not isinstance(per, str):
        raise TypeError(f"per is the axes with a matrix each, as one string, not {kind(per)}")
    each = per.split()
    for name in each:
        if name not in before.names or name not in after.names:
            raise PatternError(
                f"per={per!r} names '{name}', which is not on both sides",
                axes,
                before.places(name) + after.places(name),
                ["write: axes that the input has and the output keeps"],
            )
    vanish = [name for name in before.names if name not in after.names]
    appear = [name for name in after.names if name not in before.names]
    if not vanish:
        raise PatternError(
            "no axis vanishes, so there is nothing to mix",
            axes,
            notes=["write: a new name for the axis that is mixed, such as 'b t c -> b s c'"],
        )
    return f"{before}, {' '.join([*each, *appear, *vanish])} -> {after}"


class Scale(Einsum):
    """A learned factor for each index of some axes: `y = w x`, pattern `... h d, h d -> ... h d`.

    Example:
        >>> import torch
        >>> from einheads import Scale
        >>> layer = Scale("h d", h=8, d=16, value=0.1)
        >>> layer(torch.ones(4, 10, 8, 16)).mean()
        tensor(0.1000, grad_fn=<MeanBackward0>)
        >>> Scale("c y x", c=3).pattern                    # axes without a size have no factor
        '... c y x, c -> ... c y x'

    Equivalent:
        ```python
        def scale(x, weight):
            return x * weight                              # ... h d, h d -> ... h d
        ```

    Used as LayerScale in deep transformers for images, there with `value=1e-4`, and after norms.

    Not for a place directly in front of a linear along the same axes, which absorbs it.

    Args:
        axes: the last axes of the input, separated by spaces.
        value: how every factor starts.
        bias: whether something is added too, starting from zero.
        init: how the factors start, see `einheads.Einsum`; None for `value`.
        device: where the parameters are made.
        dtype: of the parameters.
        **sizes: the size of each axis that has a factor.

    Reference:
        Touvron et al., "Going deeper with image transformers" (2021), section 2.
    """

    def __init__(
        self,
        axes: str,
        /,
        *,
        value: float = 1.0,
        bias: bool = False,
        init: str | Initializer | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **sizes: int,
    ) -> None:
        if not isinstance(axes, str):
            raise TypeError(f"axes are the last axes of the input, such as 'h d', not {kind(axes)}")
        weight = " ".join(name for name in axes.split() if name in sizes)
        pattern = f"... {axes}, {weight} -> ... {axes}"
        given: dict[str, Any] = dict(sizes)
        start = Constant(value) if init is None else init
        super().__init__(pattern, bias=bias, init=start, device=device, dtype=dtype, **given)
        self.axes = axes
        self.value = value

    def extra_repr(self) -> str:
        """The arguments of the call that makes this layer."""
        told = super().extra_repr()
        # `value` says already how the factors start.
        same = self.init == Constant(self.value)
        return told.replace(f", init={self.init!r}", "") if same else told


@dataclass(frozen=True, slots=True)
class Constant:
    """An initializer: every number of the weight is `value`."""

    value: float

    def __call__(self, weight: Tensor, _roles: Roles) -> None:
        """Fill the weight, whatever its roles."""
        nn.init.constant_(weight, self.value)


class PatchEmbed(Einsum):
    """Patches of an image to tokens: pattern `... c (h p) (w q), o c p q -> ... (h w) o`.

    Formula: `y_hw = W x_hw + b`, where `x_hw` is one patch with all its channels and pixels.

    The convolution whose stride is its window, without a convolution; the weight is that of
    `nn.Conv2d(c, o, (p, q), stride=(p, q))`.

    Example:
        >>> import torch
        >>> from einheads import PatchEmbed
        >>> layer = PatchEmbed(c=3, p=16, o=768)
        >>> layer(torch.randn(2, 3, 224, 224)).shape       # 2 (h w) o
        torch.Size([2, 196, 768])
        >>> layer
        PatchEmbed(c=3, p=16, q=16, o=768)

    Equivalent:
        ```python
        def patch_embed(x, weight, bias):
            stride = weight.shape[2:]                      # p q
            y = torch.nn.functional.conv2d(x, weight, bias, stride)
            return y.flatten(-2).transpose(-1, -2)         # ... o h w -> ... (h w) o
        ```

    Used as the first layer of vision transformers and mixers.

    Not for patches that overlap, which are a convolution.

    Args:
        c: channels of the image.
        p: height of a patch in pixels.
        q: width of a patch in pixels; by default as its height.
        o: features of a token.
        bias: whether there is a bias, `o`.
        init: how the weight starts, see `einheads.Einsum`; as the `nn.Linear` from `c p q` to `o`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Dosovitskiy et al., "An image is worth 16x16 words" (2021), section 3.1, equation 1.
    """

    def __init__(
        self,
        *,
        c: int,
        p: int,
        q: int | None = None,
        o: int,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            "... c (h p) (w q), o c p q -> ... (h w) o",
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            c=c,
            p=p,
            q=p if q is None else q,
            o=o,
        )


__all__ = ["AxisLinear", "Constant", "PatchEmbed", "Scale"]
