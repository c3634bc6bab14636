"""Programs for known shapes and strides, in which runs of views become one step.

A view takes torch most of a microsecond, whatever it does. Where shapes and strides are the same as
in an earlier call, some views in a row are one `as_strided`, and no size has to be read off a
shape. The text takes shapes and strides as arguments, so that it is the same for all of them.
Whether what should be a view was one in that call is for the caller to see.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .source import Text
from .steps import (
    Expand,
    Permute,
    Place,
    Reshape,
    Step,
    Steps,
    Strided,
    in_turns,
    is_view,
    live,
    renumbered,
    sources,
)


@dataclass(frozen=True, slots=True)
class Exact:
    """Steps for known shapes and strides.

    Attributes:
        steps: what is done.
        constants: what it takes behind the tensors, in order: the shape of a value of the original
            steps, by its number, and its strides too, if it is a view of another one, by the number
            of that one.
    """

    steps: Steps
    constants: tuple[tuple[int, int | None], ...]


def exactly(steps: Steps) -> Exact | None:
    """The same steps, with runs of views in one; None if that saves nothing.

    Example:
        >>> b, h, i, o = (("b",), ("h",), ("i",), ("o",))
        >>> turn, fold = Permute(0, (1, 0, 2), (h, b, i)), Reshape(1, False, (h, (*b, *i)))
        >>> exactly(Steps(((b, h, i),), (turn, fold), 2)).steps.steps
        (Strided(source=0, dims=(('h',), ('b', 'i'))),)

    Args:
        steps: of a whole program.
    """
    if any(isinstance(step, Place) or in_turns(step) for step in steps.steps):
        return None
    count = len(steps.inputs)
    readers: dict[int, list[Step]] = {}
    wanted = live(steps, [steps.result])
    for place, step in enumerate(steps.steps, start=count):
        for source in sources(step) if place in wanted else ():
            readers.setdefault(source, []).append(step)
    number = {place: place for place in range(count)}
    # Of a view that is not made: what it is a view of, and how many views it stands for.
    pending: dict[int, tuple[int, int]] = {}
    made: list[Step] = []
    constants: list[tuple[int, int | None]] = []
    saves = False
    for place, step in enumerate(steps.steps, start=count):
        if place not in wanted:
            continue
        if is_view(step):
            root, before = pending.get(step.source, (step.source, 0))
            read_by = readers.get(place, [])
            if place != steps.result and len(read_by) == 1 and is_view(read_by[0]):
                pending[place] = root, before + 1
                continue
            if before or not isinstance(step, Permute):
                saves |= before > 0 or _reads_sizes(step, steps)
                constants.append((place, root))
                made.append(Strided(number[root], step.dims))
            else:
                made.append(replace(step, source=number[root]))
        else:
            if isinstance(step, Reshape) and step.dims != steps.dims(step.source):
                constants.append((place, None))
                saves = True
            made.append(renumbered(step, number.__getitem__))
        number[place] = count + len(made) - 1
    if not saves:
        return None
    found = Steps(steps.inputs, tuple(made), number[steps.result], integer=steps.integer)
    return Exact(found, tuple(constants))


def _reads_sizes(step: Step, steps: Steps) -> bool:
    """Whether a view is spelled with sizes: it repeats something, or unfolds it."""
    if not isinstance(step, Reshape):
        return isinstance(step, Expand)
    return sum(map(bool, step.dims)) > sum(map(bool, steps.dims(step.source)))


def write_exactly(exact: Exact, names: Sequence[str], *, title: str) -> str:
    """Write exact steps down as one Python function.

    Example:
        >>> b, h, i = (("b",), ("h",), ("i",))
        >>> turn, fold = Permute(0, (1, 0, 2), (h, b, i)), Reshape(1, False, (h, (*b, *i)))
        >>> found = exactly(Steps(((b, h, i),), (turn, fold), 2))
        >>> print(write_exactly(found, ["x"], title="b h i -> h (b i)"))
        def contract(x, size1, stride1):
            \"\"\"b h i -> h (b i)\"\"\"
            return x.as_strided(size1, stride1)  # h (b i)
        <BLANKLINE>

    Args:
        exact: what to write.
        names: a name for each input.
        title: the first line of the docstring, one line.
    """
    return _ExactText(exact, tuple(names)).write(title, "contract")


class _ExactText(Text):
    """The text of a function that takes shapes and strides behind its tensors."""

    def __init__(self, exact: Exact, names: tuple[str, ...]) -> None:
        super().__init__(exact.steps, names, {}, None)
        self.constants: list[str] = []
        self.numbers = itertools.count(1)

    def parameters(self) -> list[str]:
        """What the function takes."""
        return [*self.inputs, *self.constants]

    def spell(self, step: Step, pending: str | None, variable: Mapping[int, str]) -> str:
        """The expression for a step, in which no size is read."""
        if isinstance(step, Strided) or (
            isinstance(step, Reshape) and step.dims != self.steps.dims(step.source)
        ):
            value = variable[step.source] if pending is None else pending
            place = next(self.numbers)
            wishes = ("size", "stride") if isinstance(step, Strided) else ("size",)
            names = [self.free(f"{wish}{place}") for wish in wishes]
            self.constants += names
            method = "as_strided" if isinstance(step, Strided) else "reshape"
            return f"{value}.{method}({', '.join(names)})"
        return super().spell(step, pending, variable)
