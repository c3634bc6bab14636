"""Whole models of equal structure as one, with an axis for the members in front of everything.

Linears and norms become layers with that axis, in the places of the originals; whatever acts on
single numbers stays. The forward of a model of the user's own is traced, and kept if it consists of
nothing else.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812

from einheads.errors import EinheadsError, kind

from .ensembles import EnsembleLinear, EnsembleNorm


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
        TypeError: `factory` is no function, but a model.
    """
    if isinstance(factory, nn.Module):
        raise TypeError(
            f"the factory is {kind(factory)}; write: a function that makes a new model at every "
            "call, or stack(...) for models that there are"
        )
    if n < 1:
        raise EinheadsError(f"an ensemble of {n}", notes=["write: n=2 or more"])
    return stack([factory() for _ in range(n)], shared=shared)


def stack(modules: Sequence[nn.Module], *, shared: bool = False) -> nn.Module:
    """Stack equal models into one, with an axis for the members in front.

    Args:
        modules: `nn.Linear`, `nn.LayerNorm`, `nn.Dropout`, activations that act on single numbers,
            `nn.Softmax` and others with a negative `dim`, `nn.Sequential` of these, and modules of
            your own whose forward calls such parts and functions that act on single numbers.
        shared: whether all members read the same input.

    Returns:
        A module for `e ... i` (shared: `... i`) that returns `e ... o`. It has copies of the
        values, and their dtype, device, mode and `requires_grad`.

    Raises:
        EinheadsError: a module is of another kind, or the modules differ in more than their values.
        TypeError: something is no module.
    """
    for one in modules:
        if not isinstance(one, nn.Module):
            raise TypeError(f"{kind(one)} is no module; write: modules, such as nn.Linear(3, 4)")
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


def features(module: nn.Module) -> list[int]:
    """The sizes of the last axes that a module reads; none if it does not tell.

    Example:
        >>> features(nn.Sequential(nn.ReLU(), nn.Linear(5, 3)))
        [5]
    """
    if isinstance(module, nn.Linear):
        return [module.in_features]
    if isinstance(module, nn.LayerNorm):
        return list(module.normalized_shape)
    if type(module) is nn.Sequential:
        parts = list(module.children())
    else:
        parts = [module.get_submodule(node.target) for node in trace(module).nodes
                 if node.op == "call_module"] if _is_own(module) else []  # fmt: skip
    return next((found for part in parts if (found := features(part))), [])


class _Tracer(fx.Tracer):
    """Follows the forward of one module, and looks into none of its parts."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        """All of them are called, not followed."""
        return True

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        """The parts of a value, one after the other, for as long as somebody asks for them.

        A loop over a list of modules and a value at once ends with the list. How many parts there
        are is not known, so a loop over the value alone ends here.
        """
        parts: Any = obj
        for number in range(_MOST):
            yield parts[number]
        raise fx.proxy.TraceError(f"more than {_MOST} turns of a loop over '{obj.node}'")


# Longer than any list of modules.
_MOST = 1024


def trace(module: nn.Module) -> fx.Graph:
    """What the forward of a module calls."""
    graph = _Tracer().trace(module)
    for node in reversed(graph.nodes):
        # A loop has asked for one part more than it used.
        if node.target is operator.getitem and not node.users:
            graph.erase_node(node)
    return graph


def _stack(modules: list[nn.Module], path: str, *, shared: bool) -> tuple[nn.Module, bool]:
    """The stacked module, and whether its output is still without the axis of the members."""
    first = modules[0]
    _check_alike(modules, path)
    result: nn.Module
    if type(first) is nn.Sequential:
        result = nn.Sequential()
        for name, _ in first.named_children():
            part, shared = _stack_part(modules, name, path, shared=shared)
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
    elif type(first) is nn.LayerNorm and first.elementwise_affine:
        result = EnsembleNorm(
            e=len(modules),
            d=tuple(first.normalized_shape),
            eps=first.eps,
            shared=shared,
            bias=first.bias is not None,
            device="meta",
            dtype=first.weight.dtype,
        )
    elif _is_stateless(first):
        result = first
    elif _is_own(first):
        result, shared = _stack_own(modules, path, shared=shared)
    else:
        raise _unknown(kind(first), path)
    if isinstance(result, (EnsembleLinear, EnsembleNorm)):
        shared = False
        adopt(result, {name: [module.get_parameter(name) for module in modules]
                       for name, _ in first.named_parameters()})  # fmt: skip
    return result.train(first.training), shared


def _stack_part(
    modules: Sequence[nn.Module], name: str, path: str, *, shared: bool
) -> tuple[nn.Module, bool]:
    column = [module.get_submodule(name) for module in modules]
    return _stack(column, f"{path}{name}.", shared=shared)


def _stack_own(modules: Sequence[nn.Module], path: str, *, shared: bool) -> tuple[nn.Module, bool]:
    """A module of the user's own: its graph, with its parts stacked."""
    first = modules[0]
    graph = _graph_of(modules, path)
    parts: dict[str, nn.Module] = {}
    # Whether each value is still without the axis of the members.
    bare: dict[fx.Node, bool] = {}
    for node in graph.nodes:
        came = {bare[one] for one in node.all_input_nodes}
        # A value without the axis broadcasts along it.
        bare[node] = shared if node.op == "placeholder" else came == {True}
        if node.op == "placeholder":
            continue
        if node.op == "call_module":
            target = str(node.target)
            if target in parts or len(node.args) != 1 or node.kwargs or not came:
                raise _unknown(f"{kind(first)} that calls '{target}' otherwise than once", path)
            parts[target], bare[node] = _stack_part(modules, target, path, shared=bare[node])
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise _unknown(f"{kind(first)} that returns more than one value", path)
        elif not _acts_on_numbers(node):
            raise _unknown(f"{kind(first)} that calls '{_called(node)}'", path)
    for name, _ in first.named_parameters():
        if not any(name.startswith(f"{target}.") for target in parts):
            raise _unknown(f"{kind(first)} that does not use '{name}'", path)
    result = fx.GraphModule(parts, graph, class_name=type(first).__name__)
    _order(result, first)
    (output,) = (node for node in graph.nodes if node.op == "output")
    return result, bare[output]


def _order(module: nn.Module, like: nn.Module) -> None:
    """Give the parts of a module the order of another one, not that in which they are called."""
    parts = vars(module)["_modules"]
    for name, child in like.named_children():
        if name not in parts:
            continue
        parts[name] = parts.pop(name)
        if type(parts[name]) is nn.Module:  # a list of the original, of which parts are called
            _order(parts[name], child)


def _graph_of(modules: Sequence[nn.Module], path: str) -> fx.Graph:
    """The graph of all of them, which does not depend on the mode."""
    graphs = []
    for module in modules:
        mode = module.training
        try:
            for training in (True, False):
                module.training = training
                graphs.append(trace(module))
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise _unknown(
                f"{kind(module)} whose forward cannot be traced ({reason})", path
            ) from error
        finally:
            module.training = mode
    if len({graph.python_code("self").src for graph in graphs}) > 1:
        raise _unknown(
            f"{kind(modules[0])} whose forward depends on its mode or its attributes", path
        )
    if len([node for node in graphs[0].nodes if node.op == "placeholder"]) != 1:
        raise _unknown(f"{kind(modules[0])} of more than one input", path)
    return graphs[0]


def _unknown(what: str, path: str) -> EinheadsError:
    return EinheadsError(
        f"{what}{_at(path)} cannot be stacked",
        notes=[
            "write: nn.Linear, nn.LayerNorm, nn.Dropout, activations, and modules of these",
            "for anything else: torch.func.stack_module_state with torch.func.vmap",
        ],
    )


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


# Functions and methods of tensors that act on single numbers, so that an axis in front makes no
# difference to them.
_FUNCTIONS = {
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow),
    *(torch.add, torch.sub, torch.mul, torch.div, torch.exp, torch.relu, torch.sigmoid, torch.tanh),
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus),
    *(F.softsign, F.tanh, F.sigmoid, F.logsigmoid, F.hardtanh, F.hardswish, F.hardsigmoid),
}
_METHODS = {"add", "sub", "mul", "div", "neg", "exp", "relu", "sigmoid", "tanh", "square", "abs"}


def _acts_on_numbers(node: fx.Node) -> bool:
    if node.op == "call_method":
        return str(node.target) in _METHODS
    return node.op == "call_function" and node.target in _FUNCTIONS


def _called(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))


def _is_own(module: nn.Module) -> bool:
    """Whether a module is none of torch's or of this library, has parts, and nothing else."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    strange = type(module).__module__.split(".")[0] not in ("torch", "einheads")
    return strange and bool(list(module.children())) and not own


__all__ = ["adopt", "ensemble", "features", "stack", "trace"]
