"""The ways to compute one contraction, as data.

There is freedom: which axes are folded into the rows and columns of a matrix product, which become
its batch (an operand that lacks them is expanded at stride zero), in which order, which operand is
on the left, how a copy is laid out, or whether there is a matrix product at all. Each choice is a
`Way`. The file knows nothing of prices, nor of how a way is written down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .layout import Layout, combined, contiguous, near
from .plan import Contraction
from .rates import Rates, rates_for
from .sizes import Dim, Dims


@dataclass(frozen=True, slots=True)
class Traits:
    """What of the tensors, besides shapes and layouts, decides the lowering.

    Attributes:
        device: the device type, such as "cpu" or "cuda".
        itemsize: bytes for one number.
        integer: integers have no matrix product on every device, and sum into int64.
        half: whether numbers are float16, of which BLAS has no products on a CPU.
        autocast: contractions are matrix products without exception, since only these are cast.
        dense: whoever reads the result copies it, unless it is born in the order of its dimensions.
        trains: gradients of several operands will be wanted; they count where an order of
            contractions is chosen.
        turns: products may be made one after the other, into one result: calls are cheap, and
            nobody follows what is done.
        shared: several threads of the CPU share the work.
    """

    device: str = "cpu"
    itemsize: int = 4
    integer: bool = False
    half: bool = False
    autocast: bool = False
    dense: bool = False
    trains: bool = False
    turns: bool = False
    shared: bool = False

    @property
    def numbers(self) -> str:
        """What the numbers are called, where they are no float32 or alike to a price."""
        return f"int{8 * self.itemsize}" if self.integer else "float16" if self.half else ""

    @property
    def rates(self) -> Rates:
        """What operations cost there."""
        return rates_for(self.device, self.numbers, shared=self.shared)

    @property
    def narrow(self) -> bool:
        """Whether numbers are floats of two bytes at most.

        Their products are rounded, or overflow, before a sum sees them; a matrix product adds them
        up in wider numbers.
        """
        return self.itemsize <= 2 and not self.integer

    @property
    def wide(self) -> bool:
        """Whether products may be made before a sum sees them, which does not cast them either."""
        return not (self.autocast or self.narrow)


class Candidate(NamedTuple):
    """One way to see a contraction as a (stack of) matrix product.

    Attributes:
        batch: axes of the stack, the looped ones among them: those that only one operand has.
        rows: axes folded into the rows of the left matrix.
        columns: axes folded into the columns of the right matrix.
        contract: the axes summed by the product, in the order in which they are folded.
        swapped: whether the right operand of the contraction is the left matrix.
        near: for the left and the right matrix, whether the summed axes lie innermost. A matrix
            that is stored the other way is copied for that; so is a vector that lies at a distance.
        each: whether there is a stack for each index of the first axis, one after the other: no
            stride covers that axis and the rest of the batch, or it is one that is added up.
        added: summed axes in the batch, along which products are added up, since to fold them with
            the others would copy an operand: with `each` as they are made, otherwise afterwards.
    """

    batch: Dim
    rows: Dim
    columns: Dim
    contract: Dim
    swapped: bool
    near: tuple[bool, bool] = (True, False)
    each: bool = False
    added: Dim = ()

    @property
    def stack(self) -> Dim:
        """The axes that one stride has to cover."""
        return self.batch[1:] if self.each else self.batch

    @property
    def result(self) -> tuple[Dim, Dim, Dim]:
        """The dimensions of what it makes."""
        batch = self.batch
        if self.added:
            batch = tuple(name for name in batch if name not in self.added)
        return batch, self.rows, self.columns


class Elementwise(NamedTuple):
    """Multiply with unit dimensions where an operand lacks an axis, then sum the contracted axes.

    Attributes:
        order: of the axes while they are multiplied.
        contract: those of them that are summed; none for a plain product.
        each: whether the products along the first axis are added up one after the other, so that
            they are never there all at once.
        copies: whether the left and the right operand are copied into this order before.
    """

    order: Dim
    contract: Dim
    each: bool = False
    copies: tuple[bool, bool] = (False, False)

    @property
    def result(self) -> Dims:
        """The dimensions of the result."""
        return tuple((name,) for name in self.order if name not in self.contract)


Way = Candidate | Elementwise


def elementwise_only(step: Contraction, traits: Traits) -> bool:
    """Whether no matrix product may compute a contraction."""
    if not step.contract:
        return True
    if traits.device == "cpu" or not traits.wide:
        return False
    # Off the CPU, integers have no matrix product, and a stack of 1x1 results is slow as one.
    return traits.integer or bool(step.batch and not step.left_axes and not step.right_axes)


def turning(ways: Iterable[Way]) -> bool:
    """Whether any of them makes one product after the other."""
    return any(way.each for way in ways)


def made(way: Way, left: Layout, right: Layout, sizes: Mapping[str, int]) -> Layout:
    """How the result of a way lies in memory."""
    if isinstance(way, Elementwise) and not way.contract:
        return combined(way.result, left, right, sizes)
    return contiguous(way.result, sizes)


def covered(layout: Layout, batch: Dim, have: frozenset[str]) -> bool:
    """Whether one stride covers a batch in an operand, or the operand has none of its axes."""
    return have.isdisjoint(batch) or (have.issuperset(batch) and layout.folds(batch))


def readable(
    layout: Layout, batch: Dim, fold: Dim, contract: Dim, have: frozenset[str]
) -> bool | None:
    """How the summed axes lie in a stack of matrices, as `lying`; None if there is none either.

    Args:
        layout: of the operand.
        batch: axes of the stack.
        fold: its rows or its columns, whichever the operand has.
        contract: the summed axes.
        have: the axes of the operand.
    """
    return lying(layout, fold, contract) if covered(layout, batch, have) else None


def lying(layout: Layout, fold: Dim, contract: Dim) -> bool | None:
    """Whether the summed axes lie innermost in matrices; None if BLAS cannot read these.

    It reads a matrix whose rows or whose columns lie densely; a batch axis innermost is neither.
    """
    if not layout.folds(fold) or not layout.folds(contract):
        return None
    return near(layout, fold, contract)
