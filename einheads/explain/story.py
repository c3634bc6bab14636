"""The story of a pattern, as data.

An `Explanation` is numbers, names and texts, and nothing else. How it looks is for others to know:
`telling` writes it as plain text, `render` draws it, `page` puts it on a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from einheads.sizes import Dim, Dims
from einheads.steps import elements

from .spellings import Spelling


class Effect(Enum):
    """What a step does to memory."""

    VIEW = "view"  # the same memory, seen otherwise
    COPY = "copy"  # the same numbers, moved into another order
    NEW = "new"  # new numbers


@dataclass(frozen=True, slots=True)
class Value:
    """An input or the result: its name, its dimensions in axis names, and its shape."""

    name: str
    dims: Dims
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A contraction of two values, by the roles of its axes.

    Attributes:
        operands: the names of the two values.
        result: the name of the value they become.
        batch: axes of both and of the result.
        contract: axes of both that are summed.
        left: axes of the first value and the result.
        right: axes of the second value and the result.
        multiply_adds: how many multiplications it takes.
    """

    operands: tuple[str, str]
    result: str
    batch: Dim
    contract: Dim
    left: Dim
    right: Dim
    multiply_adds: int

    @property
    def roles(self) -> dict[str, Dim]:
        """The axes of each role."""
        return {
            "batch": self.batch,
            "contract": self.contract,
            "left": self.left,
            "right": self.right,
        }


@dataclass(frozen=True, slots=True)
class Matrices:
    """How the axes of a matrix product lie: a loop of `rows inner, inner columns -> rows columns`.

    Attributes:
        loop: axes of which each element is a product of its own.
        rows: axes folded into the rows of the first matrix.
        inner: axes that are multiplied and summed.
        columns: axes folded into the columns of the second matrix.
    """

    loop: Dim
    rows: Dim
    inner: Dim
    columns: Dim


@dataclass(frozen=True, slots=True)
class Operation:
    """One step.

    Attributes:
        verb: what it does, such as "permute", "fold" or "bmm".
        axes: the axes it does it to, where that says something.
        reads: the names of the values it takes.
        makes: the name of its value.
        dims: the dimensions of its value, in axis names.
        shape: the same in numbers.
        effect: what it does to memory.
        bytes: how many it writes; none for a view.
        multiply_adds: how many multiplications it takes.
        matrices: what is folded and what is looped, where it is a matrix product.
    """

    verb: str
    axes: Dim
    reads: tuple[str, ...]
    makes: str
    dims: Dims
    shape: tuple[int, ...]
    effect: Effect
    bytes: int
    multiply_adds: int
    matrices: Matrices | None = None


@dataclass(frozen=True, slots=True)
class Alternative:
    """The lowering that came next to the chosen one.

    Attributes:
        steps: its products and copies in one line.
        price: how many times the price of the chosen one it has.
        bytes_copied: what it would move only to lie in another order.
        reason: what makes it dearer.
    """

    steps: str
    price: float
    bytes_copied: int
    reason: str


@dataclass(frozen=True, slots=True, repr=False)
class Explanation:
    """What a pattern means, what runs for it, what that costs, and how else it could be written.

    `print` it for the story; in a notebook it draws itself.

    Attributes:
        pattern: its canonical spelling.
        sizes: the size of every axis; `...1`, `...2` are the axes under `...`.
        assumed: the axes whose size nobody told.
        inputs: the operands, then the bias if there is one.
        result: what comes out.
        bias: the axes of the bias.
        diagonals: axes that stand more than once in an operand.
        summed: axes that stand in one operand only and not in the output; they are summed first.
        repeated: axes that are only in the output.
        contractions: pair by pair.
        steps: what runs.
        chosen: the products of the steps, and what is copied for them, in one line.
        runner_up: what the steps were chosen over; None if there is no other way, or if they were
            measured.
        measured: whether `einheads.tune` has found them to be the fastest.
        kept: what gradients read besides the operands: inner results, and copies where autograd
            makes the gradients by itself; nothing for a layer with `checkpoint=True`.
        multiply_adds: of all contractions together.
        naive: multiply-adds if everything were expanded to all axes at once.
        itemsize: bytes for one number.
        source: the text of the program.
        unfollowed: what runs instead where nobody follows what is done, neither autograd nor a
            compiler: products that are written into one result, in turns; None if it is the same.
        definition: the program as unsqueeze, multiply and sum.
        matmul: the program with `torch.matmul`.
        vmap: the program with `torch.func.vmap`.
    """

    pattern: str
    sizes: Mapping[str, int]
    assumed: Dim
    inputs: tuple[Value, ...]
    result: Value
    bias: Dim | None
    diagonals: Dim
    summed: Dim
    repeated: Dim
    contractions: tuple[Pair, ...]
    steps: tuple[Operation, ...]
    chosen: str
    runner_up: Alternative | None
    measured: bool
    kept: tuple[Value, ...]
    multiply_adds: int
    naive: int
    itemsize: int
    source: str
    unfollowed: Spelling | None
    definition: Spelling
    matmul: Spelling
    vmap: Spelling

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """The role of each axis in each contraction that it takes part in, in order.

        Besides the four roles of a contraction there are "sum" and "repeat", and "keep" for an axis
        of a lone operand that goes to the output.

        Example:
            >>> import einheads
            >>> einheads.explain("b i, i r, r o -> b o").roles
            {'b': ('left', 'left'), 'i': ('contract',), 'r': ('right', 'contract'), 'o': ('right',)}
        """
        roles: dict[str, tuple[str, ...]] = {}
        for axis in self.sizes:
            found = [
                role
                for pair in self.contractions
                for role, axes in pair.roles.items()
                if axis in axes
            ]
            if axis in self.summed:
                found.insert(0, "sum")
            if axis in self.repeated:
                found.append("repeat")
            roles[axis] = tuple(found) or ("keep",)
        return roles

    @property
    def bytes_copied(self) -> int:
        """What the steps move only to lie in another order.

        Not what BLAS copies of operands that are no matrices to it, since their rows overlap or are
        the same: windows of `unfold`, expanded rows.
        """
        return sum(step.bytes for step in self.steps if step.effect is Effect.COPY)

    @property
    def bytes_held(self) -> int:
        """The size of the inputs and the result."""
        return self.itemsize * sum(
            elements(value.dims, self.sizes) for value in (*self.inputs, self.result)
        )

    @property
    def bytes_kept(self) -> int:
        """The size of what gradients read besides the operands."""
        return self.itemsize * sum(elements(value.dims, self.sizes) for value in self.kept)

    @property
    def spellings(self) -> tuple[Spelling, Spelling, Spelling]:
        """The three other ways to write it."""
        return self.definition, self.matmul, self.vmap

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists, numbers and strings, for `json.dumps`.

        Example:
            >>> import einheads
            >>> told = einheads.explain("b i, o i -> b o", (2, 3), (5, 3)).to_dict()
            >>> told["steps"]  # doctest: +NORMALIZE_WHITESPACE
            [{'verb': 'linear', 'axes': ['i'], 'reads': ['x1', 'x2'], 'makes': 'y',
              'dims': [['b'], ['o']], 'shape': [2, 5], 'effect': 'new', 'bytes': 40,
              'multiply_adds': 30,
              'matrices': {'loop': [], 'rows': ['b'], 'inner': ['i'], 'columns': ['o']}}]
        """
        told: dict[str, Any] = {
            name: _plain(getattr(self, name))
            for name in self.__slots__
            if name not in (*_SPELLED, "unfollowed")
        }
        told["unfollowed"] = None if self.unfollowed is None else self.unfollowed.text
        told["roles"] = _plain(self.roles)
        told["bytes_copied"] = self.bytes_copied
        told["bytes_held"] = self.bytes_held
        told["bytes_kept"] = self.bytes_kept
        told["spellings"] = {name: getattr(self, name).text for name in _SPELLED}
        return told

    def svg(self) -> str:
        """A drawing: operands with their axes aligned, what is contracted, folded and looped."""
        from .render import svg

        return svg(self)

    def _repr_html_(self) -> str:
        from .page import html

        return html(self)

    def __str__(self) -> str:
        from .telling import text

        return text(self)

    __repr__ = __str__


_SPELLED = ("definition", "matmul", "vmap")


def _plain(value: object) -> Any:
    """Lists, dictionaries, numbers and strings only."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    slots = getattr(type(value), "__slots__", None)
    if slots is not None:
        return {name: _plain(getattr(value, name)) for name in slots}
    return value
