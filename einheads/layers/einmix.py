"""`EinMix` with the arguments, the parameters and the outputs of the layer of that name in einops.

Its three strings are put together to one pattern, which `Einsum` plans and runs.
"""

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from einheads.call import apply
from einheads.errors import PatternError, keywords, kind
from einheads.operands import Declaration
from einheads.pattern import parse

from .base import Einsum
from .declare import RESERVED


class EinMix(Einsum):
    """Einsum of an input and a weight, with the constructor of `einops.layers.torch.EinMix`.

    Formula: `y = sum of x w + b`, over all axes that the output does not name.

    Pattern: `x, w -> y`, put together from the texts `x -> y` and `w`.

    A state dict of one is a state dict of the other, the outputs are the same, and after the same
    seed the initial values too. What it adds: no limit of 26 axes, sizes of 1 that do not fit are
    refused, errors in the names of the axes, roles, `reset_parameters`, `device` and `dtype`.

    Example:
        >>> import torch
        >>> from einheads import EinMix
        >>> layer = EinMix("t b (h c) -> t b (h o)", "h c o", "h o", h=8, c=16, o=32)
        >>> layer(torch.randn(10, 4, 128)).shape
        torch.Size([10, 4, 256])
        >>> layer
        EinMix('t b (h c) -> t b (h o)', 'h c o', 'h o', h=8, c=16, o=32)
        >>> layer.pattern
        't b (h c), h c o -> t b (h o)'

    Equivalent:
        ```python
        def einmix(x, weight, bias):                       # of the example
            x = x.unflatten(-1, (8, 16))                   # t b h c
            y = (x.unsqueeze(-1) * weight).sum(-2)         # t b h c o, then c is summed
            y = y + bias                                   # t b h o, 1 1 h o
            return y.flatten(-2)                           # t b (h o)
        ```

    Used by code that was written for einops, and for its checkpoints. Not for new code: `Einsum`
    takes one pattern, several weights, and a bias of any axes.

    Args:
        pattern: `input -> output`.
        weight_shape: axes of the weight.
        bias_shape: axes of the bias; None for no bias. It is stored with a unit axis for each other
            axis of the output that has a name.
        device: where the parameters are made.
        dtype: of the parameters.
        **axes_lengths: the size of every axis of the weight and the bias.

    Raises:
        PatternError: the three strings do not fit together.
        SizeError: a size is missing or superfluous.

    Reference:
        Rogozhnikov, "Einops: clear and reliable tensor manipulations with Einstein-like notation"
        (2022); the tutorial of einops on EinMix.
    """

    def __init__(
        self,
        pattern: str,
        weight_shape: str,
        bias_shape: str | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **axes_lengths: Any,
    ) -> None:
        _check_texts(pattern, weight_shape, bias_shape)
        left, right = pattern.split("->")
        # Here the options of `Einsum` are ordinary axes.
        new = {axis: f"{axis}_axis" for axis in RESERVED}
        words = f"{left.strip()}, {weight_shape.strip()} -> {_open(right).strip()}"
        text = _renamed(words, new)
        parsed = parse(text)
        before, weight = parsed.operands
        for axis in parsed.output.axes:
            if axis.name not in (*before.names, *weight.names):
                raise PatternError(
                    f"axis '{axis.name}' is in neither the input nor the weight",
                    text,
                    [axis.span],
                    ["write: an axis of the input or the weight"],
                )
        kept = (*weight.names, *parsed.output.names)
        flat = _flat(right, new)
        bias = None
        if bias_shape is not None:
            # Whatever order is written, einops stores that of the output.
            axes = _renamed(bias_shape, new).split()
            bias = sorted(axes, key=lambda axis: flat.index(axis) if axis in flat else len(flat))
        super().__init__(
            text,
            bias=None if bias is None else " ".join(bias),
            summed=" ".join(name for name in before.names if name not in kept),
            device=device,
            dtype=dtype,
            **{new.get(axis, axis): size for axis, size in axes_lengths.items()},
        )
        self.mixed = pattern
        self.weight_shape = weight_shape
        self.bias_shape = bias_shape
        self.axes_lengths = axes_lengths
        self._groups = _groups(right) if re.search(_DOTS_IN_GROUP, right) else None
        self._back: tuple[int, ...] | None = None
        if bias is not None:
            self._store_bias(bias, flat)

    # `torch.jit.script` takes the layer as it is, as part of a model that is compiled otherwise.
    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        """Run the pattern.

        Args:
            x: the input.

        Returns:
            The output of the pattern, the bias added.

        Raises:
            SizeError: the input does not fit the pattern or the declared sizes.
            TypeError: the input is no tensor, or has another dtype or device than the weight.
        """
        own: list[Any] = [self.weight]
        if self._back is not None:
            bias: Any = self.bias
            own.append(bias.reshape(self._back))
        # A scripted model keeps a plain tuple of the declaration.
        y = apply(Declaration(*self._declaration), self._given, x, *own)
        return y if self._groups is None else _merge(y, self._groups)

    # Of the properties, no scripted model needs any.
    __jit_unused_properties__ = (
        "checkpoint",
        "declared",
        "fans",
        "inputs",
        "pattern",
        "roles",
        "sizes",
    )

    def reset_parameters(self) -> None:
        """Give all parameters their initial values again: uniform, as in einops."""
        fan_in = max(self.fans["weight"].fan_in(self.sizes), 1)
        weight: Tensor = self.get_parameter("weight")
        nn.init.uniform_(weight, -math.sqrt(3 / fan_in), math.sqrt(3 / fan_in))
        if isinstance(self.bias, Tensor):
            nn.init.uniform_(self.bias, -math.sqrt(1 / fan_in), math.sqrt(1 / fan_in))

    def extra_repr(self) -> str:
        """The arguments of the call that makes this layer."""
        words = [repr(self.mixed), repr(self.weight_shape)]
        if self.bias_shape is not None:
            words.append(repr(self.bias_shape))
        if self.weight.dtype != torch.float32:
            words.append(f"dtype={self.weight.dtype}")
        return ", ".join([*words, *keywords(self.axes_lengths)])

    def _store_bias(self, bias: list[str], flat: list[str]) -> None:
        """Give the bias the order of the output, and a unit axis for every other axis of it."""
        dots = flat.index("...") if "..." in flat else 0
        early = [axis for axis in bias if flat.index(axis) < dots]
        if early:
            raise PatternError(
                f"bias_shape names '{early[0]}', which stands in front of '...' in the output",
                self.pattern,
                self.declared.pattern.output.places(early[0]),
                ["write: '...' in front of all axes of the bias, or einheads.Einsum"],
            )
        named = [axis for axis in flat if axis != "..."]
        shape = [self.sizes[axis] if axis in bias else 1 for axis in named]
        self._back = tuple(self.sizes[axis] for axis in bias)
        self.register_parameter(
            "bias", nn.Parameter(self.get_parameter("bias").detach().view(shape))
        )


# Parentheses that hold the ellipsis, which einops allows in the output and patterns do not know.
_DOTS_IN_GROUP = r"\([^()]*\.\.\.[^()]*\)"


def _check_texts(pattern: object, weight_shape: object, bias_shape: object) -> None:
    for name, text in (
        ("pattern", pattern),
        ("weight_shape", weight_shape),
        ("bias_shape", bias_shape),
    ):
        if not (isinstance(text, str) or (name == "bias_shape" and text is None)):
            raise TypeError(f"{name} is a text, not {kind(text)}")
    if str(pattern).count("->") != 1:
        raise PatternError("the pattern has no '->'", str(pattern), notes=["write: 'b i -> b o'"])
    if re.search(r"[(),]|\.\.\.|->", str(weight_shape)):
        raise PatternError(
            "weight_shape is the axes of the weight, one after the other",
            str(weight_shape),
            notes=["write: axes separated by spaces, such as 'h i o'"],
        )


def _renamed(text: str, new: dict[str, str]) -> str:
    return re.sub(r"\w+", lambda found: new.get(found[0], found[0]), text)


def _open(right: str) -> str:
    """The output without parentheses where `...` is inside of some; `_merge` closes them again."""
    return re.sub(r"[()]", " ", right) if re.search(_DOTS_IN_GROUP, right) else right


def _flat(right: str, new: dict[str, str]) -> list[str]:
    """The axes of the output and its `...`, in order."""
    return [
        new.get(name, name) for name in re.findall(r"\.\.\.|\w+", right) if not name.isdecimal()
    ]


def _groups(right: str) -> tuple[tuple[str, ...], ...]:
    """The dimensions of the output, each with what it holds; `...` holds nothing it could join."""
    found = re.findall(r"\(([^()]*)\)|(\.\.\.|\w+)", right)
    return tuple((one,) if one else tuple(group.split()) for group, one in found if one != "...")


def _merge(y: Tensor, groups: tuple[tuple[str, ...], ...]) -> Tensor:
    """Make each group of dimensions one; exactly one of them holds `...`."""
    hidden = y.ndim - sum(len(group) for group in groups) + 1
    shape: list[int] = []
    place = 0
    for group in groups:
        end = place + len(group) + (hidden - 1 if "..." in group else 0)
        shape.append(math.prod(y.shape[place:end]))
        place = end
    return y.reshape(shape)


__all__ = ["EinMix"]
