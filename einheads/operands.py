"""What is computed and on what: declarations, the names of their operands, and what may be one.

A wrong operand is refused here, in the words of the declaration, before torch refuses it in its
own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.parameter import Parameter, is_lazy

from .candidates import Traits
from .errors import SizeError, kind, so_far
from .layout import Layout, layout
from .pattern import parse
from .sizes import Bound, Dims

# Subclasses of tensors bring rules of their own, which see the operations and not our function.
_PLAIN = frozenset({Tensor, Parameter})

# Whether `torch.func` or `torch.jit.trace` is at work: they want the operations as well. A mode
# that sees all operations may keep them, as `make_fx` does, or what they make.
transforms: Callable[[], bool] = torch._C._are_functorch_transforms_active  # noqa: SLF001
_traces: Callable[[], object] = torch._C._get_tracing_state  # noqa: SLF001
modes: Callable[[], int] = torch._C._len_torch_dispatch_stack  # noqa: SLF001
# One that sees the functions that are called may change what they do.
function_modes: Callable[[], int] = torch._C._len_torch_function_stack  # noqa: SLF001
_early_modes: Callable[[], int] = torch._ops._len_torch_dispatch_stack_pre_dispatch  # noqa: SLF001


class Declaration(NamedTuple):
    """What is computed, as far as it is known before any tensor.

    These are plain constants, which tracers accept.

    Attributes:
        text: the pattern.
        bias: the axes of a bias, the last tensor of a call, separated by spaces; None for no bias.
        names: a name for each tensor in the source, the bias too; None for `x1`, `x2`, ...
        checkpoint: whether a backward makes inner results again, instead of keeping them.
    """

    text: str
    bias: str | None = None
    names: tuple[str, ...] | None = None
    checkpoint: bool = False


def traits_of(tensors: Sequence[Tensor], operands: int, *, autocast: bool) -> Traits:
    """What of the tensors, besides shapes and layouts, decides the lowering.

    Args:
        tensors: the operands, then the bias if there is one.
        operands: how many of them are operands.
        autocast: whether it is at work.
    """
    first = tensors[0]
    return Traits(
        device=first.device.type,
        itemsize=first.element_size(),
        integer=not (first.is_floating_point() or first.is_complex()),
        half=first.dtype == torch.float16,
        autocast=autocast,
        trains=operands > 2
        and torch.is_grad_enabled()
        and any(one.requires_grad for one in tensors),
        shared=first.device.type == "cpu" and torch.get_num_threads() > 1,
    )


def ordinary(tensors: Sequence[Tensor]) -> bool:
    """Whether plain tensors meet plain reverse-mode autograd, which takes our function."""
    return (
        _PLAIN.issuperset(map(type, tensors))
        and not transforms()
        and forward_ad._current_level < 0  # noqa: SLF001
        and _traces() is None
        and not _early_modes()
    )


def unfollowed(tensors: Sequence[Tensor]) -> bool:
    """Whether, besides, nobody sees the single operations, so that any may run that are right."""
    return not modes() and not function_modes() and ordinary(tensors)


def input_names(declaration: Declaration, count: int) -> tuple[str, ...]:
    """What the tensors are called in the source."""
    if declaration.names is not None:
        return declaration.names
    return ("x",) if count == 1 else tuple(f"x{number}" for number in range(1, count + 1))


def labels(declaration: Declaration, count: int) -> list[str]:
    """What errors call the operands."""
    if declaration.names is None:
        return [f"operand {number}" for number in range(1, count + 1)]
    return list(declaration.names[:count])


def check_types(declaration: Declaration, tensors: Sequence[object]) -> None:
    """Refuse what is no ordinary tensor, whatever the others are."""
    if type(declaration.text) is not str:
        # Tensors come after the pattern, so a wrong pattern is the first mistake.
        parse(declaration.text)
    for number, tensor in enumerate(tensors):
        called = _label(declaration, number)
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{called} is {kind(tensor)}, not a tensor{_fix_type(tensor)}")
        if is_lazy(tensor):
            raise TypeError(f"{called} is not initialized; write: .materialize(...)")
        if tensor.is_nested:
            raise TypeError(f"{called} is a nested tensor; write: .to_padded_tensor(0.0)")
        if tensor.is_quantized:
            raise TypeError(f"{called} is quantized ({tensor.dtype}); write: .dequantize()")
        if tensor.layout != torch.strided:
            raise TypeError(f"{called} is not dense ({tensor.layout}); write: .to_dense()")
        if tensor.dtype == torch.bool:
            fix = f".to({_likely([one for one in tensors if isinstance(one, Tensor)])})"
            raise TypeError(f"{called} is boolean, and has no sum of products; write: {fix}")


def _fix_type(value: object) -> str:
    if isinstance(value, (list, tuple)) and any(isinstance(one, Tensor) for one in value):
        return "; write: each tensor as an argument of its own"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"; write: torch.as_tensor(...), or n={value} if it is the size of an axis 'n'"
    if isinstance(value, (float, complex, list, tuple)) or hasattr(value, "__array__"):
        return "; write: torch.as_tensor(...)"
    return ""


def check_mixture(
    declaration: Declaration, tensors: Sequence[Tensor], *, cast: bool = False
) -> None:
    """Refuse mixtures that torch would refuse with a message about its own internals.

    Args:
        declaration: what they are operands of.
        tensors: the operands.
        cast: whether autocast makes most floating-point dtypes one.
    """
    if not tensors:
        return
    # A layer's inputs come first, its parameters last: the input has to be converted.
    place = len(tensors) - 1
    if declaration.names is None:
        wanted = _likely(tensors)
        place = next(number for number, tensor in enumerate(tensors) if tensor.dtype == wanted)
    model = tensors[place]
    for number, tensor in enumerate(tensors):
        called, other = _label(declaration, number), _label(declaration, place)
        if tensor.dtype != model.dtype and not (cast and _is_cast(tensor, model)):
            raise TypeError(
                f"{called} is {tensor.dtype}, but {other} is {model.dtype}; "
                f"write: .to({model.dtype}) for {called}"
            )
        if tensor.device != model.device:
            raise TypeError(
                f"{called} is on {tensor.device}, but {other} is on {model.device}; "
                f"write: .to('{model.device}') for {called}"
            )


def _is_cast(*tensors: Tensor) -> bool:
    # Autocast leaves double precision alone.
    return all(one.is_floating_point() and one.dtype != torch.float64 for one in tensors)


def check_bias(declaration: Declaration, bias: Sequence[str], bound: Bound, tensor: Tensor) -> None:
    """Refuse a bias that no longer has the shape that was declared."""
    wanted = tuple(bound.sizes[name] for name in bias)
    shape = tuple(tensor.shape)
    if shape != wanted:
        raise SizeError(
            f"{_label(declaration, len(bound.operands))} has shape {shape}, but is declared as "
            f"'{' '.join(bias)}'",
            declaration.text,
            notes=[*so_far(bound.sizes), f"write: a parameter of shape {wanted}"],
        )


def _likely(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype that was probably meant: that of most tensors, and then the richest common one."""
    dtypes = [tensor.dtype for tensor in tensors if tensor.dtype != torch.bool]

    def rank(dtype: torch.dtype) -> tuple[bool, int, bool, bool]:
        rich = dtype.is_complex, dtype.is_floating_point
        # Double precision comes from NumPy more often than it is meant.
        return rich[0], dtypes.count(dtype), rich[1], dtype == torch.float32

    return max(dtypes, key=rank, default=torch.int64)


def _label(declaration: Declaration, number: int) -> str:
    return f"operand {number + 1}" if declaration.names is None else declaration.names[number]


def check_support(tensors: Sequence[Tensor], error: RuntimeError) -> None:
    """Say in our words that torch has no arithmetic for a dtype, where that was the error."""
    # What torch raises where it has no kernel; every other error is passed on by the caller.
    if isinstance(error, NotImplementedError) and tensors:
        first = tensors[0]
        raise TypeError(
            f"torch has no sum of products for {first.dtype} on {first.device.type}; "
            f"write: .to({_supported(first.dtype)})"
        ) from error


def _supported(dtype: torch.dtype) -> torch.dtype:
    """A dtype with arithmetic everywhere, which holds the same numbers."""
    if dtype.is_complex:
        return torch.complex64
    return torch.float32 if dtype.is_floating_point else torch.int64


def layout_of(dims: Dims, tensor: Tensor, bound: Bound) -> Layout:
    """How a tensor with these dimensions lies in memory."""
    sizes = {name: hint(bound.sizes[name]) for dim in dims for name in dim}
    return layout(dims, [hint(stride) for stride in tensor.stride()], sizes)


def hint(size: int) -> int:
    """The number to plan with: for a symbolic size the tracer's example, read without a guard."""
    if type(size) is int:
        return size
    node = getattr(size, "node", None)
    if node is not None and node.has_hint():
        return int(node.hint)
    # A size that depends on data has no example. Any middle-sized number will do: it only ranks
    # plans.
    return 64
