"""How factors are found for a dense weight, and what they cost beside it.

Takes patterns and tensors, gives tensors and plain data. It knows nothing of modules.

Reference:
    Kolda and Bader, "Tensor decompositions and applications" (2009), section 3.4: alternating
    least squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from einheads.functional import einsum
from einheads.pattern import Pattern
from einheads.plan import plan
from einheads.sizes import bind

L = TypeVar("L")

# Without theory: sweeps that change less would not change a digit that anybody reads.
_STILL = 1e-5


@dataclass(frozen=True)
class Costs:
    """What a factorized layer costs, beside the dense layer that it stands for; without the bias.

    Attributes:
        parameters: numbers in its weights.
        dense_parameters: numbers in the dense weight.
        flops: operations for one row of input, a multiply-add counted as two.
        dense_flops: the same for the dense layer.
    """

    parameters: int
    dense_parameters: int
    flops: int
    dense_flops: int

    def __str__(self) -> str:
        return (
            f"{self.parameters} parameters (dense: {self.dense_parameters}), "
            f"{self.flops} FLOPs a row (dense: {self.dense_flops})"
        )


@dataclass(frozen=True)
class Fit(Generic[L]):
    """A layer that was fitted to a dense weight.

    Attributes:
        layer: the layer.
        error: the norm of the difference, as a part of the norm of the dense weight.
        sweeps: how often all factors were improved one after the other; 0 where the best factors
            are known in closed form.
        costs: of the layer, beside the dense one.
    """

    layer: L
    error: float
    sweeps: int
    costs: Costs

    def __str__(self) -> str:
        made = f"{self.sweeps} sweeps" if self.sweeps else "closed form"
        return f"relative error {self.error:.3g} ({made}); {self.costs}"


def multiply_adds(pattern: Pattern, shapes: Sequence[Sequence[int]]) -> int:
    """Multiply-adds of a pattern for operands of these shapes.

    Example:
        >>> from einheads.pattern import parse
        >>> multiply_adds(parse("i, r i, o r -> o"), [(64,), (4, 64), (32, 4)])
        384
    """
    return plan(bind(pattern, shapes)).multiply_adds


def truncated(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best two factors `out r` and `r in` of each matrix, their scale shared evenly.

    Args:
        matrices: `... out in`.
        rank: the size of `r`, at most the smaller of the other two.
    """
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    root = values[..., :rank].sqrt()
    return left[..., :rank] * root.unsqueeze(-2), root.unsqueeze(-1) * right[..., :rank, :]


def difference(value: Tensor, target: Tensor) -> float:
    """The norm of the difference, as a part of the norm of the target; 0 if both are zero.

    Example:
        >>> difference(torch.tensor([3.0, 0.0]), torch.tensor([3.0, 4.0]))
        0.8
    """
    distance, norm = float((value - target).norm()), float(target.norm())
    return distance / norm if norm else float(distance > 0) * math.inf if distance else 0.0


def alternate(
    terms: Sequence[Sequence[str]],
    output: Sequence[str],
    target: Tensor,
    factors: Sequence[Tensor],
    sweeps: int,
) -> tuple[list[Tensor], int]:
    """Improve the factors of a tensor one after the other, each by least squares.

    A product of factors is linear in each of them, so with the others held, the best one is the
    solution of a linear system. The error never grows; it may stop above the smallest possible one.

    Args:
        terms: the axes of each factor.
        output: the axes of the target.
        target: the tensor to approximate.
        factors: where to start.
        sweeps: how often every factor is improved, at most.

    Returns:
        The factors, and how many sweeps were made before the error stood still.
    """
    factors = list(factors)
    product = f"{', '.join(map(' '.join, terms))} -> {' '.join(output)}"
    error = math.inf
    for sweep in range(1, sweeps + 1):
        for number, own in enumerate(terms):
            others = [place for place in range(len(terms)) if place != number]
            known = {axis for place in others for axis in terms[place]}
            batch = [axis for axis in output if axis in own and axis in known]
            new = [axis for axis in output if axis in own and axis not in known]
            left = [axis for axis in output if axis not in own]
            rank = [axis for axis in own if axis not in output]
            sizes = dict(zip(own, factors[number].shape, strict=True))
            names = [" ".join(axes) for axes in (batch, left, rank, new)]
            environment = einsum(
                f"{', '.join(' '.join(terms[place]) for place in others)} -> "
                f"({names[0]}) ({names[1]}) ({names[2]})",
                *(factors[place] for place in others),
            )
            wanted = einsum(f"{' '.join(output)} -> ({names[0]}) ({names[1]}) ({names[3]})", target)
            # The environment is tall; its triangular factor is small. The pseudoinverse also
            # decides where the system leaves something open, as when ranks are larger than needed.
            basis, small = torch.linalg.qr(environment)
            solution = torch.linalg.pinv(small) @ (basis.mH @ wanted)
            factors[number] = einsum(
                f"({names[0]}) ({names[2]}) ({names[3]}) -> {' '.join(own)}", solution, **sizes
            )
        last, error = error, difference(einsum(product, *factors), target)
        if error < 1e-13 or last - error <= _STILL * error:
            return _balanced(factors), sweep
    return _balanced(factors), sweeps


def orthogonal_iteration(
    target: Tensor, bases: Sequence[Tensor], sweeps: int
) -> tuple[list[Tensor], int]:
    """Improve the bases of a Tucker decomposition one after the other.

    With orthonormal bases the best core is a projection, so the least squares for it, which would
    need a matrix as large as target and core together, are not solved.

    Args:
        target: the tensor to approximate.
        bases: a matrix `size rank` of orthonormal columns for each axis of the target.
        sweeps: how often every basis is improved, at most.

    Returns:
        The bases and then the core, and how many sweeps were made before the error stood still.
    """
    bases = list(bases)
    norm, error = float(target.norm()), math.inf
    core = target
    for sweep in range(1, sweeps + 1):
        for place, basis in enumerate(bases):
            others = projected(target, [None if k == place else b for k, b in enumerate(bases)])
            bases[place] = leading(others.movedim(place, 0).flatten(1), basis.shape[1])
        core = projected(target, bases)
        last, error = error, math.sqrt(max(norm**2 - float(core.norm()) ** 2, 0.0))
        if error <= 1e-13 * norm or last - error <= _STILL * error:
            return _balanced([*bases, core]), sweep
    return _balanced([*bases, core]), sweeps


def projected(target: Tensor, bases: Sequence[Tensor | None]) -> Tensor:
    """A tensor in the coordinates of bases, one for each axis; None keeps an axis."""
    for place, basis in enumerate(bases):
        if basis is not None:
            turned = torch.tensordot(basis.mH, target.movedim(place, 0), 1)
            target = turned.movedim(0, place)
    return target


def leading(matrix: Tensor, rank: int) -> Tensor:
    """The first left singular vectors of a wide matrix, completed to `rank` where it has fewer."""
    _, small = torch.linalg.qr(matrix.mH)
    left: Tensor = torch.linalg.svd(small.mH, full_matrices=True)[0]
    return left[:, :rank]


def _balanced(factors: Sequence[Tensor]) -> list[Tensor]:
    """The same product of factors of equal norm, so that each of them learns at the same pace."""
    norms = torch.stack([factor.norm() for factor in factors])
    if not norms.min() > 0:
        return list(factors)
    mean = norms.log().mean().exp()
    return [factor * (mean / norm) for factor, norm in zip(factors, norms, strict=True)]
