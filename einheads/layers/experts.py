"""Experts: many models of which each token uses a few (`Experts`) or a mixture (`SoftMoE`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from einheads.errors import EinheadsError, SizeError
from einheads.functional import einsum
from einheads.initializers import Initializer

from .arguments import arguments
from .base import Einsum
from .mixing import Activation, found


class Routed(NamedTuple):
    """What `Experts` did with every token.

    Attributes:
        output: `... o`.
        balance: the load-balancing loss, 1 where all experts have the same load; add a small
            multiple of it to the loss of the task.
        load: the share of the choices that each expert got, `e`; sums to 1, since none is dropped.
        chosen: the experts of each token, `... k`.
        weights: how much each of them counts, `... k`.
    """

    output: Tensor
    balance: Tensor
    load: Tensor
    chosen: Tensor
    weights: Tensor


class Experts(nn.Module):
    """A mixture of `e` two-layer models, of which each token uses the `k` that its router prefers.

    Formula: `y = sum over the k best e of p_e(x) down_e(bend(up_e(x)))` with `p` the softmax of the
    router, by default made to sum to 1 over the chosen.

    - `router`: `... i, e i -> ... e`
    - `up`: `e n i, e m i -> e n m`; `down`: `e n m, e o m -> e n o`, with biases

    Every token reaches all `k` experts that it chose: there is no capacity that could overflow, and
    so none is dropped. `execution="dense"` lets all experts see all tokens, and weighs most of
    their results with zero; "grouped" sorts the tokens by expert and computes only what is
    used, padding all groups to the longest. Both give the same numbers. Dense is one graph under
    `torch.compile`; grouped has sizes that depend on the data.

    Example:
        >>> import torch
        >>> from einheads import Experts
        >>> layer = Experts(e=8, k=2, i=64, m=128)
        >>> layer(torch.randn(4, 10, 64)).shape
        torch.Size([4, 10, 64])
        >>> routed = layer.route(torch.randn(4, 10, 64))
        >>> routed.chosen.shape, routed.load.shape
        (torch.Size([4, 10, 2]), torch.Size([8]))

    Equivalent:
        ```python
        def experts(x, router_weight, up_weight, up_bias, down_weight, down_bias, k, bend):
            weights, chosen = (x @ router_weight.T).softmax(-1).topk(k, -1)       # ... k
            weights = weights / weights.sum(-1, keepdim=True)
            y = (up_weight[chosen] @ x[..., None, :, None]).squeeze(-1)           # ... k m
            y = bend(y + up_bias[chosen])
            y = (down_weight[chosen] @ y.unsqueeze(-1)).squeeze(-1)               # ... k o
            return ((y + down_bias[chosen]) * weights.unsqueeze(-1)).sum(-2)
        ```

    Used in large language models, for parameters that cost no time. Not for few tokens or few
    experts, where a single larger model is faster; and not without the balancing loss, or a few
    experts take everything.

    Args:
        e: experts.
        k: how many of them each token uses.
        i: features of the input.
        m: features inside an expert.
        o: features of the output; by default `i`.
        activation: the bend: "gelu", "relu", "sigmoid", "silu", "tanh" or a function.
        normalize: whether the weights of the chosen experts are made to sum to 1.
        execution: "dense" or "grouped".
        bias: whether the layers of the experts have biases; the router has none.
        init: how the weights start, see `einheads.Einsum`.
        device: where the parameters are made.
        dtype: of the parameters.

    Raises:
        SizeError: `k` is not between 1 and `e`.
        EinheadsError: there is no such execution.

    Reference:
        Shazeer et al., "Outrageously large neural networks" (2017), section 2; Fedus et al.,
        "Switch transformers" (2021), section 2.2, equations 4 to 6: the balancing loss; Gale et
        al., "MegaBlocks" (2022): no token dropped.
    """

    def __init__(
        self,
        *,
        e: int,
        k: int,
        i: int,
        m: int,
        o: int | None = None,
        activation: str | Activation = "gelu",
        normalize: bool = True,
        execution: str = "grouped",
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not 1 <= k <= e:
            raise SizeError(
                f"k={k}, but a token can use 1 to e={e} experts", notes=[f"write: k={min(2, e)}"]
            )
        if execution not in ("dense", "grouped"):
            raise EinheadsError(
                f"execution={execution!r} is none", notes=["write: 'dense' or 'grouped'"]
            )
        super().__init__()
        o = i if o is None else o
        self.e, self.k, self.i, self.m, self.o = e, k, i, m, o
        self.activation = activation
        self._bend = found(activation)
        self.normalize, self.execution, self.bias, self.init = normalize, execution, bias, init
        options: Any = {"init": init, "device": device, "dtype": dtype}
        self.router = Einsum("... i, e i -> ... e", e=e, i=i, **options)
        self.up = Einsum("e n i, e m i -> e n m", bias="e m" if bias else None, e=e, m=m, i=i,
                         **options)  # fmt: skip
        self.down = Einsum("e n m, e o m -> e n o", bias="e o" if bias else None, e=e, o=o, m=m,
                           **options)  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Send every token through its experts.

        Args:
            x: `... i`.

        Returns:
            `... o`.
        """
        return self.route(x).output

    def route(self, x: Tensor) -> Routed:
        """The same as a call, with the loss that balances the load and what was chosen.

        Args:
            x: `... i`.
        """
        # The softmax of few large numbers decides everything, so it is not made in half precision.
        chances = self.router(x).softmax(-1, dtype=torch.promote_types(x.dtype, torch.float32))
        weights, chosen = chances.topk(self.k, dim=-1)
        if self.normalize:
            weights = weights / weights.sum(-1, keepdim=True)
        tokens = x.reshape(-1, x.shape[-1])
        picks = chosen.reshape(-1, self.k)
        shares = weights.reshape(-1, self.k).to(x.dtype)
        run = self._dense if self.execution == "dense" else self._grouped
        output = run(tokens, picks, shares).reshape(*x.shape[:-1], self.o)
        load = F.one_hot(picks, self.e).to(chances.dtype).mean((0, 1))
        # Only the chances have a gradient: what the router can change without changing a choice.
        balance = self.e * (load * chances.reshape(-1, self.e).mean(0)).sum()
        return Routed(output, balance, load, chosen, weights.to(x.dtype))

    def _dense(self, tokens: Tensor, picks: Tensor, shares: Tensor) -> Tensor:
        """All experts on all tokens."""
        every = self._experts(tokens.expand(self.e, *tokens.shape))
        gates = tokens.new_zeros(len(tokens), self.e).scatter(1, picks, shares)
        return einsum("e n o, n e -> n o", every, gates)

    def _grouped(self, tokens: Tensor, picks: Tensor, shares: Tensor) -> Tensor:
        """Every expert on its own tokens, in a stack as long as the longest group."""
        expert = picks.flatten()
        order = expert.argsort(stable=True)
        expert, token = expert[order], order // self.k
        counts = expert.bincount(minlength=self.e)
        longest = int(counts.max()) if len(tokens) else 0
        # The place of each token in the group of its expert; the groups lie one after the other.
        place = (
            torch.arange(len(expert), device=expert.device) - (counts.cumsum(0) - counts)[expert]
        )
        stack = tokens.new_zeros(self.e, longest, tokens.shape[-1])
        stack = stack.index_put((expert, place), tokens[token])
        results = self._experts(stack)[expert, place]
        weighed = results * shares.flatten()[order].unsqueeze(-1)
        return tokens.new_zeros(len(tokens), self.o).index_add(0, token, weighed)

    def _experts(self, stack: Tensor) -> Tensor:
        return self.down(self._bend(self.up(stack)))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The arguments of the call that makes this layer."""
        return arguments(self) or ""


class SoftMoE(nn.Module):
    """Experts that each see `s` mixtures of all tokens, and whose results are mixed back.

    Formula: with `l[t, e, s] = x_t . slots[e, s]`, an expert reads `sum of softmax(l, t) x_t` over
    the tokens, and a token gets `sum of softmax(l, e s) expert_e(...)` over all slots.

    - `slots`: `... t i, e s i -> ... t e s`
    - dispatch: `... t i, ... t e s -> ... e s i`
    - `up`: `... e s i, e m i -> ... e s m`; `down`: `... e s m, e o m -> ... e s o`, with biases
    - combine: `... e s o, ... t e s -> ... t o`

    Example:
        >>> import torch
        >>> from einheads import SoftMoE
        >>> layer = SoftMoE(e=4, s=3, i=64, m=128)
        >>> layer(torch.randn(2, 10, 64)).shape
        torch.Size([2, 10, 64])

    Equivalent:
        ```python
        def soft_moe(x, slots_weight, up_weight, up_bias, down_weight, down_bias, bend):
            e, s, _ = slots_weight.shape
            logits = x @ slots_weight.flatten(0, 1).T                             # ... t (e s)
            y = (logits.softmax(-2).mT @ x).unflatten(-2, (e, s))                 # ... e s i
            y = bend(y @ up_weight.mT + up_bias.unsqueeze(1))                      # ... e s m
            y = y @ down_weight.mT + down_bias.unsqueeze(1)                       # ... e s o
            return logits.softmax(-1) @ y.flatten(-3, -2)                         # ... t o
        ```

    Used in vision models; every token takes part everywhere, so nothing is dropped, and gradients
    reach everything. Not for causal sequences: every token sees every other one.

    Args:
        e: experts.
        s: slots of each expert; the time depends on `e s` alone.
        i: features of the input.
        m: features inside an expert.
        o: features of the output; by default `i`.
        activation: the bend: "gelu", "relu", "sigmoid", "silu", "tanh" or a function.
        bias: whether the layers of the experts have biases.
        init: how the weights start, see `einheads.Einsum`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Puigcerver et al., "From sparse to soft mixtures of experts" (2023), section 2.1.
    """

    def __init__(
        self,
        *,
        e: int,
        s: int,
        i: int,
        m: int,
        o: int | None = None,
        activation: str | Activation = "gelu",
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        o = i if o is None else o
        self.e, self.s, self.i, self.m, self.o = e, s, i, m, o
        self.activation = activation
        self._bend = found(activation)
        self.bias, self.init = bias, init
        options: Any = {"init": init, "device": device, "dtype": dtype}
        self.slots = Einsum("... t i, e s i -> ... t e s", e=e, s=s, i=i, **options)
        self.up = Einsum("... e s i, e m i -> ... e s m", bias="e m" if bias else None, e=e, m=m,
                         i=i, **options)  # fmt: skip
        self.down = Einsum("... e s m, e o m -> ... e s o", bias="e o" if bias else None, e=e,
                           o=o, m=m, **options)  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Mix, compute, mix back.

        Args:
            x: `... t i`.

        Returns:
            `... t o`.
        """
        logits = self.slots(x)
        dispatch = logits.softmax(-3)
        combine = logits.flatten(-2).softmax(-1).reshape(logits.shape)
        slots = einsum("... t i, ... t e s -> ... e s i", x, dispatch)
        results = self.down(self._bend(self.up(slots)))
        return einsum("... e s o, ... t e s -> ... t o", results, combine)

    def extra_repr(self) -> str:
        """The arguments of the call that makes this layer."""
        return arguments(self) or ""


__all__ = ["Experts", "Routed", "SoftMoE"]
