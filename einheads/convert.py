"""To layers from what people have written before, and back.

Every conversion keeps values, dtype, device, `requires_grad` and mode, and proves itself on random
input: where the outputs differ, it raises and names the difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .errors import EinheadsError, kind
from .layers import (
    Attention,
    Bilinear,
    Einsum,
    EnsembleLinear,
    GroupedLinear,
    HeadLinear,
    ToHeads,
    stack,
)


def from_linears(linears: Iterable[nn.Module], *, shared: bool = False) -> HeadLinear | ToHeads:
    """One layer from a list of equal `nn.Linear`s.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import einheads
        >>> linears = nn.ModuleList(nn.Linear(64, 32) for _ in range(8))
        >>> layer = einheads.from_linears(linears)          # each reads its own slice
        >>> layer(torch.randn(10, 8, 64)).shape
        torch.Size([10, 8, 32])
        >>> einheads.from_linears(linears, shared=True)     # all read the same input
        ToHeads(i=64, h=8, o=32)

    Args:
        linears: a list or an `nn.ModuleList`.
        shared: whether all of them read the same input.

    Returns:
        `HeadLinear` for `... h i`, or `ToHeads` for `... i`; both give `... h o`, and load state
        dicts of the list too.

    Raises:
        EinheadsError: the list holds something else, or linears that differ in more than values.
        TypeError: it is no list.
    """
    if not isinstance(linears, Iterable):
        raise TypeError(f"the linears are {kind(linears)}; write: a list of nn.Linear")
    every = list(linears)
    for number, linear in enumerate(every):
        # A subclass may compute something else.
        if type(linear) is not nn.Linear:
            raise EinheadsError(
                f"module {number} is {kind(linear)}, not nn.Linear",
                notes=["write: einheads.stack(...) for whole models"],
            )
    stacked = stack(every)
    assert isinstance(stacked, EnsembleLinear)
    sizes = stacked.sizes
    make: Any = ToHeads if shared else HeadLinear
    layer: HeadLinear | ToHeads = make(
        h=sizes["e"],
        i=sizes["i"],
        o=sizes["o"],
        bias=stacked.bias is not None,
        device="meta",
        dtype=stacked.weight.dtype,
    )
    _take(layer, dict(stacked.named_parameters()), stacked)

    def loop(x: Tensor) -> Tensor:
        inputs = [x] * len(every) if shared else x.unbind(-2)
        return torch.stack([linear(one) for linear, one in zip(every, inputs, strict=True)], -2)

    shape = (3, sizes["i"]) if shared else (3, sizes["e"], sizes["i"])
    prove(layer, loop, [shape], also=nn.ModuleList(every))
    return layer


def to_linears(layer: Einsum) -> nn.ModuleList:
    """The separate `nn.Linear`s of a layer that holds several.

    Example:
        >>> import einheads
        >>> einheads.to_linears(einheads.HeadLinear(h=2, i=5, o=3))
        ModuleList(
          (0-1): 2 x Linear(in_features=5, out_features=3, bias=True)
        )

    Args:
        layer: `HeadLinear`, `ToHeads`, `GroupedLinear` or `EnsembleLinear`.
    """
    if not isinstance(layer, (HeadLinear, ToHeads, GroupedLinear, EnsembleLinear)):
        raise EinheadsError(
            f"{kind(layer)} does not consist of separate linears",
            notes=["write: a HeadLinear, ToHeads, GroupedLinear or EnsembleLinear"],
        )
    weight: Any = layer.weight
    bias: Any = layer.bias
    linears = nn.ModuleList()
    for number in range(weight.shape[0]):
        linear = nn.Linear(weight.shape[2], weight.shape[1], bias is not None, device="meta")
        for name, whole in (("weight", weight), ("bias", bias)):
            if whole is not None:
                value = whole.detach()[number].clone()
                setattr(linear, name, nn.Parameter(value, requires_grad=whole.requires_grad))
        linears.append(linear)
    linears.train(layer.training)
    count, features = weight.shape[0], weight.shape[2]

    def loop(x: Tensor) -> Tensor:
        if isinstance(layer, (ToHeads, EnsembleLinear)):
            shared = isinstance(layer, ToHeads) or layer.shared
            inputs: Iterable[Tensor] = [x] * count if shared else x
            dim = -2 if isinstance(layer, ToHeads) else 0
            return torch.stack([f(one) for f, one in zip(linears, inputs, strict=True)], dim)
        inputs = (
            x.reshape(*x.shape[:-1], count, features) if isinstance(layer, GroupedLinear) else x
        )
        outputs = [f(one) for f, one in zip(linears, inputs.unbind(-2), strict=True)]
        return (
            torch.cat(outputs, -1) if isinstance(layer, GroupedLinear) else torch.stack(outputs, -2)
        )

    prove(layer, loop, [_shape_of_input(layer)], also=linears)
    return linears


def from_einmix(mix: nn.Module) -> Einsum:
    """A layer from an `einops.layers.torch.EinMix`.

    Example:
        >>> import einheads
        >>> from einops.layers.torch import EinMix
        >>> mix = EinMix("t b (h c) -> b t h", "h c", "h", h=4, c=8)
        >>> einheads.from_einmix(mix)
        Einsum('t b (h c), h c -> b t h', bias='h', h=4, c=8)

    Args:
        mix: the layer, of einops or of this library.
    """
    told = [getattr(mix, name, None) for name in ("pattern", "weight_shape", "axes_lengths")]
    if not (isinstance(told[0], str) and isinstance(told[1], str) and isinstance(told[2], dict)):
        raise EinheadsError(
            f"{kind(mix)} is no EinMix",
            notes=["write: an einops.layers.torch.EinMix"],
        )
    left, right = told[0].split("->")
    weight, sizes = told[1].split(), told[2]
    names = set(re.findall(r"[^\W\d]\w*", f"{left} {told[1]}"))
    # EinMix sums whatever the output does not name; a layer wants to be told so. Its bias has unit
    # axes in the order of the output, which is the order here too.
    alone = [name for name in re.findall(r"[^\W\d]\w*", left) if name not in f"{right} {weight}"]
    shape = (getattr(mix, "bias_shape", None) or "").replace("(", " ").replace(")", " ").split()
    bias = " ".join(name for name in re.findall(r"[^\W\d]\w*", right) if name in shape)
    parameters = dict(mix.named_parameters())
    layer = Einsum(
        f"{left.strip()}, {' '.join(weight)} -> {right.strip()}",
        bias=bias if "bias" in parameters else None,
        summed=" ".join(alone),
        device="meta",
        dtype=parameters["weight"].dtype,
        **{name: size for name, size in sizes.items() if name in names},
    )
    _take(layer, parameters, mix)
    prove(layer, mix, [_shape_of_input(layer)])
    return layer


def from_conv(conv: nn.Module) -> Einsum:
    """A layer from a convolution with a window of one, grouped or not.

    Example:
        >>> from torch import nn
        >>> import einheads
        >>> einheads.from_conv(nn.Conv2d(12, 20, 1, groups=4))
        Einsum('... (g i) y x, g o i -> ... (g o) y x', bias='g o', g=4, i=3, o=5)

    Args:
        conv: `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`.
    """
    if not isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        raise EinheadsError(f"{kind(conv)} is no convolution", notes=["write: nn.Conv1d(...)"])
    for name, simple in (("kernel_size", 1), ("stride", 1), ("padding", 0)):
        value = getattr(conv, name)
        if value not in ("valid", "same") and any(one != simple for one in value):
            raise EinheadsError(
                f"the convolution has {name}={value}, so it mixes or moves positions",
                notes=[f"write: a convolution with {name}={simple}"],
            )
    space = " ".join(("z", "y", "x")[-len(conv.kernel_size) :])
    groups, out, into = conv.groups, conv.out_channels, conv.in_channels
    layer = Einsum(
        f"... (g i) {space}, g o i -> ... (g o) {space}",
        bias=conv.bias is not None,
        device="meta",
        dtype=conv.weight.dtype,
        g=groups,
        i=into // groups,
        o=out // groups,
    )
    _take(layer, dict(conv.named_parameters()), conv)
    prove(layer, conv, [(2, into, *range(3, 3 + len(conv.kernel_size)))])
    return layer


def from_bilinear(bilinear: nn.Bilinear) -> Bilinear:
    """A layer from an `nn.Bilinear`.

    Args:
        bilinear: the layer of torch.
    """
    if not isinstance(bilinear, nn.Bilinear):
        raise EinheadsError(
            f"{kind(bilinear)} is no nn.Bilinear", notes=["write: nn.Bilinear(...)"]
        )
    layer = Bilinear(
        bilinear.in1_features,
        bilinear.in2_features,
        bilinear.out_features,
        bias=bilinear.bias is not None,
        device="meta",
        dtype=bilinear.weight.dtype,
    )
    _take(layer, dict(bilinear.named_parameters()), bilinear)
    prove(layer, bilinear, [(3, bilinear.in1_features), (3, bilinear.in2_features)])
    return layer


def from_multihead_attention(attention: nn.MultiheadAttention) -> Attention:
    """A layer from an `nn.MultiheadAttention`.

    The layer takes the batch first and returns the output alone, whatever `batch_first` says.

    Example:
        >>> from torch import nn
        >>> import einheads
        >>> layer = einheads.from_multihead_attention(nn.MultiheadAttention(64, 8))
        >>> layer.query
        Einsum('... t i, h d i -> ... h t d', bias='h d', i=64, h=8, d=8)

    Args:
        attention: the layer of torch, with one size for keys and values.
    """
    if not isinstance(attention, nn.MultiheadAttention):
        raise EinheadsError(
            f"{kind(attention)} is no nn.MultiheadAttention",
            notes=["write: nn.MultiheadAttention(...)"],
        )
    for name, differs in (
        ("kdim and vdim differ", attention.kdim != attention.vdim),
        ("add_bias_kv=True", attention.bias_k is not None),
        ("add_zero_attn=True", attention.add_zero_attn),
    ):
        if differs:
            raise EinheadsError(
                f"the attention has what Attention has not: {name}",
                notes=["write: nn.MultiheadAttention without it"],
            )
    size, context, heads = attention.embed_dim, attention.kdim, attention.num_heads
    assert isinstance(context, int)
    joint: Any = attention.in_proj_weight
    weights = (
        joint.chunk(3)
        if joint is not None
        else [getattr(attention, f"{one}_proj_weight") for one in "qkv"]
    )
    output = attention.out_proj
    layer = Attention(
        i=size,
        h=heads,
        c=context,
        bias=attention.in_proj_bias is not None,
        dropout=attention.dropout,
        device="meta",
        dtype=output.weight.dtype,
    )
    whole: Any = attention.in_proj_bias
    biases: Any = [None] * 3 if whole is None else whole.chunk(3)
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        part = layer.get_submodule(name)
        _put(part, "weight", weight, needs=(weight if joint is None else joint).requires_grad)
        if bias is not None:
            _put(part, "bias", bias, needs=whole.requires_grad)
    # The output weight is `o (h d)` there and `o h d` here, where heads are an axis.
    _put(layer.output, "weight", output.weight)
    if output.bias is not None:
        _put(layer.output, "bias", output.bias)
    layer.train(attention.training)

    def theirs(x: Tensor, other: Tensor) -> Tensor:
        if not attention.batch_first:
            x, other = x.transpose(0, 1), other.transpose(0, 1)
        y: Tensor = attention(x, other, other, need_weights=False)[0]
        return y if attention.batch_first else y.transpose(0, 1)

    prove(layer, theirs, [(2, 5, size), (2, 3, context)], also=attention)
    return layer


def _take(layer: nn.Module, parameters: Mapping[str, Tensor], source: nn.Module) -> None:
    """Give a layer without storage copies of parameters that may be shaped differently."""
    for name, _ in list(layer.named_parameters()):
        _put(layer, name, parameters[name])
    layer.train(source.training)


def _put(layer: nn.Module, name: str, value: Tensor, *, needs: bool | None = None) -> None:
    shape = layer.get_parameter(name).shape
    copy = value.detach().reshape(shape).clone()
    setattr(layer, name, nn.Parameter(copy, value.requires_grad if needs is None else needs))


def _shape_of_input(layer: Einsum) -> tuple[int, ...]:
    """A shape that fits the first input; axes without a size get different small ones."""
    sizes = dict(layer.sizes)
    shape: list[int] = []
    for item in layer.declared.pattern.operands[0].items:
        names = re.findall(r"[^\W\d]\w*", str(item))
        size = 2 if str(item) == "..." else 1
        for name in names:
            size *= sizes.setdefault(name, len(shape) + 2)
        shape.append(size)
    return tuple(shape)


def prove(
    ours: nn.Module,
    theirs: Callable[..., Tensor],
    shapes: list[tuple[int, ...]],
    *,
    also: nn.Module | None = None,
) -> None:
    """Compare two modules on random input, both in evaluation mode; refuse a difference."""
    if next(ours.parameters()).is_meta:
        return
    modules = [one for one in (ours, also, theirs) if isinstance(one, nn.Module)]
    modes = [(part, part.training) for one in modules for part in one.modules()]
    generator = torch.Generator().manual_seed(0)
    with _in_double(modules), torch.no_grad():
        try:
            for one in modules:
                one.eval()
            like = next(ours.parameters())
            inputs = [torch.randn(shape, generator=generator).to(like) for shape in shapes]
            compare(ours(*inputs), theirs(*inputs))
        finally:
            for part, mode in modes:
                part.training = mode


@contextmanager
def _in_double(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Let modules compute in double precision for a while, where the device has it.

    In half precision, rounding would hide that two heads have changed places.
    """
    every = {id(one): one for module in modules for one in module.parameters()}
    kept = [(one, one.data) for one in every.values() if one.device.type != "mps"]
    try:
        for one, data in kept:
            one.data = data.to(torch.complex128 if data.is_complex() else torch.float64)
        yield
    finally:
        for one, data in kept:
            one.data = data


def compare(ours: Tensor, theirs: Tensor) -> None:
    """Refuse outputs that differ by more than rounding."""
    if ours.shape != theirs.shape:
        raise EinheadsError(
            f"the conversion changed the shape of the output: {tuple(theirs.shape)} before, "
            f"{tuple(ours.shape)} after",
            notes=["keep the module that you have, and report this"],
        )
    most = float((ours - theirs).abs().max()) if ours.numel() else 0.0
    scale = float(theirs.abs().max()) if ours.numel() else 0.0
    # Sums in another order differ by some roundings; a wrong conversion differs by its values.
    if not most <= 100 * torch.finfo(ours.dtype).eps * max(scale, 1.0):
        raise EinheadsError(
            f"the conversion changed the output by up to {most:.3g}, for values up to {scale:.3g}",
            notes=["keep the module that you have, and report this"],
        )
