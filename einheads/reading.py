"""How a function reads the sizes that it uses off the shapes of its inputs."""

from __future__ import annotations

from collections.abc import Sequence

from .sizes import Dim
from .steps import Steps, tellable


class Sizes:
    """The sizes that the text of a function names.

    Args:
        steps: what the function does.
        inputs: a name for each input.
    """

    def __init__(self, steps: Steps, inputs: tuple[str, ...]) -> None:
        self.steps = steps
        self.inputs = inputs
        # What each axis is called, and those whose size is used.
        self.axes: dict[str, str] = {}
        self.used: dict[str, None] = {}

    def size(self, dim: Dim) -> str:
        """The size of a dimension, in the names of its axes."""
        for axis in dim:
            self.used[axis] = None
        return " * ".join(self.axes[axis] for axis in dim) or "1"

    def sizes(self) -> list[str]:
        """The lines that read the sizes which the function uses."""
        wanted = [axis for axis in self.used if axis not in self.steps.given]
        lines: list[str] = []
        single = [
            {dim[0]: place for place, dim in enumerate(dims) if len(dim) == 1}
            for dims in self.steps.inputs
        ]
        open_ = [axis for axis in wanted if any(axis in told for told in single)]
        # What is known from a composite needs the other factors: read those as well.
        composite = [axis for axis in wanted if axis not in open_]
        factors = [
            axis
            for dims in self.steps.inputs
            for dim in dims
            if set(dim) & set(composite)
            for axis in dim
            if axis not in self.steps.given and axis not in composite and axis not in open_
        ]
        open_ += [axis for axis in dict.fromkeys(factors) if any(axis in told for told in single)]
        while open_:
            best = max(
                range(len(single)), key=lambda number: sum(axis in single[number] for axis in open_)
            )
            lines.append(self.unpack(best, [axis for axis in open_ if axis in single[best]]))
            open_ = [axis for axis in open_ if axis not in single[best]]
        if composite:
            lines += self.solve(composite)
        return lines

    def unpack(self, number: int, axes: Sequence[str]) -> str:
        """The line that reads these axes off the shape of an input."""
        dims, name = self.steps.inputs[number], self.inputs[number]
        places = sorted(dims.index((axis,)) for axis in axes)
        if len(places) == 1:
            return f"{self.axes[dims[places[0]][0]]} = {name}.shape[{places[0]}]"
        taken = ", ".join(
            self.axes[dim[0]] if place in places else "_" for place, dim in enumerate(dims)
        )
        return f"{taken} = {name}.shape"

    def solve(self, axes: Sequence[str]) -> list[str]:
        """The lines that divide folded dimensions by what is known of them."""
        lines: list[str] = []
        known = set(self.steps.given) | {
            dim[0] for dims in self.steps.inputs for dim in dims if len(dim) == 1
        }
        left = list(axes)
        while left:
            found = next(
                (axis, number, place, dim)
                for axis in tellable(self.steps.inputs, self.steps.given)
                for number, dims in enumerate(self.steps.inputs)
                for place, dim in enumerate(dims)
                if axis not in known and dim.count(axis) == 1 and set(dim) <= known | {axis}
            )
            axis, number, place, dim = found
            others = tuple(name for name in dim if name != axis)
            divisor = self.size(others)
            divisor = f"({divisor})" if len(others) > 1 else divisor
            lines.append(f"{self.axes[axis]} = {self.inputs[number]}.shape[{place}] // {divisor}")
            known.add(axis)
            left = [name for name in left if name != axis]
        return lines
