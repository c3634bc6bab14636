"""Whole blocks, usable as they are: norms, residual sums, and einheads layers between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from einheads.errors import EinheadsError, SizeError
from einheads.initializers import Initializer

from .arguments import arguments, check_dropout, check_last
from .attention import Attention
from .cache import KeyValueCache
from .mixing import Activation, FeedForward, SwiGLU, TokenMixer, found
from .rotary import Rotary

_NORMS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}


class MLPMixer(nn.Module):
    """One block of an MLP-Mixer, `... t c -> ... t c`: tokens are mixed, and then features.

    `x + down(gelu(up(norm(x))))` twice: first along the tokens (`up`: `... t c, s t -> ... s c`),
    then along the features, a `FeedForward`.

    Example:
        >>> import torch
        >>> from einheads import MLPMixer, PatchEmbed
        >>> patches = PatchEmbed(c=3, p=8, o=64)
        >>> model = torch.nn.Sequential(patches, *[MLPMixer(t=16, c=64, s=32, m=256) for _ in "12"])
        >>> model(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 16, 64])

    Equivalent:
        ```python
        def mlp_mixer(x, **p):
            for part, flip in (("tokens", True), ("features", False)):
                y = F.layer_norm(x, x.shape[-1:], p[f"{part}_norm_weight"], p[f"{part}_norm_bias"])
                y = y.transpose(-1, -2) if flip else y
                y = F.gelu(y @ p[f"{part}_up_weight"].T + p[f"{part}_up_bias"])
                y = y @ p[f"{part}_down_weight"].T + p[f"{part}_down_bias"]
                x = x + (y.transpose(-1, -2) if flip else y)
            return x
        ```

    Used for images and for tables of time and channel (MLP-Mixer, TSMixer).

    Not for sequences of different lengths.

    Args:
        t: tokens.
        c: features of a token.
        s: tokens in the middle of the first network.
        m: features in the middle of the second network.
        h: groups of features with a first network each; None for one.
        activation: the bend of both networks.
        dropout: the share dropped in the middle of both, in training.
        bias: whether the linears have biases.
        init: how the weights start, see `einheads.Einsum`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Tolstikhin et al., "MLP-Mixer: an all-MLP architecture for vision" (2021), section 2,
        equation 1.
    """

    def __init__(
        self,
        *,
        t: int,
        c: int,
        s: int,
        m: int,
        h: int | None = None,
        activation: str | Activation = "gelu",
        dropout: float = 0.0,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        bend = found(activation)
        check_dropout(dropout)
        if h is not None and (h < 1 or c % h):
            raise SizeError(
                f"c={c} features cannot be divided among h={h} heads",
                notes=["write: a divisor of c"],
            )
        super().__init__()
        self.t = t
        self.c = c
        self.s = s
        self.m = m
        self.h = h
        self.activation = activation
        self.dropout = dropout
        self.bias = bias
        self.init = init
        self._bend = bend
        self.tokens_norm = nn.LayerNorm(c, device=device, dtype=dtype)
        options: Any = {"bias": bias, "init": init, "device": device, "dtype": dtype}
        self.tokens_up = TokenMixer(t=t, s=s, h=h, **options)
        self.tokens_down = TokenMixer(t=s, s=t, h=h, **options)
        self.features_norm = nn.LayerNorm(c, device=device, dtype=dtype)
        self.features = FeedForward(i=c, m=m, activation=activation, dropout=dropout, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Mix.

        Args:
            x: `... t c`.

        Returns:
            `... t c`.

        Raises:
            SizeError: `t` or `c` has another size.
        """
        check_last(x, "... t c", t=self.t, c=self.c)
        y = self._bend(self.tokens_up(self.tokens_norm(x)))
        x = x + self.tokens_down(F.dropout(y, self.dropout, self.training))
        return x + self.features(self.features_norm(x))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The arguments of the call that makes this module."""
        return arguments(self) or ""


class TransformerBlock(nn.Module):
    """Attention and a feed-forward network, each with a norm in front and a sum behind.

    Formula: `x = x + attention(norm(x))`, then `x = x + network(norm(x))`; `... t i -> ... t i`.

    Example:
        >>> import torch
        >>> from einheads import TransformerBlock
        >>> x = torch.randn(2, 10, 64)
        >>> TransformerBlock(i=64, h=8)(x).shape           # as in GPT-2
        torch.Size([2, 10, 64])
        >>> llama = TransformerBlock(
        ...     i=64, h=8, k=2, m=176, causal=True, rotary=True, norm="rms", gated=True, bias=False
        ... )
        >>> llama(x).shape
        torch.Size([2, 10, 64])
        >>> heads = TransformerBlock(i=64, h=8, per_head=True)
        >>> heads.network.down                             # the second linear is one per head
        Einsum('... h m, h o m -> ... (h o)', bias='h o', h=8, o=8, m=32)

    Equivalent:
        ```python
        def transformer_block(self, x):
            x = x + self.attention(self.attention_norm(x))
            return x + self.network(self.network_norm(x))
        ```

    Used in nearly every language model: as it is by default in GPT-2 and vision transformers, with
    the options of the example in Llama. `torch.nn.TransformerEncoderLayer` with `norm_first=True`
    and the activation "gelu" gives what the default gives.

    Not for models trained with the norm behind the sum, as the first transformers were.

    Args:
        i: features of `x`.
        h: heads of the attention.
        m: features in the middle of the network, of all heads together; by default `4 i`.
        d: features of each head; by default `i / h`.
        k: heads of keys and values; by default `h`.
        causal: whether a position sees only itself and earlier ones.
        rotary: True, or a `Rotary` with options of its own.
        gated: whether the network is a `SwiGLU`.
        per_head: whether the second linear of the network is one per head, each with `m / h` and
            `i / h` features: fewer parameters, and heads that stay apart.
        norm: "layer" for `nn.LayerNorm`, "rms" for `nn.RMSNorm`.
        activation: the bend of the network; by default "gelu", "silu" if it is gated.
        dropout: the share dropped in training, of attention weights, inside the network, and of
            what is added.
        bias: whether the linears have biases.
        init: how the weights start, see `einheads.Einsum`.
        device: where the parameters are made.
        dtype: of the parameters.

    Raises:
        SizeError: `h` does not divide `i`, or `m` for `per_head`, or `k` does not divide `h`.
        EinheadsError: the norm is unknown, or a network is gated and per head.

    Reference:
        Xiong et al., "On layer normalization in the transformer architecture" (2020), section 3.
    """

    def __init__(
        self,
        *,
        i: int,
        h: int,
        m: int | None = None,
        d: int | None = None,
        k: int | None = None,
        causal: bool = False,
        rotary: bool | Rotary | None = None,
        gated: bool = False,
        per_head: bool = False,
        norm: str = "layer",
        activation: str | Activation | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        m = 4 * i if m is None else m
        if norm not in _NORMS:
            raise EinheadsError(
                f"norm={norm!r} is none that is known",
                notes=["write: norm='layer' or norm='rms'"],
            )
        if per_head and gated:
            raise EinheadsError(
                "a network is either gated or has a second linear per head",
                notes=["write: gated=False or per_head=False"],
            )
        if per_head and (h < 1 or i % h or m % h):
            raise SizeError(
                f"i={i} and m={m} features cannot both be divided among h={h} heads",
                notes=["write: a divisor of both"],
            )
        bend = activation or ("silu" if gated else "gelu")
        super().__init__()
        self.i = i
        self.h = h
        self.m = m
        self.causal = causal
        self.gated = gated
        self.per_head = per_head
        self.norm = norm
        self.activation = activation
        self.dropout = dropout
        self.bias = bias
        self.init = init
        self.attention_norm = _NORMS[norm](i, device=device, dtype=dtype)
        self.attention = Attention(
            i=i,
            h=h,
            d=d,
            k=k,
            causal=causal,
            rotary=rotary,
            dropout=dropout,
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
        )
        self.d = self.attention.d
        self.k = self.attention.k
        self.network_norm = _NORMS[norm](i, device=device, dtype=dtype)
        self.network: FeedForward | SwiGLU
        if gated:
            self.network = SwiGLU(
                i=i,
                m=m,
                activation=bend,
                dropout=dropout,
                bias=bias,
                init=init,
                device=device,
                dtype=dtype,
            )
        else:
            self.network = FeedForward(
                i=i,
                m=m // h if per_head else m,
                o=i // h if per_head else i,
                h=h if per_head else None,
                shared=per_head,
                activation=bend,
                dropout=dropout,
                bias=bias,
                init=init,
                device=device,
                dtype=dtype,
            )

    @property
    def rotary(self) -> Rotary | None:
        """The rotary embedding of the attention, if it has one."""
        return self.attention.rotary

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Run the block; the options are those of `Attention`.

        Args:
            x: `... t i`.
            mask: broadcasts to `... h t s`.
            positions: `... t`.
            cache: earlier keys and values, from `block.attention.cache(...)`.

        Returns:
            `... t i`.

        Raises:
            SizeError: `i` has another size, or a mask or the cache does not fit.
        """
        check_last(x, "... t i", i=self.i)
        seen = self.attention(self.attention_norm(x), mask=mask, positions=positions, cache=cache)
        x = x + F.dropout(seen, self.dropout, self.training)
        y = self.network(self.network_norm(x))
        return x + F.dropout(y, self.dropout, self.training)

    def extra_repr(self) -> str:
        """The arguments of the call that makes this module."""
        return arguments(self) or ""


__all__ = ["MLPMixer", "TransformerBlock"]
