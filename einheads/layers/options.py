"""What a layer may be made with: an initializer, a dtype and a device.

Checked before anything is made, since torch would refuse the same from the inside of a function
that nobody called. Knows nothing of modules.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from einheads.errors import EinheadsError, PatternError, SizeError, kind, nearest
from einheads.initializers import names

from .declare import Declared


def check_options(init: object, declared: Declared, device: object, dtype: object) -> None:
    """Check the options of a layer that are not part of its declaration.

    Raises:
        EinheadsError: no initializer has that name, or torch finds no such device.
        PatternError: the initializer has no meaning for the weights.
        TypeError: an option has the wrong type, or parameters cannot have the dtype.
    """
    _check_init(init, declared)
    if dtype is not None:
        _check_dtype(dtype)
    if device is not None:
        _check_device(device)


def _check_init(init: object, declared: Declared) -> None:
    if isinstance(init, str):
        if init not in names():
            near = nearest(init, names())
            raise EinheadsError(
                f"init={init!r} is no initializer",
                notes=[f"did you mean '{near}'?"] * (near is not None)
                + [f"write: a function, or one of {', '.join(names())}"],
            )
        repeated = [term for term in declared.weights if len(set(term.names)) < len(term.names)]
        if init == "orthogonal" and repeated:
            raise PatternError(
                "init='orthogonal' of a weight whose diagonal is used",
                declared.pattern.text,
                [term.span for term in repeated],
                ["write: init='linear', which has a meaning for a diagonal too"],
            )
    elif not callable(init):
        raise TypeError(
            f"init is the name of an initializer or a function, not {kind(init)}; "
            "write: init='linear'"
        )
    elif not _takes_two(init):
        raise TypeError(
            f"init is called with a weight and its roles, but '{called(init)}' does not take two "
            "arguments; write: init=lambda weight, roles: ..."
        )


def _check_dtype(dtype: object) -> None:
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype is a torch.dtype, not {kind(dtype)}; write: dtype=torch.float32")
    # Torch makes random numbers of no smaller kind.
    if not (dtype.is_floating_point or dtype.is_complex) or dtype.itemsize < 2:
        raise TypeError(
            f"parameters cannot be made as {dtype}; write: dtype=torch.float32, "
            "and convert the layer afterwards"
        )


def _check_device(device: object) -> None:
    if not isinstance(device, (str, int, torch.device)):
        raise TypeError(f"device is a torch.device, not {kind(device)}; write: device='cpu'")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EinheadsError(
            f"device={str(device)!r} cannot be used on this machine",
            notes=["write: a device that torch finds, such as device='cpu'"],
        ) from error


def _takes_two(function: Any) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:
        # Some functions written in C have no signature to look at.
        return True
    return True


def called(function: Any) -> str:
    """What a function is called in messages and in the repr of a layer."""
    return getattr(function, "__qualname__", repr(function))


def check_same(own: Mapping[str, int], given: Mapping[str, object]) -> None:
    """Refuse a size that a layer has otherwise."""
    for axis, size in given.items():
        if own.get(axis, size) != size:
            raise SizeError(
                f"the layer has '{axis}' of size {own[axis]}, not {size}",
                notes=[f"write: {axis}={own[axis]}, or leave it out"],
            )
