"""The text of one straight-line Python function, from `Steps`.

The text is what runs, what is tested, what `source()` shows and what a debugger steps through, so
it should read as if a person had written it: named values, one idea a line, the axes in a comment
behind it. Nothing of it is taken from the user's text: axis names have been checked to be
identifiers, and are made unlike Python's keywords and the other names of the function.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence

from .reading import Sizes
from .sizes import Dims
from .steps import (
    Accumulate,
    Add,
    Bmm,
    Diagonal,
    Expand,
    Linear,
    Matmul,
    Multiply,
    Permute,
    Place,
    Reshape,
    Step,
    Steps,
    Strided,
    Sum,
    in_turns,
    is_view,
    live,
    sources,
)

HEADER = "import torch\nimport torch.nn.functional as F\n"


def write(
    steps: Steps,
    names: Sequence[str],
    *,
    title: str,
    name: str = "contract",
    given: Mapping[str, int] | None = None,
    results: Sequence[int] | None = None,
) -> str:
    """Write the steps down as one Python function.

    Example:
        >>> from einheads.pattern import parse
        >>> from einheads.sizes import bind
        >>> from einheads.plan import plan
        >>> from einheads.lower import lower
        >>> bound = bind(parse("b w h i, h o i -> b w h o"), [(4, 10, 8, 64), (8, 32, 64)])
        >>> print(write(lower(bound, plan(bound)), ["x", "weight"], title=str(bound.pattern)))
        def contract(x, weight):
            \"\"\"b w h i, h o i -> b w h o\"\"\"
            b, w, h, _ = x.shape
            o = weight.shape[1]
            x = x.flatten(0, 1).transpose(0, 1)  # h (b w) i
            weight = weight.mT  # h i o
            y = torch.bmm(x, weight)  # h (b w) o
            return y.transpose(0, 1).reshape(b, w, h, o)  # b w h o
        <BLANKLINE>

    Args:
        steps: what to write.
        names: a name for each input.
        title: the first line of the docstring, one line.
        name: the name of the function.
        given: sizes to show as default values of the sizes that the function takes.
        results: the numbers of the values to return, as a tuple; by default, the one result.
            Steps that none of them needs are left out.
    """
    return Text(steps, tuple(names), given or {}, results).write(title, name)


class Text(Sizes):
    """The text of a function, while it is written."""

    def __init__(
        self,
        steps: Steps,
        names: tuple[str, ...],
        given: Mapping[str, int],
        results: Sequence[int] | None,
    ) -> None:
        super().__init__(steps, names)
        self.results = results
        # The values that each step reads, and whether one step alone brings several together.
        self.reads = [sources(step) for step in steps.steps]
        together = [
            step
            for step, read in zip(steps.steps, self.reads, strict=True)
            if len(read) > 1 and not isinstance(step, Add)
        ]
        self.single = len(together) == 1
        self.live = live(steps, [steps.result] if results is None else results)
        self.given = given
        self.taken = {"torch", "F", "zip", *names}
        every = (*steps.inputs, *(step.dims for step in steps.steps))
        axes = [axis for dims in every for dim in dims for axis in dim]
        for axis in dict.fromkeys((*steps.given, *axes)):
            self.axes[axis] = self.free("n" + axis[3:] if axis.startswith("...") else axis)
        # The text of each value: a variable, or an expression that is not yet bound to one.
        self.text = dict(enumerate(names))
        self.products = 0
        # What products have made, by name, and the place of the last step that reads it.
        self.until: dict[str, int] = {}
        # The last step that takes memory of its own: before it, that of others may be let go.
        count = len(names)
        self.allocates = max(
            (
                place
                for place, step in enumerate(steps.steps)
                if count + place in self.live and not is_view(step)
            ),
            default=0,
        )

    def free(self, wish: str) -> str:
        """A name like `wish` that nothing else has."""
        name = wish
        while name in self.taken or keyword.iskeyword(name) or keyword.issoftkeyword(name):
            name += "_"
        self.taken.add(name)
        return name

    def readers(self) -> dict[int, int]:
        """How often each value is read."""
        count = len(self.inputs)
        readers = dict.fromkeys(range(count + len(self.steps.steps)), 0)
        for place, read in enumerate(self.reads):
            if count + place in self.live:
                for source in read:
                    readers[source] += 1
        for number in self.results or ():
            readers[number] += 1  # the `return` at the end reads it
        return readers

    def last(self) -> dict[int, int]:
        """The place of the last step that reads each value."""
        count, places = len(self.inputs), len(self.steps.steps)
        found = dict.fromkeys(range(count + places), places)
        for place, read in enumerate(self.reads):
            if count + place in self.live:
                found.update(dict.fromkeys(read, place))
        found.update(dict.fromkeys(self.results or (), places))
        return found

    def let_go(self, place: int) -> list[str]:
        """A line that lets go what products have made and no step after this one reads."""
        if place >= self.allocates:
            return []
        gone = [name for name, until in self.until.items() if until <= place]
        for name in gone:
            del self.until[name]
        return [f"del {', '.join(gone)}"] if gone else []

    def write(self, title: str, name: str) -> str:
        """The whole text."""
        count = len(self.inputs)
        readers = self.readers()
        last = self.last()
        variable = dict(enumerate(self.inputs))
        lines: list[str] = []
        pending = ""
        for place, step in enumerate(self.steps.steps):
            number = count + place
            if number not in self.live:
                continue
            first = self.reads[place][0]
            chained = len(self.reads[place]) == 1
            if isinstance(step, Place) or (in_turns(step) and not _at_once(step)):
                variable[number] = self.product(step, readers, variable)
                self.until[variable[number]] = last[number]
                lines += self.placed(step, variable[number], variable, readers)
                lines += self.let_go(place)
                continue
            expression = self.spell(step, pending if chained and pending else None, variable)
            if chained:
                # A value that nobody else reads passes its name on, as one writes `x =
                # x.permute(...)`.
                keep = readers[first] == 1
                variable[number] = variable[first] if keep else self.free(variable[first])
            else:
                variable[number] = self.product(step, readers, variable)
            if not chained or variable[first] in self.until:
                self.until[variable[number]] = last[number]
            continues = (
                number + 1 in self.live
                and self.reads[place + 1] == (number,)
                and readers[number] == 1
                and number not in (self.results or ())
            )
            if continues and (chained or isinstance(step, Multiply)):
                # The next operation is written behind this one, on the same line.
                pending = expression if chained else f"({expression})"
                continue
            pending = ""
            comment = f"  # {self.dims(step.dims)}"
            if number == self.steps.result and self.results is None:
                lines.append(f"return {expression}{comment}")
            else:
                lines.append(f"{variable[number]} = {expression}{comment}")
                lines += self.let_go(place)
        if self.results is not None:
            returned = [variable[number] for number in self.results]
            lines.append(f"return {', '.join(returned)}{',' if len(returned) == 1 else ''}")
        elif not (lines and lines[-1].startswith("return ")):
            result = variable[self.steps.result]
            # Whoever changes what the result says of itself does not mean the operand.
            same = f".view_as({result})" if self.steps.result < count else ""
            lines.append(f"return {result}{same}")
        body = [f'"""{title}"""', *self.sizes(), *lines]
        return f"def {name}({', '.join(self.parameters())}):\n" + "".join(
            f"    {line}\n" for line in body
        )

    def parameters(self) -> list[str]:
        """What the function takes."""
        defaults = [
            f"{self.axes[axis]}={self.given[axis]}" if axis in self.given else self.axes[axis]
            for axis in self.steps.given
        ]
        return [*self.inputs, *defaults]

    def product(self, step: Step, readers: Mapping[int, int], variable: Mapping[int, str]) -> str:
        """A name for what two values make: `y`, or `y1`, `y2`, ... where there are several."""
        if isinstance(step, Add) and readers[step.left] == 1:
            return variable[step.left]
        if self.single:
            return self.free("y")
        self.products += 1
        return self.free(f"y{self.products}")

    # Operations

    def placed(
        self,
        step: Place | Bmm | Multiply | Accumulate,
        name: str,
        variable: Mapping[int, str],
        readers: Mapping[int, int],
    ) -> list[str]:
        """The lines of products that are written into a new tensor: at once, or in turns."""
        left, right = variable[step.left], variable[step.right]
        if isinstance(step, (Multiply, Accumulate)):
            # What others read as well keeps its name.
            lefts, rights = (
                variable[number] if readers[number] == 1 else self.free(variable[number])
                for number in (step.left, step.right)
            )
            first, second = map(self.free, (left, right))
            product, add = f"{lefts}[0] * {rights}[0]", "addcmul_"
            if isinstance(step, Accumulate):
                product, add = f"torch.bmm({lefts}[0], {rights}[0])", "baddbmm_"
            return [
                f"{lefts}, {rights} = {left}.unbind(), {right}.unbind()",
                f"{name} = {product}  # {self.dims(step.dims)}",
                f"for {first}, {second} in zip({lefts}[1:], {rights}[1:]):",
                f"    {name}.{add}({first}, {second})  # {self.dims(step.dims)}",
            ]
        shape = ", ".join(self.size(dim) for dim in step.dims)
        lines = [f"{name} = {left}.new_empty({shape})  # {self.dims(step.dims)}"]
        if isinstance(step, Bmm):
            every = ", ".join(f"{value}.unbind()" for value in (left, right, name))
            first, second, made = map(self.free, (left, right, name))
            product = f"torch.bmm({first}, {second}, out={made})"
            lines.append(f"for {first}, {second}, {made} in zip({every}):")
            return [*lines, f"    {product}  # {self.dims(step.dims[1:])}"]
        view = name
        if step.folded != step.dims:
            view += f".view({', '.join(self.size(dim) for dim in step.folded)})"
        order = [step.folded.index(dim) for dim in step.product]
        if order != sorted(order):
            view += _permuted(order)
        product = f"torch.bmm({left}, {right}, out={view})"
        return [*lines, f"{product}  # {self.dims(step.product)}"]

    def dims(self, dims: Dims) -> str:
        """Dimensions in words, for a comment."""
        words = [" ".join(self.axes[axis] for axis in dim) or "1" for dim in dims]
        return " ".join(f"({word})" if " " in word else word for word in words) or "a scalar"

    def spell(self, step: Step, pending: str | None, variable: Mapping[int, str]) -> str:
        """The expression for a step, on a variable or on what is pending on the same line."""
        if isinstance(step, (Multiply, Add)):
            sign = "*" if isinstance(step, Multiply) else "+"
            return f"{variable[step.left]} {sign} {variable[step.right]}"
        if isinstance(step, Linear):
            bias = f", {variable[step.bias]}" if step.bias is not None else ""
            return f"F.linear({variable[step.left]}, {variable[step.right]}{bias})"
        if isinstance(step, Bmm) and step.bias is not None:
            values = (variable[number] for number in (step.bias, step.left, step.right))
            return f"torch.baddbmm({', '.join(values)})"
        if isinstance(step, Accumulate):
            left, right = variable[step.left], variable[step.right]
            return f"torch.addbmm({left}.new_zeros(()), {left}, {right}, beta=0)"
        if isinstance(step, Bmm):
            return f"torch.bmm({variable[step.left]}, {variable[step.right]})"
        if isinstance(step, Matmul):
            ranks = len(self.steps.dims(step.left)), len(self.steps.dims(step.right))
            function = "mm" if ranks == (2, 2) else "matmul"
            return f"torch.{function}({variable[step.left]}, {variable[step.right]})"
        # Two lines, which `placed` writes, and what only `strided` writes.
        assert not isinstance(step, (Place, Strided))
        value = variable[step.source] if pending is None else pending
        before = self.steps.dims(step.source)
        if isinstance(step, Diagonal):
            return f"{value}.diagonal(dim1={step.first}, dim2={step.second})"
        if isinstance(step, Sum):
            places = str(step.places[0]) if len(step.places) == 1 else str(step.places)
            dtype = f", dtype={self.inputs[0]}.dtype" if self.steps.integer else ""
            return f"{value}.sum({places}{dtype})"
        if isinstance(step, Permute):
            last = len(step.order)
            if step.order == (*range(last - 2), last - 1, last - 2):
                return f"{value}.mT"
            return value + _permuted(step.order)
        if isinstance(step, Expand):
            lead = len(step.dims) - len(before)
            sizes = [
                "-1" if place >= lead and before[place - lead] == dim else self.size(dim)
                for place, dim in enumerate(step.dims)
            ]
            return f"{value}.expand({', '.join(sizes)})"
        return value + self.reshape(before, step)

    def reshape(self, before: Dims, step: Reshape) -> str:
        """The method that folds or unfolds."""
        after = step.dims
        if before == after:
            return ".contiguous()"
        start = next(
            (k for k, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
            min(len(before), len(after)),
        )
        stop = next(
            (
                k
                for k, (a, b) in enumerate(
                    zip(before[start:][::-1], after[start:][::-1], strict=False)
                )
                if a != b
            ),
            min(len(before), len(after)) - start,
        )
        old, new = before[start : len(before) - stop], after[start : len(after) - stop]
        # One place changed: torch has a word for it that needs no sizes (but `unflatten`, a slow
        # Python method).
        if len(old) == 1 and not new and not old[0]:
            return f".squeeze({start})"
        if len(new) == 1 and not old:
            return f".unsqueeze({start})"
        if len(new) == 1 and len(old) > 1:
            return f".flatten({start}, {start + len(old) - 1})"
        return f".reshape({', '.join(self.size(dim) for dim in after) or '()'})"


def _at_once(step: Step) -> bool:
    """Whether torch has one operation that goes around itself: there are no stacks."""
    return isinstance(step, Accumulate) and len(step.dims) == 2


def _permuted(order: Sequence[int]) -> str:
    moved = [place for place, old in enumerate(order) if place != old]
    # Two places are named more clearly, and passed on faster, than the order of all of them.
    verb, places = ("transpose", moved) if len(moved) == 2 else ("permute", order)
    return f".{verb}({', '.join(map(str, places))})"
