"""Several weights become one: what a factorized layer is once its factors are multiplied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from einheads.errors import EinheadsError, PatternError
from einheads.errors import kind as kind_of
from einheads.functional import einsum
from einheads.program import uncast

if TYPE_CHECKING:
    from .base import Einsum


def _hooked(layer: Einsum) -> bool:
    """Whether more runs around a forward than torch's own hooks, which only make a weight.

    Those are what pruning and the older weight norm leave behind.
    """
    hooks = *layer._forward_pre_hooks.values(), *layer._forward_hooks.values()  # noqa: SLF001
    return not all(type(hook).__module__.startswith("torch.nn.utils.") for hook in hooks)


def merged(layer: Einsum, kind: type[Einsum]) -> Einsum:
    """The layer of one weight that computes what a layer of several computes.

    Its weight has every axis that is left of all weights together: those that the layer keeps
    beside it, then those that it brings, then those that it sums, as a stack of matrices.

    Args:
        layer: any number of weights.
        kind: the class to make; the caller's own base.
    """
    pattern = layer.declared.pattern
    terms = [term.names for term in layer.declared.weights]
    if not terms:
        raise PatternError(
            "the layer has no weights to contract",
            pattern.text,
            [term.span for term in pattern.operands],
            ["write: einheads.einsum(...), which needs no layer"],
        )
    if type(layer).forward is not kind.forward:
        raise EinheadsError(
            f"{type(layer).__name__} does more than its pattern, so no weight alone can replace it",
            pattern.text,
            notes=["write: the layer itself, as it is"],
        )
    if _hooked(layer):
        raise EinheadsError(
            f"{type(layer).__name__} has hooks, which no weight alone can replace",
            pattern.text,
            notes=["write: handle.remove() for each of them before, or the layer itself, as it is"],
        )
    inputs = pattern.operands[: layer.inputs]
    fed = {axis for term in inputs for axis in term.names}
    kept = set(pattern.output.names)
    every = list(dict.fromkeys(axis for names in terms for axis in names))
    axes = [
        *(axis for axis in every if axis in fed and axis in kept),
        *(axis for axis in every if axis not in fed and axis in kept),
        *(axis for axis in every if axis in fed and axis not in kept),
    ]
    # A parametrization, such as torch's weight norm, moves a parameter behind an attribute.
    weights: list[torch.Tensor] = [getattr(layer, name) for name in layer.declared.names]
    for name, one in zip(layer.declared.names, weights, strict=True):
        if not isinstance(one, torch.Tensor):
            raise TypeError(
                f"{name} is {kind_of(one)}, not a tensor; write: layer.{name} = nn.Parameter(...)"
            )
    sizes = {axis: layer.sizes[axis] for axis in every}
    product = ", ".join(str(term) for term in layer.declared.weights)
    # Autocast would round the weight for good.
    with torch.no_grad(), uncast(weights[0].device.type):
        weight = einsum(f"{product} -> {' '.join(axes)}", *weights, **sizes)
        if len(weights) == 1:
            # Else it may be a view of the parameter itself.
            weight = weight.clone(memory_format=torch.contiguous_format)
    left = ", ".join([*map(str, inputs), " ".join(axes)])
    # Sizes of axes of the inputs alone are checked at every call, as before; those between the
    # weights are gone.
    rest = {axis: size for axis, size in layer.sizes.items() if axis not in every}
    keywords: dict[str, Any] = {axis: layer.sizes[axis] for axis in axes} | rest
    made = kind(
        f"{left} -> {pattern.output}",
        inputs=layer.inputs,
        bias=None if layer.declared.bias is None else " ".join(layer.declared.bias),
        # What starts the factors of a product in its own way says nothing of the product.
        init=layer.init if isinstance(layer.init, str) else "linear",
        summed=_summed(layer, axes),
        device="meta",  # no random numbers are drawn for what is replaced below
        dtype=weight.dtype,
        **keywords,
    )
    made.weight = torch.nn.Parameter(weight, any(one.requires_grad for one in weights))
    if isinstance(layer.bias, torch.Tensor):
        made.bias = torch.nn.Parameter(layer.bias.detach().clone(), layer.bias.requires_grad)
    return made.train(layer.training)


def _summed(layer: Einsum, axes: list[str]) -> str:
    """The axes that the merged layer sums alone, and has to be told that it may."""
    pattern = layer.declared.pattern
    operands = [*(term.names for term in pattern.operands[: layer.inputs]), tuple(axes)]
    names = [name for names in operands for name in dict.fromkeys(names)]
    alone = [
        name
        for name in dict.fromkeys(names)
        if names.count(name) == 1 and name not in pattern.output.names
    ]
    dots = any(term.dots for term in pattern.operands[: layer.inputs])
    return " ".join([*alone, *(["..."] if dots and pattern.output.dots is None else [])])


__all__ = ["merged"]
