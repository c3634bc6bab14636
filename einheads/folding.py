"""`fold`: lists of equal modules that are called in a loop become one stacked module.

The forward of the module that owns a list is traced into a graph, the calls of the members are
replaced by one call of their stack, and the graph becomes the new forward. What cannot be traced,
or would not compute the same, is kept, and the report says why.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from .convert import compare, prove
from .errors import EinheadsError, kind
from .layers import accept_list, stack
from .layers.stacking import features, trace


@dataclass(frozen=True)
class Folded:
    """What `fold` did.

    Attributes:
        module: the module to go on with.
        replaced: by the path of a list, what it was and what it is now.
        kept: by the path of a list, why it is as it was.
    """

    module: nn.Module
    replaced: Mapping[str, str]
    kept: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"replaced {path}: {what}" for path, what in self.replaced.items()]
        lines += [f"kept {path}: {why}" for path, why in self.kept.items()]
        return "\n".join(lines) or "no nn.ModuleList of two or more modules"


class _KeptError(Exception):
    """Why a list is not folded."""


def fold(module: nn.Module, *inputs: Any) -> Folded:
    """Replace lists of equal modules that a forward calls one by one.

    Example:
        >>> import torch, einheads
        >>> from torch import nn
        >>> class Heads(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.lins = nn.ModuleList(nn.Linear(5, 3) for _ in range(4))
        ...     def forward(self, x):
        ...         return torch.stack([lin(x) for lin in self.lins], 1)
        >>> folded = einheads.fold(Heads())
        >>> print(folded)
        replaced lins: 4 x Linear -> EnsembleLinear(e=4, i=5, o=3, shared=True)
        >>> folded.module(torch.randn(10, 5)).shape
        torch.Size([10, 4, 3])

    The module is changed in place where a part of it owns a list; where it owns one itself, the
    report has a new module. Parameters are copied into stacks, so make optimizers afterwards. State
    dicts of the old module can be loaded into the new one.

    Args:
        module: any module.
        *inputs: an example of what it is called with. Needed for lists whose members read
            different inputs, since only a call can tell whether these have one shape; where given,
            the outputs before and after are compared.

    Raises:
        EinheadsError: a stack does not compute what its members compute.
        TypeError: `module` is none.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"fold takes a module, not {kind(module)}; write: fold(Heads())")
    replaced: dict[str, str] = {}
    kept: dict[str, str] = {}
    expected = _call(module, inputs) if inputs else None
    for path, owner in reversed(list(module.named_modules())):
        names = [
            name
            for name, child in owner.named_children()
            if type(child) is nn.ModuleList and len(child) > 1
        ]
        if not names:
            continue
        front = f"{path}." if path else ""
        new, said, why = _folded(owner, names, own=bool(inputs))
        if new is not None:
            before, module = module, _put(module, path, new)
            try:
                if inputs:
                    for one, other in zip(_call(module, inputs), expected or (), strict=True):
                        compare(one, other)
            except (RuntimeError, EinheadsError) as error:
                module = before if not path else _put(module, path, owner)
                why |= {
                    name: f"with the example input: {str(error).splitlines()[0]}" for name in said
                }
                said = {}
        replaced |= {front + name: what for name, what in said.items()}
        kept |= {front + name: reason for name, reason in why.items()}
    return Folded(module, replaced, kept)


def _folded(
    owner: nn.Module, names: Sequence[str], *, own: bool
) -> tuple[nn.Module | None, dict[str, str], dict[str, str]]:
    """A new owner with as many lists folded as can be, what was replaced, and why others were not.

    Args:
        owner: of the lists.
        names: of the lists.
        own: whether members may read inputs of their own.
    """
    said: dict[str, str] = {}
    why: dict[str, str] = {}
    try:
        graph = _traced(owner)
    except _KeptError as reason:
        return None, said, dict.fromkeys(names, str(reason))
    clone = copy.copy(owner)
    # A copy of the table of modules too, so that the owner is untouched until all is proved.
    vars(clone)["_modules"] = dict(vars(owner)["_modules"])
    for name in names:
        members = list(owner.get_submodule(name).children())
        try:
            calls = _calls(graph, name, len(members))
            shared = _are_shared(calls, own=own)
            stacked = stack(members, shared=shared)
            _rewrite(graph, calls, name, shared=shared)
        except _KeptError as reason:
            why[name] = str(reason)
            continue
        except EinheadsError as error:
            why[name] = error.sentence
            continue
        _prove_stack(stacked, members, shared=shared)
        accept_list(stacked, len(members))
        setattr(clone, name, stacked)
        inside = repr(stacked).replace("\n", " ")
        said[name] = f"{len(members)} x {type(members[0]).__name__} -> {' '.join(inside.split())}"
    if not said:
        return None, said, why
    graph.lint()
    result = fx.GraphModule(clone, graph, class_name=type(owner).__name__)
    # What the forward does not use still belongs to the state dict, and to whoever asks for it.
    for table in ("_modules", "_parameters", "_buffers"):
        vars(result)[table].update(vars(clone)[table])
    return result.train(owner.training) if _uniform(owner) else result, said, why


def _uniform(owner: nn.Module) -> bool:
    return all(part.training == owner.training for part in owner.modules())


def _traced(owner: nn.Module) -> fx.Graph:
    """The graph of a forward, if it has one that does not depend on the mode."""
    graphs = []
    mode = owner.training
    try:
        for training in (True, False):
            owner.training = training
            graphs.append(trace(owner))
    except Exception as error:
        raise _KeptError(f"its forward cannot be traced: {str(error).splitlines()[0]}") from error
    finally:
        owner.training = mode
    if len({graph.python_code("self").src for graph in graphs}) > 1:
        raise _KeptError("its forward depends on the mode, training or evaluation")
    return graphs[0]


def _calls(graph: fx.Graph, name: str, count: int) -> list[fx.Node]:
    """The calls of the members, in the order of the list; each must be called once, and only so."""
    found: dict[str, list[fx.Node]] = {f"{name}.{number}": [] for number in range(count)}
    for node in graph.nodes:
        target = str(node.target)
        if node.op == "call_module" and target in found:
            found[target].append(node)
        elif node.op in {"call_module", "get_attr"} and target.startswith(f"{name}."):
            raise _KeptError(f"its forward reads '{target}'")
    if any(len(nodes) != 1 for nodes in found.values()):
        raise _KeptError("its forward does not call every member once")
    calls = [node for (node,) in found.values()]
    if any(len(node.args) != 1 or node.kwargs for node in calls):
        raise _KeptError("its members are called with more than one input")
    if not all(isinstance(node.args[0], fx.Node) for node in calls):
        raise _KeptError("its members are called with constants")
    return calls


def _are_shared(calls: Sequence[fx.Node], *, own: bool) -> bool:
    """Whether all members read the same input."""
    shared = len({call.args[0] for call in calls}) == 1
    if not (shared or own):
        raise _KeptError("its members read different inputs; write: fold(module, x) with an x")
    return shared


def _rewrite(graph: fx.Graph, calls: Sequence[fx.Node], name: str, *, shared: bool) -> None:
    """Replace the calls of the members by one call of the stack."""
    inputs: list[Any] = [call.args[0] for call in calls]
    needed = _ancestors(inputs)
    if not needed.isdisjoint(calls):
        raise _KeptError("a member reads what another one wrote")
    first = next(node for node in graph.nodes if node in set(calls))
    after = list(graph.nodes)[list(graph.nodes).index(first) :]
    late = [node for node in after if node in needed]
    for node in after:
        # A value that is made of outputs of members is their own; any other one may be an input.
        target = node.args[0] if node.args else None
        if (
            late
            and _in_place(node)
            and not (isinstance(target, fx.Node) and not _ancestors([target]).isdisjoint(calls))
        ):
            raise _KeptError(f"between its calls, '{node}' changes something in place")
    for node in late:
        first.prepend(node)
    with graph.inserting_before(first):
        together = inputs[0] if shared else graph.call_function(torch.stack, (inputs,))
        outputs = graph.call_module(name, (together,))
        each = [graph.call_function(operator.getitem, (outputs, k)) for k in range(len(calls))]
    for call, value in zip(calls, each, strict=True):
        call.replace_all_uses_with(value)
        graph.erase_node(call)


def _ancestors(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes and everything that they are made of."""
    found: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += node.all_input_nodes
    return found


# The functions behind `+=` and its like.
_IN_PLACE = {
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.imatmul),
    *(operator.ipow, operator.ifloordiv, operator.imod, operator.iand, operator.ior),
    operator.setitem,
}


def _in_place(node: fx.Node) -> bool:
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    return node.op == "call_function" and node.target in _IN_PLACE


def _put(module: nn.Module, path: str, part: nn.Module) -> nn.Module:
    """The module with a part replaced."""
    if not path:
        return part
    front, _, name = path.rpartition(".")
    setattr(module.get_submodule(front), name, part)
    return module


@torch.no_grad()
def _call(module: nn.Module, inputs: Sequence[Any]) -> list[Tensor]:
    """The tensors that a module returns in evaluation mode."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        result = module.eval()(*inputs)
    finally:
        for part, mode in modes:
            part.training = mode
    return _tensors(result)


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        return [tensor for part in value for tensor in _tensors(part)]
    return []


def _prove_stack(stacked: nn.Module, members: Sequence[nn.Module], *, shared: bool) -> None:
    """Compare the stack with its members on random input."""
    sizes = features(members[0])

    def loop(x: Tensor) -> Tensor:
        inputs = [x] * len(members) if shared else x
        return torch.stack([one(value) for one, value in zip(members, inputs, strict=True)])

    shape = (3, *sizes) if shared else (len(members), 3, *sizes)
    prove(stacked, loop, [shape], also=nn.ModuleList(members))


__all__ = ["Folded", "fold"]
