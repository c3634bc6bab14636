"""One call: look up what runs, and run it.

The look-up is by the exact signature of the tensors; whatever is new is prepared by `program` and,
where gradients are wanted, by `training`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function
from torch.utils.checkpoint import checkpoint

from .compiled import Program
from .guards import MAX_CALLS, Call, Recent, guard
from .operands import (
    Declaration,
    check_mixture,
    check_support,
    check_types,
    function_modes,
    modes,
    ordinary,
    transforms,
    unfollowed,
)
from .program import autocasts, cache, prepare
from .steps import elements
from .training import Schedule, contract, scheduled, trainable

# A call that is no longer guarded is guarded again after so many look-ups.
_PATIENCE = 16

# So many multiply-adds take long enough to hide the views beside them. A number that is moved
# counts for some of them.
_BRIEF, _MOVED = 1 << 23, 8

# Names of this module are found faster than attributes of torch, at every call.
_grad_enabled = torch.is_grad_enabled


@dataclass(slots=True, eq=False)
class Entry:
    """What a call runs.

    Attributes:
        run: the program, which all may follow.
        extra: the sizes that it takes behind the tensors.
        schedule: the planned backward, where gradients are wanted and it pays.
        unwatched: what runs instead where nobody wants gradients nor looks at the operations, if
            that is something else.
        brief: whether nobody wants gradients, and views are a good part of what it takes.
        guarded: how it is found again while plain tensors come, and what runs then; with gradients
            switched off, and on. A guard does not tell them apart, nor does the signature of
            tensors that need none.
        lookups: how often it was looked up instead.
    """

    run: Callable[..., Tensor]
    extra: tuple[int, ...] = ()
    schedule: Schedule | None = None
    unwatched: Callable[..., Tensor] | None = None
    brief: bool = False
    guarded: dict[bool, Call] = field(default_factory=dict)
    lookups: int = 0

    def call(self, *tensors: Tensor) -> Tensor:
        """Run it on any tensors of its signature."""
        if self.schedule is not None:
            if ordinary(tensors):
                return contract(self.schedule, *tensors)
        elif self.unwatched is not None and unfollowed(tensors):
            return self.unwatched(*tensors, *self.extra)
        return self.run(*tensors, *self.extra)

    def plain(self, tensors: Sequence[Tensor] = ()) -> Callable[..., Tensor]:
        """What `call` does with plain tensors whose operations nobody follows.

        Args:
            tensors: which come again and again, so that it pays to run the program once for their
                strides.
        """
        if self.schedule is not None:
            return partial(contract, self.schedule)
        run, extra = (self.run if self.unwatched is None else self.unwatched), self.extra
        if isinstance(run, Program):
            exact = run.by_strides(tensors, extra) if tensors and self.brief else None
            if exact is not None:
                return exact
            run = run.run
        return (lambda *tensors: run(*tensors, *extra)) if extra else run


def apply(
    declaration: Declaration | str, given: tuple[tuple[str, int], ...], *tensors: Tensor
) -> Tensor:
    """Run a declaration, or a pattern alone, on tensors.

    `torch.compile` and `torch.export` see this call as one operation while they read the Python
    code, and then trace the operations inside of it with symbolic sizes; nothing of the planning is
    traced.
    """
    run: Callable[..., Tensor] | None = None
    entry: Entry | None = None
    recent = cache.recent
    try:
        calls = recent.calls.get((declaration, given, _grad_enabled()), ())
        if calls:
            # What a guard does not see.
            if modes() or function_modes() or transforms() or forward_ad._current_level >= 0:  # noqa: SLF001
                calls = ()
            # A guard asks for strides, and a nested tensor, which has none, would end the process.
            for one in tensors:
                if one.is_nested is not False:  # what stands in for a tensor says neither
                    calls = ()
        for told, like, found in calls:
            if like(*tensors) and (told is given or _exact(given)):
                run = found
                break
    except (TypeError, AttributeError):
        # The wrong number of tensors, no tensors at all, or something that cannot be looked up,
        # will be refused in our words.
        run = None
    if run is None:
        entry = _looked_up(declaration, given, tensors)
        run = entry.call
    try:
        result = run(*tensors)
    except RuntimeError as error:
        # A tensor of another kind, such as mkldnn's, may have the signature of a dense one.
        check_types(_declared(declaration), tensors)
        check_mixture(_declared(declaration), tensors, cast=autocasts())
        check_support(tensors, error)
        raise
    if entry is not None:
        _recall(recent, entry, declaration, given, tensors)
    return result


def _exact(given: tuple[tuple[str, int], ...]) -> bool:
    """Whether all sizes are what they look like: True and 2.0 are equal to 1 and 2."""
    return all(type(size) is int for _, size in given)


def _looked_up(
    declaration: Declaration | str, given: tuple[tuple[str, int], ...], tensors: Sequence[Tensor]
) -> Entry:
    """What runs for the exact signature of a call."""
    entry: Entry | None = None
    grad = _grad_enabled()
    try:
        parts = _parts(tensors, grad=grad)
        if not given or _exact(given):
            entry = cache.signatures.get((declaration, given, autocasts(), parts))
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        # `torch.jit.trace` has given up, and would crash if its error went unheard.
        if "Cannot insert a Tensor" in str(error):
            raise
        # Symbolic sizes, which cannot be looked up; or something that is no strided tensor, which
        # will be refused in our words.
        entry = None
    return entry or entry_for(declaration, given, tensors)


def _recall(
    recent: Recent,
    entry: Entry,
    declaration: Declaration | str,
    given: tuple[tuple[str, int], ...],
    tensors: Sequence[Tensor],
) -> None:
    """Let the next calls like this one, which was looked up, be found by a guard."""
    entry.lookups += 1
    if entry.lookups == 1:
        return  # it may never come again
    grad = _grad_enabled()
    key = declaration, given, grad
    calls = recent.calls.get(key, ())
    # Where many kinds of calls take turns, guards that come and go would cost more than they save.
    if len(calls) >= MAX_CALLS and entry.lookups % _PATIENCE:
        return
    call = entry.guarded.get(grad)
    # One that is there, and was not found, guards other types of tensors than these.
    if call is None or call in calls:
        like = guard(tensors) if unfollowed(tensors) else None
        if like is None:
            return
        # Two threads may both do this; either result is right.
        call = entry.guarded[grad] = given, like, entry.plain(tensors)
    recent.add(key, call)


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

    Shape, dtype, layout, the strides unless contiguous, whether on a CPU, whether a gradient is
    wanted.
    """
    return tuple(
        [
            (
                one.shape,
                one.dtype,
                one.layout,
                one.is_contiguous() or one.stride(),
                one.is_cpu,
                grad and one.requires_grad,
            )
            for one in tensors
        ]
    )


def _declared(declaration: Declaration | str) -> Declaration:
    return declaration if isinstance(declaration, Declaration) else Declaration(declaration)


def entry_for(
    declaration: Declaration | str,
    given: tuple[tuple[str, int], ...],
    tensors: Sequence[Tensor],
) -> Entry:
    """What a call runs that is not found: it is planned, and remembered for the next one."""
    if any(_stands_in(one) for one in tensors):
        return Entry(partial(handle_torch_function, apply, tensors, declaration, given))
    declared = _declared(declaration)
    prepared = prepare(declared, given, tensors)
    told = [size for _, size in given]
    for one in tensors:
        told += (*one.shape, *one.stride())
    if not {int}.issuperset(map(type, told)):
        return Entry(prepared.lowered.program, prepared.extra)
    for note in tuple(cache.recorders):
        note(declared, given, tensors)
    grad = _grad_enabled()
    needs = tuple([grad and one.requires_grad for one in tensors])
    watched = True in needs
    program, unwatched = prepared.lowered.program, prepared.lowered.unwatched
    run: Callable[..., Tensor] = program
    schedule = None
    if watched and trainable(prepared, tensors):
        schedule = scheduled(declared, prepared, needs)
    elif watched and declared.checkpoint:
        run = _checkpointed(run)
    instead = None if watched or unwatched is program else unwatched
    moved = sum(one.numel() for one in tensors)
    moved += elements(prepared.bound.output, prepared.bound.sizes)
    work = prepared.lowered.plan.multiply_adds + _MOVED * moved
    brief = not watched and work <= _BRIEF
    entry = Entry(run, prepared.extra, schedule, instead, brief=brief)
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
