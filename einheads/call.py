"""One call: look up what runs, and run it.

The look-up is by the exact signature of the tensors; whatever is new is prepared by `program` and,
where gradients are wanted, by `training`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from .operands import Declaration, check_mixture, check_support
from .program import autocasts, cache, prepare
from .training import Trainer, contract, trainer

# What runs, the sizes that it takes behind the tensors, and the planned backward if there is one.
_Entry = tuple[Callable[..., Tensor], tuple[int, ...], Trainer | None]

# Subclasses of tensors bring rules of their own, which see the operations and not our function.
_PLAIN = frozenset({Tensor, torch.nn.Parameter})

# Whether `torch.func` or `torch.jit.trace` is at work: they want the operations as well.
_transforms: Callable[[], bool] = torch._C._are_functorch_transforms_active  # noqa: SLF001
_traces: Callable[[], object] = torch._C._get_tracing_state  # noqa: SLF001


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
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
        if len(tensors) == 2:  # by far the most calls; spelled out, this is twice as fast
            a, b = tensors
            dense = a.is_contiguous() or a.stride(), b.is_contiguous() or b.stride()
            parts = (a.shape, a.dtype, b.shape, b.dtype, b.is_cpu, *dense)
        else:
            parts = _parts(tensors)
        # True and 2.0 would be found as 1 and 2, and nobody would refuse them.
        if not given or all(type(size) is int for _, size in given):
            signature = declaration, given, autocasts(), tensors[0].is_cpu, parts
            entry = cache.signatures.get(signature)
    except (TypeError, AttributeError, IndexError, RuntimeError):
        # Symbolic sizes, which cannot be looked up; or something that is no strided tensor, which
        # will be refused in our words.
        entry = None
    run, extra, train = entry or _miss(declaration, given, tensors)
    try:
        if train is not None and torch.is_grad_enabled():
            needs = tuple([one.requires_grad for one in tensors])
            if True in needs and _ordinary(tensors):
                schedule = train.schedule(needs)
                if schedule is not None:
                    return contract(schedule, *tensors)
        return run(*tensors, *extra)
    except RuntimeError as error:
        check_mixture(_declared(declaration), tensors)
        check_support(tensors, error)
        raise


def _parts(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    """What of the tensors tells their program: shape, dtype, and the strides unless contiguous."""
    if len(tensors) == 2:
        a, b = tensors
        dense = a.is_contiguous() or a.stride(), b.is_contiguous() or b.stride()
        return (a.shape, a.dtype, b.shape, b.dtype, b.is_cpu, *dense)
    parts = [part for one in tensors for part in (one.shape, one.dtype, one.is_cpu)]
    return (*parts, *[one.is_contiguous() or one.stride() for one in tensors])


def _ordinary(tensors: Sequence[Tensor]) -> bool:
    """Whether plain tensors meet plain reverse-mode autograd, which takes our function."""
    return (
        _PLAIN.issuperset(map(type, tensors))
        and not _transforms()
        and forward_ad._current_level < 0  # noqa: SLF001
        and _traces() is None
    )


def _declared(declaration: Declaration | str) -> Declaration:
    return declaration if isinstance(declaration, Declaration) else Declaration(declaration)


def _miss(
    declaration: Declaration | str,
    given: tuple[tuple[str, int], ...],
    tensors: Sequence[Tensor],
) -> _Entry:
    declared = _declared(declaration)
    prepared = prepare(declared, given, tensors)
    told = [*(size for _, size in given), *(size for one in tensors for size in one.shape)]
    if not all(type(size) is int for size in told):
        return prepared.lowered.program.run, prepared.extra, None
    train = trainer(declared, prepared, tensors)
    run = prepared.lowered.program.run
    if declared.checkpoint and train is None:
        run = _checkpointed(run)
    entry = run, prepared.extra, train
    signature = declaration, given, autocasts(), tensors[0].is_cpu, _parts(tensors)
    cache.remember(signature, entry)
    return entry


def _checkpointed(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same, computed again in the backward, where none can be planned: under autocast, say."""

    def call(*tensors: Any) -> Tensor:
        if not torch.is_grad_enabled() or not _ordinary(
            [one for one in tensors if isinstance(one, Tensor)]
        ):
            return run(*tensors)
        result: Tensor = checkpoint(run, *tensors, use_reentrant=False)
        return result

    return call
