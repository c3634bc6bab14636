"""Ensembles: `n` models in one, with an axis `e` for the members in front of everything else.

The members stand first because every operation between two layers (an activation, a norm, a
loss for each member) then works as it does for a single model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from einheads.errors import EinheadsError, kind
from einheads.initializers import Initializer, Roles

from .base import Einsum
from .lists import accept_list


class EnsembleLinear(Einsum):
    """A linear for each member of an ensemble, on an input of its own or on one that all share.

    Formula: `y[e] = W[e] x[e] + b[e]`, or `y[e] = W[e] x + b[e]`.

    Pattern: `e ... i, e o i -> e ... o`; shared: `... i, e o i -> e ... o`.

    Example:
        >>> import torch
        >>> from einheads import EnsembleLinear
        >>> first = EnsembleLinear(e=5, i=16, o=32, shared=True)
        >>> second = EnsembleLinear(e=5, i=32, o=1)
        >>> second(first(torch.randn(10, 16)).relu()).shape      # e 10 o
        torch.Size([5, 10, 1])
        >>> first
        EnsembleLinear(e=5, i=16, o=32, shared=True)

    Equivalent:
        ```python
        def ensemble_linear(x, weight, bias):               # x: e n i
            y = torch.bmm(x, weight.mT)                     # e n o
            return y + bias.unsqueeze(1)                    # e 1 o
        ```

    Used for the value functions and dynamics models of reinforcement learning, which need several
    opinions. Not for members of different sizes, and not where heads stand next to the features:
    that is `HeadLinear`.

    Args:
        e: members.
        i: features of the input.
        o: features of the output.
        shared: whether all members read the same input, which then has no axis `e`.
        bias: whether there is a bias, `e o`.
        init: how the weight starts, see `einheads.Einsum`; each member as its own `nn.Linear`.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep
        ensembles" (2017), section 2.4; Chua et al., "Deep reinforcement learning in a handful of
        trials" (PETS, 2018), section 4; An et al., "Uncertainty-based offline reinforcement
        learning" (EDAC, 2021).
    """

    def __init__(
        self,
        *,
        e: int,
        i: int,
        o: int,
        shared: bool = False,
        bias: bool = True,
        init: str | Initializer = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            f"{'' if shared else 'e '}... i, e o i -> e ... o",
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            e=e,
            i=i,
            o=o,
        )
        self.shared = shared
        accept_list(self, e)


@dataclass(frozen=True, slots=True)
class Signs:
    """An initializer: a weight that sums starts as that of `nn.Linear`, one that scales as signs.

    Random signs make the members as different as they can be without changing any scale.
    """

    def __call__(self, weight: Tensor, roles: Roles) -> None:
        """Fill the weight in place."""
        summed = [size for size, role in zip(weight.shape, roles.values(), strict=True)
                  if role == "in"]  # fmt: skip
        if summed:
            bound = math.prod(summed) ** -0.5
            weight.uniform_(-bound, bound)
        else:
            weight.bernoulli_(0.5).mul_(2).sub_(1)


SIGNS = Signs()


class BatchEnsemble(Einsum):
    """An ensemble whose members share one matrix and differ in the scales around it.

    Formula: `y[e] = s[e] * (W (r[e] * x[e])) + b[e]`; the weight of a member is `W * outer(s, r)`.

    Pattern: `e ... i, e i, o i, e o -> e ... o`, named `r`, `weight` and `s`; a shared input has no
    `e`.

    Example:
        >>> import torch
        >>> from einheads import BatchEnsemble
        >>> layer = BatchEnsemble(e=5, i=16, o=32)
        >>> layer(torch.randn(5, 10, 16)).shape
        torch.Size([5, 10, 32])
        >>> layer.r.shape, layer.weight.shape, layer.s.shape
        (torch.Size([5, 16]), torch.Size([32, 16]), torch.Size([5, 32]))

    Equivalent:
        ```python
        def batch_ensemble(x, r, weight, s, bias):          # x: e n i
            x = x * r.unsqueeze(1)                          # e 1 i
            y = (x @ weight.T) * s.unsqueeze(1)             # e n o, e 1 o
            return y + bias.unsqueeze(1)                    # e 1 o
        ```

    Use it where `e` full models are too many parameters; the time is that of the full ensemble.
    Not where members should be independent: they share all directions of `W`.

    Args:
        e: members.
        i: features of the input.
        o: features of the output.
        shared: whether all members read the same input, which then has no axis `e`.
        bias: whether there is a bias, `e o`.
        init: how the weights start; by default `weight` as that of `nn.Linear`, the scales as
            random signs and the bias as zero.
        device: where the parameters are made.
        dtype: of the parameters.

    Reference:
        Wen et al., "BatchEnsemble" (2020), section 3.1; Gorishniy et al., "TabM" (2024), section
        3.3, for tables.
    """

    def __init__(
        self,
        *,
        e: int,
        i: int,
        o: int,
        shared: bool = False,
        bias: bool = True,
        init: str | Initializer = SIGNS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            f"{'' if shared else 'e '}... i, e i, o i, e o -> e ... o",
            names=("r", "weight", "s"),
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
            e=e,
            i=i,
            o=o,
        )
        self.shared = shared


def ensemble(factory: Callable[[], nn.Module], n: int, *, shared: bool = False) -> nn.Module:
    """Build `n` models and stack them into one, which computes all of them at once.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import einheads
        >>> def mlp():
        ...     return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> models = einheads.ensemble(mlp, 5, shared=True)
        >>> models
        Sequential(
          (0): EnsembleLinear(e=5, i=4, o=8, shared=True)
          (1): ReLU()
          (2): EnsembleLinear(e=5, i=8, o=1)
        )
        >>> models(torch.randn(10, 4)).shape
        torch.Size([5, 10, 1])

    Args:
        factory: makes a model; see `stack` for what it may consist of.
        n: members.
        shared: whether all members read the same input, which then has no axis for the members.

    Raises:
        EinheadsError: the models cannot be stacked.
    """
    if n < 1:
        raise EinheadsError(f"an ensemble of {n}", notes=["write: n=2 or more"])
    return stack([factory() for _ in range(n)], shared=shared)


def stack(modules: Sequence[nn.Module], *, shared: bool = False) -> nn.Module:
    """Stack equal models into one, with an axis for the members in front.

    Args:
        modules: `nn.Linear`, `nn.LayerNorm`, `nn.Dropout`, activations that act on single numbers,
            `nn.Softmax` and others with a negative `dim`, and `nn.Sequential` of these.
        shared: whether all members read the same input.

    Returns:
        A module for `e ... i` (shared: `... i`) that returns `e ... o`. It has copies of the
        values, and their dtype, device, mode and `requires_grad`.

    Raises:
        EinheadsError: a module is of another kind, or the modules differ in more than their values.
    """
    if not modules:
        raise EinheadsError("no modules to stack", notes=["write: a list of one or more"])
    if len({id(parameter) for one in modules for parameter in one.parameters()}) < sum(
        len(list(one.parameters())) for one in modules
    ):
        raise EinheadsError(
            "two of the modules are the same, or share parameters, so they would not stay equal",
            notes=["write: a factory that makes a new module at every call"],
        )
    result, still_shared = _stack(list(modules), "", shared=shared)
    if still_shared:
        raise EinheadsError(
            "no module has parameters, so there is nothing to stack",
            notes=["write: the module itself"],
        )
    return result


def _stack(modules: list[nn.Module], path: str, *, shared: bool) -> tuple[nn.Module, bool]:
    """The stacked module, and whether its output is still without the axis of the members."""
    first = modules[0]
    _check_alike(modules, path)
    result: nn.Module
    if type(first) is nn.Sequential:
        parts = {}
        for name, _ in first.named_children():
            column = [module.get_submodule(name) for module in modules]
            parts[name], shared = _stack(column, f"{path}{name}.", shared=shared)
        result = nn.Sequential()
        for name, part in parts.items():
            result.add_module(name, part)
    elif type(first) is nn.Linear:
        result = EnsembleLinear(
            e=len(modules),
            i=first.in_features,
            o=first.out_features,
            shared=shared,
            bias=first.bias is not None,
            device="meta",
            dtype=first.weight.dtype,
        )
        adopt(result, {name: [module.get_parameter(name) for module in modules]
                       for name, _ in first.named_parameters()})  # fmt: skip
        shared = False
    elif type(first) is nn.LayerNorm and first.elementwise_affine:
        result, shared = _stacked_norm(modules, shared=shared), False
    elif _is_stateless(first):
        result = first
    else:
        raise EinheadsError(
            f"{kind(first)}{_at(path)} cannot be stacked",
            notes=[
                "write: nn.Linear, nn.LayerNorm, nn.Dropout, activations, nn.Sequential of these",
                "for anything else: torch.func.stack_module_state with torch.func.vmap",
            ],
        )
    return result.train(first.training), shared


def _stacked_norm(modules: Sequence[nn.Module], *, shared: bool) -> nn.Module:
    """The norm itself has no parameters; the scales and offsets that follow it have an axis `e`."""
    first = modules[0]
    assert isinstance(first, nn.LayerNorm)
    axes = " ".join(f"d{number}" for number in range(1, len(first.normalized_shape) + 1))
    scale = Einsum(
        f"{'' if shared else 'e '}... {axes}, e {axes} -> e ... {axes}",
        bias=first.bias is not None,
        device="meta",
        dtype=first.weight.dtype,
        e=len(modules),
        **dict(zip(axes.split(), first.normalized_shape, strict=True)),  # type: ignore[arg-type]
    )
    adopt(scale, {name: [module.get_parameter(name) for module in modules]
                  for name, _ in first.named_parameters()})  # fmt: skip
    norm = nn.LayerNorm(first.normalized_shape, first.eps, elementwise_affine=False)
    return nn.Sequential(norm, scale).train(first.training)


def adopt(layer: nn.Module, columns: dict[str, list[nn.Parameter]]) -> None:
    """Give a layer that was made without storage the stacked values of other parameters."""
    for name, column in columns.items():
        value = torch.stack([parameter.detach() for parameter in column])
        setattr(layer, name, nn.Parameter(value, requires_grad=column[0].requires_grad))


def _check_alike(modules: Sequence[nn.Module], path: str) -> None:
    """Refuse modules that differ in anything but the values of their parameters."""
    first = _traits(modules[0])
    for number, module in enumerate(modules[1:], 1):
        other = _traits(module)
        for trait in sorted({*first, *other}):
            if first.get(trait) != other.get(trait):
                raise EinheadsError(
                    f"modules 0 and {number} differ{_at(path)} in {trait}: "
                    f"{first.get(trait)} and {other.get(trait)}",
                    notes=["write: modules that differ in the values of their parameters only"],
                )


def _traits(module: nn.Module) -> dict[str, object]:
    """What a module is, apart from its values and its children."""
    traits: dict[str, object] = {
        "type": type(module).__name__,
        "training": module.training,
        "children": [name for name, _ in module.named_children()],
        "arguments": module.extra_repr(),
    }
    for name, parameter in module.named_parameters(recurse=False):
        told = tuple(parameter.shape), parameter.dtype, parameter.device.type
        traits[name] = (*told, "trained" if parameter.requires_grad else "frozen")
    return traits


def _at(path: str) -> str:
    return f" at '{path[:-1]}'" if path else ""


# Modules of torch that change single numbers, so that an axis in front makes no difference to them.
_POINTWISE = (
    *(nn.Identity, nn.Dropout, nn.AlphaDropout, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU),
    *(nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign, nn.Tanh, nn.Tanhshrink),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Hardshrink),
    *(nn.Softshrink, nn.Threshold),
)


def _is_stateless(module: nn.Module) -> bool:
    if type(module) in (nn.Softmax, nn.LogSoftmax, nn.GLU):
        dim = module.dim
        return isinstance(dim, int) and dim < 0
    if type(module) is nn.LayerNorm:
        return True  # the caller has taken those with parameters
    return type(module) in _POINTWISE


__all__ = ["SIGNS", "BatchEnsemble", "EnsembleLinear", "Signs", "adopt", "ensemble", "stack"]
