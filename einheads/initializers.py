"""From the roles of the axes to the initial values of the weights.

The shape of a weight does not tell its fan-in: `(16, 64, 32)` may be 16 heads of 64x32 matrices, or
one convolution. The pattern tells it. The weights are absorbed in the order in which they are
written; the axes that are summed when a weight is absorbed are its fan-in, the axes that it
introduces its fan-out. With variance one over fan-in for every weight, any multilinear pattern
keeps unit scale, however many weights it has. This file knows nothing of layers or programs.

Reference:
    LeCun et al., "Efficient BackProp" (1998), section 4.6; Glorot and Bengio, "Understanding the
    difficulty of training deep feedforward neural networks" (2010), section 4.2; He et al.,
    "Delving deep into rectifiers" (2015), section 2.2; Saxe et al., "Exact solutions to the
    nonlinear dynamics of learning in deep linear neural networks" (2014).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Roles = dict[str, str]
Initializer = Callable[[Tensor, Roles], object]


@dataclass(frozen=True, slots=True)
class Fan:
    """What the axes of one weight do when it is absorbed.

    Attributes:
        batch: axes that the value has already and keeps: one matrix for each.
        outputs: axes that the weight introduces.
        inputs: axes that are summed.
        roles: the role of each axis, "batch", "in", "out" or "rank".
    """

    batch: tuple[str, ...]
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    roles: Mapping[str, str]

    def fan_in(self, sizes: Mapping[str, int]) -> int:
        """How many products are summed into one output."""
        return math.prod(sizes[name] for name in self.inputs)

    def fan_out(self, sizes: Mapping[str, int]) -> int:
        """How many outputs one input reaches."""
        return math.prod(sizes[name] for name in self.outputs)


def fans(
    inputs: Sequence[Sequence[str]], weights: Sequence[Sequence[str]], output: Sequence[str]
) -> list[Fan]:
    """Absorb the weights one after the other.

    Example:
        >>> first, second = fans([["b", "i"]], [["i", "r"], ["r", "o"]], ["b", "o"])
        >>> first.inputs, first.outputs, first.roles
        (('i',), ('r',), {'i': 'in', 'r': 'rank'})
        >>> second.inputs, second.outputs, second.roles
        (('r',), ('o',), {'r': 'rank', 'o': 'out'})

    Args:
        inputs: the axes of each input.
        weights: the axes of each weight.
        output: the axes of the output.
    """
    fed = {name for axes in inputs for name in axes}
    value = set(fed)
    result: list[Fan] = []
    for place, written in enumerate(weights):
        axes = tuple(dict.fromkeys(written))
        kept = set(output).union(*weights[place + 1 :])
        summed = tuple(name for name in axes if name not in kept)
        new = tuple(name for name in axes if name in kept and name not in value)
        batch = tuple(name for name in axes if name in kept and name in value)
        roles = {}
        for name in axes:
            if name not in fed and name not in output:
                roles[name] = "rank"
            else:
                roles[name] = "in" if name in summed else "out" if name in new else "batch"
        result.append(Fan(batch, new, summed, roles))
        value.update(axes)
    return result


# What multiplies the variance of the last weight: the weights together have the scale of one.
# The third of "linear" is written as torch writes it, which differs in the last digit.
_GAINS = {"linear": 2 / (1 + math.sqrt(5) ** 2), "lecun": 1.0, "kaiming": 2.0}


def names() -> tuple[str, ...]:
    """The initializers that have a name."""
    return (*_GAINS, "xavier", "orthogonal", "zeros")


@torch.no_grad()
def fill(
    weight: Tensor, fan: Fan, sizes: Mapping[str, int], init: str | Initializer, *, last: bool
) -> None:
    """Give a weight its initial values, in place (except "orthogonal", see `orthogonal`).

    - "linear": uniform, variance 1/(3 fan-in); each matrix starts as the weight of an `nn.Linear`.
    - "lecun": normal, variance 1/fan-in.
    - "kaiming": uniform, variance 2/fan-in.
    - "xavier": uniform, variance 2/(fan-in + fan-out).
    - "zeros": zeros.
    - a function: gets the tensor and its roles, `{axis: role}`.

    With several weights, all but the last have variance 1/fan-in under the first three names, so
    that all of them together have the scale of one.

    Args:
        weight: the parameter.
        fan: what its axes do.
        sizes: of every axis.
        init: one of the above.
        last: whether this is the last weight of its pattern.
    """
    fan_in = max(fan.fan_in(sizes), 1)
    if callable(init):
        init(weight, dict(fan.roles))
    elif init == "zeros":
        weight.zero_()
    elif init == "lecun":
        weight.normal_(0.0, fan_in**-0.5)
    elif init == "xavier":
        bound = math.sqrt(6 / (fan_in + max(fan.fan_out(sizes), 1)))
        weight.uniform_(-bound, bound)
    else:
        # In the order in which torch rounds: after the same seed, the numbers are those of torch.
        gain = _GAINS[init] if last else 1.0
        bound = math.sqrt(3.0) * (math.sqrt(gain) / math.sqrt(fan_in))
        weight.uniform_(-bound, bound)


@torch.no_grad()
def orthogonal(matrices: Tensor) -> None:
    """Make every matrix of a stack `batch out in` orthogonal, in place; unitary if complex."""
    for matrix in matrices:
        # Torch factorizes in single and double precision only, and draws real matrices only.
        exact = (
            torch.float64 if matrix.dtype in {torch.float64, torch.complex128} else torch.float32
        )
        kind = exact.to_complex() if matrix.is_complex() else exact
        rows, columns = matrix.shape
        drawn = torch.randn(
            max(rows, columns), min(rows, columns), dtype=kind, device=matrix.device
        )
        unitary, upper = torch.linalg.qr(drawn)
        # The signs of the factorization are the library's choice; without them all are likely.
        unitary *= upper.diagonal().sgn()
        matrix.copy_(unitary if rows >= columns else unitary.mH)


@torch.no_grad()
def fill_bias(bias: Tensor, fan_in: int, init: str | Initializer) -> None:
    """Give a bias its initial values: as `nn.Linear` for "linear", zero for all others.

    Args:
        bias: the parameter.
        fan_in: the product of the sizes of all input axes that are summed.
        init: as for the weights.
    """
    if init == "linear" and fan_in > 0:
        bound = 1 / math.sqrt(fan_in)
        bias.uniform_(-bound, bound)
    else:
        bias.zero_()
