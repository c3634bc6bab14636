"""State dicts of lists of modules, for layers that have taken the place of such lists."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from einheads.errors import EinheadsError, listed


def accept_list(layer: nn.Module, count: int) -> None:
    """Let a layer with stacked parameters load a state dict of the list that it replaces.

    `ToHeads`, `HeadLinear`, `GroupedLinear` and `EnsembleLinear` do so without being asked.

    Example:
        >>> from torch import nn
        >>> import einheads
        >>> class Model(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         pattern = "b h i, h o i -> b h o"
        ...         self.lins = einheads.Einsum(pattern, bias="h o", h=3, i=5, o=2)
        ...         einheads.accept_list(self.lins, 3)
        >>> old = {f"lins.{k}.{name}": value for k in range(3)
        ...        for name, value in nn.Linear(5, 2).state_dict().items()}
        >>> Model().load_state_dict(old)
        <All keys matched successfully>

    Args:
        layer: has the members in the first axis of every parameter.
        count: of the members.
    """
    # The public name of this method is younger than the oldest torch that is supported.
    layer._register_load_state_dict_pre_hook(partial(_gather, count), with_module=True)  # type: ignore[no-untyped-call]  # noqa: SLF001


def _gather(
    count: int, module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Replace `0.weight`, `1.weight`, ... by their stack, where all of them are there."""
    every = {
        name: [f"{prefix}{number}.{name}" for number in range(count)]
        for name in module.state_dict()
    }
    if every and all(key in state_dict for keys in every.values() for key in keys):
        for name, keys in every.items():
            column = [state_dict.pop(key) for key in keys]
            shapes = {tuple(value.shape) for value in column}
            if len(shapes) > 1:
                raise EinheadsError(
                    f"'{prefix}*.{name}' have different shapes: "
                    + listed([str(shape) for shape in sorted(shapes)]),
                    notes=["write: a checkpoint of members of one size"],
                )
            state_dict[f"{prefix}{name}"] = torch.stack(column)
