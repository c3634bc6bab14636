"""What is written down of a layer: the call that makes it, and its axes beside saved weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from einheads.errors import keywords

from .options import called

if TYPE_CHECKING:
    from .base import Einsum


def declared_arguments(layer: Einsum) -> str:
    """The arguments of the call of `Einsum` that makes a layer.

    Example:
        >>> from einheads import Einsum
        >>> declared_arguments(Einsum("b i, o i -> b o", i=64, o=32, bias=True, init="lecun"))
        "'b i, o i -> b o', bias='o', init='lecun', i=64, o=32"
    """
    declared = layer.declared
    words: list[str] = [repr(declared.pattern.text)]
    if declared.inputs != 1:
        words.append(f"inputs={declared.inputs}")
    if declared.bias is not None:
        words.append(f"bias={' '.join(declared.bias)!r}")
    if layer.init != "linear":
        told = repr(layer.init) if isinstance(layer.init, str) else called(layer.init)
        words.append(f"init={told}")
    numbered = tuple(f"weight_{k + 1}" for k in range(len(declared.names)))
    if declared.names != (("weight",) if len(declared.names) == 1 else numbered):
        words.append(f"names={declared.names!r}")
    if layer.summed:
        words.append(f"summed={layer.summed!r}")
    if layer.diagonal:
        words.append("diagonal=True")
    if layer.checkpoint:
        words.append("checkpoint=True")
    dtype = next((parameter.dtype for parameter in layer.parameters()), torch.float32)
    if dtype != torch.float32:
        words.append(f"dtype={dtype}")
    return ", ".join([*words, *keywords(declared.sizes)])


def note_axes(destination: Mapping[str, Any], prefix: str, axes: Mapping[str, str]) -> None:
    """Write the axes of every parameter beside a state dict that is being made."""
    # The metadata lie beside the tensors, which stay a plain dictionary by their names.
    metadata = getattr(destination, "_metadata", None)
    if metadata is not None:
        metadata.setdefault(prefix[:-1], {})["axes"] = dict(axes)


def moved_axes(noted: Mapping[str, Any], prefix: str, own: Mapping[str, str]) -> list[str]:
    """Errors for the parameters that were saved with their axes in another order.

    Example:
        >>> moved_axes({"axes": {"weight": "i o"}}, "", {"weight": "o i"})  # doctest: +ELLIPSIS
        ["'weight' was saved with the axes 'i o', but the layer has 'o i'; write: ..."]
    """
    saved = noted.get("axes", {})
    # Other names are a matter of taste, the same names in another order a mistake, which equal
    # sizes would hide.
    return [
        f"'{prefix}{name}' was saved with the axes '{there}', but the layer has "
        f"'{axes}'; write: einheads.einsum('{there} -> {axes}', ...) on the saved one"
        for name, axes in own.items()
        if (there := saved.get(name, axes)) != axes
        and sorted(there.split()) == sorted(axes.split())
    ]


__all__ = ["declared_arguments", "moved_axes", "note_axes"]
