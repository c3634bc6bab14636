"""`Einsum`: a declaration becomes parameters, a forward, a repr. Every named layer is one of these.

It knows nothing of how a program is made: `forward` hands its declaration and its tensors to
`program`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from einheads.call import apply
from einheads.errors import EinheadsError, PatternError, kind, nearest
from einheads.explain import tell
from einheads.explain.standalone import stand_alone
from einheads.explain.story import Explanation
from einheads.explain.subject import Outline, Subject, prepare, shapes_of, strides_of, traits_of
from einheads.functional import einsum
from einheads.initializers import Fan, Initializer, Roles, fans, fill, fill_bias, orthogonal
from einheads.operands import Declaration

from .arguments import arguments
from .declare import Declared, check_switch, declare
from .merging import merged
from .options import check_options, check_same
from .written import declared_arguments, moved_axes, note_axes


class Einsum(nn.Module):
    """A layer declared by its einsum: the first operands are inputs, the others are parameters.

    Example:
        >>> import torch
        >>> from einheads import Einsum
        >>> layer = Einsum("b w h i, h o i -> b w h o", h=8, i=64, o=32, bias="h o")
        >>> layer(torch.randn(4, 10, 8, 64)).shape      # each head its own linear
        torch.Size([4, 10, 8, 32])
        >>> layer
        Einsum('b w h i, h o i -> b w h o', bias='h o', h=8, i=64, o=32)
        >>> layer.weight.shape, layer.bias.shape
        (torch.Size([8, 32, 64]), torch.Size([8, 32]))
        >>> layer.roles["weight"]
        {'h': 'batch', 'o': 'out', 'i': 'in'}
        >>> low_rank = Einsum("... i, i r, r o -> ... o", i=64, r=4, o=32, names=("down", "up"))
        >>> low_rank.down.shape, low_rank.up.shape
        (torch.Size([64, 4]), torch.Size([4, 32]))

    Args:
        pattern: the operands, inputs first, then weights; `->`; the output.
        inputs: how many operands are given at call time.
        bias: axes of the output, in the order in which the bias is stored; True for all output axes
            that a weight has; None for no bias.
        init: how the weights start, see `einheads.initializers.fill`; by default each matrix of a
            weight starts as its own `nn.Linear` would.
        names: a name for each weight; by default `weight`, or `weight_1`, `weight_2`, ...
        summed: axes, separated by spaces, that stand in one operand only and are summed; `...`
            among them.
        diagonal: whether an axis may stand twice in a weight, which then uses only its diagonal.
        checkpoint: whether a backward computes inner results again, instead of keeping them; with
            several weights, this trades one more forward for the memory. An attribute, too. The
            compiler and the transforms of `torch.func` make their own choice.
        device: where the parameters are made.
        dtype: of the parameters.
        **sizes: the size of every axis of the weights; sizes of other axes are checked at every
            call.

    Raises:
        PatternError: the pattern cannot mean a layer.
        SizeError: a size is missing or superfluous.
        TypeError: an option has the wrong type.
    """

    def __init__(
        self,
        pattern: str,
        /,
        *,
        inputs: int = 1,
        bias: str | bool | None = None,
        init: str | Initializer = "linear",
        names: Sequence[str] | None = None,
        summed: str = "",
        diagonal: bool = False,
        checkpoint: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **sizes: int,
    ) -> None:
        declared = declare(
            pattern, inputs, sizes, bias=bias, names=names, summed=summed, diagonal=diagonal
        )
        check_options(init, declared, device, dtype)
        for name in declared.names:
            # A parameter must not hide a method or an attribute of the module.
            if hasattr(type(self), name) or name in (*declared.input_names, "training"):
                raise PatternError(
                    f"names: {name!r} cannot name a weight: it is taken",
                    declared.pattern.text,
                    [declared.weights[declared.names.index(name)].span],
                    ["write: another name, such as 'up'"],
                )
        super().__init__()
        self.declared = declared
        self.init = init
        self.summed = summed
        self.diagonal = diagonal
        for name, shape in zip(declared.names, declared.shapes, strict=True):
            self.register_parameter(
                name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            )
        stored = None
        if declared.bias is not None:
            shape = tuple(sizes[axis] for axis in declared.bias)
            stored = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.register_parameter("bias", stored)
        # Plain constants, made once: what `forward` hands on at every call.
        parameters = (*declared.names, "bias") if stored is not None else declared.names
        self._parameter_names = parameters
        self._declaration = Declaration(
            declared.pattern.text,
            None if declared.bias is None else " ".join(declared.bias),
            (*declared.input_names, *parameters),
        )
        self._given = declared.given
        self._inputs = declared.inputs
        self.checkpoint = checkpoint
        self.reset_parameters()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Run the pattern on the inputs.

        Args:
            *inputs: one tensor for each of the first operands of the pattern.

        Returns:
            The output of the pattern, the bias added.

        Raises:
            SizeError: an input does not fit the pattern, the declared sizes or another input.
            TypeError: an input is no tensor, or has another dtype or device than the parameters.
        """
        if len(inputs) != self._inputs:
            self.declared.fail_count(len(inputs))
        every: list[Any] = [*inputs]
        parameters = self._parameters
        try:
            for name in self._parameter_names:
                every.append(parameters[name])  # noqa: PERF401 - faster than a comprehension
        except KeyError:
            # A parametrization, such as torch's weight norm, moves a parameter behind an attribute.
            every = [*inputs, *(getattr(self, name) for name in self._parameter_names)]
        return apply(self._declaration, self._given, *every)

    def reset_parameters(self) -> None:
        """Give all parameters their initial values again."""
        every = self.fans
        for number, (name, fan) in enumerate(every.items()):
            weight = getattr(self, name)
            last = number == len(every) - 1
            if self.init != "orthogonal":
                fill(weight, fan, self.sizes, self.init, last=last)
            elif not weight.is_meta:
                stack, back = self._matrix_patterns(name)
                matrices = einsum(stack, weight, **self._sizes_of(name)).clone()
                orthogonal(matrices)
                with torch.no_grad():
                    weight.copy_(einsum(back, matrices, **self._sizes_of(name)))
        if isinstance(self.bias, Tensor):
            fed = {
                axis
                for term in self.declared.pattern.operands[: self.inputs]
                for axis in term.names
            }
            summed = dict.fromkeys(
                axis for fan in every.values() for axis in fan.inputs if axis in fed
            )
            fill_bias(self.bias, math.prod(self.sizes[axis] for axis in summed), self.init)

    @property
    def pattern(self) -> str:
        """The pattern, as it was declared."""
        return self.declared.pattern.text

    @property
    def inputs(self) -> int:
        """How many tensors a call takes."""
        return self.declared.inputs

    @property
    def sizes(self) -> dict[str, int]:
        """The declared sizes, by axis."""
        return dict(self.declared.sizes)

    @property
    def checkpoint(self) -> bool:
        """Whether a backward computes inner results again, instead of keeping them."""
        return self._declaration.checkpoint

    @checkpoint.setter
    def checkpoint(self, value: bool) -> None:
        check_switch("checkpoint", value)
        self._declaration = self._declaration._replace(checkpoint=value)

    @property
    def fans(self) -> dict[str, Fan]:
        """What the axes of each weight do: batch, in and out, and the fans that follow."""
        pattern = self.declared.pattern
        operands = [term.names for term in pattern.operands]
        every = fans(operands[: self.inputs], operands[self.inputs :], pattern.output.names)
        return dict(zip(self.declared.names, every, strict=True))

    @property
    def roles(self) -> dict[str, Roles]:
        """The role of every axis of every parameter: "batch", "in", "out" or "rank".

        An axis is "batch" if the value has it before and after the weight is absorbed, "in" if it
        is summed, "out" if the weight brings it, and "rank" if it is between weights only.
        """
        roles = {name: dict(fan.roles) for name, fan in self.fans.items()}
        if self.declared.bias is not None:
            inputs = {
                axis
                for term in self.declared.pattern.operands[: self.inputs]
                for axis in term.names
            }
            roles["bias"] = {
                axis: "batch" if axis in inputs else "out" for axis in self.declared.bias
            }
        return roles

    def matrices(self, name: str = "weight") -> Tensor:
        """A weight as a stack of matrices.

        Args:
            name: of the weight.

        Returns:
            `batch out in`: a view, one matrix for each index of the batch axes; summed axes are in
            `in`, axes that the weight brings in `out`.

        Raises:
            EinheadsError: there is no such weight, or its axes lie so that no such view exists.
        """
        forward, _ = self._matrix_patterns(name)
        weight = getattr(self, name)
        stack = einsum(forward, weight, **self._sizes_of(name))
        # A copy would be a silent loss for whoever writes into it.
        if (
            not weight.is_meta
            and weight.numel()
            and stack.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr()
        ):
            raise EinheadsError(
                f"the axes of '{name}' lie so that its matrices, batch out in, are no view of it",
                forward,
                notes=[f"write: einheads.einsum('{forward}', layer.{name}), which copies"],
            )
        return stack

    def merge(self) -> Einsum:
        """A layer with one weight, into which all weights of this one are contracted beforehand.

        For inference: the result is the same, the axes between the weights are gone. Whether it is
        faster depends on the rank; `explain` of both layers tells the multiply-adds.

        Example:
            >>> import torch
            >>> from einheads import Einsum
            >>> low_rank = Einsum("... i, r i, o r -> ... o", i=64, r=48, o=32, bias="o")
            >>> dense = low_rank.merge()
            >>> dense
            Einsum('... i, o i -> ... o', bias='o', o=32, i=64)
            >>> x = torch.randn(10, 64)
            >>> torch.testing.assert_close(dense(x), low_rank(x))

        Returns:
            A new layer with parameters of its own, in the same mode of training.

        Raises:
            EinheadsError: the layer has no weights to contract, or does more than its pattern.
        """
        return merged(self, Einsum)

    def explain(self, *inputs: Any, **sizes: int) -> Explanation:
        """Explain what the layer does: roles, steps, cost, and three other ways to write it.

        Example:
            >>> from einheads import Einsum
            >>> story = Einsum("b h i, h o i -> b h o", h=4, i=64, o=32).explain(b=10)
            >>> story.multiply_adds, story.bytes_copied
            (81920, 0)

        Args:
            *inputs: tensors, or shapes, that the layer would be called with.
            **sizes: instead of these, sizes by axis name; those not given are assumed.
        """
        return tell(self._subject(inputs, sizes))

    def source(self, *inputs: Any, **sizes: int) -> str:
        """The layer as one plain PyTorch function of its inputs and parameters, ready to paste.

        Example:
            >>> from einheads import Einsum
            >>> print(Einsum("... i, o i -> ... o", i=64, o=32, bias="o").source())
            import torch.nn.functional as F
            <BLANKLINE>
            <BLANKLINE>
            def contract(x, weight, bias):
                \"\"\"... i, o i -> ... o, plus a bias: o\"\"\"
                return F.linear(x, weight, bias)  # n1 o
            <BLANKLINE>

        Args:
            *inputs: tensors, or shapes, that the layer would be called with.
            **sizes: instead of these, sizes by axis name; those not given are assumed.
        """
        return stand_alone(self._subject(inputs, sizes))

    def extra_repr(self) -> str:
        """The arguments of the call that makes this layer."""
        told = None if type(self) is Einsum else arguments(self, self.sizes)
        return declared_arguments(self) if told is None else told

    def _subject(self, inputs: Sequence[Any], sizes: dict[str, int]) -> Subject:
        own = [getattr(self, name) for name in self._parameter_names]
        text, bias, called, again = self._declaration
        operands = len(self.declared.pattern.operands)
        traits = traits_of((*own, *inputs))
        traits = replace(traits, trains=traits.trains and operands > 2)  # a bias does not count
        check_same(self.sizes, sizes)
        if not inputs:
            given = {**self.sizes, **sizes}
            return prepare(Outline(text, given, called, bias, traits=traits, checkpoint=again))
        if len(inputs) != self._inputs:
            self.declared.fail_count(len(inputs))
        every = [*inputs, *own]
        strides = strides_of(every)
        if bias is not None and len(strides[-1] or ()) != len(bias.split()):
            strides[-1] = None  # stored with unit axes, which the declaration does not have
        given = {**dict(self._given), **sizes}
        outline = Outline(text, given, called, bias, strides, traits, again)
        return prepare(outline, shapes_of(every[:operands]))

    def _axes(self) -> dict[str, str]:
        """The axes of every parameter, in order."""
        axes = {
            name: " ".join(term.names)
            for name, term in zip(self.declared.names, self.declared.weights, strict=True)
        }
        if self.declared.bias is not None:
            axes["bias"] = " ".join(self.declared.bias)
        return axes

    def _save_to_state_dict(
        self,
        destination: dict[str, Any],
        prefix: str,
        keep_vars: bool,  # noqa: FBT001
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        note_axes(destination, prefix, self._axes())

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        *args: Any,
    ) -> None:
        *_, errors = args
        errors += moved_axes(local_metadata, prefix, self._axes())
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _matrix_patterns(self, name: str) -> tuple[str, str]:
        if name not in self.declared.names:
            near = nearest(str(name), self.declared.names)
            raise EinheadsError(
                f"the layer has no weight {kind(name)}",
                notes=[
                    *([f"did you mean '{near}'?"] if near else []),
                    f"its weights: {', '.join(self.declared.names) or 'none'}",
                ],
            )
        fan = self.fans[name]
        term = str(self.declared.weights[self.declared.names.index(name)])
        stack = " ".join(f"({' '.join(axes)})" for axes in (fan.batch, fan.outputs, fan.inputs))
        return f"{term} -> {stack}", f"{stack} -> {term}"

    def _sizes_of(self, name: str) -> dict[str, int]:
        axes = self.declared.weights[self.declared.names.index(name)].names
        return {axis: self.declared.sizes[axis] for axis in axes}


__all__ = ["Declared", "Einsum"]
