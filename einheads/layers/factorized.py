"""Dense weights as products of smaller tensors: what these layers share, and `LowRank`.

A factorized layer knows the dense weight that it stands for, can be fitted to one, and says what it
costs beside it. It computes nothing itself: it is a pattern with several weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from einheads.errors import EinheadsError, SizeError, count, kind
from einheads.functional import einsum
from einheads.initializers import Initializer
from einheads.pattern import Axis, Dots, Item, parse

from .base import Einsum
from .fitting import Costs, Fit, alternate, difference, multiply_adds, truncated
from .linear import HeadLinear

if TYPE_CHECKING:
    from typing_extensions import Self


class Factorized(Einsum):
    """What factorized layers share. It has no pattern of its own; use a named layer.

    A pattern has one input and several weights; no axis of the output is summed.
    """

    # Whether `factors_of` gives the best factors there are, so that no sweep could improve them.
    closed_form = True

    def dense_weight(self) -> Tensor:
        """The weight of the dense layer with the same outputs: `o i`, or `h o i` per head."""
        weights = [getattr(self, name) for name in self.declared.names]
        return einsum(f"{_terms(self)} -> {' '.join(map(str, _dense_items(self)))}", *weights)

    def to_dense(self) -> nn.Module:
        """The dense layer with the same outputs: `nn.Linear`, or `HeadLinear`.

        Returns:
            A layer with parameters of its own, of the same dtype, device, mode and
            `requires_grad`; of the weights, one that is trained is enough.
        """
        # Made without storage, since what would be drawn is replaced.
        with torch.no_grad():
            weight = self.dense_weight()
            bias = self.bias if isinstance(self.bias, Tensor) else None
            dense: Any
            if weight.ndim == 2:
                out, into = weight.shape
                dense = nn.Linear(into, out, bias is not None, device="meta")
            else:
                heads, out, into = weight.shape
                dense = HeadLinear(h=heads, i=into, o=out, bias=bias is not None, device="meta")
            trained = any(getattr(self, name).requires_grad for name in self.declared.names)
            dense.weight = nn.Parameter(weight.contiguous(), requires_grad=trained)
            if bias is not None:
                copy = bias.detach().reshape(dense.bias.shape).clone()
                dense.bias = nn.Parameter(copy, requires_grad=bias.requires_grad)
        return dense.train(self.training)  # type: ignore[no-any-return]

    @property
    def costs(self) -> Costs:
        """Parameters and operations, beside those of the dense layer."""
        pattern, sizes = self.declared.pattern, self.sizes
        rows = [
            math.prod(sizes[axis.name] for axis in _axes([item]))
            for item in pattern.operands[0].items
            if not isinstance(item, Dots)
        ]
        factors = [tuple(getattr(self, name).shape) for name in self.declared.names]
        dense = math.prod(sizes[axis.name] for axis in _axes(_dense_items(self)))
        return Costs(
            sum(map(math.prod, factors)),
            dense,
            2 * multiply_adds(pattern, [(1, *rows), *factors]),
            2 * dense,
        )

    @classmethod
    def from_dense(cls, dense: Tensor | nn.Module, *, sweeps: int = 200, **sizes: Any) -> Fit[Self]:
        """Fit a layer to a dense weight: by singular values where these are best.

        Elsewhere by alternating least squares.

        Args:
            dense: a weight `o i` (`h o i` per head), or a linear layer, whose bias is taken over.
            sweeps: how often each factor is improved at most, where there is no closed form.
            **sizes: as for the layer; those that the dense weight tells may be left out.

        Returns:
            The layer, with the relative error and the costs. The layer has the dtype, the device,
            the mode and the `requires_grad` of the dense one.

        Raises:
            SizeError: the sizes do not fit the weight.
        """
        weight, bias = _taken_apart(dense)
        make: Any = cls
        layer: Self = make(
            **cls.completed(tuple(weight.shape), sizes),
            bias=bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        items = _dense_items(layer)
        shape = [math.prod(layer.sizes[axis.name] for axis in _axes([item])) for item in items]
        if shape != list(weight.shape):
            said = ", ".join(f"{item}={size}" for item, size in zip(items, shape, strict=True))
            raise SizeError(
                f"the dense weight has the shape {tuple(weight.shape)}, but the layer has {said}",
                layer.pattern,
                notes=["write: sizes whose products are those of the dense weight"],
            )
        with torch.no_grad():
            error, made = layer.fit(weight, sweeps)
            if bias is not None:
                stored: Any = layer.bias
                stored.copy_(bias.reshape(stored.shape))
        # A bare tensor asks for nothing; a frozen layer becomes a frozen one.
        layer.requires_grad_(type(dense) is Tensor or weight.requires_grad)
        if bias is not None:
            layer.bias.requires_grad_(bias.requires_grad)
        layer.train(dense.training if isinstance(dense, nn.Module) else True)
        return Fit(layer, error, made, layer.costs)

    def fit(self, weight: Tensor, sweeps: int = 200) -> tuple[float, int]:
        """Set the weights so that they stand for a dense weight as closely as they can.

        Args:
            weight: `o i`, or `h o i` per head.
            sweeps: as for `from_dense`.

        Returns:
            The relative error, and the sweeps that were made.
        """
        # Singular values and least squares lose half of the digits, and no small dtype has them.
        dtype = torch.complex128 if weight.is_complex() else torch.float64
        wide = weight.detach().to(dtype)
        factors, made = self.factors_of(wide), 0
        if factors is None:
            generator = torch.Generator().manual_seed(0)
            factors = [
                torch.randn(getattr(self, name).shape, generator=generator, dtype=dtype).to(wide)
                for name in self.declared.names
            ]
        if not self.closed_form:
            items = _dense_items(self)
            output = [axis.name for axis in _axes(items)]
            target = wide.reshape([self.sizes[name] for name in output])
            factors, made = self.improved(output, target, factors, sweeps)
        with torch.no_grad():
            for name, factor in zip(self.declared.names, factors, strict=True):
                getattr(self, name).copy_(factor)
            return difference(self.dense_weight().to(dtype), wide), made

    def improved(
        self, output: Sequence[str], target: Tensor, factors: Sequence[Tensor], sweeps: int
    ) -> tuple[list[Tensor], int]:
        """Better factors, and the sweeps that it took.

        Args:
            output: the axes of the target.
            target: the dense weight, with an axis for each factor of input and output.
            factors: where to start.
            sweeps: at most so many.
        """
        terms = [term.names for term in self.declared.weights]
        return alternate(terms, output, target, factors, sweeps)

    def factors_of(self, weight: Tensor) -> list[Tensor] | None:
        """Factors that stand for a dense weight, or None to start from random ones.

        Args:
            weight: in double precision.
        """
        # Every layer of this kind has its own; no factorization suits them all.
        raise NotImplementedError

    @classmethod
    def completed(cls, _shape: Sequence[int], sizes: dict[str, Any], /) -> dict[str, Any]:
        """The sizes of the layer, with those added that the shape of the dense weight tells."""
        return sizes

    def split(self, weight: Tensor, pattern: str) -> Tensor:
        """Rearrange a dense weight, whose axes are those of the layer."""
        source = " ".join(map(str, _dense_items(self)))
        used = {axis.name for term in parse(f"{source} -> {pattern}").terms for axis in term.axes}
        sizes = {name: size for name, size in self.sizes.items() if name in used}
        return einsum(f"{source} -> {pattern}", weight, **sizes)


class LowRank(Factorized):
    """A linear of low rank: down to `r` numbers, then up; with `h`, one for each head.

    Formula: `y = up (down x) + bias`; the dense weight `up down` has rank `r`.

    Pattern: `... i, r i, o r -> ... o`; per head `... h i, h r i, h o r -> ... h o`.

    Example:
        >>> import torch, einheads
        >>> layer = einheads.LowRank(i=64, r=4, o=32)
        >>> layer(torch.randn(10, 64)).shape
        torch.Size([10, 32])
        >>> print(layer.costs)
        384 parameters (dense: 2048), 768 FLOPs a row (dense: 4096)
        >>> fit = einheads.LowRank.from_dense(torch.nn.Linear(64, 32), r=32)
        >>> fit.error < 1e-6
        True

    Equivalent:
        ```python
        def low_rank(x, down, up, bias):                # with h: einsum "...hi, hri -> ...hr"
            if down.dim() == 2:
                return (x @ down.T) @ up.T + bias
            x = (x.unsqueeze(-2) * down).sum(-1)        # ... h r i, then i is summed away
            return (x.unsqueeze(-2) * up).sum(-1) + bias
        ```

    Use it where a matrix is known to need few directions, or to compress one that is trained. Not
    for small matrices: two products of a small size take longer than one, and at `r` above
    `i o / (i + o)` it has more parameters than the dense layer.

    Args:
        i: size of the input.
        r: the rank.
        o: size of the output.
        h: heads, each with weights of its own; None for none.
        bias: whether a bias `o` (`h o`) is added.
        init: see `einheads.initializers.fill`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Denil et al., "Predicting parameters in deep learning" (2013), section 2; Hu et al., "LoRA"
        (2021), section 4.1, adds one to a frozen linear. Per head: the latent projections of
        DeepSeek-V2 (2024), section 2.1, and Linformer-like models.
    """

    def __init__(
        self,
        *,
        i: int,
        r: int,
        o: int,
        h: int | None = None,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        heads: dict[str, Any] = {} if h is None else {"h": h}
        super().__init__(
            "... i, r i, o r -> ... o" if h is None else "... h i, h r i, h o r -> ... h o",
            names=("down", "up"),
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            **heads,
            i=i,
            r=r,
            o=o,
        )
        self.h = h

    def factors_of(self, weight: Tensor) -> list[Tensor]:
        """The `r` largest singular values, which no other matrix of this rank beats."""
        rank = check_rank("r", self.sizes["r"], weight, self.pattern)
        up, down = truncated(weight, rank)
        return [down, up]

    @classmethod
    def completed(cls, shape: Sequence[int], sizes: dict[str, Any], /) -> dict[str, Any]:
        """`i`, `o` and `h` are told by the dense weight."""
        return dict(zip(("i", "o", "h"), reversed(shape), strict=False)) | sizes


def check_rank(name: str, rank: int, matrices: Tensor, pattern: str) -> int:
    """Refuse a rank that matrices `... out in` cannot have: what is beyond would never be used."""
    out, into = matrices.shape[-2:]
    if rank > min(out, into):
        raise SizeError(
            f"{name}={rank}, but matrices of {out} x {into} have at most rank {min(out, into)}",
            pattern,
            [
                axis.span
                for term in parse(pattern).operands
                for axis in term.axes
                if axis.name == name
            ],
            [f"write: {name}={min(out, into)}"],
        )
    return rank


def factors(name: str, value: object) -> dict[str, Any]:
    """The sizes of numbered axes.

    Example:
        >>> factors("i", (3, 5))
        {'i1': 3, 'i2': 5}

    Raises:
        TypeError: it is no tuple.
        SizeError: it has fewer than two entries.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(
            f"{name} is a tuple with the size of each factor, not {kind(value)}; "
            f"write: {name}=(3, 5) for a size of 15"
        )
    if len(value) < 2:
        raise SizeError(
            f"{name} has {count(len(value), 'factor')}, but a product needs two or more",
            notes=[f"write: {name}=(3, 5) for a size of 15"],
        )
    return {f"{name}{number}": size for number, size in enumerate(value, 1)}


def _axes(items: Sequence[Item]) -> list[Axis]:
    return [
        part
        for item in items
        for part in ((item,) if isinstance(item, Axis) else getattr(item, "parts", ()))
        if isinstance(part, Axis)
    ]


def _terms(layer: Einsum) -> str:
    return ", ".join(map(str, layer.declared.weights))


def _dense_items(layer: Einsum) -> list[Item]:
    """The dimensions of the dense weight: heads, out, in."""
    pattern = layer.declared.pattern
    out = [item for item in pattern.output.items if not isinstance(item, Dots)]
    into = [item for item in pattern.operands[0].items if not isinstance(item, Dots)]
    names = [str(item) for item in out]
    return [*out, *(item for item in into if str(item) not in names)]


def _taken_apart(dense: Tensor | nn.Module) -> tuple[Tensor, Tensor | None]:
    """The weight `(h) o i` and the bias of whatever stands for a dense layer."""
    if isinstance(dense, Tensor):
        weight: Any = dense
        bias: Any = None
    elif isinstance(dense, nn.Linear) or (isinstance(dense, Einsum) and _is_plain(dense)):
        weight, bias = dense.weight, dense.bias
        if isinstance(dense, Einsum):
            order = dense.fans["weight"]
            axes = " ".join((*order.batch, *order.outputs, *order.inputs))
            weight = einsum(f"{dense.declared.weights[0]} -> {axes}", weight)
    else:
        raise EinheadsError(
            f"{kind(dense)} is no dense linear layer",
            notes=["write: a weight 'o i' or 'h o i', nn.Linear, or a linear per head"],
        )
    if weight.ndim not in (2, 3):
        raise SizeError(
            f"the dense weight has {count(weight.ndim, 'dimension')}",
            notes=["write: a weight 'o i' or 'h o i'"],
        )
    return weight, bias


def _is_plain(layer: Einsum) -> bool:
    """Whether a layer is `... i, o i -> ... o` or `... h i, h o i -> ... h o`, in other letters."""
    if layer.declared.names != ("weight",) or layer.inputs != 1:
        return False
    fan, pattern = layer.fans["weight"], layer.declared.pattern
    into = [str(item) for item in pattern.operands[0].items][-len(fan.batch) - 1 :]
    out = [str(item) for item in pattern.output.items][-len(fan.batch) - 1 :]
    return (
        len(fan.batch) <= 1
        and len(fan.inputs) == len(fan.outputs) == 1
        and into == [*fan.batch, *fan.inputs]
        and out == [*fan.batch, *fan.outputs]
    )
