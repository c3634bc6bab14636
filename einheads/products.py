"""What matrix products cost, in nanoseconds: the units of work in them, times the rates.

Here is what is known of which matrices BLAS reads well, and of what it hides while it multiplies.
The file sees sizes and layouts, never a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from .layout import Layout, runs
from .loops import LoopRates
from .rates import Rates
from .sizes import Dim
from .walks import FRESH_BYTES, GRAIN, HELD_BYTES, L2_BYTES, PAGE, PAGES, VECTOR, Walks

# Facts about BLAS that no fit can tell: few rows, long rows, how many summed numbers hide that a
# result is written, how many results hide that sums wait, and how many that they are added to a
# vector. A CPU with AVX2 alone showed how few columns are multiplied badly; one with AVX-512, which
# rows are slower if they do not fill vectors, and from where on a few dot products of a stack are
# made as such; an EPYC of the fourth generation, from how many numbers of a result on threads share
# it, and how many more columns than rows make them slow.
_SKINNY, _WIDE, _HIDDEN, _WAITING, _SHORT = 8, 512, 32, 512, 64
_FEW, _ROWS, _SHARED, _SPREAD = 12, 256, 2048, 2
_UNBROKEN, _LONG = 48, 200
# Below this many multiply-adds for a matrix, torch's own loops replace BLAS in a stack.
_TINY = 400
# So many numbers of a dot product they multiply at once.
_FOUR = 4


class ProductCosts(Walks):
    """What matrix products cost on one device, for axes of these sizes.

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
        # The rates once more, if torch makes products of these numbers itself, since BLAS has none.
        self.loops = rates if isinstance(rates, LoopRates) else None

    def large(self, layout: Layout) -> bool:
        """Whether an operand lies on more pages than stay known."""
        return self.count(layout.order) * self.itemsize > PAGES * PAGE

    def reading(
        self, layout: Layout, axes: tuple[Dim, Dim, Dim], others: Dim, *, near: bool
    ) -> float:
        """What it costs that an operand of a matrix product comes back to pages of memory.

        Args:
            layout: of the operand.
            axes: of the stack, its rows or columns, and those that are summed.
            others: the columns or rows of the other operand; many hide that this one is read.
            near: whether the summed axes lie innermost.
        """
        shown = 1 - self.count(others) / _HIDDEN
        if shown <= 0 or not self.large(layout):
            return 0.0
        stack, fold, contract = axes
        order = (*stack, *fold, *contract) if near else (*stack, *contract, *fold)
        _, again = self.revisits(self.walk(order, layout), self.itemsize)
        return again * shown * self.rates.tlb_second

    def apart(self, layout: Layout, contract: Dim, work: int) -> float:
        """What it costs in so many multiply-adds that a vector lies at a distance itself."""
        return 0.0 if runs(layout, contract) else work * self.rates.vector_apart * self.scale

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
        turns: int = 1,
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
            turns: in how many turns they are added up, each of which writes the whole result.
        """
        rates = self.rates
        work = rows * columns * contract
        tiny = stacked and work < _TINY
        if self.loops is not None:
            shape = batch, rows, columns, contract
            cost = self.loops.product(shape, (bool(left), bool(right)), stacked=stacked, tiny=tiny)
            unread = (left is None) * rows + (right is None) * columns
            return cost + batch * unread * contract * rates.gathered * self.scale
        if tiny:
            each = rates.tiny_matrix + rows * columns * rates.tiny_result
            dense = (left or rows == 1) and (right or columns == 1)
            each += work * (rates.tiny_near if dense else rates.tiny_far)
            if dense:
                each += rows * columns * (contract % _FOUR) * rates.tiny_rest
            return batch * each * self.scale * self.unshared(batch * work)
        if left is None or right is None:
            each = rates.gathered * (
                (left is None) * rows * contract + (right is None) * columns * contract
            )
            each += rates.lone if stacked else 0.0
        else:
            each = rates.matrix if stacked else 0.0
        few = rows < VECTOR and contract > _LONG and bool(left and right)
        if rows == 1 or (columns == 1 and (batch == 1 or few)):
            # BLAS sees a matrix and a vector, unless it is a stack with a single column each, and
            # not just a few long dot products.
            dots = bool(right if rows == 1 else left) or rows * columns * batch == 1
            each += self.vector(rows * columns, contract, dots=dots)
            if dots and rows == 1 and batch > 1:
                each += contract * (rates.summed_dot if left else rates.summed_crossed)
        else:
            padded = rows * -(-columns // VECTOR) * VECTOR
            each += padded * contract * rates.multiply_add
            each += rows * self.narrow(columns, contract, left, right)
            if padded < _WAITING:
                each += contract * (1 - padded / _WAITING) * self.waiting(columns, left, right)
            if not stacked and rows < _ROWS:
                each += work * (1 - rows / _ROWS) * rates.few_rows
            if batch == turns or not stacked:
                each += self.sharing(rows, columns)
            if right and not left and rows < _SKINNY:
                each += work * rates.skinny
            each += rows * contract * (rates.left_near if left else rates.left_far)
            # A few rows are multiplied as they are, more only when the right matrix is turned.
            turned = rates.right_near * (min(1.0, rows / _SKINNY) if left else 1.0)
            each += columns * contract * (turned if right else rates.right_far)
        each += rows * columns * rates.result
        each += rows * self.unfilled(columns, added=turns > 1)
        cost = batch * each
        cost += self.fetched(batch, rows, columns, contract, different)
        shape = batch // turns, rows, columns, contract
        cost += turns * self.written(*shape, right=right, stacked=stacked)
        return cost * self.scale

    def unshared(self, count: int) -> float:
        """How many times as much it counts that so few numbers are left to one thread."""
        return self.rates.alone if count < GRAIN else 1.0

    def sharing(self, rows: int, columns: int) -> float:
        """What it adds to a product of two matrices that several threads share its result."""
        if self.rates.alone == 1 or rows * columns < _SHARED:
            return 0.0
        wide = rows * columns * self.rates.shared_wide if columns > _SPREAD * rows else 0.0
        return wide + self.rates.shared_product / self.scale

    def unfilled(self, columns: int, *, added: bool) -> float:
        """What it adds to a row of a result that it does not fill vectors, written or added to."""
        if columns % VECTOR == 0:
            return 0.0
        if added:
            return self.rates.added_row if 1 < columns < _UNBROKEN else 0.0
        return columns * self.rates.ragged_result if columns > _UNBROKEN else 0.0

    def turns(self, count: int) -> float:
        """The calls of products that are made in so many turns.

        Each takes three views; Python goes around in less time than another one, and threads have
        less to share, which counts as the rest of it.
        """
        return self.rates.view + count * (self.rates.bmm_call + 4 * self.rates.view)

    def adding(self, count: int, made: int) -> float:
        """The calls of so many products, or stacks of them, that are added up one after the other.

        Torch goes around single ones itself, but threads share each of them worse than a stack,
        which counts as more than Python would take.

        Args:
            count: how many.
            made: how many numbers the result has; unless a cache holds it, each turn fetches it.
        """
        fetched = (count - 1) * made if made * self.itemsize > L2_BYTES // 4 else 0
        calls = self.turns(count) + count * self.rates.view
        return calls + fetched * self.rates.cold * self.scale

    def least(self, batch: int, rows: int, columns: int, contract: int, *, stacked: bool) -> float:
        """What a product costs at least, however its operands lie and whichever is on the left."""
        rates = self.rates
        work = rows * columns * contract
        tiny = stacked and work < _TINY
        if self.loops is not None:
            return self.loops.least((batch, rows, columns, contract), stacked=stacked, tiny=tiny)
        if tiny:
            each = rates.tiny_matrix + rows * columns * rates.tiny_result
            return batch * (each + work * min(rates.tiny_near, rates.tiny_far)) * self.scale
        each = (rates.matrix if stacked else 0.0) + rows * columns * rates.result
        if rows == 1 or columns == 1:
            # Seen from one side it is a vector, from the other one column of a matrix.
            each += work * min(rates.vector, rates.vector_near, VECTOR * rates.multiply_add)
        else:
            each += contract * min(self.step(rows, columns), self.step(columns, rows))
        few, many = min(rows, columns), max(rows, columns)
        written = self.written(batch, few, many, contract, right=True, stacked=stacked)
        return (batch * each + written) * self.scale

    def step(self, rows: int, columns: int) -> float:
        """A step along the summed axes at least, with so many rows on the left."""
        rates = self.rates
        turned = rates.right_near * min(1.0, rows / _SKINNY)
        each = rows * -(-columns // VECTOR) * VECTOR * rates.multiply_add
        each += rows * min(rates.left_near, rates.left_far)
        return each + columns * min(turned, rates.right_far)

    def vector(self, count: int, contract: int, *, dots: bool) -> float:
        """A matrix times a vector: so many dot products, or as many sums that grow together."""
        rates = self.rates
        if dots:
            return count * contract * rates.vector_near + count * rates.vector_dot
        # The result is added to at every step, which a short one cannot hide.
        waiting = contract * max(0.0, 1 - count / _SHORT) * rates.vector_dot
        return count * contract * rates.vector + waiting

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
        if different is not None and read * self.itemsize <= L2_BYTES:
            read *= max(different) if rows == columns else different[rows < columns]
        else:
            read *= batch
        if read * self.itemsize <= L2_BYTES or min(rows, columns) >= _HIDDEN:
            return 0.0
        shown = read * (1 - min(rows, columns) / _HIDDEN)
        # Of what is not much larger than the cache, a part is still there.
        beyond = min(1.0, math.log2(read * self.itemsize / L2_BYTES) / 2)
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
            return contract * max(0, (columns % VECTOR).bit_count() - 1) * rates.ragged
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
        if size > L2_BYTES and not stacked:
            cost += made * rates.cold_single
        elif size > L2_BYTES and contract < _HIDDEN:
            shown = made * (1 - contract / _HIDDEN)
            cost += shown * rates.cold_result
            if columns > _WIDE and not right:
                cost += shown * rates.cold_wide
        if size > HELD_BYTES:
            beyond = min(1.0, math.log2(size / HELD_BYTES))
            cost += beyond * (made * rates.cold_made + batch * rows * rates.cold_row)
            if beyond == 1.0 and rows * columns * self.itemsize > HELD_BYTES:
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
        return rates.summed_plain if left and columns < VECTOR else rates.summed_apart
