"""Layers between attentions: mixing of tokens, and feed-forward networks, whole or per head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from einheads.errors import EinheadsError, SizeError, kind, nearest
from einheads.initializers import Initializer

from .arguments import arguments, check_dropout
from .base import Einsum

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class TokenMixer(Einsum):
    """A linear along the tokens: pattern `... t c, s t -> ... s c`.

    Formula: `y_s = sum over t of W_st x_t + b_s`, for every feature.

    With heads, each group of features has a matrix of its own: `... t (h d), h s t -> ... s (h d)`.

    Example:
        >>> import torch
        >>> from einheads import TokenMixer
        >>> layer = TokenMixer(t=196, s=384)
        >>> layer(torch.randn(2, 196, 512)).shape          # 2 t c -> 2 s c
        torch.Size([2, 384, 512])
        >>> TokenMixer(t=196, h=8).pattern
        '... t (h d), h s t -> ... s (h d)'

    Equivalent:
        ```python
        def token_mixer(x, weight, bias):
            y = x.transpose(-1, -2) @ weight.T             # ... c t, t s -> ... c s
            return (y + bias).transpose(-1, -2)            # ... s c
        ```

    Used in MLP-Mixer, gMLP, and with heads in Synthesizer.

    Not for sequences of different lengths: each position has weights of its own.

    Args:
        t: tokens that come in.
        s: tokens that go out; by default as many.
        h: groups of features with a matrix each; None for one matrix.
        bias: whether there is a bias, `s` (`s h`).
        init: how the weight starts, see `einheads.Einsum`; each matrix as its own `nn.Linear`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Tolstikhin et al., "MLP-Mixer: an all-MLP architecture for vision" (2021), section 2; Tay et
        al., "Synthesizer: rethinking self-attention" (2021), section 3, the random one with heads.
    """

    def __init__(
        self,
        *,
        t: int,
        s: int | None = None,
        h: int | None = None,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sizes: dict[str, Any] = {"t": t, "s": t if s is None else s}
        pattern = "... t c, s t -> ... s c"
        if h is not None:
            sizes["h"] = h
            pattern = "... t (h d), h s t -> ... s (h d)"
        super().__init__(pattern, bias=bias, init=init, device=device, dtype=dtype, **sizes)
        self.h = h


class FeedForward(nn.Module):
    """Two linears with a bend between them: `y = down(f(up(x)))`.

    - `up`: `... i, m i -> ... m`
    - `down`: `... m, o m -> ... o`

    With heads, each head has both for itself: `... h i, h m i -> ... h m` and
    `... h m, h o m -> ... h o`. With `shared=True`, all heads read the same `x`, and what they give
    lies side by side: `... i, h m i -> ... h m` and `... h m, h o m -> ... (h o)`.

    Example:
        >>> import torch
        >>> from einheads import FeedForward
        >>> FeedForward(i=64, m=256)(torch.randn(2, 10, 64)).shape
        torch.Size([2, 10, 64])
        >>> FeedForward(i=8, m=32, h=5)(torch.randn(2, 10, 5, 8)).shape      # each head its own
        torch.Size([2, 10, 5, 8])
        >>> FeedForward(i=64, m=32, o=8, h=8, shared=True)(torch.randn(2, 10, 64)).shape
        torch.Size([2, 10, 64])

    Equivalent:
        ```python
        def feed_forward(x, up_weight, up_bias, down_weight, down_bias):
            y = x @ up_weight.T + up_bias                  # ... i, i m -> ... m
            y = torch.nn.functional.gelu(y)
            return y @ down_weight.T + down_bias           # ... m, m o -> ... o
        ```

    Used in every transformer; per head for ensembles of networks and for mixtures.

    Not for per-head outputs that never meet again, unless the heads are meant to be separate.

    Args:
        i: features of `x`, of each head if they have their own.
        m: features in the middle, of each head.
        o: features of the output, of each head; by default `i`.
        h: heads; None for one network for all features.
        shared: whether all heads read the same `x`.
        activation: the bend: "gelu", "relu", "sigmoid", "silu", "tanh" or a function.
        dropout: the share of features in the middle that are dropped in training.
        bias: whether both linears have biases.
        init: how the weights start, see `einheads.Einsum`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Vaswani et al., "Attention is all you need" (2017), section 3.3; Hendrycks and Gimpel,
        "Gaussian error linear units" (2016).
    """

    def __init__(
        self,
        *,
        i: int,
        m: int,
        o: int | None = None,
        h: int | None = None,
        shared: bool = False,
        activation: str | Activation = "gelu",
        dropout: float = 0.0,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        bend = found(activation)
        check_dropout(dropout)
        if shared and h is None:
            raise SizeError("heads that share their input have no size", notes=["write: h=..."])
        super().__init__()
        self.i = i
        self.m = m
        self.o = o = i if o is None else o
        self.h = h
        self.shared = shared
        self.activation = activation
        self.dropout = dropout
        self.bias = bias
        self.init = init
        self._bend = bend
        up, down = _UP_DOWN[None if h is None else shared]
        heads: dict[str, Any] = {} if h is None else {"h": h}

        def project(pattern: str, **sizes: Any) -> Einsum:
            return Einsum(
                pattern, bias=bias, init=init, device=device, dtype=dtype, **heads, **sizes
            )

        self.up = project(up, m=m, i=i)
        self.down = project(down, o=o, m=m)

    def forward(self, x: Tensor) -> Tensor:
        """Run both linears.

        Args:
            x: `... i`, or `... h i` for heads with an input each.

        Returns:
            `... o`; for heads `... h o`, or `... (h o)` if they share their input.
        """
        y = F.dropout(self._bend(self.up(x)), self.dropout, self.training)
        return self.down(y)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The arguments of the call that makes this module."""
        return arguments(self) or ""


# Without heads; with heads that have an input each; with heads that share it.
_UP_DOWN = {
    None: ("... i, m i -> ... m", "... m, o m -> ... o"),
    False: ("... h i, h m i -> ... h m", "... h m, h o m -> ... h o"),
    True: ("... i, h m i -> ... h m", "... h m, h o m -> ... (h o)"),
}


class SwiGLU(nn.Module):
    """A feed-forward network with a gate: `y = down(silu(gate) * value)`.

    Gate and value are made by one weight, the gate first:

    - `up`: `... i, g m i -> ... g m`, where `g = 2`
    - `down`: `... m, o m -> ... o`

    With heads, each head has both for itself: `... h i, h g m i -> ... h g m` and
    `... h m, h o m -> ... h o`.

    Example:
        >>> import torch
        >>> from einheads import SwiGLU
        >>> layer = SwiGLU(i=64, m=176)
        >>> layer(torch.randn(2, 10, 64)).shape
        torch.Size([2, 10, 64])
        >>> layer.up.weight.shape                          # g m i
        torch.Size([2, 176, 64])
        >>> SwiGLU(i=8, m=32, h=5)(torch.randn(2, 10, 5, 8)).shape
        torch.Size([2, 10, 5, 8])

    Equivalent:
        ```python
        def swiglu(x, up_weight, down_weight):
            gate = x @ up_weight[0].T                      # ... i, i m -> ... m
            value = x @ up_weight[1].T
            y = torch.nn.functional.silu(gate) * value
            return y @ down_weight.T                       # ... m, m o -> ... o
        ```

    Used in Llama, PaLM and their relatives; `torch.stack([gate_proj.weight, up_proj.weight])` is
    `up.weight`. With a third less in the middle it has the parameters of a `FeedForward`. With
    `activation="gelu"` it is GEGLU.

    Not for a checkpoint in which gate and value have different sizes.

    Args:
        i: features of `x`, of each head if there are heads.
        m: features in the middle.
        o: features of the output; by default `i`.
        h: heads; None for one network for all features.
        activation: what the gate goes through: "silu", "gelu", ... or a function.
        dropout: the share of features in the middle that are dropped in training.
        bias: whether both linears have biases.
        init: how the weights start, see `einheads.Einsum`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Shazeer, "GLU variants improve transformer" (2020), section 2.
    """

    def __init__(
        self,
        *,
        i: int,
        m: int,
        o: int | None = None,
        h: int | None = None,
        activation: str | Activation = "silu",
        dropout: float = 0.0,
        bias: bool = False,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        bend = found(activation)
        check_dropout(dropout)
        super().__init__()
        self.i = i
        self.m = m
        self.o = o = i if o is None else o
        self.h = h
        self.activation = activation
        self.dropout = dropout
        self.bias = bias
        self.init = init
        self._bend = bend
        head = "" if h is None else "h "
        heads: dict[str, Any] = {} if h is None else {"h": h}

        def project(pattern: str, **sizes: Any) -> Einsum:
            return Einsum(
                pattern, bias=bias, init=init, device=device, dtype=dtype, **heads, **sizes
            )

        self.up = project(f"... {head}i, {head}g m i -> ... {head}g m", g=2, m=m, i=i)
        self.down = project(f"... {head}m, {head}o m -> ... {head}o", o=o, m=m)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network.

        Args:
            x: `... i`, or `... h i`.

        Returns:
            `... o`, or `... h o`.
        """
        gate, value = self.up(x).unbind(-2)
        y = F.dropout(self._bend(gate) * value, self.dropout, self.training)
        return self.down(y)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The arguments of the call that makes this module."""
        return arguments(self) or ""


def found(activation: str | Activation) -> Activation:
    """The function of an activation.

    Example:
        >>> found("relu")(torch.tensor([-1.0, 1.0]))
        tensor([0., 1.])

    Raises:
        EinheadsError: there is none of this name.
        TypeError: it is neither a name nor a function.
    """
    if callable(activation):
        return activation
    if not isinstance(activation, str):
        raise TypeError(
            f"activation is a name or a function, not {kind(activation)}; write: activation='gelu'"
        )
    if activation not in ACTIVATIONS:
        near = nearest(activation, list(ACTIVATIONS))
        raise EinheadsError(
            f"activation={activation!r} is none that is known by name",
            notes=[f"did you mean '{near}'?"] * (near is not None)
            + [f"write: a function, or one of {', '.join(ACTIVATIONS)}"],
        )
    return ACTIVATIONS[activation]


__all__ = ["FeedForward", "SwiGLU", "TokenMixer"]
