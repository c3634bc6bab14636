"""Linears as tensor networks: `TensorTrain`, `CP`, `Tucker`, `TensorRing`.

The sizes of input and output are split into factors, the dense weight becomes a tensor with an axis
for each factor, and the tensor a network of small ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from einheads.errors import SizeError, count
from einheads.initializers import Initializer

from .factorized import Factorized, check_rank, factors
from .fitting import leading, orthogonal_iteration, projected, truncated
from .structured import numbered, paired


class TensorTrain(Factorized):
    """A chain of cores, one for each pair of factors, joined by ranks.

    Formula: `W[o1 o2 .., i1 i2 ..] = sum over r1 r2 .. of C1[o1 r1 i1] C2[o2 r2 i2 r1] ..`.

    Pattern: `... (i1 i2 i3), o1 r1 i1, o2 r2 i2 r1, o3 i3 r2 -> ... (o1 o2 o3)`.

    Example:
        >>> import torch, einheads
        >>> layer = einheads.TensorTrain(i=(4, 4, 4), o=(4, 8, 4), r=3)
        >>> layer(torch.randn(10, 64)).shape
        torch.Size([10, 128])
        >>> layer.costs.parameters, layer.costs.dense_parameters
        (384, 8192)

    Equivalent:
        ```python
        def tensor_train(x, weight_1, weight_2, weight_3, bias):
            core = torch.einsum("aru,bsvr->absuv", weight_1, weight_2)   # o1 o2 r2 i1 i2
            core = torch.einsum("absuv,cws->abcuvw", core, weight_3)
            dense = core.flatten(3).flatten(0, 2)       # o i
            return x @ dense.T + bias.flatten()
        ```

    Use it to compress large weights by orders of magnitude, embeddings above all. Not for speed at
    moderate sizes: many small products leave a device idle.

    Args:
        i: the factors of the size of the input, such as `(4, 4, 4)` for 64; two or more.
        o: the factors of the size of the output, as many.
        r: the ranks between neighboring cores; one number for all.
        bias: whether a bias `o1 o2 ..` is added.
        init: see `einheads.initializers.fill`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Novikov et al., "Tensorizing neural networks" (2015), section 4; Oseledets, "Tensor-train
        decomposition" (2011), section 2, has the start of `from_dense`, which least squares then
        improve. Offered by t3f and tltorch.
    """

    closed_form = False

    def __init__(
        self,
        *,
        i: Sequence[int],
        o: Sequence[int],
        r: int | Sequence[int],
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sizes = paired(i, o)
        last = len(i)
        cores = [f"o{k} r{k} i{k} r{k - 1}" for k in range(2, last)]
        weights = ", ".join(["o1 r1 i1", *cores, f"o{last} i{last} r{last - 1}"])
        numbers = range(1, last + 1)
        super().__init__(
            f"... ({numbered('i', numbers)}), {weights} -> ... ({numbered('o', numbers)})",
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            **sizes,
            **_ranks(r, range(1, last)),
        )
        self.i, self.o, self.r = tuple(i), tuple(o), _kept(r)

    def factors_of(self, weight: Tensor) -> list[Tensor]:
        """Cores by one truncated singular value decomposition after the other."""
        sizes = self.sizes
        last = len(self.declared.names)
        rest = self.split(weight, " ".join(f"(o{k} i{k})" for k in range(1, last + 1)))
        cores: list[Tensor] = []
        rank = 1
        for k in range(1, last):
            matrix = rest.reshape(rank * sizes[f"o{k}"] * sizes[f"i{k}"], -1)
            check_rank(f"r{k}", sizes[f"r{k}"], matrix, self.pattern)
            left, right = truncated(matrix, sizes[f"r{k}"])
            core = left.reshape(rank, sizes[f"o{k}"], sizes[f"i{k}"], -1).permute(1, 3, 2, 0)
            cores.append(core if k > 1 else core[..., 0])
            rest, rank = right, sizes[f"r{k}"]
        core = rest.reshape(rank, sizes[f"o{last}"], sizes[f"i{last}"])
        return [*cores, core.permute(1, 2, 0)]


class CP(Factorized):
    """A sum of `r` outer products, one vector for each factor of input and output.

    Formula: `W[o1 o2, i1 i2] = sum over r of A[r i1] B[r i2] C[o1 r] D[o2 r]`.

    Pattern: `... (i1 i2), r i1, r i2, o1 r, o2 r -> ... (o1 o2)`.

    Example:
        >>> import torch, einheads
        >>> layer = einheads.CP(i=(8, 8), o=(8, 16), r=20)
        >>> layer(torch.randn(10, 64)).shape
        torch.Size([10, 128])
        >>> layer.costs.parameters, layer.costs.dense_parameters
        (800, 8192)

    Equivalent:
        ```python
        def cp(x, weight_1, weight_2, weight_3, weight_4, bias):
            x = x.unflatten(-1, (weight_1.shape[1], weight_2.shape[1])).unsqueeze(-3)
            x = (x * weight_1.unsqueeze(-1) * weight_2.unsqueeze(-2)).sum((-1, -2))   # ... r
            x = x[..., None, None, :] * weight_3.unsqueeze(1) * weight_4              # ... o1 o2 r
            return (x.sum(-1) + bias).flatten(-2)
        ```

    Use it for the strongest compression. Not as the first choice: the best `r` vectors are hard to
    find (`from_dense` may stop above the best error), and a small `r` is a narrow bottleneck.

    Args:
        i: the factors of the size of the input; two or more.
        o: the factors of the size of the output; two or more, not necessarily as many.
        r: the rank.
        bias: whether a bias `o1 o2 ..` is added.
        init: see `einheads.initializers.fill`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Kolda and Bader, "Tensor decompositions and applications" (2009), section 3; Lebedev et al.,
        "Speeding-up convolutional neural networks using fine-tuned CP-decomposition" (2015).
        Offered by tltorch.
    """

    closed_form = False

    def __init__(
        self,
        *,
        i: Sequence[int],
        o: Sequence[int],
        r: int,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sizes = factors("i", i) | factors("o", o)
        ins, outs = range(1, len(i) + 1), range(1, len(o) + 1)
        weights = ", ".join([*(f"r i{k}" for k in ins), *(f"o{k} r" for k in outs)])
        super().__init__(
            f"... ({numbered('i', ins)}), {weights} -> ... ({numbered('o', outs)})",
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            **sizes,
            r=r,
        )
        self.i, self.o = tuple(i), tuple(o)

    def factors_of(self, weight: Tensor) -> None:
        """No closed form: least squares start at random."""


class Tucker(Factorized):
    """A small dense core with a matrix for each factor of input and output.

    Formula: `W[o1 o2, i1 i2] = sum of G[s1 s2 r1 r2] A[r1 i1] B[r2 i2] C[o1 s1] D[o2 s2]`.

    Pattern: `... (i1 i2), r1 i1, r2 i2, s1 s2 r1 r2, o1 s1, o2 s2 -> ... (o1 o2)`.

    Example:
        >>> import torch, einheads
        >>> layer = einheads.Tucker(i=(8, 8), o=(8, 16), r=4, s=4)
        >>> layer(torch.randn(10, 64)).shape
        torch.Size([10, 128])
        >>> layer.costs.parameters, layer.costs.dense_parameters
        (416, 8192)

    Equivalent:
        ```python
        def tucker(x, weight_1, weight_2, weight_3, weight_4, weight_5, bias):
            x = x.unflatten(-1, (weight_1.shape[1], weight_2.shape[1]))
            x = weight_1 @ x @ weight_2.T                                 # ... r1 r2
            x = (x[..., None, None, :, :] * weight_3).sum((-1, -2))       # ... s1 s2
            x = weight_4 @ x @ weight_5.T                                 # ... o1 o2
            return (x + bias).flatten(-2)
        ```

    Use it where the factors mean something (height, width, channel) and differ in how much they
    need. Not with many factors: the core has the product of all ranks.

    Args:
        i: the factors of the size of the input; two or more.
        o: the factors of the size of the output; two or more, not necessarily as many.
        r: the ranks of the factors of the input; one number for all.
        s: the ranks of the factors of the output; one number for all.
        bias: whether a bias `o1 o2 ..` is added.
        init: see `einheads.initializers.fill`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Tucker, "Some mathematical notes on three-mode factor analysis" (1966); De Lathauwer et al.,
        "A multilinear singular value decomposition" (2000), section 4, has the start of
        `from_dense`, which its orthogonal iteration (2000, "On the best rank-1 and rank-(R1, ..,
        RN) approximation", section 3) then improves. Offered by tltorch and LyCORIS.
    """

    closed_form = False

    def __init__(
        self,
        *,
        i: Sequence[int],
        o: Sequence[int],
        r: int | Sequence[int],
        s: int | Sequence[int],
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sizes = factors("i", i) | factors("o", o)
        ins, outs = range(1, len(i) + 1), range(1, len(o) + 1)
        core = f"{numbered('s', outs)} {numbered('r', ins)}"
        weights = ", ".join([*(f"r{k} i{k}" for k in ins), core, *(f"o{k} s{k}" for k in outs)])
        super().__init__(
            f"... ({numbered('i', ins)}), {weights} -> ... ({numbered('o', outs)})",
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            **sizes,
            **_ranks(r, ins, "r"),
            **_ranks(s, outs, "s"),
        )
        self.i, self.o, self.r, self.s = tuple(i), tuple(o), _kept(r), _kept(s)

    def factors_of(self, weight: Tensor) -> list[Tensor]:
        """The leading singular vectors along each axis, and the core that they leave."""
        sizes = self.sizes
        every = [name for name in sizes if name[0] in "io"]
        tensor = self.split(weight, " ".join(every))
        bases = []
        for place, name in enumerate(every):
            rank = {"i": "r", "o": "s"}[name[0]] + name[1:]
            unfolded = tensor.movedim(place, 0).flatten(1)
            check_rank(rank, sizes[rank], unfolded, self.pattern)
            bases.append(leading(unfolded, sizes[rank]))
        return self._ordered(every, [*bases, projected(tensor, bases)])

    def improved(
        self, output: Sequence[str], target: Tensor, factors: Sequence[Tensor], sweeps: int
    ) -> tuple[list[Tensor], int]:
        """Orthogonal iteration, which never solves for the core."""
        names = [term.names for term in self.declared.weights]
        bases = []
        for axis in output:
            basis = factors[next(k for k, term in enumerate(names) if axis in term)]
            bases.append(basis.mT if axis[0] == "i" else basis)
        found, made = orthogonal_iteration(target, bases, sweeps)
        return self._ordered(output, found), made

    def _ordered(self, axes: Sequence[str], found: Sequence[Tensor]) -> list[Tensor]:
        """Bases in the order of `axes` and a core, in the order of the weights."""
        *bases, core = found
        ins = [place for place, name in enumerate(axes) if name[0] == "i"]
        outs = [place for place, name in enumerate(axes) if name[0] == "o"]
        # A basis of the input is read backwards, and the core takes what it gives.
        downs = [bases[place].mT for place in ins]
        return [*downs, core.permute(*outs, *ins), *(bases[place] for place in outs)]


class TensorRing(Factorized):
    """A chain of cores like `TensorTrain`, closed to a ring.

    Formula: `W[o1 .., i1 ..] = sum over r0 r1 .. of C1[o1 r1 i1 r0] .. Cn[on r0 in rm]`.

    Pattern: `... (i1 i2 i3), o1 r1 i1 r0, o2 r2 i2 r1, o3 r0 i3 r2 -> ... (o1 o2 o3)`.

    Example:
        >>> import torch, einheads
        >>> layer = einheads.TensorRing(i=(4, 4, 4), o=(4, 8, 4), r=3)
        >>> layer(torch.randn(10, 64)).shape
        torch.Size([10, 128])
        >>> layer.costs.parameters, layer.costs.dense_parameters
        (576, 8192)

    Equivalent:
        ```python
        def tensor_ring(x, weight_1, weight_2, weight_3, bias):
            core = torch.einsum("aruz,bsvr->abzsuv", weight_1, weight_2)
            core = torch.einsum("abzsuv,czws->abcuvw", core, weight_3)
            dense = core.flatten(3).flatten(0, 2)       # o i
            return x @ dense.T + bias.flatten()
        ```

    Use it like `TensorTrain`, where no factor should be the first one: all cores have the same
    shape. Not for speed at moderate sizes.

    Args:
        i: the factors of the size of the input, two or more.
        o: the factors of the size of the output, as many.
        r: the ranks between neighboring cores, the one that closes the ring first; one number for
            all.
        bias: whether a bias `o1 o2 ..` is added.
        init: see `einheads.initializers.fill`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Zhao et al., "Tensor ring decomposition" (2016), sections 2 and 3.3, which has the least
        squares of `from_dense`; Wang et al., "Wide compression: tensor ring nets" (2018),
        section 3.
    """

    closed_form = False

    def __init__(
        self,
        *,
        i: Sequence[int],
        o: Sequence[int],
        r: int | Sequence[int],
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sizes = paired(i, o)
        numbers = range(1, len(i) + 1)
        weights = ", ".join(f"o{k} r{k % len(i)} i{k} r{k - 1}" for k in numbers)
        super().__init__(
            f"... ({numbered('i', numbers)}), {weights} -> ... ({numbered('o', numbers)})",
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            **sizes,
            **_ranks(r, range(len(i))),
        )
        self.i, self.o, self.r = tuple(i), tuple(o), _kept(r)

    def factors_of(self, weight: Tensor) -> None:
        """No closed form: least squares start at random."""


def _ranks(r: int | Sequence[int], numbers: Sequence[int], name: str = "r") -> dict[str, Any]:
    """The sizes of the rank axes: one number for all of them, or one for each."""
    if isinstance(r, Sequence):
        if len(r) != len(numbers):
            raise SizeError(
                f"{name} has {count(len(r), 'rank')}, but there are {len(numbers)}: "
                + ", ".join(f"{name}{number}" for number in numbers),
                notes=[f"write: {name}={r[0] if r else 4} for all of them, or one for each"],
            )
        return {f"{name}{number}": size for number, size in zip(numbers, r, strict=True)}
    return {f"{name}{number}": r for number in numbers}


def _kept(r: int | Sequence[int]) -> int | tuple[int, ...]:
    return tuple(r) if isinstance(r, Sequence) else r
