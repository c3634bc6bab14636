"""Before anything is timed: do all contestants compute the same?

The judge is torch.einsum in double precision (or, for patterns that it cannot read, which include
those of more than 52 axes, einheads itself in double precision), and the distance is measured
against the largest number of the result, since a sum of many products may come out near zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from einheads.functional import einsum

from .cases import Case
from .contestants import letters

# How far two orders of summation may drift apart, relative to the largest number of the result.
# With every further product it is more, as in a random walk.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 4e-2,
}

# How many axes torch.einsum can tell apart.
_LETTERS = 52


class Disagreement(AssertionError):  # noqa: N818 - it says what happened
    """A contestant computes something else."""


def reference(case: Case, operands: Sequence[Tensor]) -> Tensor:
    """The result in double precision."""
    wide = [operand.detach().double() for operand in operands]
    if not case.plain or len(case.sizes) > _LETTERS:
        return einsum(case.pattern, *wide, **case.sizes)
    return torch.einsum(letters(case), *wide)


def agree(name: str, case: Case, got: Tensor, wanted: Tensor) -> None:
    """Make sure that a result is what it should be.

    Args:
        name: of the contestant.
        case: for the message.
        got: its result.
        wanted: the same in double precision.

    Raises:
        Disagreement: the shape is another one, or a number is too far off.
    """
    where = f"{name} on '{case.pattern}' ({case.name})"
    if got.shape != wanted.shape:
        raise Disagreement(f"{where} has shape {tuple(got.shape)}, not {tuple(wanted.shape)}")
    if not wanted.numel():
        return
    scale = float(wanted.abs().max())
    error = float((got.detach().double() - wanted).abs().max())
    # Not `error > bound`: a NaN has to be refused as well.
    products = max(len(case.terms) - 2, 1)
    if not error <= TOLERANCE[got.dtype] * math.sqrt(products) * max(scale, 1e-30):
        raise Disagreement(
            f"{where} is off by {error:.3g}, where the largest number is {scale:.3g}"
        )
