"""Ensembles: `n` models in one, with an axis `e` for the members in front of everything else.

The members stand first because every operation between two layers (an activation, a norm, a
loss for each member) then works as it does for a single model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from einheads.initializers import Initializer, Roles

from .axes import Constant
from .base import Einsum
from .lists import accept_list


class EnsembleLinear(Einsum):
    """A linear for each member of an ensemble, on an input of its own or on one that all share.

    Formula: `y[e] = W[e] x[e] + b[e]`, or `y[e] = W[e] x + b[e]`.

    Pattern: `e ... i, e o i -> e ... o`; shared: `... i, e o i -> e ... o`.

    Example:
        >>> import torch
        >>> from einheads import EnsembleLinear
        >>> first = EnsembleLinear(e=5, i=16, o=32, shared=True)
        >>> second = EnsembleLinear(e=5, i=32, o=1)
        >>> second(first(torch.randn(10, 16)).relu()).shape      # e 10 o
        torch.Size([5, 10, 1])
        >>> first
        EnsembleLinear(e=5, i=16, o=32, shared=True)

    Equivalent:
        ```python
        def ensemble_linear(x, weight, bias):               # x: e n i
            y = torch.bmm(x, weight.mT)                     # e n o
            return y + bias.unsqueeze(1)                    # e 1 o
        ```

    Used for the value functions and dynamics models of reinforcement learning, which need several
    opinions. Not for members of different sizes, and not where heads stand next to the features:
    that is `HeadLinear`.

    Args:
        e: members.
        i: features of the input.
        o: features of the output.
        shared: whether all members read the same input, which then has no axis `e`.
        bias: whether there is a bias, `e o`.
        init: how the weight starts, see `einheads.Einsum`; each member as its own `nn.Linear`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep
        ensembles" (2017), section 2.4; Chua et al., "Deep reinforcement learning in a handful of
        trials" (PETS, 2018), section 4; An et al., "Uncertainty-based offline reinforcement
        learning" (EDAC, 2021).
    """

    def __init__(
        self,
        *,
        e: int,
        i: int,
        o: int,
        shared: bool = False,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            f"{'' if shared else 'e '}... i, e o i -> e ... o",
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            e=e,
            i=i,
            o=o,
        )
        self.shared = shared
        accept_list(self, e)


@dataclass(frozen=True, slots=True)
class Signs:
    """An initializer: a weight that sums starts as that of `nn.Linear`, one that scales as signs.

    Random signs make the members as different as they can be without changing any scale.
    """

    def __call__(self, weight: Tensor, roles: Roles) -> None:
        """Fill the weight in place."""
        summed = [size for size, role in zip(weight.shape, roles.values(), strict=True)
                  if role == "in"]  # fmt: skip
        if summed:
            bound = math.prod(summed) ** -0.5
            weight.uniform_(-bound, bound)
        else:
            weight.bernoulli_(0.5).mul_(2).sub_(1)


SIGNS = Signs()


class BatchEnsemble(Einsum):
    """An ensemble whose members share one matrix and differ in the scales around it.

    Formula: `y[e] = s[e] * (W (r[e] * x[e])) + b[e]`; the weight of a member is `W * outer(s, r)`.

    Pattern: `e ... i, e i, o i, e o -> e ... o`, named `r`, `weight` and `s`; a shared input has no
    `e`.

    Example:
        >>> import torch
        >>> from einheads import BatchEnsemble
        >>> layer = BatchEnsemble(e=5, i=16, o=32)
        >>> layer(torch.randn(5, 10, 16)).shape
        torch.Size([5, 10, 32])
        >>> layer.r.shape, layer.weight.shape, layer.s.shape
        (torch.Size([5, 16]), torch.Size([32, 16]), torch.Size([5, 32]))

    Equivalent:
        ```python
        def batch_ensemble(x, r, weight, s, bias):          # x: e n i
            x = x * r.unsqueeze(1)                          # e 1 i
            y = (x @ weight.T) * s.unsqueeze(1)             # e n o, e 1 o
            return y + bias.unsqueeze(1)                    # e 1 o
        ```

    Use it where `e` full models are too many parameters; the time is that of the full ensemble.
    Not where members should be independent: they share all directions of `W`.

    Args:
        e: members.
        i: features of the input.
        o: features of the output.
        shared: whether all members read the same input, which then has no axis `e`.
        bias: whether there is a bias, `e o`.
        init: how the weights start; by default `weight` as that of `nn.Linear`, the scales as
            random signs and the bias as zero.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Wen et al., "BatchEnsemble" (2020), section 3.1; Gorishniy et al., "TabM" (2024), section
        3.3, for tables.
    """

    def __init__(
        self,
        *,
        e: int,
        i: int,
        o: int,
        shared: bool = False,
        bias: bool = True,
        init: str | Initializer = SIGNS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            f"{'' if shared else 'e '}... i, e i, o i, e o -> e ... o",
            names=("r", "weight", "s"),
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            e=e,
            i=i,
            o=o,
        )
        self.shared = shared


class EnsembleNorm(Einsum):
    """The scales and offsets of `nn.LayerNorm` for each member, after a norm that all share.

    `e ... d, e d -> e ... d`; a shared input has no `e`. Its state dict is that of the norms.

    Example:
        >>> import torch
        >>> EnsembleNorm(e=5, d=(16,))(torch.randn(5, 10, 16)).shape
        torch.Size([5, 10, 16])

    Args:
        e: members.
        d: the sizes of the axes over which is normalized.
        eps: what is added to the variance.
        shared: whether all members read the same input.
        bias: whether there is an offset.
        device: where the parameters are made.
        dtype: of the parameters.
    """

    def __init__(
        self,
        *,
        e: int,
        d: tuple[int, ...],
        eps: float = 1e-5,
        shared: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        axes = " ".join(f"d{number}" for number in range(1, len(d) + 1))
        super().__init__(
            f"{'' if shared else 'e '}... {axes}, e {axes} -> e ... {axes}",
            bias=bias,
            init=Constant(1.0),
            device=device,
            dtype=dtype,
            e=e,
            **dict(zip(axes.split(), d, strict=True)),  # type: ignore[arg-type]
        )
        self.d, self.eps, self.shared = d, eps, shared

    def forward(self, *inputs: Tensor) -> Tensor:
        """Normalize, then scale and shift for each member."""
        (x,) = inputs
        return super().forward(F.layer_norm(x, self.d, eps=self.eps))


__all__ = ["SIGNS", "BatchEnsemble", "EnsembleLinear", "EnsembleNorm", "Signs"]
