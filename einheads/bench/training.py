"""Races of a training step: forward, and backward to the input, the weight and the bias."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from einheads.stopwatch import Limits, Racer, Watch, race

from .agreement import agree
from .cases import Case
from .contestants import EINHEADS, declared, each_head, einmix, letters, linears, vmapped
from .races import operands_for, row
from .result import Row


@dataclass(frozen=True, slots=True)
class Trainee:
    """A way to compute a layer, with parameters of its own.

    Attributes:
        name: in reports.
        forward: from the input to the output.
        parameters: whatever gets a gradient, but the input.
        gradients: those of the weight and of the bias, as the pattern writes them.
    """

    name: str
    forward: Callable[[Tensor], Tensor]
    parameters: Sequence[Tensor]
    gradients: Callable[[], tuple[Tensor, Tensor]]

    def step(self, x: Tensor, gradient: Tensor) -> Callable[[], object]:
        """One training step, without the optimizer."""

        def call() -> None:
            x.grad = None
            for parameter in self.parameters:
                parameter.grad = None
            torch.autograd.backward(self.forward(x), gradient)

        return call


def training(case: Case, watch: Watch, limits: Limits, dtype: torch.dtype = torch.float32) -> Row:
    """One race of a training step."""
    x, weight = operands_for(case, watch, dtype)
    bias = torch.randn([case.sizes[axis] for axis in (case.bias or "").split()]).to(x)
    gradient = torch.randn([case.sizes[axis] for axis in case.terms[-1]]).to(x)
    wanted = _reference(case, x, weight, bias, gradient)
    x.requires_grad_()
    racers = []
    for trainee in _trainees(case, weight, bias):
        y = trainee.forward(x)
        trainee.step(x, gradient)()
        assert x.grad is not None
        for got, right in zip((y, x.grad, *trainee.gradients()), wanted, strict=True):
            agree(trainee.name, case, got, right)
        racers.append(Racer(trainee.name, trainee.step(x, gradient)))
    times = race(racers, watch)
    peers = [racer.name for racer in racers[1:]]
    # Two gradients cost as much again as the forward each; every number is moved twice.
    moved = 2 * (case.elements + bias.numel()) * dtype.itemsize
    return row(case, times, peers, limits.seconds(3 * case.multiply_adds, moved), {})


def _reference(
    case: Case, x: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor
) -> tuple[Tensor, ...]:
    leaves = [value.detach().double().requires_grad_() for value in (x, weight, bias)]
    y = torch.einsum(letters(case), *leaves[:2]) + _aligned(case, leaves[2])
    return (y.detach(), *torch.autograd.grad(y, leaves, gradient.double()))


def _aligned(case: Case, bias: Tensor) -> Tensor:
    """The bias with unit dimensions, ready to be added to the output."""
    axes, output = (case.bias or "").split(), case.terms[-1]
    assert [axis for axis in output if axis in axes] == axes
    lead = min(output.index(axis) for axis in axes)
    return bias.view([case.sizes[axis] if axis in axes else 1 for axis in output[lead:]])


def _trainees(case: Case, weight: Tensor, bias: Tensor) -> list[Trainee]:
    layer: Any = declared(case).to(weight)
    found = [_with(EINHEADS.name, layer, layer.weight, layer.bias, weight, bias)]
    equation = letters(case)
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "einsum + bias": lambda x, weight: torch.einsum(equation, x, weight)
    }
    try:
        dot = import_module("einx").dot
    except ModuleNotFoundError:
        pass
    else:
        functions["einx + bias"] = lambda x, weight: dot(case.pattern, x, weight)
    mapped = vmapped(case)
    if mapped is not None:
        functions["vmap + bias"] = mapped
    if case.terms[1] == (*case.terms[2][-1:], *case.terms[0][-1:]):
        functions["F.linear + bias"] = nn.functional.linear
    found += [_function(name, case, one, weight, bias) for name, one in functions.items()]
    mix: Any = einmix(case)
    if mix is not None:
        mix.to(weight)
        found.append(_with("EinMix", mix, mix.weight, mix.bias, weight, bias))
    heads = linears(case, weight)
    if heads is not None:
        found.append(_loop(heads, weight, bias))
    return found


def _with(
    name: str, layer: nn.Module, own: Any, own_bias: Any, weight: Tensor, bias: Tensor
) -> Trainee:
    """A module with one weight and one bias."""
    with torch.no_grad():
        own.copy_(weight.reshape(own.shape))
        own_bias.copy_(bias.reshape(own_bias.shape))
    return Trainee(
        name,
        layer,
        [own, own_bias],
        lambda: (own.grad.reshape(weight.shape), own_bias.grad.reshape(bias.shape)),
    )


def _function(
    name: str,
    case: Case,
    function: Callable[[Tensor, Tensor], Tensor],
    weight: Tensor,
    bias: Tensor,
) -> Trainee:
    """A function of input and weight, with a bias added to it."""
    own = weight.detach().clone().requires_grad_()
    own_bias = bias.detach().clone().requires_grad_()
    shape = _aligned(case, own_bias).shape

    def forward(x: Tensor) -> Tensor:
        return function(x, own) + own_bias.view(shape)

    def gradients() -> tuple[Tensor, Tensor]:
        assert own.grad is not None
        assert own_bias.grad is not None
        return own.grad, own_bias.grad

    return Trainee(name, forward, [own, own_bias], gradients)


def _loop(layers: nn.ModuleList, weight: Tensor, bias: Tensor) -> Trainee:
    with torch.no_grad():
        for layer, one, shift in zip(layers, weight, bias, strict=True):
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(one)
            layer.bias.copy_(shift)

    def gradients() -> tuple[Tensor, Tensor]:
        every: list[Any] = list(layers)
        return (
            torch.stack([layer.weight.grad for layer in every]),
            torch.stack([layer.bias.grad for layer in every]),
        )

    return Trainee("loop", lambda x: each_head(layers, x), list(layers.parameters()), gradients)


__all__ = ["Trainee", "training"]
