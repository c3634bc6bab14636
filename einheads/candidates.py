"""The ways to compute one contraction, and what each of them costs.

There is freedom: which axes are folded into the rows and columns of a matrix product, which become
its batch (an operand that lacks them is expanded at stride zero), in which order, which operand is
on the left, or whether there is a matrix product at all. Each choice is a `Way`; each has a price
in nanoseconds. Prices only rank, they are no promise: whichever is chosen, the result is right. The
file knows nothing of torch, nor of how a way is written down.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .layout import Layout, combined, contiguous
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
        dense: whoever reads the result copies it, unless it is born in the order of its dimensions.
    """

    device: str = "cpu"
    itemsize: int = 4
    integer: bool = False
    autocast: bool = False
    dense: bool = False


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

    @property
    def result(self) -> Dims:
        """The dimensions of what the matrix product makes."""
        return self.batch, self.rows, self.columns


@dataclass(frozen=True, slots=True)
class Elementwise:
    """Multiply with unit dimensions where an operand lacks an axis, then sum the contracted axes.

    Attributes:
        order: of the axes while they are multiplied.
        contract: those of them that are summed; none for a plain product.
    """

    order: Dim
    contract: Dim

    @property
    def result(self) -> Dims:
        """The dimensions of the result."""
        return tuple((name,) for name in self.order if name not in self.contract)


Way = Candidate | Elementwise

# What a way is priced with, in nanoseconds. Rough figures of one core of a recent x86-64 server
# with AVX-512, float32; only their ratios matter.
PER_CALL = 1500.0
_PER_MATRIX = 90.0
_PER_COPIED_BYTE = 0.14
_PER_RUN_IN_CACHE = 2.0
_PER_RUN = 3.5
_CACHE = 1 << 20
_PER_ELEMENT = 0.5
_MULTIPLY_ADDS_PER_NS = 35.0
# With so many rows, columns or contracted numbers a matrix product reaches half of its rate.
_HALF_ROWS = 4
_HALF_COLUMNS = 8
_HALF_CONTRACT = 8


def ways(
    step: Contraction,
    left: Layout,
    right: Layout,
    sizes: Mapping[str, int],
    traits: Traits,
    output: Dims | None,
) -> list[tuple[float, Way]]:
    """Every way worth trying, with its price.

    Args:
        step: the contraction.
        left: the layout of its left value.
        right: the layout of its right value.
        sizes: to price with.
        traits: device, dtype and autocast.
        output: the dimensions that the result has to be brought into; None between two
            contractions.
    """
    only = _elementwise_only(step, traits)
    found: list[tuple[float, Way]] = []
    if only or not traits.autocast:
        elementwise = _elementwise(step, left, right, output)
        found += [(_price_elementwise(one, sizes, traits), one) for one in elementwise]
    if not only:
        found += [
            (price(one, step, left, right, sizes, traits, output), one)
            for one in candidates(step, left, right)
        ]
    return found


def made(way: Way, left: Layout, right: Layout, sizes: Mapping[str, int]) -> Layout:
    """How the result of a way lies in memory."""
    if isinstance(way, Elementwise) and not way.contract:
        return combined(way.result, left, right, sizes)
    return contiguous(way.result, sizes)


def _elementwise_only(step: Contraction, traits: Traits) -> bool:
    if not step.contract:
        return True
    if traits.integer and traits.device != "cpu":
        return True
    # A stack of 1x1 results is no matrix product.
    return bool(step.batch and not step.left_axes and not step.right_axes and not traits.autocast)


def _elementwise(
    step: Contraction, left: Layout, right: Layout, output: Dims | None
) -> Iterator[Elementwise]:
    # As the operands lie, nothing is read against its order; as the output wants it, nothing is
    # turned afterwards.
    orders = [left.order + right.order, right.order + left.order]
    if output is not None:
        orders.insert(0, tuple(name for name in flat(output) if name in step.result))
    for order in orders:
        every = tuple(dict.fromkeys((*order, *step.result, *left.order, *step.contract)))
        yield Elementwise(every, step.contract)


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
    """What a candidate costs, in nanoseconds: arithmetic and copies, but not the calls."""
    own_left, own_right = step.left_axes, step.right_axes
    if candidate.swapped:
        left, right = right, left
        own_left, own_right = own_right, own_left
    batch, rows, columns, contract = (
        math.prod([sizes[name] for name in dim])
        for dim in (candidate.batch, candidate.rows, candidate.columns, candidate.contract)
    )
    rate = _MULTIPLY_ADDS_PER_NS
    for count, half in ((rows, _HALF_ROWS), (columns, _HALF_COLUMNS), (contract, _HALF_CONTRACT)):
        rate *= count * count / (count * count + half * half) if count else 1.0
    nanoseconds = batch * (_PER_MATRIX + rows * columns * contract / rate)
    if not readable(left, candidate, candidate.rows, (*step.batch, *own_left)):
        folds = candidate.rows, candidate.contract
        nanoseconds += _copy(batch * contract * rows, left, folds, sizes, traits)
    if not readable(right, candidate, candidate.columns, (*step.batch, *own_right)):
        folds = candidate.columns, candidate.contract
        nanoseconds += _copy(batch * contract * columns, right, folds, sizes, traits)
    if output is not None:
        nanoseconds += _price_result(candidate, batch * rows * columns, sizes, traits, output)
    # Among equals: as it is written.
    return nanoseconds + (0.5 if candidate.swapped else 0.0)


def _price_result(
    candidate: Candidate, count: int, sizes: Mapping[str, int], traits: Traits, output: Dims
) -> float:
    made = contiguous(candidate.result, sizes)
    have = flat(candidate.result)
    wanted = [tuple(name for name in dim if name in have) for dim in output]
    axes = tuple(name for dim in wanted for name in dim)
    copy = _copy(count, made, (axes,), sizes, traits)
    if not all(made.folds(dim) for dim in wanted):
        return copy
    if made.folds(axes):
        return 0.0
    if traits.dense:
        return copy
    # A permuted result is free here, but whoever reads it pays something: the more if its last
    # axis is not the innermost one, over which softmax, norms and sums will run.
    last = next((name for name in reversed(axes) if name in made.order), None)
    return copy * 0.05 if made.unit == last else copy * 0.1 + PER_CALL


def _price_elementwise(way: Elementwise, sizes: Mapping[str, int], traits: Traits) -> float:
    count = math.prod(sizes[name] for name in way.order)
    passes = 3 if way.contract else 1
    return passes * count * (_PER_ELEMENT + traits.itemsize * _PER_COPIED_BYTE)


def _copy(
    count: int, layout: Layout, folds: tuple[Dim, ...], sizes: Mapping[str, int], traits: Traits
) -> float:
    """What a copy costs: by bytes where whole runs are moved, by numbers where each stands alone.

    A copy keeps runs if the innermost axis of the source ends one of the folds of the result.
    """
    inner = layout.order[-1] if layout.order else None
    ends = [next((name for name in reversed(dim) if name in layout.order), None) for dim in folds]
    run = max(sizes[inner], 1) if inner and inner in ends and inner == layout.unit else 1
    per_run = _PER_RUN_IN_CACHE if count * traits.itemsize < _CACHE else _PER_RUN
    return PER_CALL + count * (traits.itemsize * _PER_COPIED_BYTE + per_run / run)


def readable(layout: Layout, candidate: Candidate, fold: Dim, have: Dim) -> bool:
    """Whether an operand becomes matrices that BLAS reads as they lie, without a copy.

    Args:
        layout: of the operand.
        candidate: whose matrices they are.
        fold: its rows or its columns, whichever the operand has.
        have: the axes of the operand, those that are contracted aside.
    """
    present = [name in have for name in candidate.batch]
    if any(present) and not (all(present) and layout.folds(candidate.batch)):
        return False
    if not layout.folds(fold) or not layout.folds(candidate.contract):
        return False
    # BLAS reads a matrix whose rows or whose columns lie densely; a batch axis innermost is
    # neither.
    dims = [[name for name in dim if name in layout.order] for dim in (fold, candidate.contract)]
    return not any(dims) or layout.unit in [dim[-1] for dim in dims if dim]


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
