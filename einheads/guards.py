"""Whether tensors are like those of an earlier call, asked of torch in one step.

`torch.compile` guards its graphs with a check, written in C++, of all that decides what a call
runs: Python types, dtypes, devices, shapes, strides, whether gradients are needed, and who wants to
see the operations. Reading the same from Python takes four times as long. The check is not public;
where a version of torch has none, there is no guard, and every call is looked up by its signature.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

_guards: Any = getattr(getattr(torch._C, "_dynamo", None), "guards", None)  # noqa: SLF001
_Guards: Any = getattr(_guards, "TensorGuards", None)


def guard(tensors: Sequence[Tensor]) -> Callable[..., bool] | None:
    """A check whether other tensors are like these, in the state that torch is in now.

    It sees whether each of them requires a gradient, but not the grad mode, nor forward-mode AD,
    nor modes of functions, nor all modes of operations: `FakeTensorMode` is none that it sees. It
    raises `TypeError` for another number of tensors, and holds none of them.

    Example:
        >>> import torch
        >>> like = guard([torch.ones(2, 3), torch.ones(3)])
        >>> like(torch.zeros(2, 3), torch.zeros(3)), like(torch.zeros(2, 3), torch.zeros(4))
        (True, False)

    Args:
        tensors: of ordinary types, with sizes that are numbers.

    Returns:
        The check; None if torch has none, for no tensors, and if one stands twice, which torch
        would never find to be like this.
    """
    if _Guards is None or not tensors or len(set(map(id, tensors))) < len(tensors):
        return None
    # Both are needed: without any keyword the constructor reads a dictionary that is not there.
    guards = _Guards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None)
    check: Callable[..., bool] = guards.check
    return check


# Of an earlier call: the sizes given by name, the guard of its tensors, and what runs if both fit.
Call = tuple[tuple[tuple[str, int], ...], Callable[..., bool], Callable[..., Tensor]]

# Guards that are asked one after the other. More of them would take as long as a look-up does.
MAX_CALLS = 4
_MAX_KEYS = 8192


class Recent:
    """The last calls of each declaration, found again by their guards.

    Attributes:
        calls: the newest first, by whatever tells more than a guard.
    """

    def __init__(self) -> None:
        self.calls: dict[Hashable, tuple[Call, ...]] = {}

    def add(self, key: Hashable, call: Call) -> None:
        """Find this call before all others with the same key."""
        # Threads may lose a call of each other, which is looked up then; so no lock is needed.
        if len(self.calls) >= _MAX_KEYS:
            self.calls.clear()
        self.calls[key] = (call, *self.calls.get(key, ())[: MAX_CALLS - 1])
