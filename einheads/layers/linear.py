"""Linear layers by the names of their axes: plain, to heads, per head, from heads, along any axis.

Each is a pattern with a name. Their weights lie as those of torch's own layers, out before in, so
that state dicts can be exchanged; those that stand for a list of `nn.Linear`s load the state dict
of the list, `0.weight`, `1.weight`, ...
"""

from __future__ import annotations

import torch

from einheads.initializers import Initializer

from .base import Einsum
from .lists import accept_list


class Linear(Einsum):
    """One matrix for everything: `y = x W^T + b`, pattern `... i, o i -> ... o`.

    A drop-in for `torch.nn.Linear`: the same arguments, the same state dict, and after the same
    seed the same initial values.

    Example:
        >>> import torch
        >>> from einheads import Linear
        >>> layer = Linear(64, 32)
        >>> layer(torch.randn(4, 10, 64)).shape
        torch.Size([4, 10, 32])
        >>> layer
        Linear(in_features=64, out_features=32)

    Equivalent:
        ```python
        def linear(x, weight, bias):
            y = x @ weight.T                               # ... i, i o -> ... o
            return y + bias                                # ... o, o -> ... o
        ```

    Used wherever `torch.nn.Linear` is, by whoever wants its roles told to optimizers, sharding and
    adapters. Not needed where `torch.nn.Linear` does, which is as fast.

    Args:
        in_features: size of the axis `i`.
        out_features: size of the axis `o`.
        bias: whether there is a bias, `o`.
        device: where the parameters are made.
        dtype: of the parameters.
        init: how the weight starts, see `einheads.Einsum`.

    Reference:
        Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors"
        (1986), equation 1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,  # noqa: FBT001, FBT002  torch.nn.Linear takes it by position
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        init: str | Initializer = "linear",
    ) -> None:
        super().__init__(
            "... i, o i -> ... o",
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            i=in_features,
            o=out_features,
        )
        self.in_features = in_features
        self.out_features = out_features


class ToHeads(Einsum):
    """One `x` through `h` linears at once: `y_h = W_h x + b_h`, pattern `... i, h o i -> ... h o`.

    Used for the queries, keys and values of attention, and as the first layer of an ensemble whose
    members all read the same input.

    Example:
        >>> import torch
        >>> from einheads import ToHeads
        >>> layer = ToHeads(i=64, h=8, o=16)
        >>> layer(torch.randn(4, 10, 64)).shape            # 4 10 h o
        torch.Size([4, 10, 8, 16])
        >>> layer
        ToHeads(i=64, h=8, o=16)

    Equivalent:
        ```python
        def to_heads(x, weight, bias):
            heads = [x @ matrix.T for matrix in weight]    # h times: ... i, i o -> ... o
            y = torch.stack(heads, -2)                     # ... h o
            return y + bias                                # ... h o, h o -> ... h o
        ```

    Not for feeding `scaled_dot_product_attention`, which wants the heads before the time;
    `Attention` declares that order in its pattern, so that nothing is transposed.

    Args:
        i: features of `x`.
        h: heads.
        o: features of each head.
        bias: whether there is a bias, `h o`.
        init: how the weight starts, see `einheads.Einsum`; each head as its own `nn.Linear`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Vaswani et al., "Attention is all you need" (2017), section 3.2.2.
    """

    def __init__(
        self,
        *,
        i: int,
        h: int,
        o: int,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            "... i, h o i -> ... h o",
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            i=i,
            h=h,
            o=o,
        )
        accept_list(self, h)


class HeadLinear(Einsum):
    """Each head its own linear: `y_h = W_h x_h + b_h`, pattern `... h i, h o i -> ... h o`.

    Example:
        >>> import torch
        >>> from einheads import HeadLinear
        >>> layer = HeadLinear(h=8, i=64, o=32)
        >>> layer(torch.randn(4, 10, 8, 64)).shape         # 4 10 h i -> 4 10 h o
        torch.Size([4, 10, 8, 32])
        >>> layer
        HeadLinear(h=8, i=64, o=32)

    Equivalent:
        ```python
        def head_linear(x, weight, bias):
            x = x.unsqueeze(-2)                            # ... h 1 i
            y = (x * weight).sum(-1)                       # ... h o i, then i is summed
            return y + bias                                # ... h o, h o -> ... h o
        ```

    Used for the block-diagonal gates of recurrent networks (xLSTM), for ensembles with an input
    for each member, and for embeddings of numbers with a matrix for each feature.

    Not for heads that have to exchange something; it is block-diagonal.

    Args:
        h: heads.
        i: features of each head of `x`.
        o: features of each head of the output.
        bias: whether there is a bias, `h o`.
        init: how the weight starts, see `einheads.Einsum`; each head as its own `nn.Linear`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Beck et al., "xLSTM: extended long short-term memory" (2024), section 2.2.
    """

    def __init__(
        self,
        *,
        h: int,
        i: int,
        o: int,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            "... h i, h o i -> ... h o",
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            h=h,
            i=i,
            o=o,
        )
        accept_list(self, h)


class FromHeads(Einsum):
    """Heads merged by one matrix: `y = sum_h W_h x_h + b`, pattern `... h i, o h i -> ... o`.

    Used as the output projection of attention. `weight.flatten(1)` is the matrix of the `nn.Linear`
    that reads the concatenated heads.

    Example:
        >>> import torch
        >>> from einheads import FromHeads
        >>> layer = FromHeads(h=8, i=16, o=64)
        >>> layer(torch.randn(4, 10, 8, 16)).shape         # 4 10 h i -> 4 10 o
        torch.Size([4, 10, 64])
        >>> layer
        FromHeads(h=8, i=16, o=64)

    Equivalent:
        ```python
        def from_heads(x, weight, bias):
            x = x.flatten(-2)                              # ... (h i)
            y = x @ weight.flatten(1).T                    # ... (h i), (h i) o -> ... o
            return y + bias                                # ... o, o -> ... o
        ```

    Not for averaging the members of an ensemble, which needs no weights.

    Args:
        h: heads.
        i: features of each head.
        o: features of the output.
        bias: whether there is a bias, `o`.
        init: how the weight starts, see `einheads.Einsum`; as the `nn.Linear` from `h i` to `o`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Vaswani et al., "Attention is all you need" (2017), section 3.2.2, the matrix W^O.
    """

    def __init__(
        self,
        *,
        h: int,
        i: int,
        o: int,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            "... h i, o h i -> ... o",
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            h=h,
            i=i,
            o=o,
        )


class GroupedLinear(Einsum):
    """Groups of features, each its own linear: pattern `... (g i), g o i -> ... (g o)`.

    Formula: `y_g = W_g x_g + b_g`, where `x_g` is the `g`-th part of the features.

    `HeadLinear` for features that lie in one axis: a block-diagonal matrix, or a grouped
    convolution with a window of one, `nn.Conv1d(g * i, g * o, 1, groups=g)`, along the last axis.

    Example:
        >>> import torch
        >>> from einheads import GroupedLinear
        >>> layer = GroupedLinear(g=4, i=16, o=8)
        >>> layer(torch.randn(10, 64)).shape               # 10 (g i) -> 10 (g o)
        torch.Size([10, 32])
        >>> layer
        GroupedLinear(g=4, i=16, o=8)

    Equivalent:
        ```python
        def grouped_linear(x, weight, bias):
            dense = torch.block_diag(*weight)              # (g o) (g i)
            y = x @ dense.T                                # ... (g i), (g i) (g o) -> ... (g o)
            return y + bias.flatten()                      # ... (g o)
        ```

    Used in ResNeXt and its relatives, and in small models for speech (DeepFilterNet).

    Not for several times in a row: groups never meet without a layer between that mixes them.

    Args:
        g: groups.
        i: features of `x` in each group.
        o: features of the output in each group.
        bias: whether there is a bias, `g o`.
        init: how the weight starts, see `einheads.Einsum`; each group as its own `nn.Linear`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Xie et al., "Aggregated residual transformations for deep neural networks" (2017), section
        3.3.
    """

    def __init__(
        self,
        *,
        g: int,
        i: int,
        o: int,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            "... (g i), g o i -> ... (g o)",
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            g=g,
            i=i,
            o=o,
        )
        accept_list(self, g)


__all__ = ["FromHeads", "GroupedLinear", "HeadLinear", "Linear", "ToHeads"]
