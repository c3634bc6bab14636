"""Low-rank updates beside the weights of a layer, found by the roles of its axes."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from einheads.errors import EinheadsError, count, kind
from einheads.functional import einsum
from einheads.pattern import Axis, Item, Pattern, Term

from .base import Einsum


class LoRA(nn.Module):
    """Any einheads layer, frozen, with a trainable update of low rank beside one of its weights.

    Formula: `y = layer(x) + alpha / r * up(down(x))`; for a weight with batch axes (heads, groups,
    members) each of its matrices has an update of its own.

    The axes come from the roles of the layer's weight. For `... h i, h o i -> ... h o`:

    - `down`: `h r i` with batch and in axes, `up`: `h o r` with batch and out axes
    - the update: `... h i, h r i, h o r -> ... h o`
    - with `adapters=n`, the update of each sample is chosen by its index; the factors have an axis
      in front, `n h r i` and `n h o r`
    - a layer of several inputs or weights is linear in each weight, so the update is its pattern
      with the two factors in the place of the weight

    Example:
        >>> import torch
        >>> from einheads import BatchEnsemble, HeadLinear, LoRA
        >>> layer = LoRA(HeadLinear(h=8, i=64, o=32), r=4)
        >>> [name for name, value in layer.named_parameters() if value.requires_grad]
        ['down', 'up']
        >>> layer.down.shape, layer.up.shape
        (torch.Size([8, 4, 64]), torch.Size([8, 32, 4]))
        >>> merged = layer.merge()                             # a HeadLinear again
        >>> several = LoRA(HeadLinear(h=8, i=64, o=32), r=4, adapters=3)
        >>> several(torch.randn(2, 10, 8, 64), torch.tensor([2, 0])).shape
        torch.Size([2, 10, 8, 32])
        >>> LoRA(BatchEnsemble(e=5, i=16, o=32), r=4, weight="weight").down.shape
        torch.Size([4, 16])

    Equivalent:
        ```python
        def lora(x, layer_weight, layer_bias, down, up, scale):      # of a plain linear
            y = x @ layer_weight.T + layer_bias
            return y + scale * (x @ down.T) @ up.T
        ```

    Used to adapt large models with few parameters. Not for small layers, where the full weight can
    be trained; and not for ranks near the size of the matrices.

    Args:
        layer: a layer whose weight sums an axis and brings one; it is kept, and its parameters are
            frozen.
        r: the rank.
        alpha: the update is multiplied by `alpha / r`; by default `r`.
        adapters: how many updates there are to choose from; None for one without a choice.
        weight: the name of the weight, needed where there are several.

    Raises:
        EinheadsError: the layer has no such weight, or the weight has no matrices.

    Reference:
        Hu et al., "LoRA" (2021), section 4.1; several per batch: Chen et al., "Punica" (2023),
        section 3.
    """

    _before: Tensor | None

    def __init__(
        self,
        layer: Einsum,
        *,
        r: int,
        alpha: float | None = None,
        adapters: int | None = None,
        weight: str | None = None,
    ) -> None:
        name = _checked(layer, r, adapters, weight)
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.r = r
        self.alpha = float(r) if alpha is None else float(alpha)
        self.adapters = adapters
        self.weight_name = name
        self.merged = False
        # The weight as it was before a merge, so that nothing is lost by adding and subtracting.
        self.register_buffer("_before", None, persistent=False)
        fan, pattern, value = layer.fans[name], layer.declared.pattern, layer.get_parameter(name)
        self._rank, self._sample = (_unused(word, pattern) for word in ("r", "adapter"))
        front = [] if adapters is None else [adapters]

        def empty(axes: tuple[str, ...]) -> nn.Parameter:
            shape = [*front, *({**layer.sizes, self._rank: r}[axis] for axis in axes)]
            return nn.Parameter(torch.empty(shape, device=value.device, dtype=value.dtype))

        self._down_axes = (*fan.batch, self._rank, *fan.inputs)
        self._up_axes = (*fan.batch, *fan.outputs, self._rank)
        # Plain constants, which tracers accept.
        self._text = self._pattern("" if adapters is None else self._sample)
        self._others = [other for other in layer.declared.names if other != name]
        self._place = layer.declared.names.index(name)
        self._sizes = dict(layer.declared.given)
        self.down = empty(self._down_axes)
        self.up = empty(self._up_axes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start without an effect: `down` like a linear, `up` zero. The layer itself is kept."""
        bound = max(self.layer.fans[self.weight_name].fan_in(self.layer.sizes), 1) ** -0.5
        with torch.no_grad():
            self.down.uniform_(-bound, bound)
            self.up.zero_()

    def forward(self, *inputs: Tensor, adapter: Tensor | None = None) -> Tensor:
        """The layer and its update.

        Args:
            *inputs: the inputs of the layer; the index of the adapters may follow them.
            adapter: with `adapters`, an index for each sample, along the first axis of the inputs.

        Raises:
            EinheadsError: an index is missing, superfluous, or of another number of samples.
        """
        if adapter is None and len(inputs) == self.layer.inputs + 1:
            *given, adapter = inputs
            inputs = tuple(given)
        y = self.layer(*inputs)
        if self.merged:
            if adapter is not None:
                raise EinheadsError(
                    "an adapter is merged into the layer, so none can be chosen",
                    notes=["write: unmerge() first"],
                )
            return y  # type: ignore[no-any-return]
        down, up = self._chosen(inputs[0], adapter)
        weights = [getattr(self.layer, name) for name in self._others]
        weights[self._place : self._place] = [down, up]
        # Dimensions that an `EinMix` joins afterwards are still apart in the update.
        update = einsum(self._text, *inputs, *weights, **self._sizes).reshape(y.shape)
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
        text = f"{' '.join(self._down_axes)}, {' '.join(self._up_axes)} -> {self._weight_term()}"
        return self.alpha / self.r * einsum(text, down, up)

    @torch.no_grad()
    def merge(self, adapter: int | None = None) -> Einsum:
        """Add the update to the weight of the layer.

        Until `unmerge`, this module is the merged layer, and takes no choice of an adapter. Its
        own state dict stays what it was; that of the layer has the merged weight.

        Args:
            adapter: which of several; they stay as they are.

        Returns:
            The layer, whose outputs are now those of this module.
        """
        if self.merged:
            raise EinheadsError("the update is merged already", notes=["write: unmerge() first"])
        update = self.update(adapter)
        self._before = self._weight().detach().clone()
        self._weight().add_(update)
        self.merged = True
        return self.layer

    @torch.no_grad()
    def unmerge(self) -> Einsum:
        """Take the update off the weight of the layer again.

        Returns:
            The layer as it was, to the last digit.
        """
        if self._before is None:
            raise EinheadsError("the update is not merged", notes=["write: merge() first"])
        self._weight().copy_(self._before)
        self._before = None
        self.merged = False
        return self.layer

    @property
    def bias(self) -> Tensor | None:
        """The bias of the layer, if it has one."""
        return self.layer.bias if isinstance(self.layer.bias, Tensor) else None

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The axes of the two factors, in the order in which they are stored."""
        front = () if self.adapters is None else (self._sample,)
        return {"down": (*front, *self._down_axes), "up": (*front, *self._up_axes)}

    def state_dict(self, **options: Any) -> Any:
        """The parameters, with the weight of the layer as it is without the update."""
        state = super().state_dict(**options)
        if self._before is not None:
            # Whoever loads the weight loads the factors too, and the update would count twice.
            state[f"{options.get('prefix', '')}layer.{self.weight_name}"] = self._before
        return state

    def extra_repr(self) -> str:
        """The options, the layer aside."""
        words = [f"r={self.r}", *([f"alpha={self.alpha}"] if self.alpha != self.r else [])]
        words += [f"adapters={self.adapters}"] if self.adapters else []
        words += [f"weight={self.weight_name!r}"] if len(self.layer.declared.names) > 1 else []
        return ", ".join(words)

    def _load_from_state_dict(self, *args: Any) -> None:
        if self.merged:
            raise EinheadsError(
                "the update is merged, so a weight that is loaded would lose it",
                notes=["write: unmerge() first"],
            )
        super()._load_from_state_dict(*args)

    def _chosen(self, x: Tensor, adapter: Tensor | None) -> tuple[Tensor, Tensor]:
        """The factors of each sample, or those of all."""
        if self.adapters is None:
            if adapter is not None:
                raise EinheadsError(
                    "there is one adapter, so none can be chosen",
                    notes=["write: LoRA(..., adapters=2) for several, or leave the index away"],
                )
            return self.down, self.up
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
        return self.down[adapter], self.up[adapter]

    def _weight(self) -> Tensor:
        return self.layer.get_parameter(self.weight_name)

    def _weight_term(self) -> str:
        return str(self.layer.declared.weights[self._place])

    def _pattern(self, sample: str) -> str:
        """The pattern of the update; with several adapters its factors have an axis for samples."""
        declared = self.layer.declared
        first = declared.pattern.operands[0].items[0]
        inputs = [
            _sampled(term, first, sample) for term in declared.pattern.operands[: declared.inputs]
        ]
        front = f"{sample} " if sample else ""
        weights = [str(term) for term in declared.weights]
        place = declared.names.index(self.weight_name)
        factors = [f"{front}{' '.join(axes)}" for axes in (self._down_axes, self._up_axes)]
        weights[place : place + 1] = factors
        output = _sampled(declared.pattern.output, first, sample)
        return f"{', '.join([*inputs, *weights])} -> {output}"


def _unused(word: str, pattern: Pattern) -> str:
    """A name that the pattern does not have."""
    while word in pattern.names:
        word += "_"
    return word


def _sampled(term: Term, first: Item, sample: str) -> str:
    """A term whose samples, its first axis or the first one under `...`, have a name."""
    if not sample or not term.items or str(term.items[0]) != str(first):
        return str(term)
    if isinstance(first, Axis):
        return re.sub(rf"^{first.name}\b", sample, str(term))
    return f"{sample} {term}"


def _checked(layer: Any, r: Any, adapters: Any, weight: Any) -> str:
    """The name of the weight, after everything that could be wrong."""
    if not isinstance(layer, Einsum):
        raise EinheadsError(
            f"{kind(layer)} does not tell the roles of its axes",
            notes=["write: an einheads layer, such as einheads.Linear in place of nn.Linear"],
        )
    declared = layer.declared
    name = declared.names[0] if weight is None and len(declared.names) == 1 else weight
    if name not in declared.names:
        raise EinheadsError(
            "the layer has no weight"
            if not declared.names
            else f"the layer has {count(len(declared.names), 'weight')}: "
            f"{', '.join(declared.names)}" + ("" if weight is None else f"; not {weight!r}"),
            layer.pattern,
            [term.span for term in declared.weights],
            [f"write: LoRA(..., weight={(*declared.names, 'weight')[0]!r})"],
        )
    fan, term = layer.fans[name], declared.weights[declared.names.index(name)]
    if not (fan.inputs and fan.outputs) or len(set(term.names)) < len(term.names):
        raise EinheadsError(
            f"the weight '{term}' has no matrices, so nothing of low rank fits",
            layer.pattern,
            [term.span],
            ["write: a layer whose weight sums an axis and brings one"],
        )
    for option, value in (("r", r), ("adapters", 1 if adapters is None else adapters)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise EinheadsError(f"{option}={value!r} is no number of one or more",
                                notes=[f"write: {option}=4"])  # fmt: skip
    if adapters is not None:
        into, out = declared.pattern.operands[0].items[0], declared.pattern.output.items[0]
        weighted = {axis for other in declared.weights for axis in other.names}
        if str(into) != str(out) or (isinstance(into, Axis) and into.name in weighted):
            raise EinheadsError(
                "the first axis of the input and of the output are not the samples",
                layer.pattern,
                [into.span, out.span],
                ["write: a layer of a pattern such as '... i, o i -> ... o'"],
            )
    return name


__all__ = ["LoRA"]
