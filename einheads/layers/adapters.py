"""Low-rank updates beside the weights of a layer, found by the roles of its axes."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from einheads.errors import EinheadsError, PatternError, kind
from einheads.functional import einsum
from einheads.pattern import Axis, Term

from .base import Einsum


class LoRA(nn.Module):
    """Any einheads layer of one weight, frozen, with a trainable update of low rank beside it.

    Formula: `y = layer(x) + alpha / r * up(down(x))`; for a weight with batch axes (heads, groups,
    members) each of its matrices has an update of its own.

    The axes come from the roles of the layer's weight. For `... h i, h o i -> ... h o`:

    - `down`: `h r i` with batch and in axes, `up`: `h o r` with batch and out axes
    - the update: `... h i, h r i, h o r -> ... h o`
    - with `adapters=n`, the update of each sample is chosen by its index; the factors have an axis
      in front, `n h r i` and `n h o r`

    Example:
        >>> import torch
        >>> from einheads import HeadLinear, LoRA
        >>> layer = LoRA(HeadLinear(h=8, i=64, o=32), r=4)
        >>> [name for name, value in layer.named_parameters() if value.requires_grad]
        ['down', 'up']
        >>> layer.down.shape, layer.up.shape
        (torch.Size([8, 4, 64]), torch.Size([8, 32, 4]))
        >>> merged = layer.merge()                             # a HeadLinear again
        >>> several = LoRA(HeadLinear(h=8, i=64, o=32), r=4, adapters=3)
        >>> several(torch.randn(2, 10, 8, 64), torch.tensor([2, 0])).shape
        torch.Size([2, 10, 8, 32])

    Equivalent:
        ```python
        def lora(x, layer_weight, layer_bias, down, up, scale):      # of a plain linear
            y = x @ layer_weight.T + layer_bias
            return y + scale * (x @ down.T) @ up.T
        ```

    Used to adapt large models with few parameters. Not for small layers, where the full weight can
    be trained; and not for ranks near the size of the matrices.

    Args:
        layer: a layer with one input and one weight; it is kept, and its parameters are frozen.
        r: the rank.
        alpha: the update is multiplied by `alpha / r`; by default `r`.
        adapters: how many updates there are to choose from; None for one without a choice.

    Raises:
        EinheadsError: the layer has several inputs or weights, or none.
        PatternError: the pattern already has an axis `r` or `adapter`.

    Reference:
        Hu et al., "LoRA" (2021), section 4.1; several per batch: Chen et al., "Punica" (2023),
        section 3.
    """

    def __init__(
        self, layer: Einsum, *, r: int, alpha: float | None = None, adapters: int | None = None
    ) -> None:
        _check(layer, r, adapters)
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.r = r
        self.alpha = float(r) if alpha is None else float(alpha)
        self.adapters = adapters
        self.merged = False
        fan, sizes, name = layer.fans[layer.declared.names[0]], layer.sizes, layer.declared.names[0]
        weight = layer.get_parameter(name)
        front = [] if adapters is None else [adapters]

        def empty(axes: tuple[str, ...]) -> nn.Parameter:
            shape = [*front, *({**sizes, "r": r}[axis] for axis in axes)]
            return nn.Parameter(torch.empty(shape, device=weight.device, dtype=weight.dtype))

        self._down_axes = (*fan.batch, "r", *fan.inputs)
        self._up_axes = (*fan.batch, *fan.outputs, "r")
        # Plain constants, which tracers accept.
        self._text = self._pattern("" if adapters is None else "adapter ")
        self._sizes = dict(layer.declared.given)
        self.down = empty(self._down_axes)
        self.up = empty(self._up_axes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start without an effect: `down` like a linear, `up` zero. The layer itself is kept."""
        fan = self.layer.fans[self.layer.declared.names[0]]
        bound = max(fan.fan_in(self.layer.sizes), 1) ** -0.5
        with torch.no_grad():
            self.down.uniform_(-bound, bound)
            self.up.zero_()

    def forward(self, x: Tensor, adapter: Tensor | None = None) -> Tensor:
        """The layer and its update.

        Args:
            x: the input of the layer.
            adapter: with `adapters`, an index for each sample, along the first axis of `x`.

        Raises:
            EinheadsError: an index is missing, superfluous, or of another number of samples.
        """
        y = self.layer(x)
        if self.merged:
            if adapter is not None:
                raise EinheadsError(
                    "an adapter is merged into the layer, so none can be chosen",
                    notes=["write: unmerge() first"],
                )
            return y  # type: ignore[no-any-return]
        if self.adapters is None:
            if adapter is not None:
                raise EinheadsError(
                    "there is one adapter, so none can be chosen",
                    notes=["write: LoRA(..., adapters=2) for several, or leave the index away"],
                )
            update = einsum(self._text, x, self.down, self.up, **self._sizes)
        else:
            if adapter is None:
                raise EinheadsError(
                    f"there are {self.adapters} adapters, and none is chosen",
                    notes=["write: layer(x, index), with an index for each sample"],
                )
            if adapter.shape != x.shape[:1]:
                raise EinheadsError(
                    f"the indices have the shape {tuple(adapter.shape)}, "
                    f"but there are {x.shape[0] if x.ndim else 0} samples",
                    notes=["write: one index for each entry of the first axis of the input"],
                )
            down, up = self.down[adapter], self.up[adapter]
            update = einsum(self._text, x, down, up, **self._sizes)
        return y + self.alpha / self.r * update  # type: ignore[no-any-return]

    def update(self, adapter: int | None = None) -> Tensor:
        """What the adapter adds to the weight of the layer, in the axes of that weight.

        Args:
            adapter: which of several.
        """
        if (adapter is None) is not (self.adapters is None):
            raise EinheadsError(
                "one of several adapters has to be chosen"
                if adapter is None
                else "there is one adapter, so none can be chosen",
                notes=["write: merge(0) where there are several, merge() where there is one"],
            )
        down, up = (
            (self.down, self.up) if adapter is None else (self.down[adapter], self.up[adapter])
        )
        return (
            self.alpha
            / self.r
            * einsum(
                f"{' '.join(self._down_axes)}, {' '.join(self._up_axes)} -> {self._weight_term()}",
                down,
                up,
            )
        )

    @torch.no_grad()
    def merge(self, adapter: int | None = None) -> Einsum:
        """Add the update to the weight of the layer.

        Until `unmerge`, this module is the merged layer, and takes no choice of an adapter.

        Args:
            adapter: which of several; they stay as they are.

        Returns:
            The layer, whose outputs are now those of this module.
        """
        if self.merged:
            raise EinheadsError("the update is merged already", notes=["write: unmerge() first"])
        self._weight().add_(self.update(adapter))
        self.merged = True
        self._merged_adapter = adapter
        return self.layer

    @torch.no_grad()
    def unmerge(self) -> Einsum:
        """Take the update off the weight of the layer again.

        Returns:
            The layer as it was, up to rounding.
        """
        if not self.merged:
            raise EinheadsError("the update is not merged", notes=["write: merge() first"])
        self._weight().sub_(self.update(self._merged_adapter))
        self.merged = False
        return self.layer

    def extra_repr(self) -> str:
        """The options, the layer aside."""
        words = [f"r={self.r}", *([f"alpha={self.alpha}"] if self.alpha != self.r else [])]
        return ", ".join([*words, *([f"adapters={self.adapters}"] if self.adapters else [])])

    def _weight(self) -> Tensor:
        return self.layer.get_parameter(self.layer.declared.names[0])

    def _weight_term(self) -> str:
        return str(self.layer.declared.weights[0])

    def _pattern(self, front: str) -> str:
        """The pattern of the update; with several adapters its factors have an axis for samples."""
        pattern = self.layer.declared.pattern
        into, out = str(pattern.operands[0]), str(pattern.output)
        if front:
            into, out = _sampled(pattern.operands[0]), _sampled(pattern.output)
        down, up = " ".join(self._down_axes), " ".join(self._up_axes)
        return f"{into}, {front}{down}, {front}{up} -> {out}"


def _sampled(term: Term) -> str:
    """A term whose first axis, named or the first under `...`, is called `adapter`."""
    first = term.items[0]
    if isinstance(first, Axis):
        return re.sub(rf"^{first.name}\b", "adapter", str(term))
    return f"adapter {term}"


def _check(layer: Any, r: Any, adapters: Any) -> None:
    if not isinstance(layer, Einsum):
        raise EinheadsError(
            f"{kind(layer)} does not tell the roles of its axes",
            notes=["write: an einheads layer, such as einheads.Linear in place of nn.Linear"],
        )
    declared = layer.declared
    if len(declared.names) != 1 or declared.inputs != 1:
        raise EinheadsError(
            "an update goes beside one weight and reads one input",
            layer.pattern,
            [term.span for term in declared.pattern.operands],
            ["write: LoRA(...) around a layer such as einheads.Linear or einheads.HeadLinear"],
        )
    fan = layer.fans[declared.names[0]]
    if not (fan.inputs and fan.outputs):
        raise EinheadsError(
            f"the weight '{declared.weights[0]}' has no matrices, so nothing of low rank fits",
            layer.pattern,
            [declared.weights[0].span],
            ["write: a layer whose weight sums an axis and brings one"],
        )
    for name in ("r", "adapter"):
        if name in declared.pattern.names:
            raise PatternError(
                f"axis '{name}' is the name of an axis of the update",
                layer.pattern,
                declared.pattern.places(name),
                [f"write: another name in the pattern, such as '{name}_'"],
            )
    for name, value in (("r", r), ("adapters", 1 if adapters is None else adapters)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise EinheadsError(f"{name}={value!r} is no number of one or more",
                                notes=[f"write: {name}=4"])  # fmt: skip
    if adapters is not None:
        into, out = declared.pattern.operands[0].items[0], declared.pattern.output.items[0]
        if str(into) != str(out) or (isinstance(into, Axis) and into.name in fan.roles):
            raise EinheadsError(
                "the first axis of the input and of the output are not the samples",
                layer.pattern,
                [into.span, out.span],
                ["write: a layer of a pattern such as '... i, o i -> ... o'"],
            )


__all__ = ["LoRA"]
