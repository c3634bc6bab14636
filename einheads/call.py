"""One call: look up what runs, and run it.

The look-up is by the exact signature of the tensors; whatever is new is prepared by `program` and,
where gradients are wanted, by `training`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function
from torch.utils.checkpoint import checkpoint

from .operands import (
    Declaration,
    check_mixture,
    check_support,
    check_types,
    ordinary,
    unfollowed,
)
from .program import autocasts, cache, prepare
from .training import Schedule, contract, scheduled, trainable

# What runs; the sizes that it takes behind the tensors; the planned backward where gradients are
# wanted and it pays; and what runs instead where nobody wants gradients nor looks at the
# operations, if that is something else.
_Entry = tuple[
    Callable[..., Tensor], tuple[int, ...], Schedule | None, Callable[..., Tensor] | None
]

# A name of this module is found faster than an attribute of torch, at every call.
_grad_enabled = torch.is_grad_enabled


def apply(
    declaration: Declaration | str, given: tuple[tuple[str, int], ...], *tensors: Tensor
) -> Tensor:
    """Run a declaration, or a pattern alone, on tensors.

    `torch.compile` and `torch.export` see this call as one operation while they read the Python
    code, and then trace the operations inside of it with symbolic sizes; nothing of the planning is
    traced.
    """
    entry: _Entry | None = None
    try:
        grad = _grad_enabled()
        # Almost all calls have two operands, and perhaps a bias; spelled out, this is twice as fast
        # as `_parts`, which gives the same.
        if len(tensors) == 2:
            a, b = tensors
            parts: tuple[Any, ...] = (
                a.shape,
                a.dtype,
                a.is_contiguous() or a.stride(),
                a.is_cpu,
                grad and a.requires_grad,
                b.shape,
                b.dtype,
                b.is_contiguous() or b.stride(),
                b.is_cpu,
                grad and b.requires_grad,
            )
        elif len(tensors) == 3:
            a, b, c = tensors
            parts = (
                a.shape,
                a.dtype,
                a.is_contiguous() or a.stride(),
                a.is_cpu,
                grad and a.requires_grad,
                b.shape,
                b.dtype,
                b.is_contiguous() or b.stride(),
                b.is_cpu,
                grad and b.requires_grad,
                c.shape,
                c.dtype,
                c.is_contiguous() or c.stride(),
                c.is_cpu,
                grad and c.requires_grad,
            )
        else:
            parts = _parts(tensors, grad=grad)
        # True and 2.0 would be found as 1 and 2, and nobody would refuse them.
        if not given or all(type(size) is int for _, size in given):
            entry = cache.signatures.get((declaration, given, autocasts(), parts))
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        # `torch.jit.trace` has given up, and would crash if its error went unheard.
        if "Cannot insert a Tensor" in str(error):
            raise
        # Symbolic sizes, which cannot be looked up; or something that is no strided tensor, which
        # will be refused in our words.
        entry = None
    run, extra, schedule, unwatched = entry or entry_for(declaration, given, tensors)
    try:
        if schedule is not None:
            if ordinary(tensors):
                return contract(schedule, *tensors)
        elif unwatched is not None and unfollowed(tensors):
            return unwatched(*tensors, *extra)
        return run(*tensors, *extra)
    except RuntimeError as error:
        # A tensor of another kind, such as mkldnn's, may have the signature of a dense one.
        check_types(_declared(declaration), tensors)
        check_mixture(_declared(declaration), tensors, cast=autocasts())
        check_support(tensors, error)
        raise


class _WithCompiler(MetaPathFinder):
    """Waits for the compiler to be imported, which takes a second that most programs never need."""

    def find_spec(
        self, name: str, _: Sequence[str] | None, __: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Let the compiler be found as ever, and tell it of `apply` once it is there."""
        if name != _COMPILER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _tell_compiler()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _tell_compiler() -> None:
    torch.compiler.allow_in_graph(apply)  # type: ignore[no-untyped-call]


_COMPILER = "torch._dynamo"

if _COMPILER in sys.modules:
    _tell_compiler()
else:
    sys.meta_path.insert(0, _WithCompiler())


def _parts(tensors: Sequence[Tensor], *, grad: bool) -> tuple[Any, ...]:
    """What of the tensors tells what runs.

    Shape, dtype, the strides unless contiguous, whether on a CPU, whether a gradient is wanted.
    """
    parts: list[Any] = []
    for one in tensors:
        strides = one.is_contiguous() or one.stride()
        parts += (one.shape, one.dtype, strides, one.is_cpu, grad and one.requires_grad)
    return tuple(parts)


def _declared(declaration: Declaration | str) -> Declaration:
    return declaration if isinstance(declaration, Declaration) else Declaration(declaration)


def entry_for(
    declaration: Declaration | str,
    given: tuple[tuple[str, int], ...],
    tensors: Sequence[Tensor],
) -> _Entry:
    """What a call runs that is not found: it is planned, and remembered for the next one."""
    if any(_stands_in(one) for one in tensors):
        return partial(handle_torch_function, apply, tensors, declaration, given), (), None, None
    declared = _declared(declaration)
    prepared = prepare(declared, given, tensors)
    told = [size for _, size in given]
    for one in tensors:
        told += (*one.shape, *one.stride())
    if not all(type(size) is int for size in told):
        return prepared.lowered.program.run, prepared.extra, None, None
    recorder = cache.recorder
    if recorder is not None:
        recorder(declared, given, tensors)
    grad = _grad_enabled()
    needs = tuple([grad and one.requires_grad for one in tensors])
    watched = True in needs
    program, unwatched = prepared.lowered.program, prepared.lowered.unwatched
    run, schedule = program.run, None
    if watched and trainable(prepared, tensors):
        schedule = scheduled(declared, prepared, needs)
    elif watched and declared.checkpoint:
        run = _checkpointed(run)
    instead = None if watched or unwatched is program else unwatched.run
    entry = run, prepared.extra, schedule, instead
    cache.remember((declaration, given, autocasts(), _parts(tensors, grad=grad)), entry)
    return entry


def _stands_in(one: object) -> bool:
    """Whether it is no tensor, but says itself what a function of torch makes of it.

    `torch.fx.symbolic_trace` runs the Python code on such objects, and notes the call down.
    """
    return not isinstance(one, Tensor) and hasattr(type(one), "__torch_function__")


def _checkpointed(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same, computed again in the backward, where none can be planned: under autocast, say."""

    def call(*tensors: Any) -> Tensor:
        if not ordinary([one for one in tensors if isinstance(one, Tensor)]):
            return run(*tensors)
        result: Tensor = checkpoint(run, *tensors, use_reentrant=False)
        return result

    return call
