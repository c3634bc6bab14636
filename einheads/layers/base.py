"""`Einsum`: a declaration becomes parameters, a forward, a repr. Every named layer is one of these.

It knows nothing of how a program is made: `forward` hands its declaration and its tensors to
`program`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from einheads.errors import EinheadsError, PatternError, SizeError
from einheads.functional import einsum
from einheads.initializers import Fan, Initializer, Roles, fans, fill, fill_bias, names, orthogonal
from einheads.program import Declaration, apply
from .declare import Declared, declare


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
            that a
            weight has; None for no bias.
        init: how the weights start, see `einheads.initializers.fill`; by default each matrix of a
            weight starts
            as its own `nn.Linear` would.
        names: a name for each weight; by default `weight`, or `weight_1`, `weight_2`, ...
        summed: axes, separated by spaces, that stand in one operand only and are summed; `...`
            among them.
        diagonal: whether an axis may stand twice in a weight, which then uses only its diagonal.
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **sizes: int,
    ) -> None:
        declared = declare(
            pattern, inputs, sizes, bias=bias, names=names, summed=summed, diagonal=diagonal
        )
        _check_init(init, declared)
        for name in declared.names:
            # A parameter must not hide a method or an attribute of the module.
            if hasattr(type(self), name) or name in (*declared.input_names, "training"):
                raise EinheadsError(
                    f"names: {name!r} is taken by the layer itself", notes=["write: another name"]
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
            raise SizeError(
                f"the layer takes {self._inputs} input(s), but {len(inputs)} came",
                self.pattern,
                notes=[repr(self)],
            )
        parameters = self._parameters
        try:
            own = [parameters[name] for name in self._parameter_names]
        except KeyError:
            # A parametrization, such as torch's weight norm, moves a parameter behind an attribute.
            own = [getattr(self, name) for name in self._parameter_names]
        return apply(self._declaration, self._given, *inputs, *own)  # type: ignore[no-any-return]

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
    def fans(self) -> dict[str, Fan]:
        """What the axes of each weight do: which are batch, in and out, and the fans that follow."""
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
                f"the axes of '{name}' lie so that 'batch out in' is no view of it", forward
            )
        return stack

    def extra_repr(self) -> str:
        """The arguments of the call that makes this layer."""
        declared = self.declared
        words: list[str] = [repr(declared.pattern.text)]
        if declared.inputs != 1:
            words.append(f"inputs={declared.inputs}")
        if declared.bias is not None:
            words.append(f"bias={' '.join(declared.bias)!r}")
        if self.init != "linear":
            words.append(
                f"init={self.init!r}"
                if isinstance(self.init, str)
                else f"init={_called(self.init)}"
            )
        default = ("weight",) if len(declared.names) == 1 else None
        if declared.names != (
            default or tuple(f"weight_{k + 1}" for k in range(len(declared.names)))
        ):
            words.append(f"names={declared.names!r}")
        if self.summed:
            words.append(f"summed={self.summed!r}")
        if self.diagonal:
            words.append("diagonal=True")
        dtype = next((parameter.dtype for parameter in self.parameters()), torch.float32)
        if dtype != torch.float32:
            words.append(f"dtype={dtype}")
        return ", ".join([*words, *(f"{name}={size}" for name, size in declared.sizes.items())])

    def _matrix_patterns(self, name: str) -> tuple[str, str]:
        if name not in self.declared.names:
            raise EinheadsError(
                f"the layer has no weight '{name}'",
                notes=[f"its weights: {', '.join(self.declared.names) or 'none'}"],
            )
        fan = self.fans[name]
        term = str(self.declared.weights[self.declared.names.index(name)])
        stack = " ".join(f"({' '.join(axes)})" for axes in (fan.batch, fan.outputs, fan.inputs))
        return f"{term} -> {stack}", f"{stack} -> {term}"

    def _sizes_of(self, name: str) -> dict[str, int]:
        axes = self.declared.weights[self.declared.names.index(name)].names
        return {axis: self.declared.sizes[axis] for axis in axes}


def _check_init(init: object, declared: Declared) -> None:
    if init == "orthogonal" and any(
        len(set(term.names)) < len(term.names) for term in declared.weights
    ):
        raise PatternError(
            "init='orthogonal' of a weight whose diagonal is used", declared.pattern.text
        )
    if not callable(init) and init not in names():
        raise EinheadsError(
            f"init={init!r} is no initializer",
            notes=[f"write: one of {', '.join(names())}, or a function"],
        )


def _called(function: Any) -> str:
    return getattr(function, "__qualname__", repr(function))


__all__ = ["Declared", "Einsum"]
