"""The ways to see one contraction as a matrix product, and what each of them costs.

There is freedom: which axes are folded into the rows and columns, which become the batch (an
operand that lacks them is expanded at stride zero), in which order, which operand is on the left.
Each choice is a `Candidate`; each has a price in nanoseconds. Prices only rank, they are no
promise: whichever is chosen, the result is right. The file knows nothing of torch, nor of how a
candidate is written down.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .layout import Layout, contiguous
from .plan import Contraction
from .sizes import Dim, Dims
from .steps import flat


@dataclass(frozen=True, slots=True)
class Traits:
    """What of the tensors, besides shapes and layouts, decides the lowering.

    Attributes:
        device: the device type, such as "cpu" or "cuda".
        itemsize: bytes for one number.
        integer: integers have no matrix product on every device, and sum into int64.
        autocast: contractions are matrix products without exception, since only these are cast.
    """

    device: str = "cpu"
    itemsize: int = 4
    integer: bool = False
    autocast: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to see a contraction as a (stack of) matrix product.

    Attributes:
        batch: axes of the stack, the looped ones among them: those that only one operand has.
        rows: axes folded into the rows of the left matrix.
        columns: axes folded into the columns of the right matrix.
        contract: the summed axes, in the order in which they are folded.
        swapped: whether the right operand of the contraction is the left matrix.
    """

    batch: Dim
    rows: Dim
    columns: Dim
    contract: Dim
    swapped: bool


# What a candidate is priced with, in nanoseconds. Rough figures of one core of a recent x86-64
# server with AVX-512, float32; only their ratios matter. They are to be replaced by a calibration
# for each device.
_PER_CALL = 900.0
_PER_MATRIX = 50.0
_PER_COPIED_BYTE = 0.3
_MULTIPLY_ADDS_PER_NS = 40.0


def choose(
    step: Contraction,
    left: Layout,
    right: Layout,
    sizes: Mapping[str, int],
    traits: Traits,
    output: Dims | None,
) -> Candidate:
    """The cheapest candidate of a contraction; the first one of equals."""
    return min(
        candidates(step, left, right),
        key=lambda one: price(one, step, left, right, sizes, traits, output),
    )


def candidates(step: Contraction, left: Layout, right: Layout) -> Iterator[Candidate]:
    """Every way to see a contraction as a matrix product that could be the best one.

    An operand's axes are folded in the order in which they lie in its memory, since another order
    copies. A batch whose axes are partly missing in an operand has no single stride there: it is
    tried, but it copies.
    """
    contracts = _orders(step.contract, left, right)
    for looped in _subsets(step.left_axes, left):
        for others in _subsets(step.right_axes, right):
            if looped and others:
                continue  # both operands would have to be copied
            rows = _sorted(step.left_axes, left, without=looped)
            columns = _sorted(step.right_axes, right, without=others)
            for batch in _orders((*step.batch, *looped, *others), left, right):
                for contract in contracts:
                    yield Candidate(batch, rows, columns, contract, False)
                    yield Candidate(batch, columns, rows, contract, True)


def price(
    candidate: Candidate,
    step: Contraction,
    left: Layout,
    right: Layout,
    sizes: Mapping[str, int],
    traits: Traits,
    output: Dims | None = None,
) -> float:
    """What a candidate costs, in nanoseconds: arithmetic, copies, calls."""
    if candidate.swapped:
        left, right = right, left
    own_left = step.right_axes if candidate.swapped else step.left_axes
    own_right = step.left_axes if candidate.swapped else step.right_axes
    count = {
        "batch": math.prod(sizes[name] for name in candidate.batch),
        "rows": math.prod(sizes[name] for name in candidate.rows),
        "columns": math.prod(sizes[name] for name in candidate.columns),
        "contract": math.prod(sizes[name] for name in candidate.contract),
    }
    rate = _MULTIPLY_ADDS_PER_NS
    for name, half in (("rows", 6), ("columns", 6), ("contract", 8)):
        rate *= count[name] / (count[name] + half) if count[name] else 1.0
    nanoseconds = _PER_CALL + count["batch"] * _PER_MATRIX
    nanoseconds += count["batch"] * count["rows"] * count["columns"] * count["contract"] / rate
    for layout, fold, own in (
        (left, candidate.rows, own_left),
        (right, candidate.columns, own_right),
    ):
        if not _viewable(layout, candidate, fold, set((*step.batch, *own))):
            nanoseconds += _copy(
                count["batch"] * count["contract"] * math.prod(sizes[name] for name in fold), traits
            )
    if output is not None:
        dims = (candidate.batch, candidate.rows, candidate.columns)
        made = contiguous(dims, sizes)
        result = count["batch"] * count["rows"] * count["columns"]
        if not all(made.folds(tuple(name for name in dim if name in flat(dims))) for dim in output):
            nanoseconds += _copy(result, traits)
        elif not made.folds(tuple(name for dim in output for name in dim if name in flat(dims))):
            # A permuted view is free here, but the reader of it pays something.
            nanoseconds += 0.05 * result * traits.itemsize * _PER_COPIED_BYTE + 1.0
    # Among equals: as it is written.
    return nanoseconds + (0.5 if candidate.swapped else 0.0)


def _copy(count: int, traits: Traits) -> float:
    return _PER_CALL + count * traits.itemsize * _PER_COPIED_BYTE


def _viewable(layout: Layout, candidate: Candidate, fold: Dim, have: set[str]) -> bool:
    """Whether an operand becomes the matrices of a candidate without a copy, ours or the matrix library's."""
    present = [name in have for name in candidate.batch]
    if any(present) and not all(present):
        return False
    if all(present) and not layout.folds(candidate.batch):
        return False
    if not layout.folds(fold) or not layout.folds(candidate.contract):
        return False
    # BLAS reads a matrix whose rows or whose columns lie densely; a batch axis innermost is
    # neither.
    inner = {name for dim in (fold, candidate.contract) for name in dim if name in layout.order}
    ends = {
        next((name for name in reversed(dim) if name in layout.order), None)
        for dim in (fold, candidate.contract)
    }
    return not inner or layout.unit in ends


def _orders(axes: Dim, left: Layout, right: Layout) -> list[Dim]:
    """The orders in which axes lie in either operand."""
    return list(dict.fromkeys((_sorted(axes, left), _sorted(axes, right))))


def _sorted(axes: Dim, layout: Layout, without: Dim = ()) -> Dim:
    # Axes that the layout does not know (size one, or not of this operand) come first, as they are
    # written.
    return tuple(
        sorted(
            (name for name in axes if name not in without),
            key=lambda name: layout.order.index(name) if name in layout.order else -1,
        )
    )


# More looped axes than this are tried only as the outermost or innermost ones of the operand.
_ALL_SUBSETS = 4


def _subsets(axes: Dim, layout: Layout) -> list[Dim]:
    """The sets of axes that may be looped over, none of them first."""
    ordered = _sorted(axes, layout)
    if len(ordered) <= _ALL_SUBSETS:
        return [
            subset
            for length in range(len(ordered) + 1)
            for subset in itertools.combinations(ordered, length)
        ]
    outer = [ordered[:length] for length in range(len(ordered) + 1)]
    return list(dict.fromkeys([*outer, *(ordered[length:] for length in range(1, len(ordered)))]))
