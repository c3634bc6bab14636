"""From steps to a callable: the only `exec`.

A program is written and compiled when it first runs. Its text is kept where tracebacks and
debuggers look for it.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - what the texts call it
from torch import Tensor

from .sizes import Bound
from .source import write
from .steps import Steps
from .strided import Exact, exactly, write_exactly

_is_alias: Callable[[Tensor, Tensor], bool] = getattr(torch._C, "_is_alias_of")  # noqa: SLF001, B009


@dataclass(frozen=True, eq=False)
class Program:
    """A function that is written and compiled when it is first wanted.

    Attributes:
        steps: what it does.
        title: the pattern that it computes, in words.
        names: what the tensors are called.
        filename: what tracebacks call it.
    """

    steps: Steps
    title: str
    names: tuple[str, ...]
    filename: str

    @cached_property
    def source(self) -> str:
        """Its text."""
        return write(self.steps, self.names, title=self.title)

    @cached_property
    def run(self) -> Callable[..., Tensor]:
        """The function; takes the tensors and then the sizes named in `steps.given`."""
        return compile_source(self.source, "contract", self.filename)

    def __call__(self, *arguments: Any) -> Tensor:
        """Run the function."""
        return self.run(*arguments)

    def trailing(self, bound: Bound) -> tuple[int, ...]:
        """The sizes that the function takes behind the tensors."""
        return tuple(bound.sizes[name] for name in self.steps.given)

    def by_strides(
        self, tensors: Sequence[Tensor], extra: Sequence[int]
    ) -> Callable[..., Tensor] | None:
        """A function for tensors of the shapes and strides of these, which makes fewer views.

        The program runs once, to see what its views come to. They are foreseen from the layouts of
        operands; what torch makes of strange strides is not always, and then a view is a copy.

        Args:
            tensors: what the function will be like.
            extra: the sizes that the program takes behind them; the function takes none.

        Returns:
            The function; None if it would make as many views as the program, or if some of its
            views are none.
        """
        if self.exact is None:
            return None
        try:
            seen = iter(self._seen(*tensors, *extra))
        except RuntimeError:
            return None  # there is no memory left for what runs besides the call itself
        constants: list[tuple[int, ...]] = []
        for _, root in self.exact.constants:
            value = next(seen)
            constants.append(tuple(value.shape))
            if root is not None:
                constants.append(value.stride())
                if not _is_view(value, next(seen)):
                    return None
        shared: Any = self._exact_run
        # The same code for all shapes and strides, which are the defaults of its last arguments.
        return FunctionType(shared.__code__, shared.__globals__, shared.__name__, tuple(constants))

    @cached_property
    def exact(self) -> Exact | None:
        """The same for known shapes and strides, if that saves views."""
        return exactly(self.steps)

    @cached_property
    def _seen(self) -> Callable[..., Any]:
        assert self.exact is not None
        numbers = [one for pair in self.exact.constants for one in pair if one is not None]
        return self.keeping(numbers, self.names)

    @cached_property
    def _exact_run(self) -> FunctionType:
        assert self.exact is not None
        text = write_exactly(self.exact, self.names, title=self.title)
        return compile_source(text, "contract", f"{self.filename.removesuffix('>')}, by strides>")

    def keeping(self, results: Sequence[int], names: Sequence[str]) -> Callable[..., Any]:
        """A function that returns these values, as a tuple, and does only what they need."""
        text = write(self.steps, names, title=self.title, results=results)
        filename = self.filename.removesuffix(">")
        return compile_source(text, "contract", f"{filename}, returning {tuple(results)}>")


def _is_view(value: Tensor, root: Tensor) -> bool:
    """Whether a value lies in the memory of another one, and begins where it does."""
    return _is_alias(value, root) and value.storage_offset() == root.storage_offset()


def compile_source(source: str, name: str, filename: str) -> FunctionType:
    """Turn the text of a function into a function whose text tracebacks and debuggers show."""
    linecache.cache[filename] = len(source), None, source.splitlines(keepends=True), filename
    namespace: dict[str, Any] = {"torch": torch, "F": F, "__name__": __name__}
    exec(compile(source, filename, "exec"), namespace)
    function: FunctionType = namespace[name]
    return function
