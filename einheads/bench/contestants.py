"""Who races: other ways to compute the same pattern.

A contestant prepares whatever it can prepare beforehand (letters, expressions, modules), then is
called with the operands. It may decline a case that it cannot express. Packages that only serve
comparison are imported by name when they are wanted, since they need not be installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from einheads.functional import einsum
from einheads.layers import Einsum
from einheads.sizes import Dim

from .cases import LETTERS, Case

Run = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to compute patterns.

    Attributes:
        name: in reports.
        prepare: takes the case and the operands, and gives the function to time or None.
        package: what has to be installed for it.
        peer: whether it counts as an alternative that a user would take; the hand-written one and
            the best candidate are yardsticks instead.
        device: the only device type on which it makes sense; None for any.
        path_search: whether torch.einsum may ask opt_einsum meanwhile; None to leave that alone.
    """

    name: str
    prepare: Callable[[Case, Sequence[Tensor]], Run | None]
    package: str = ""
    peer: bool = True
    device: str | None = None
    path_search: bool | None = None

    @property
    def installed(self) -> bool:
        """Whether its package can be imported."""
        return not self.package or find_spec(self.package) is not None

    def setting(self) -> AbstractContextManager[object]:
        """The switches it wants while it runs."""
        if self.path_search is None or not torch.backends.opt_einsum.is_available():
            return nullcontext()
        backend: Any = torch.backends.opt_einsum
        flags: AbstractContextManager[object] = backend.flags(enabled=self.path_search)
        return flags


def letters(case: Case) -> str:
    """The pattern in single letters.

    Example:
        >>> letters(Case("", "batch i, o i -> batch o", {}))
        'ab,cb->ac'
    """
    names = dict.fromkeys(name for term in case.terms for name in term)
    symbols = dict(zip(names, LETTERS, strict=False))
    *operands, output = ("".join(symbols[name] for name in term) for term in case.terms)
    return f"{','.join(operands)}->{output}"


def declared(case: Case) -> Einsum:
    """The layer of a case, with parameters for its last operands."""
    inputs = len(case.terms) - 1 - case.weights
    axes = dict.fromkeys(axis for term in case.terms[inputs:-1] for axis in term)
    # Sizes share the keywords with the options, which a type checker cannot tell apart.
    keywords: dict[str, Any] = {axis: case.sizes[axis] for axis in axes}
    return Einsum(case.pattern, inputs=inputs, bias=case.bias, **keywords)


def _einheads(case: Case, _: Sequence[Tensor]) -> Run:
    pattern = case.pattern
    given = {} if case.plain else dict(case.sizes)
    if not given:
        return lambda *operands: einsum(pattern, *operands)
    return lambda *operands: einsum(pattern, *operands, **given)


def _torch(case: Case, _: Sequence[Tensor]) -> Run | None:
    if not case.plain:
        return None
    equation = letters(case)
    return lambda *operands: torch.einsum(equation, *operands)


def _torch_path(case: Case, operands: Sequence[Tensor]) -> Run | None:
    # With two operands there is no path to search.
    if len(operands) < 3 or not torch.backends.opt_einsum.is_available():
        return None
    return _torch(case, operands)


def _torch_compiled(case: Case, _: Sequence[Tensor]) -> Run | None:
    if not case.plain:
        return None
    equation = letters(case)

    def contract(*operands: Tensor) -> Tensor:
        return torch.einsum(equation, *operands)

    compiled: Run = torch.compile(contract)
    return compiled


def _einops(case: Case, _: Sequence[Tensor]) -> Run | None:
    if not case.plain:
        return None
    pattern, function = case.pattern, import_module("einops").einsum
    return lambda *operands: function(*operands, pattern)


def _einx(case: Case, _: Sequence[Tensor]) -> Run | None:
    if not case.plain:
        return None
    *operands, output = case.terms
    axes = [axis for term in operands for axis in term]
    # A sum runs over an axis of exactly two operands there, and no axis stands twice in one.
    twice = any(len(set(term)) < len(term) for term in operands)
    if twice or any(axes.count(axis) != 2 for axis in axes if axis not in output):
        return None
    pattern, function = case.pattern, import_module("einx").dot
    return lambda *operands: function(pattern, *operands)


def _expression(case: Case, operands: Sequence[Tensor]) -> Run | None:
    if not case.plain:
        return None
    shapes = [operand.shape for operand in operands]
    run: Run = import_module("opt_einsum").contract_expression(letters(case), *shapes)
    return run


def _cotengra(case: Case, operands: Sequence[Tensor]) -> Run | None:
    if not case.plain:
        return None
    shapes = [tuple(operand.shape) for operand in operands]
    run: Run = import_module("cotengra").einsum_expression(letters(case), *shapes)
    return run


def einmix(case: Case) -> nn.Module | None:
    """The einops layer for a case with one input and one weight, with its bias if it has one."""
    if case.weights != 1 or len(case.terms) != 3:
        return None
    first, weight, output = case.terms
    names = (name for name in dict.fromkeys((*first, *weight, *output)) if name in weight)
    module: nn.Module = import_module("einops.layers.torch").EinMix(
        f"{' '.join(first)} -> {' '.join(output)}",
        weight_shape=" ".join(weight),
        bias_shape=case.bias,
        **{name: case.sizes[name] for name in names},
    )
    return module


def _einmix(case: Case, operands: Sequence[Tensor]) -> Run | None:
    layer: Any = einmix(case)
    if layer is None:
        return None
    layer.to(operands[0]).requires_grad_(requires_grad=False)
    layer.weight.copy_(operands[1].reshape(layer.weight.shape))
    return lambda x, _: layer(x)


# What was proposed where the question was first asked, for "b w h i, h o i -> b w h o" only.
HEADS: tuple[Dim, ...] = (
    ("b", "w", "h", "i"),
    ("h", "o", "i"),
    ("b", "w", "h", "o"),
)


def linears(case: Case, like: Tensor) -> nn.ModuleList | None:
    """One `nn.Linear` for each head."""
    if case.terms != HEADS:
        return None
    i, o, bias = case.sizes["i"], case.sizes["o"], case.bias is not None
    return nn.ModuleList(nn.Linear(i, o, bias=bias) for _ in range(case.sizes["h"])).to(like)


def each_head(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """The loop over heads."""
    return torch.stack([layer(x[:, :, head]) for head, layer in enumerate(layers)], 2)


def _loop(case: Case, operands: Sequence[Tensor]) -> Run | None:
    layers = linears(case, operands[0])
    if layers is None:
        return None
    layers.requires_grad_(requires_grad=False)
    for layer, weight in zip(layers, operands[1], strict=True):
        assert isinstance(layer, nn.Linear)
        layer.weight.copy_(weight)
    return lambda x, _: each_head(layers, x)


def _thread(case: Case, _: Sequence[Tensor]) -> Run | None:
    if case.terms != HEADS:
        return None
    return lambda x, weight: torch.matmul(weight, x.unsqueeze(-1)).squeeze(-1)


def vmapped(case: Case) -> Run | None:
    """A linear, mapped over the heads of input and weight."""
    if case.terms != HEADS:
        return None
    mapped: Run = torch.vmap(nn.functional.linear, in_dims=(2, 0), out_dims=2)
    return mapped


def _hand(case: Case, _: Sequence[Tensor]) -> Run | None:
    if case.terms != HEADS:
        return None
    b, w, h, o = (case.sizes[axis] for axis in "bwho")

    def run(x: Tensor, weight: Tensor) -> Tensor:
        y = torch.bmm(x.flatten(0, 1).transpose(0, 1), weight.mT)
        return y.transpose(0, 1).view(b, w, h, o)

    def run_strided(x: Tensor, weight: Tensor) -> Tensor:
        y = torch.empty(b, w, h, o, dtype=x.dtype, device=x.device)
        # cuBLAS writes rows at any distance; on the CPU a buffer would be copied into place.
        torch.bmm(
            x.flatten(0, 1).transpose(0, 1), weight.mT, out=y.view(b * w, h, o).transpose(0, 1)
        )
        return y

    return lambda x, weight: (run_strided if x.is_cuda else run)(x, weight)


EINHEADS = Contestant("einheads", _einheads, peer=False)
FORWARD = (
    EINHEADS,
    Contestant("torch.einsum", _torch, path_search=False),
    Contestant("torch + path", _torch_path, "opt_einsum", path_search=True),
    Contestant("torch.compile", _torch_compiled, device="cuda", path_search=True),
    Contestant("einops", _einops, "einops"),
    Contestant("EinMix", _einmix, "einops"),
    Contestant("einx", _einx, "einx"),
    Contestant("expression", _expression, "opt_einsum"),
    Contestant("cotengra", _cotengra, "cotengra"),
    Contestant("loop", _loop),
    Contestant("unsqueeze", _thread),
    Contestant("vmap", lambda case, _: vmapped(case)),
    Contestant("hand", _hand, peer=False),
)
