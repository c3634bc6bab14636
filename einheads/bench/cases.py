"""What is timed, as data: a `Case` is a pattern with sizes, a `Suite` a named list of them.

The file knows nothing of tensors, of contestants or of clocks.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from einheads.explain.subject import assume
from einheads.pattern import parse
from einheads.plan import plan
from einheads.sizes import Dim, bind

# What `torch.einsum` takes for an axis.
LETTERS = string.ascii_letters


@dataclass(frozen=True, slots=True)
class Case:
    """A pattern with the size of every axis.

    Attributes:
        name: how reports call it.
        pattern: what is computed.
        sizes: of every axis.
        weights: how many of the last operands are the parameters of a layer.
        bias: the axes of a bias, for a layer.
    """

    name: str
    pattern: str
    sizes: Mapping[str, int] = field(hash=False)
    weights: int = 0
    bias: str | None = None

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each operand.

        Example:
            >>> Case("", "b (h i), i o -> b h o", {"b": 2, "h": 3, "i": 4, "o": 5}).shapes
            ((2, 12), (4, 5))
        """
        return tuple(assume(parse(self.pattern), self.sizes).shapes)

    @property
    def terms(self) -> tuple[Dim, ...]:
        """The axes of each operand, and of the output at the end, where all are plain names."""
        left, right = self.pattern.split("->")
        return tuple(tuple(term.split()) for term in (*left.split(","), right))

    @property
    def plain(self) -> bool:
        """Whether all axes are plain names, which every contestant can read.

        Single letters have to do for them, and none may be of the output alone.
        """
        *operands, output = self.terms
        names = {name for term in operands for name in term}
        readable = all(name.isidentifier() and name.isascii() for name in (*names, *output))
        return readable and names.issuperset(output) and len(names) <= len(LETTERS)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds in the planned order of contraction."""
        bound = bind(
            parse(self.pattern), self.shapes, assume(parse(self.pattern), self.sizes).needed
        )
        return plan(bound).multiply_adds

    @property
    def elements(self) -> int:
        """Numbers that have to be read and written at least once: the operands and the output."""
        pattern = parse(self.pattern)
        output = math.prod(self.sizes[name] for name in pattern.output.names)
        return output + sum(math.prod(shape) for shape in self.shapes)

    def shrunk(self, largest: int) -> Case:
        """The same with no size above a bound, to try out that everything still works."""
        return replace(self, sizes={name: min(size, largest) for name, size in self.sizes.items()})


@dataclass(frozen=True, slots=True)
class Suite:
    """A named list of cases, and what is looked at.

    Attributes:
        name: on the command line.
        purpose: one line.
        kind: "forward" and "training" are races; "overhead", "planning", "start", "memory" and
            "copies" look at einheads alone.
        cases: the cases.
        optional: whether it takes so long that it only runs when it is named.
    """

    name: str
    purpose: str
    kind: str
    cases: tuple[Case, ...]
    optional: bool = False

    def shrunk(self, largest: int) -> Suite:
        """The same suite with tiny sizes."""
        return replace(self, cases=tuple(case.shrunk(largest) for case in self.cases))


def case(pattern: str, sizes: str, *, name: str = "", weights: int = 0, bias: str = "") -> Case:
    """Write a case in one line.

    Example:
        >>> linear = case("b i, o i -> b o", "b=8 i=4 o=2")
        >>> linear.name, linear.sizes
        ('b8 i4 o2', {'b': 8, 'i': 4, 'o': 2})

    Args:
        pattern: what is computed.
        sizes: the size of every axis, as on the command line.
        name: by default made of the sizes.
        weights: how many of the last operands are parameters.
        bias: the axes of a bias.
    """
    pairs = [word.split("=") for word in sizes.split()]
    table = {axis: int(size) for axis, size in pairs}
    name = name or " ".join(f"{axis}{size}" for axis, size in pairs)
    return Case(name, pattern, table, weights, bias or None)
