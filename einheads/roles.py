"""Roles as data: what an optimizer needs to know about every parameter of a model.

The pattern of a layer says which axes of a weight make a matrix and which only repeat it. From that
follow the matrices that are orthogonalized, the fan-in by which a learning rate is scaled, and what
is no matrix and should not decay. This file changes no parameter and knows no optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .errors import EinheadsError, kind, listed
from .functional import einsum
from .layers import Einsum, LoRA


@dataclass(frozen=True, slots=True)
class ParameterRoles:
    """What the axes of one parameter do.

    Attributes:
        kind: "matrix" for a weight that sums, "vector" for biases, scales and norms, "table" for
            embeddings, "other" for what nobody told.
        sizes: the size of each axis, in the order in which the parameter stores them; empty if its
            axes have no names.
        roles: of each axis, "batch", "in", "out" or "rank".
        batch: axes with a matrix each.
        outputs: axes that the weight brings: the rows.
        inputs: axes that are summed: the columns.
        items: the stored dimensions, such as `"(g o) i"`.
    """

    kind: str
    sizes: Mapping[str, int]
    roles: Mapping[str, str]
    batch: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    items: str = ""

    @property
    def fan_in(self) -> int:
        """How many products are summed into one output."""
        return math.prod(self.sizes[axis] for axis in self.inputs)

    @property
    def fan_out(self) -> int:
        """How many outputs one input reaches."""
        return math.prod(self.sizes[axis] for axis in self.outputs)

    def stack(self, tensor: Tensor, per: str = "") -> Tensor:
        """The parameter, or something of its shape, as a stack of matrices.

        Args:
            tensor: the parameter, its gradient, or any state of an optimizer.
            per: more axes that get a matrix each, separated by spaces, such as the heads of a
                query.

        Returns:
            `batch out in`; a view where the axes lie so that there is one.

        Raises:
            EinheadsError: the parameter is no matrix, or `per` names none of its axes.
        """
        stacked = self._stacked(per)
        return einsum(f"{self.items} -> {stacked}", tensor, **self.sizes)

    def unstack(self, matrices: Tensor, per: str = "") -> Tensor:
        """The inverse of `stack`.

        Args:
            matrices: `batch out in`.
            per: as for `stack`.

        Returns:
            A tensor of the shape of the parameter.
        """
        stacked = self._stacked(per)
        return einsum(f"{stacked} -> {self.items}", matrices, **self.sizes)

    def _stacked(self, per: str) -> str:
        if self.kind != "matrix":
            raise EinheadsError(f"a parameter of the kind '{self.kind}' is no stack of matrices")
        more = per.split()
        unknown = [axis for axis in more if axis not in self.sizes]
        if unknown:
            raise EinheadsError(
                f"per={per!r} names '{unknown[0]}', which is no axis of the parameter",
                notes=[f"its axes: {listed(list(self.sizes))}"],
            )
        split = (
            (*self.batch, *(axis for axis in more if axis not in self.batch)),
            tuple(axis for axis in self.outputs if axis not in more),
            tuple(axis for axis in self.inputs if axis not in more),
        )
        return " ".join(f"({' '.join(axes)})" for axes in split)


def parameter_roles(model: nn.Module) -> dict[str, ParameterRoles]:
    """The roles of every parameter of a model, by its name.

    Parameters of einheads layers are known by their patterns, those of linears, convolutions,
    embeddings and norms of torch by what these are. A parameter that several modules share is named
    once, by its first name.

    Example:
        >>> from torch import nn
        >>> from einheads import HeadLinear, parameter_roles
        >>> model = nn.Sequential(HeadLinear(h=8, i=64, o=32), nn.LayerNorm(32))
        >>> roles = parameter_roles(model)
        >>> roles["0.weight"].roles, roles["0.weight"].fan_in
        ({'h': 'batch', 'o': 'out', 'i': 'in'}, 64)
        >>> roles["0.weight"].stack(model[0].weight).shape
        torch.Size([8, 32, 64])
        >>> {name: role.kind for name, role in roles.items()}
        {'0.weight': 'matrix', '0.bias': 'vector', '1.weight': 'vector', '1.bias': 'vector'}

    Args:
        model: any module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"roles are those of a module, not of {kind(model)}")
    found: dict[str, ParameterRoles] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        told = _told(module, own)
        for name, parameter in own.items():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                full = f"{prefix}.{name}" if prefix else name
                found[full] = told.get(name) or _untold(parameter)
    return found


def param_groups(
    model: nn.Module,
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    base: nn.Module | None = None,
) -> list[dict[str, Any]]:
    """The parameters of a model in groups, as every optimizer of torch takes them.

    Biases, scales and norms do not decay; everything else does. With a `base`, the same model at
    the width for which the learning rate was found, the rate of each matrix is multiplied by how
    much smaller its fan-in was there, which is the rule of the maximal update parametrization for
    Adam.

    Example:
        >>> import torch
        >>> from einheads import TransformerBlock, param_groups
        >>> model = TransformerBlock(i=256, h=8)
        >>> base = TransformerBlock(i=64, h=8, device="meta")
        >>> groups = param_groups(model, lr=1e-3, weight_decay=0.1, base=base)
        >>> for group in groups:
        ...     print(group["kind"], group["fan_in"], group["lr"], group["weight_decay"])
        matrix 256 0.00025 0.1
        matrix 1024 0.00025 0.1
        vector 0 0.001 0.0
        >>> optimizer = torch.optim.AdamW(groups)
        >>> groups[1]["names"]
        ['network.down.weight']

    Args:
        model: any module; parameters that need no gradient are left out.
        lr: the learning rate of what is no matrix, and of matrices as wide as in `base`; None to
            leave it to the optimizer.
        weight_decay: of everything but biases, scales and norms; None to leave it to the optimizer.
        base: a model with the same parameters at another width; it may be on the meta device.

    Returns:
        Groups with the keys `params`, `names`, `kind`, `fan_in` (0 for what is no matrix),
        `lr_scale`, and `lr` and `weight_decay` if they are given. Muon-like optimizers take the
        groups of the kind "matrix" and find their axes in `parameter_roles(model)[name]`.

    Raises:
        EinheadsError: the base has other parameters.

    Reference:
        Yang et al., "Tensor programs V" (2022), table 3.
    """
    every = parameter_roles(model)
    scales = _scales(every, base)
    parameters = dict(model.named_parameters())
    groups: dict[tuple[str, int, float], dict[str, Any]] = {}
    for name, roles in every.items():
        if not parameters[name].requires_grad:
            continue
        fan_in = roles.fan_in if roles.kind == "matrix" else 0
        key = roles.kind, fan_in, scales[name]
        if key not in groups:
            # Plain data only: optimizers keep it in their state dicts.
            group: dict[str, Any] = {"params": [], "names": []}
            group |= {"kind": roles.kind, "fan_in": fan_in, "lr_scale": scales[name]}
            if lr is not None:
                group["lr"] = lr * scales[name]
            if roles.kind == "vector":
                group["weight_decay"] = 0.0
            elif weight_decay is not None:
                group["weight_decay"] = weight_decay
            groups[key] = group
        groups[key]["params"].append(parameters[name])
        groups[key]["names"].append(name)
    order = ("matrix", "table", "vector", "other")
    return sorted(groups.values(), key=lambda group: order.index(group["kind"]))


def _scales(every: Mapping[str, ParameterRoles], base: nn.Module | None) -> dict[str, float]:
    if base is None:
        return dict.fromkeys(every, 1.0)
    others = parameter_roles(base)
    if list(others) != list(every):
        odd = sorted(set(others) ^ set(every)) or list(every)
        raise EinheadsError(
            f"the base is another model: {listed([repr(name) for name in odd[:3]])} "
            f"{'is' if len(odd) == 1 else 'are'} not in both at the same place",
            notes=["write: the same model with other sizes"],
        )
    return {
        name: others[name].fan_in / roles.fan_in if roles.kind == "matrix" and roles.fan_in else 1.0
        for name, roles in every.items()
    }


def _told(module: nn.Module, own: Mapping[str, nn.Parameter]) -> dict[str, ParameterRoles]:
    """What is known about the parameters of a module by its type."""
    if isinstance(module, Einsum):
        return _of_layer(module)
    if isinstance(module, LoRA):
        return _of_adapter(module)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        # Norms over several axes have factors of several axes, which are no matrix all the same.
        return dict.fromkeys(own, ParameterRoles("vector", {}, {}))
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return {"weight": ParameterRoles("table", {}, {})}
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        first = "(g o)" if module.groups > 1 else "o"
        space = ("z", "y", "x")[-len(module.kernel_size) :]
        items = " ".join((first, "i", *space))
        return {"weight": _matrix(own["weight"], items, module.groups)}
    items = next((items for kind, items in _LINEARS if isinstance(module, kind)), "")
    return {
        name: _matrix(value, items)
        for name, value in own.items()
        if items and name.endswith("weight")
    }


# Modules of torch all of whose weights, whatever their first names, have these axes.
_LINEARS = ((nn.Linear, "o i"), (nn.MultiheadAttention, "o i"), (nn.Bilinear, "o i j"))


def _of_layer(layer: Einsum) -> dict[str, ParameterRoles]:
    sizes, roles = layer.sizes, layer.roles
    found = {
        name: ParameterRoles(
            "matrix" if fan.inputs else "vector",
            {axis: sizes[axis] for axis in term.names},
            roles[name],
            fan.batch,
            fan.outputs,
            fan.inputs,
            str(term),
        )
        for (name, fan), term in zip(layer.fans.items(), layer.declared.weights, strict=True)
    }
    if layer.declared.bias is not None:
        axes = {axis: sizes[axis] for axis in layer.declared.bias}
        found["bias"] = ParameterRoles("vector", axes, roles["bias"], items=" ".join(axes))
    return found


def _of_adapter(adapter: LoRA) -> dict[str, ParameterRoles]:
    """The factors: from the inputs of the weight to the rank, and from there to its outputs."""
    fan = adapter.layer.fans[adapter.weight_name]
    every = {axis for axes in adapter.axes.values() for axis in axes} - set(fan.roles)
    (rank,) = every.difference(adapter.axes["down"][:1] if adapter.adapters else ())
    found = {}
    for name, inputs, outputs in (("down", fan.inputs, (rank,)), ("up", (rank,), fan.outputs)):
        axes = adapter.axes[name]
        batch = tuple(axis for axis in axes if axis not in (*inputs, *outputs))
        shape = adapter.get_parameter(name).shape
        roles = {axis: "rank" if axis == rank else fan.roles.get(axis, "batch") for axis in axes}
        found[name] = ParameterRoles(
            "matrix",
            dict(zip(axes, shape, strict=True)),
            roles,
            batch,
            outputs,
            inputs,
            " ".join(axes),
        )
    return found


def _matrix(weight: Tensor, items: str, groups: int = 1) -> ParameterRoles:
    """The roles of a weight of torch's own: the first axis is out, the others are in."""
    first, *inputs = items.replace("(g o)", "o").split()
    sizes = dict(zip((first, *inputs), weight.shape, strict=True))
    if groups > 1:
        sizes = {"g": groups, **sizes, "o": sizes["o"] // groups}
    roles = {axis: {"g": "batch", "o": "out"}.get(axis, "in") for axis in sizes}
    batch = ("g",) if groups > 1 else ()
    return ParameterRoles("matrix", sizes, roles, batch, ("o",), tuple(inputs), items)


def _untold(parameter: Tensor) -> ParameterRoles:
    return ParameterRoles("vector" if parameter.ndim < 2 else "other", {}, {})


__all__ = ["ParameterRoles", "param_groups", "parameter_roles"]
