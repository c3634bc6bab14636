"""What the constructors of named layers share: their repr, and the check of a common option."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from einheads.errors import EinheadsError


def arguments(module: nn.Module, sizes: Mapping[str, int] | None = None) -> str | None:
    """The arguments of the call that makes a module, without those that have their default.

    An argument is the size of its name, or else the attribute of its name, so a constructor keeps
    what it is given.

    Example:
        >>> import torch
        >>> from einheads import HeadLinear
        >>> layer = HeadLinear(h=8, i=64, o=32, bias=False, dtype=torch.float64)
        >>> arguments(layer, layer.sizes)
        'h=8, i=64, o=32, bias=False, dtype=torch.float64'

    Args:
        module: whose constructor is looked at.
        sizes: the sizes of a layer, by axis.

    Returns:
        The arguments, or None if the module does not tell one of them.
    """
    words: list[str] = []
    sizes = sizes or {}
    parameters = inspect.signature(type(module)).parameters
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            words += [f"{axis}={sizes[axis]}" for axis in sizes if axis not in parameters]
            continue
        try:
            value = _value(module, name, sizes)
        except AttributeError:
            return None
        if parameter.kind is parameter.POSITIONAL_ONLY:
            words.append(_spelled(value))
        elif value != parameter.default:
            words.append(f"{name}={_spelled(value)}")
    return ", ".join(words)


def _value(module: nn.Module, name: str, sizes: Mapping[str, int]) -> Any:
    if name in sizes:
        return sizes[name]
    if name == "device":
        # Where parameters were made is no part of what a layer is, and they may have moved since.
        return None
    if name == "dtype":
        dtype = next((parameter.dtype for parameter in module.parameters()), torch.float32)
        return None if dtype == torch.float32 else dtype
    value = getattr(module, name)
    # Of the parameter `bias`, the constructor only knows whether there is one.
    return value is not None if name == "bias" and not isinstance(value, bool) else value


def _spelled(value: Any) -> str:
    return getattr(value, "__qualname__", None) or repr(value)


def check_dropout(dropout: float) -> None:
    """Refuse what is no share."""
    if not 0 <= dropout <= 1:
        raise EinheadsError(f"dropout={dropout} is no share", notes=["write: dropout=0.1"])


__all__ = ["arguments", "check_dropout"]
