"""Comparisons for layers of any number of inputs: values, gradients, compiled, their scale."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import laws
from einheads.layout import Layout, layout
from einheads.pattern import parse
from einheads.sizes import Bound, bind

# What torch calls the operations that copy a tensor.
COPIES = {"aten::copy_", "aten::clone", "aten::contiguous", "aten::_to_copy"}


def operations(call: Callable[[], object]) -> list[str]:
    """What torch calls the operations that a call runs, seen by nobody whom it could notice."""
    with torch.profiler.profile() as profile:
        call()
    return [event.name for event in profile.events()]


def randn(*shape: int) -> Tensor:
    """A random tensor in double precision."""
    return torch.randn(*shape, dtype=torch.float64)


def equivalent(layer: nn.Module) -> Callable[..., Tensor]:
    """The plain torch of a docstring, with the parameters of a layer; a missing bias is zero."""
    function = laws.equivalent(type(layer))
    parameters = laws.parameters_of(layer)
    if getattr(layer, "bias", None) is None and "bias" in function.__code__.co_varnames:
        parameters["bias"] = torch.zeros((), dtype=torch.float64)
    return lambda *inputs: function(*inputs, **parameters)


def gradients(value: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The derivatives of a weighted sum of a value; the weights are the same at every call."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(value.shape, generator=generator, dtype=value.dtype)
    return torch.autograd.grad((value * weights).sum(), leaves)


def agrees(layer: nn.Module, reference: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Assert equal values and equal gradients of all inputs and parameters, none of them zero."""
    inputs = tuple(x.detach().requires_grad_() if x.is_floating_point() else x for x in inputs)
    actual, expected = layer(*inputs), reference(*inputs)
    laws.close(actual, expected)
    leaves = [*(x for x in inputs if x.requires_grad), *layer.parameters()]
    ours, theirs = gradients(actual, leaves), gradients(expected, leaves)
    for one, other in zip(ours, theirs, strict=True):
        laws.close(one, other)
        assert other.abs().max() > 0


def compiles(layer: nn.Module, *inputs: Tensor) -> None:
    """Assert that a layer compiles as one graph, with the values and gradients of eager mode."""
    torch._dynamo.reset()
    compiled: Any = torch.compile(layer, fullgraph=True, backend="aot_eager")
    leaves = list(layer.parameters())
    actual, expected = compiled(*inputs), layer(*inputs)
    laws.close(actual, expected)
    for one, other in zip(gradients(actual, leaves), gradients(expected, leaves), strict=True):
        laws.close(one, other)


def moment(
    make: Callable[[], nn.Module], draw: Callable[[], Sequence[Tensor]], seeds: int
) -> float:
    """The mean square of the outputs over fresh layers and fresh inputs."""
    total = 0.0
    for seed in range(seeds):
        torch.manual_seed(seed)
        with torch.no_grad():
            total += float(make()(*draw()).square().mean())
    return total / seeds


def shapes_of(pattern: str, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
    """The shapes of the operands of a pattern without composites."""
    terms = pattern.split(" -> ", maxsplit=1)[0].split(", ")
    return [tuple(sizes[axis] for axis in term.split()) for term in terms]


def bound_for(pattern: str, tensors: Sequence[Tensor]) -> tuple[Bound, list[Layout]]:
    """A pattern with the sizes and layouts of tensors."""
    bound = bind(parse(pattern), [tensor.shape for tensor in tensors])
    layouts = [
        layout(dims, tensor.stride(), bound.sizes)
        for dims, tensor in zip(bound.operands, tensors, strict=True)
    ]
    return bound, layouts
