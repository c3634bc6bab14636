"""What named layers share: their repr, and the checks of common options and of their input."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from einheads.errors import EinheadsError, SizeError, count, keywords, kind


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
            words += keywords({axis: sizes[axis] for axis in sizes if axis not in parameters})
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


def check_last(x: object, pattern: str, **sizes: int) -> None:
    """Refuse an input whose last axes have other sizes, before a norm of torch does without names.

    Example:
        >>> import torch
        >>> check_last(torch.ones(2, 10, 64), "... t i", i=32)
        Traceback (most recent call last):
        einheads.errors.SizeError: axis 'i' has two sizes: 64 (x, dimension 3) and 32 (the layer)
            ... t i
                  ^
            give an x of the shape '... t i' with i=32

    Raises:
        SizeError: an axis is missing, or has another size.
        TypeError: it is no tensor.
    """
    names = pattern.split()[1:]
    wrong: list[int] = []
    if isinstance(x, Tensor) and x.ndim >= len(names):
        places = range(-len(names), 0)
        wrong = [k for k in places if x.shape[k] != sizes.get(names[k], x.shape[k])]
        if not wrong:
            return
    note = f"give an x of the shape '{pattern}'"
    if sizes:
        note += " with " + ", ".join(f"{name}={size}" for name, size in sizes.items())
    if not isinstance(x, Tensor):
        raise TypeError(f"x is {kind(x)}, not a tensor; {note}")
    if x.ndim < len(names):
        raise SizeError(
            f"x has {count(x.ndim, 'dimension')}, shape {tuple(x.shape)}, "
            f"but '{pattern}' names at least {count(len(names), 'axis')}",
            pattern,
            notes=[note],
        )
    name = names[wrong[0]]
    start = pattern.index(f" {name}") + 1
    raise SizeError(
        f"axis '{name}' has two sizes: {x.shape[wrong[0]]} (x, dimension "
        f"{x.ndim + wrong[0] + 1}) and {sizes[name]} (the layer)",
        pattern,
        [(start, start + len(name))],
        [note],
    )


__all__ = ["arguments", "check_dropout", "check_last"]
