"""What single operations cost, in nanoseconds: the units of work in them, times the rates.

Here is what is known of how torch's operations walk through memory: which loops they run, which of
them move whole runs of numbers, what leaves the caches meanwhile, and which matrices BLAS reads
well. The file sees layouts and sizes, never a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .layout import Layout
from .rates import Rates
from .sizes import Dim, Dims
from .steps import flat
from .walks import Walks

# Facts about machines and libraries that no fit can tell: vectors of 16 numbers, caches of 512 and
# 8192 lines that are half full, pages and how many of them stay known, memory that comes fresh from
# the system from 32 MiB on; few rows, long rows, how many summed numbers hide that a result is
# written, how many results hide that sums wait, and how many that they are added to a vector. They
# are those of a CPU with AVX-512; other ones fit AVX2 no better. A CPU with AVX2 alone showed more:
# how few columns BLAS multiplies badly, how many rows it wants to share among threads, and how much
# a third cache holds that others use as well.
_VECTOR = 16
_L1_LINES, _L2_LINES = 512, 8192
_SKINNY, _WIDE, _HIDDEN, _WAITING, _SHORT = 8, 512, 32, 512, 64
_L2_BYTES = 1 << 20
FRESH_BYTES = 1 << 25
_PAGE, _PAGES = 4096, 1024
_FEW, _SHARED, _HELD_BYTES = 12, 256, 1 << 22
# Below this many multiply-adds for a matrix, torch's own loops replace BLAS in a stack.
_TINY = 400


class Costs(Walks):
    """What single operations cost on one device, for axes of these sizes.

    Args:
        rates: of the device.
        sizes: of every axis.
        itemsize: bytes for one number.
    """

    def __init__(self, rates: Rates, sizes: Mapping[str, int], itemsize: int) -> None:
        super().__init__(sizes)
        self.rates = rates
        self.itemsize = itemsize
        self.scale = itemsize / 4

    def copy(self, order: Dim, layout: Layout) -> float:
        """A copy into this order of axes, without the call."""
        rates = self.rates
        loops = self.walk(order, layout)
        count = 1
        for size, _ in loops:
            count *= size
        if not loops or not count:
            return 0.0
        size, stride = loops[-1]
        plane = size * loops[-2][0] if len(loops) > 1 else size
        cost = count / size * rates.copy_run + count / plane * rates.copy_plane
        if stride > 1:
            cost += count * (rates.copy_strided + self.distance(loops))
        else:
            cost += count * rates.copy_number
            cost += count / size * rates.run_waiting * self.waiting_for(loops)
            if count * self.itemsize > _L2_BYTES:
                cost += count / size * rates.copy_jump
            # The rest of a line is wanted when the loops inside of the one that reads it have run.
            lines = 1
            for inner, step in reversed(loops[:-1]):
                if step == size and size < _VECTOR:
                    if lines > _L2_LINES:
                        beyond = min(1.0, math.log2(lines / _L2_LINES) / 4)
                        cost += count / size * beyond * rates.copy_farther
                    break
                lines *= inner
        return (cost + self.moved(count)) * self.scale

    def least_copy(self, order: Dim, layout: Layout) -> float:
        """What a copy costs at least, which is found out faster."""
        for last in reversed(order):
            if self.sizes[last] != 1:
                strided = self.strides(layout).get(last, 0) > 1
                break
        else:
            strided = False
        each = self.rates.copy_strided if strided else self.rates.copy_number
        return self.count(order) * each * self.scale

    def distance(self, loops: Sequence[tuple[int, int]]) -> float:
        """What it adds to each number of an operand that its innermost loop reads at a distance.

        A line of memory holds the next numbers of some outer loop; it is wanted again when the
        loops inside of that one have run.
        """
        rates, lines = self.rates, 1
        for inner, step in reversed(loops):
            if step == 1:
                break
            lines *= inner
        cost = 0.0
        if lines > _L1_LINES:
            cost += rates.copy_far * min(1.0, math.log2(lines / _L1_LINES) / 2)
        if lines > _L2_LINES:
            cost += rates.copy_farther * min(1.0, math.log2(lines / _L2_LINES) / 4)
        size, step = loops[-1]
        pages = lines * min(1.0, step * self.itemsize / _PAGE)
        if pages > _PAGES:
            cost += rates.copy_page * min(1.0, math.log2(pages / _PAGES) / 4)
        if step * self.itemsize % _PAGE == 0 and size > _VECTOR:
            cost += rates.copy_collision
        return cost + rates.copy_waiting * self.waiting_for(loops)

    def waiting_for(self, loops: Sequence[tuple[int, int]]) -> float:
        """Which part of what is read in these loops no cache holds."""
        held = self.itemsize
        for inner, step in loops:
            held *= inner if step else 1
        return min(1.0, math.log2(held / _HELD_BYTES)) if held > _HELD_BYTES else 0.0

    def moved(self, count: int) -> float:
        """What it costs that so many numbers do not stay in the cache."""
        cost = 0.0
        if count * self.itemsize > _L2_BYTES:
            cost += count * self.rates.cold
        if count * self.itemsize >= FRESH_BYTES:
            cost += count * self.rates.fresh
        return cost

    def multiply(self, order: Dim, left: Layout, right: Layout) -> float:
        """An elementwise product whose result lies in this order, without the call."""
        rates = self.rates
        both = self.walk_both(order, left, right)
        count = math.prod([size for size, _ in both[0]])
        if not both[0] or not count:
            return 0.0
        cost = count / both[0][-1][0] * rates.multiply_run
        distant = [loops for loops in both if loops[-1][1] > 1]
        cost += count * (rates.multiply_strided if distant else rates.multiply_number)
        for loops in distant:
            cost += count * self.distance(loops)
        if count * self.itemsize > _L2_BYTES:
            cost += count * rates.cold_multiply
        return (cost + self.moved(count)) * self.scale

    def multiply_in_turns(self, count: int, order: Dim, left: Layout, right: Layout) -> float:
        """So many elementwise products, added up into a result that lies in this order.

        Each turn takes a view of either operand, and reads and writes the result; as in `turns`,
        threads have less to share.
        """
        rates = self.rates
        calls = rates.view + count * (rates.multiply_call + 3 * rates.view)
        return calls + count * self.multiply(order, left, right)

    def least_elementwise(self, *, summed: bool) -> float:
        """What each number of an elementwise product costs at least, and to sum it."""
        rates = self.rates
        each = min(rates.multiply_number, rates.multiply_strided)
        if summed:
            each += min(rates.sum_near, rates.sum_across, rates.sum_strided)
        return each * self.scale

    def sum(self, dims: Dims, layout: Layout, summed: Sequence[str]) -> float:
        """A sum of a value over axes, without the call."""
        rates, strides = self.rates, self.strides(layout)
        # The loops over what is summed are the inner ones.
        inner = [name for name in layout.order if name in summed]
        outer = tuple(name for name in flat(dims) if name not in summed and self.sizes[name] != 1)
        loops = self.walk(tuple(inner), layout)
        count = self.count(tuple(inner)) * self.count(outer)
        if not count or not loops:
            return count * rates.sum_strided
        size, step = loops[-1]
        if step == 1:
            cost = count * rates.sum_near + count / size * rates.sum_run
            if count * self.itemsize > _HELD_BYTES:
                every = self.walk((*outer, *inner), layout)
                cost += count / every[-1][0] * rates.run_waiting * self.waiting_for(every)
        elif len(loops) == 1 and outer and strides.get(outer[-1], 0) == 1:
            # Whole vectors of columns are added, unless there are two loops to add over.
            width = self.walk(outer, layout)[-1][0]
            cost = count * rates.sum_across + count / (size * width) * rates.sum_plane
            cost += count / width * rates.sum_run * 0.1
        else:
            cost = count * rates.sum_strided
        return (cost + self.moved(count)) * self.scale

    def product(
        self,
        batch: int,
        rows: int,
        columns: int,
        contract: int,
        *,
        left: bool | None,
        right: bool | None,
        stacked: bool,
        different: tuple[int, int] | None = None,
    ) -> float:
        """A matrix product or a stack of them, without the call.

        Args:
            batch: how many.
            rows: of the left matrix.
            columns: of the right matrix.
            contract: how many numbers are summed.
            left: whether the left matrix is stored with the summed axes innermost; None if BLAS
                cannot read it at all.
            right: the same for the right one.
            stacked: whether it is a stack, even of one.
            different: how many left and right matrices there are in memory, if some are expanded.
        """
        rates = self.rates
        work = rows * columns * contract
        if stacked and work < _TINY:
            each = rates.tiny_matrix + rows * columns * rates.tiny_result
            dense = (left or rows == 1) and (right or columns == 1)
            return batch * (each + work * (rates.tiny_near if dense else rates.tiny_far))
        if left is None or right is None:
            each = rates.gathered * (
                (left is None) * rows * contract + (right is None) * columns * contract
            )
            each += rates.lone if stacked else 0.0
        else:
            each = rates.matrix if stacked else 0.0
        if rows == 1 or (columns == 1 and batch == 1):
            # BLAS sees a matrix and a vector, unless it is a stack with a single column each.
            dots = bool(right if rows == 1 else left)
            each += self.vector(rows * columns, contract, dots=dots, stacked=batch > 1)
        else:
            padded = rows * -(-columns // _VECTOR) * _VECTOR
            each += padded * contract * rates.multiply_add
            each += rows * self.narrow(columns, contract, left, right)
            if padded < _WAITING:
                each += contract * (1 - padded / _WAITING) * self.waiting(columns, left, right)
            if not stacked and rows < _SHARED:
                each += work * (1 - rows / _SHARED) * rates.few_rows
            if right and not left and rows < _SKINNY:
                each += work * rates.skinny
            each += rows * contract * (rates.left_near if left else rates.left_far)
            # A few rows are multiplied as they are, more only when the right matrix is turned.
            turned = rates.right_near * (min(1.0, rows / _SKINNY) if left else 1.0)
            each += columns * contract * (turned if right else rates.right_far)
        each += rows * columns * rates.result
        cost = batch * each
        cost += self.fetched(batch, rows, columns, contract, different)
        cost += self.written(batch, rows, columns, contract, right=right, stacked=stacked)
        return cost * self.scale

    def turns(self, count: int) -> float:
        """The calls of products that are made in so many turns.

        Each takes three views; Python goes around in less time than another one, and threads have
        less to share, which counts as the rest of it.
        """
        return self.rates.view + count * (self.rates.bmm_call + 4 * self.rates.view)

    def least(self, batch: int, rows: int, columns: int, contract: int, *, stacked: bool) -> float:
        """What a product costs at least, however its operands lie and whichever is on the left."""
        rates = self.rates
        work = rows * columns * contract
        if stacked and work < _TINY:
            each = rates.tiny_matrix + rows * columns * rates.tiny_result
            each += work * min(rates.tiny_near, rates.tiny_far)
        else:
            each = (rates.matrix if stacked else 0.0) + rows * columns * rates.result
            if rows == 1 or columns == 1:
                # Seen from one side it is a vector, from the other one column of a matrix.
                each += work * min(rates.vector, rates.vector_near, _VECTOR * rates.multiply_add)
            else:
                each += work * rates.multiply_add
        return batch * each * self.scale

    def vector(self, count: int, contract: int, *, dots: bool, stacked: bool) -> float:
        """A matrix times a vector: so many dot products, or as many sums that grow together."""
        rates = self.rates
        cost = count * contract * (rates.vector_near if dots else rates.vector)
        if dots:
            cost += count * rates.vector_dot
        if stacked or not dots:
            # The result is added to at every step, which a short one cannot hide.
            cost += contract * max(0.0, 1 - count / _SHORT) * rates.vector_dot
        return cost

    def fetched(
        self,
        batch: int,
        rows: int,
        columns: int,
        contract: int,
        different: tuple[int, int] | None,
    ) -> float:
        """What it costs that the larger operand of a product does not come from the cache.

        What meets many rows or columns is multiplied for long enough to hide that it is read. A
        matrix that is expanded is read once, if it stays in the cache.
        """
        read = max(rows, columns) * contract
        if different is not None and read * self.itemsize <= _L2_BYTES:
            read *= different[rows <= columns]
        else:
            read *= batch
        if read * self.itemsize <= _L2_BYTES or min(rows, columns) >= _HIDDEN:
            return 0.0
        shown = read * (1 - min(rows, columns) / _HIDDEN)
        # Of what is not much larger than the cache, a part is still there.
        beyond = min(1.0, math.log2(read * self.itemsize / _L2_BYTES) / 2)
        return shown * beyond * self.rates.cold_operand

    def narrow(
        self,
        columns: int,
        contract: int,
        left: bool | None,  # noqa: FBT001
        right: bool | None,  # noqa: FBT001
    ) -> float:
        """What it adds to a row of the left matrix that the columns do not fill vectors."""
        rates = self.rates
        if columns >= _FEW:
            # What is left of the last vector is multiplied in pieces, each half of the one before.
            return contract * max(0, (columns % _VECTOR).bit_count() - 1) * rates.ragged
        if left and right:
            return columns * (contract * rates.few_dots + rates.few_dot)
        crossed = columns * rates.few_crossed if right else 0.0
        return contract * (-(-columns // 8) * rates.few + crossed)

    def written(
        self,
        batch: int,
        rows: int,
        columns: int,
        contract: int,
        *,
        right: bool | None,
        stacked: bool,
    ) -> float:
        """What it costs that the result of a product does not stay in the caches."""
        rates, made, cost = self.rates, batch * rows * columns, 0.0
        size = made * self.itemsize
        if size > _L2_BYTES and not stacked:
            cost += made * rates.cold_single
        elif size > _L2_BYTES and contract < _HIDDEN:
            shown = made * (1 - contract / _HIDDEN)
            cost += shown * rates.cold_result
            if columns > _WIDE and not right:
                cost += shown * rates.cold_wide
        if size > _HELD_BYTES:
            beyond = min(1.0, math.log2(size / _HELD_BYTES))
            cost += beyond * (made * rates.cold_made + batch * rows * rates.cold_row)
            if beyond == 1.0 and rows * columns * self.itemsize > _HELD_BYTES:
                cost += made * rates.cold_matrix
        if size >= FRESH_BYTES:
            cost += made * rates.fresh
        return cost

    def waiting(self, columns: int, left: bool | None, right: bool | None) -> float:  # noqa: FBT001
        """A step along the summed axes, in a product too small to hide that it waits."""
        rates = self.rates
        if right:
            return rates.summed_dot if left else rates.summed_crossed
        # Whole vectors of columns wait for nothing but each other.
        return rates.summed_plain if left and columns < _VECTOR else rates.summed_apart

    def reader(self, count: int, *, inner: bool) -> float:
        """What the reader of a permuted result pays.

        Args:
            count: of numbers.
            inner: whether the last axis, over which softmax, norms and sums run, is the innermost
                one.
        """
        rates = self.rates
        each = rates.copy_number * 0.1 if inner else rates.copy_strided * 0.05
        return count * each + (not inner) * rates.view


def near(layout: Layout, fold: Dim, contract: Dim) -> bool | None:
    """Whether the summed axes of a matrix lie innermost; None if neither they nor the others do."""
    inner, other = _last(contract, layout.order), _last(fold, layout.order)
    if inner is None:
        return other is None or other == layout.unit or None
    if inner == layout.unit:
        return True
    return False if other is not None and other == layout.unit else None


def _last(axes: Dim, order: Dim) -> str | None:
    """The last of the axes that has a place in this order."""
    for name in reversed(axes):
        if name in order:
            return name
    return None
