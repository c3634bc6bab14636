"""Attention: every projection is an einheads layer, and torch's own kernel stands between them.

The patterns put the heads in front of the time, where `scaled_dot_product_attention` wants them, so
that nothing is transposed by hand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from einheads.errors import EinheadsError, SizeError
from einheads.functional import einsum
from einheads.initializers import Initializer

from .arguments import arguments, check_dropout
from .base import Einsum
from .cache import KeyValueCache
from .rotary import Rotary

# Torch 2.4 has no such option; the function's documentation tells it better than a version.
_SHARES_KEYS = "enable_gqa" in (F.scaled_dot_product_attention.__doc__ or "")


class TalkingHeads(Einsum):
    """Attention heads mixed with each other: pattern `... h t s, k h -> ... k t s`.

    Formula: `y_k = sum over h of w_kh x_h`, for every query and key.

    Example:
        >>> import torch
        >>> from einheads import TalkingHeads
        >>> layer = TalkingHeads(h=8, k=4)
        >>> layer(torch.randn(2, 8, 10, 12)).shape         # 2 h t s -> 2 k t s
        torch.Size([2, 4, 10, 12])
        >>> layer
        TalkingHeads(h=8, k=4)

    Equivalent:
        ```python
        def talking_heads(x, weight):
            x = x.movedim(-3, -1)                          # ... t s h
            y = x @ weight.T                               # ... t s k
            return y.movedim(-1, -3)                       # ... k t s
        ```

    Used in language models and in deep image transformers (CaiT): one before the softmax of
    attention and one after it, `Attention(talking=True)`.

    Not for long sequences: all scores have to be there at once, and no fused kernel can be used.

    Args:
        h: heads that come in.
        k: heads that go out; by default as many.
        bias: whether there is a bias, `k`.
        init: how the weight starts, see `einheads.Einsum`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Shazeer et al., "Talking-heads attention" (2020), section 4.
    """

    def __init__(
        self,
        *,
        h: int,
        k: int | None = None,
        bias: bool = False,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            "... h t s, k h -> ... k t s",
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            h=h,
            k=h if k is None else k,
        )


class Attention(nn.Module):
    """Attention with any number of heads, of keys, and of inputs.

    `y = sum_h O_h softmax(Q_h x (K_h z)^T / sqrt(d)) V_h z`, where `z` is `x` or a context:

    - `query`: `... t i, h d i -> ... h t d`
    - `key` and `value`: `... s c, k d c -> ... k s d`; query head `h` reads `h // (h/k)`
    - `output`: `... h t d, o h d -> ... t o`

    Example:
        >>> import torch
        >>> from einheads import Attention
        >>> x, context = torch.randn(2, 10, 64), torch.randn(2, 7, 32)
        >>> Attention(i=64, h=8)(x).shape                  # multi-head, d = i / h
        torch.Size([2, 10, 64])
        >>> shared = Attention(i=64, h=8, k=2, causal=True, rotary=True)   # grouped queries
        >>> shared.key
        Einsum('... s c, k d c -> ... k s d', bias='k d', c=64, k=2, d=8)
        >>> Attention(i=64, c=32, h=8)(x, context).shape   # to another sequence
        torch.Size([2, 10, 64])
        >>> with torch.no_grad():                          # token by token
        ...     cache = shared.cache(2, s=100)
        ...     steps = [shared(token, cache=cache) for token in x.split(1, dim=1)]
        >>> torch.allclose(torch.cat(steps, 1), shared(x), atol=1e-5)
        True

    Equivalent:
        ```python
        def attention(x, **p):
            q, k, v = (
                torch.einsum("...ti,hdi->...htd", x, p[f"{one}_weight"])
                + p[f"{one}_bias"].unsqueeze(-2)                          # h 1 d
                for one in ("query", "key", "value")
            )
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5         # ... h t s
            y = scores.softmax(-1) @ v                                    # ... h t d
            return torch.einsum("...htd,ohd->...to", y, p["output_weight"]) + p["output_bias"]
        ```

    Used in every transformer. Not for sequences so long that their square is out of reach.

    Args:
        i: features of `x`.
        h: heads of the queries.
        d: features of each head; by default `i / h`.
        k: heads of keys and values, a divisor of `h`; by default `h`, and 1 is multi-query.
        c: features of the context; by default `i`.
        o: features of the output; by default `i`.
        bias: whether the projections have biases.
        causal: whether a position sees only itself and earlier ones.
        rotary: True, or a `Rotary` with options of its own, to turn queries and keys.
        talking: whether the heads are mixed before and after the softmax.
        scale: of the scores; by default `1 / sqrt(d)`.
        dropout: the share of attention weights that are dropped in training.
        init: how the weights start, see `einheads.Einsum`.
        device: where the parameters are made.
        dtype: of the parameters.

    Raises:
        SizeError: `h` does not divide `i`, `k` does not divide `h`, or an odd `d` is to be turned.

    Reference:
        Vaswani et al., "Attention is all you need" (2017), section 3.2; Shazeer, "Fast transformer
        decoding" (2019), section 3; Ainslie et al., "GQA" (2023), section 2.2.
    """

    def __init__(
        self,
        *,
        i: int,
        h: int,
        d: int | None = None,
        k: int | None = None,
        c: int | None = None,
        o: int | None = None,
        bias: bool = True,
        causal: bool = False,
        rotary: bool | Rotary | None = None,
        talking: bool = False,
        scale: float | None = None,
        dropout: float = 0.0,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_heads(i, h, d, k)
        check_dropout(dropout)
        super().__init__()
        self.i = i
        self.h = h
        self.d = d = i // h if d is None else d
        self.k = k = h if k is None else k
        self.c = c = i if c is None else c
        self.o = o = i if o is None else o
        self.bias = bias
        self.causal = causal
        self.scale = scale
        self.dropout = dropout
        self.init = init

        def project(pattern: str, **sizes: Any) -> Einsum:
            return Einsum(pattern, bias=bias, init=init, device=device, dtype=dtype, **sizes)

        self.query = project("... t i, h d i -> ... h t d", i=i, h=h, d=d)
        self.key = project("... s c, k d c -> ... k s d", c=c, k=k, d=d)
        self.value = project("... s c, k d c -> ... k s d", c=c, k=k, d=d)
        self.output = project("... h t d, o h d -> ... t o", h=h, d=d, o=o)
        self.rotary = Rotary() if rotary is True else rotary or None
        if self.rotary is not None:
            self.rotary.turned(d)  # here already, not at the first call
        self.talking = talking
        self.before: TalkingHeads | None = None
        self.after: TalkingHeads | None = None
        if talking:
            self.before = TalkingHeads(h=h, init=init, device=device, dtype=dtype)
            self.after = TalkingHeads(h=h, init=init, device=device, dtype=dtype)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: `... t i`.
            context: `... s c`, what keys and values are made from; by default `x`.
            mask: broadcasts to `... h t s`; boolean, True where a query may look, or a number that
                is added to each score. With `causal`, both hold.
            positions: `... t`, where the queries stand, and without a context the keys too; for the
                rotary embedding. By default 0, 1, 2, ..., after what is in the cache.
            cache: earlier keys and values; the new ones are added to it.

        Returns:
            `... t o`.

        Raises:
            SizeError: an input, a mask or the cache does not fit.
            TypeError: a mask of integers, which could mean either.
            EinheadsError: a context comes together with a cache or a causal layer.
        """
        if context is not None and (cache is not None or self.causal):
            raise EinheadsError(
                f"positions of a context are not {'cached' if cache is not None else 'causal'}: "
                "they have no order in common with those of x",
                notes=["write: a mask, or attention without a context"],
            )
        source = x if context is None else context
        query, key, value = self.query(x), self.key(source), self.value(source)
        if self.rotary is not None:
            if positions is None and cache is not None:
                positions = torch.arange(cache.length, cache.length + x.shape[-2], device=x.device)
            if positions is not None and positions.ndim > 1:
                positions = positions.unsqueeze(-2)  # the heads: ... 1 t
            query = self.rotary(query, positions)
            key = self.rotary(key, positions if context is None else None)
        if cache is not None:
            key, value = cache.append(key, value)
        return self.output(self._attend(query, key, value, mask, fresh=cache is None))  # type: ignore[no-any-return]

    def cache(
        self,
        *leading: int,
        s: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> KeyValueCache:
        """An empty cache for decoding.

        Args:
            *leading: sizes of the leading axes of `x`, such as the batch.
            s: room for so many positions.
            device: by default that of the weights.
            dtype: by default that of the weights.
        """
        # Whatever stands there now: an adapter has no matrices of its own.
        like = next(self.key.parameters())
        shape = (*leading, self.k, s, self.d)
        key, value = (
            torch.zeros(shape, device=device or like.device, dtype=dtype or like.dtype)
            for _ in range(2)
        )
        return KeyValueCache(key, value)

    def extra_repr(self) -> str:
        """The arguments of the call that makes this module."""
        return arguments(self) or ""

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, fresh: bool
    ) -> Tensor:
        t, s = query.shape[-2], key.shape[-2]
        if mask is not None:
            _check_mask(mask, (*query.shape[:-1], s))
            mask = mask if mask.dtype == torch.bool else mask.to(query.dtype)
        causal = self.causal
        # The flag of the kernel counts from the first key, but a cache puts keys before the first
        # query; and the kernel takes no mask beside its flag.
        if causal and (mask is not None or not fresh or self.talking):
            causal = False
            if t > 1:
                below = torch.ones(t, s, dtype=torch.bool, device=query.device).tril(s - t)
                mask = _both(mask, below)
        dropout = self.dropout if self.training else 0.0
        shared = self.k < self.h
        if shared and (self.talking or not _SHARES_KEYS):
            g = self.h // self.k
            key, value = (einsum("... k s d -> ... (k g) s d", x, g=g) for x in (key, value))
            shared = False
        if self.before is not None and self.after is not None:
            scale = query.shape[-1] ** -0.5 if self.scale is None else self.scale
            scores = einsum("... h t d, ... h s d -> ... h t s", query * scale, key)
            weights = _masked(self.before(scores), mask).softmax(-1)
            weights = self.after(F.dropout(weights, dropout))
            return einsum("... h t s, ... h s d -> ... h t d", weights, value)
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=causal,
            scale=self.scale,
            **({"enable_gqa": True} if shared else {}),
        )


def _check_heads(i: int, h: int, d: int | None, k: int | None) -> None:
    if h < 1 or (d is None and i % h):
        raise SizeError(
            f"i={i} features cannot be divided among h={h} heads",
            notes=["write: d=..., the features of each head"],
        )
    if k is not None and (k < 1 or h % k):
        raise SizeError(
            f"h={h} heads of queries cannot be divided among k={k} heads of keys",
            notes=["write: a divisor of h, such as k=1"],
        )


def _check_mask(mask: Tensor, wanted: tuple[int, ...]) -> None:
    if not (mask.dtype == torch.bool or mask.is_floating_point()):
        raise TypeError(
            f"a mask is boolean, or numbers that are added to the scores, not {mask.dtype}; "
            "write: mask.bool(), True where a query may look"
        )
    sizes = tuple(mask.shape)
    tail = wanted[len(wanted) - len(sizes) :]
    if len(sizes) > len(wanted) or any(
        size not in (1, want) for size, want in zip(sizes, tail, strict=True)
    ):
        raise SizeError(
            f"a mask {sizes} does not broadcast to the scores '... h t s' = {wanted}",
            notes=["write: a unit axis for what all share, such as mask[:, None, None, :]"],
        )


def _both(mask: Tensor | None, below: Tensor) -> Tensor:
    """What a mask and causality allow together."""
    if mask is None:
        return below
    return mask & below if mask.dtype == torch.bool else _masked(mask, below)


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


__all__ = ["Attention", "TalkingHeads"]
