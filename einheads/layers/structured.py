"""Structured matrices of two or more factors: `Kronecker`, `Monarch`, `BlockTensorTrain`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from einheads.errors import SizeError
from einheads.initializers import Initializer

from .factorized import Factorized, check_rank, factors
from .fitting import truncated


class Kronecker(Factorized):
    """A linear whose weight is a Kronecker product, or a sum of `r` of them.

    Formula: `W = kron(A1, A2, ...)`; with `r`: `W = sum over r of kron(A1[r], A2[r], ...)`.

    Pattern: `... (i1 i2), o1 i1, o2 i2 -> ... (o1 o2)`; with `r`: `..., r o1 i1, r o2 i2 -> ...`.

    Example:
        >>> import torch, einheads
        >>> layer = einheads.Kronecker(i=(8, 4), o=(2, 16))
        >>> layer(torch.randn(10, 32)).shape
        torch.Size([10, 32])
        >>> print(layer.costs)
        80 parameters (dense: 1024), 384 FLOPs a row (dense: 2048)

    Equivalent:
        ```python
        def kronecker(x, weight_1, weight_2, bias):     # with r: the sum of r such products
            x = x.unflatten(-1, (weight_1.shape[-1], weight_2.shape[-1]))
            if weight_1.dim() == 2:
                x = weight_1 @ x @ weight_2.T           # ... o1 o2
            else:
                x = (weight_1 @ x.unsqueeze(-3) @ weight_2.mT).sum(-3)
            return (x + bias).flatten(-2)
        ```

    Use it where the features are a grid, or for small updates of a large weight. Not where a full
    weight is affordable: the rank structure is rigid, and a row costs
    `i1 i2 o1 + o1 i2 o2` multiply-adds, which saves less time than parameters.

    Args:
        i: the factors of the size of the input, such as `(8, 4)` for 32.
        o: the factors of the size of the output, as many.
        r: how many products are summed; None for one, without an axis for it.
        bias: whether a bias `o1 o2` is added.
        init: see `einheads.initializers.fill`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Van Loan and Pitsianis, "Approximation with Kronecker products" (1993), section 2, has the
        closed form for two factors; Zhang et al., "Beyond fully-connected layers with quaternions"
        (2021), section 3, the sum; used by LoKr and Compacter adapters.
    """

    def __init__(
        self,
        *,
        i: Sequence[int],
        o: Sequence[int],
        r: int | None = None,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sizes = paired(i, o) | ({} if r is None else {"r": r})
        numbers = range(1, len(i) + 1)
        rank = "" if r is None else "r "
        weights = ", ".join(f"{rank}o{number} i{number}" for number in numbers)
        super().__init__(
            f"... ({numbered('i', numbers)}), {weights} -> ... ({numbered('o', numbers)})",
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            **sizes,
        )
        self.i, self.o, self.r = tuple(i), tuple(o), r
        # For two factors, rearranging makes the problem one of low rank, with a closed form.
        self.closed_form = len(i) == 2

    def factors_of(self, weight: Tensor) -> list[Tensor] | None:
        """Two factors: the largest singular values of the rearranged weight."""
        if not self.closed_form:
            return None
        matrix = self.split(weight, "(o1 i1) (o2 i2)")
        rank = check_rank("r", self.sizes.get("r", 1), matrix, self.pattern)
        left, right = truncated(matrix, rank)
        shapes = [(rank, self.sizes[f"o{k}"], self.sizes[f"i{k}"]) for k in (1, 2)]
        pair = [left.T.reshape(shapes[0]), right.reshape(shapes[1])]
        return pair if "r" in self.sizes else [factor[0] for factor in pair]


class Monarch(Factorized):
    """A product of two block-diagonal matrices with a transposition between them.

    Formula: `W = P L P' R`: `R` has `k` blocks of `q x p`, `L` has `q` blocks of `s x k`, and `P`
    transposes a grid. Every `s x p` block of the weight, one for each `q` and `k`, has rank one.

    Pattern: `... (k p), k q p, q s k -> ... (s q)`.

    Example:
        >>> import torch, einheads
        >>> layer = einheads.Monarch(k=8, p=8, q=8, s=8)
        >>> layer(torch.randn(10, 64)).shape
        torch.Size([10, 64])
        >>> print(layer.costs)
        1024 parameters (dense: 4096), 2048 FLOPs a row (dense: 8192)

    Equivalent:
        ```python
        def monarch(x, weight_1, weight_2, bias):
            k, q, p = weight_1.shape
            x = x.unflatten(-1, (k, 1, p))              # ... k 1 p
            x = (x * weight_1).sum(-1)                  # ... k q: every block its own matrix
            x = x.transpose(-1, -2).unsqueeze(-2)       # ... q 1 k
            x = (x * weight_2).sum(-1)                  # ... q s
            return (x.transpose(-1, -2) + bias).flatten(-2)
        ```

    Use it in place of a large square linear: with blocks of size `sqrt(n)` it has `2 n sqrt(n)`
    parameters, runs as two batched products, and contains many fast transforms, the Fourier
    transform among them. Not for small or very oblong layers, where the blocks get too small.

    Args:
        k: blocks of the first factor; the input has `k * p` features.
        p: inputs of each of them.
        q: outputs of each of them, and blocks of the second factor.
        s: outputs of each of those; the output has `s * q` features.
        bias: whether a bias `s q` is added.
        init: see `einheads.initializers.fill`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Dao et al., "Monarch: expressive structured matrices" (2022), section 3.1; the closed form
        of the projection is in section 3.3. Used by M2-BERT.
    """

    def __init__(
        self,
        *,
        k: int,
        p: int,
        q: int,
        s: int,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            "... (k p), k q p, q s k -> ... (s q)",
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            k=k,
            p=p,
            q=q,
            s=s,
        )

    def factors_of(self, weight: Tensor) -> list[Tensor]:
        """The best approximation of rank one of each block."""
        second, first = truncated(self.split(weight, "q k s p"), 1)
        return [first[..., 0, :].transpose(0, 1), second[..., 0].transpose(1, 2)]

    @classmethod
    def completed(cls, shape: Sequence[int], sizes: dict[str, Any], /) -> dict[str, Any]:
        """`p` and `s` follow from `k` and `q`."""
        return _completed_blocks(shape, sizes)


class BlockTensorTrain(Factorized):
    """Two block-diagonal factors with `r` numbers between each pair of blocks.

    Formula: every `s x p` block of the weight, one for each `q` and `k`, is a product of rank `r`;
    with `r = 1` it is a `Monarch`, with `r = min(s, p)` any matrix.

    Pattern: `... (k p), k q r p, q s k r -> ... (s q)`.

    Example:
        >>> import torch, einheads
        >>> layer = einheads.BlockTensorTrain(k=8, p=8, q=8, s=8, r=2)
        >>> layer(torch.randn(10, 64)).shape
        torch.Size([10, 64])
        >>> print(layer.costs)
        2048 parameters (dense: 4096), 4096 FLOPs a row (dense: 8192)

    Equivalent:
        ```python
        def block_tensor_train(x, weight_1, weight_2, bias):
            k, q, r, p = weight_1.shape
            x = x.unflatten(-1, (k, 1, 1, p))           # ... k 1 1 p
            x = (x * weight_1).sum(-1)                  # ... k q r
            x = x.transpose(-2, -3).unsqueeze(-3)       # ... q 1 k r
            x = (x * weight_2).sum((-1, -2))            # ... q s
            return (x.transpose(-1, -2) + bias).flatten(-2)
        ```

    Use it in place of a large linear when `Monarch` is too stiff: `r` buys expression for compute.
    Not for small layers. Widths other than the dense model's need their own learning rates; see the
    reference.

    Args:
        k: blocks of the first factor; the input has `k * p` features.
        p: inputs of each of them.
        q: blocks of the second factor.
        s: outputs of each of those; the output has `s * q` features.
        r: the rank of every block.
        bias: whether a bias `s q` is added.
        init: see `einheads.initializers.fill`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Qiu et al., "Compute better spent: replacing dense layers with structured matrices" (2024),
        section 4. The closed form is that of `Monarch`, with `r` singular values.
    """

    def __init__(
        self,
        *,
        k: int,
        p: int,
        q: int,
        s: int,
        r: int,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            "... (k p), k q r p, q s k r -> ... (s q)",
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            k=k,
            p=p,
            q=q,
            s=s,
            r=r,
        )

    def factors_of(self, weight: Tensor) -> list[Tensor]:
        """The `r` largest singular values of each block."""
        blocks = self.split(weight, "q k s p")
        rank = check_rank("r", self.sizes["r"], blocks, self.pattern)
        second, first = truncated(blocks, rank)
        return [first.transpose(0, 1), second.transpose(1, 2)]

    @classmethod
    def completed(cls, shape: Sequence[int], sizes: dict[str, Any], /) -> dict[str, Any]:
        """`p` and `s` follow from `k` and `q`."""
        return _completed_blocks(shape, sizes)


def numbered(name: str, numbers: Sequence[int]) -> str:
    """Numbered axes.

    Example:
        >>> numbered("i", (1, 2))
        'i1 i2'
    """
    return " ".join(f"{name}{number}" for number in numbers)


def paired(i: Sequence[int], o: Sequence[int]) -> dict[str, Any]:
    """The sizes of the factors of input and output, which have to be as many."""
    sizes = factors("i", i) | factors("o", o)
    if len(i) != len(o):
        raise SizeError(
            f"i has {len(i)} factors and o has {len(o)}, but each weight takes one of both",
            notes=["write: as many factors in o as in i; a factor may be 1"],
        )
    return sizes


def _completed_blocks(shape: Sequence[int], sizes: dict[str, Any]) -> dict[str, Any]:
    told = dict(sizes)
    for block, rest, size in (("k", "p", shape[-1]), ("q", "s", shape[-2])):
        if block in told and rest not in told and isinstance(told[block], int) and told[block] > 0:
            told[rest] = size // told[block]
    return told
