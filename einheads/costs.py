"""What single operations cost, in nanoseconds: the units of work in them, times the rates.

Here is what is known of how torch's operations walk through memory: which loops they run, which of
them move whole runs of numbers, and what leaves the caches meanwhile. The file sees layouts and
sizes, never a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .layout import Layout
from .products import ProductCosts
from .sizes import Dim, Dims
from .steps import flat
from .walks import (
    FRESH_BYTES,
    GRAIN,
    HELD_BYTES,
    L1_LINES,
    L2_BYTES,
    L2_LINES,
    PAGE,
    PAGES,
    TLB_FIRST,
    TRANSPOSED,
    VECTOR,
)

# What is no larger lies on so few pages that the first TLB knows them all.
_KNOWN_BYTES = TLB_FIRST * PAGE
# Numbers that are read alone do not wait for each other: this part of a wait for an address is
# left.
_ALONE = 0.25
# So many bytes torch's loops multiply, and add, at once; what is left over they take one by one.
_MULTIPLIED_BYTES, _SUMMED_BYTES = 64, 128


class Costs(ProductCosts):
    """What single operations cost on one device, for axes of these sizes."""

    def copy(self, order: Dim, layout: Layout, rows: int = 0) -> float:
        """A copy into this order of axes, without the call.

        Args:
            order: of the axes.
            layout: of the value.
            rows: how many there are, if a matrix is copied.
        """
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
            if count * self.itemsize > L2_BYTES:
                cost += count / size * rates.copy_jump
            # The rest of a line is wanted when the loops inside of the one that reads it have run.
            lines = 1
            for inner, step in reversed(loops[:-1]):
                if step == size and size < VECTOR:
                    if lines > L2_LINES:
                        beyond = min(1.0, math.log2(lines / L2_LINES) / 4)
                        cost += count / size * beyond * rates.copy_farther
                    break
                lines *= inner
        cost = (cost + self.moved(count)) * self.scale
        if rates.alone > 1:
            cost *= rates.alone if self.transposes(loops, rows) else self.unshared(count)
            if rows and count >= GRAIN:
                cost += count * rates.shared_copy * self.scale
        return cost + self.pages(loops) if count * self.itemsize > _KNOWN_BYTES else cost

    @staticmethod
    def transposes(loops: Sequence[tuple[int, int]], rows: int) -> bool:
        """Whether these loops transpose a dense matrix, which torch does in a way of its own."""
        (outer, stride), (inner, step) = (loops[0], loops[-1])
        dense = len(loops) == 2 and stride == 1 and step == outer == rows
        return dense and outer * inner >= TRANSPOSED

    def pages(self, loops: Sequence[tuple[int, int]]) -> float:
        """What it costs to come back to pages of memory whose addresses are no longer known."""
        first, second = self.revisits(loops, self.itemsize)
        cost = first * self.rates.tlb_first + second * self.rates.tlb_second
        return cost * (_ALONE if loops[-1][1] > 1 else 1.0)

    def least_copy(self, layout: Layout, order: Dim | None = None) -> float:
        """What a copy costs at least, into this order or into any, which is found out faster."""
        rates = self.rates
        if order is None:
            order, each = layout.order, min(rates.copy_number, rates.copy_strided)
        else:
            each = rates.copy_number
            for last in reversed(order):
                if self.sizes[last] != 1:
                    if self.strides(layout).get(last, 0) > 1:
                        each = rates.copy_strided
                    break
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
        if lines > L1_LINES:
            cost += rates.copy_far * min(1.0, math.log2(lines / L1_LINES) / 2)
        if lines > L2_LINES:
            cost += rates.copy_farther * min(1.0, math.log2(lines / L2_LINES) / 4)
        size, step = loops[-1]
        pages = lines * min(1.0, step * self.itemsize / PAGE)
        if pages > PAGES:
            cost += rates.copy_page * min(1.0, math.log2(pages / PAGES) / 4)
        if step * self.itemsize % PAGE == 0 and size > VECTOR:
            cost += rates.copy_collision
        return cost + rates.copy_waiting * self.waiting_for(loops)

    def waiting_for(self, loops: Sequence[tuple[int, int]]) -> float:
        """Which part of what is read in these loops no cache holds."""
        held = self.itemsize
        for inner, step in loops:
            held *= inner if step else 1
        return min(1.0, math.log2(held / HELD_BYTES)) if held > HELD_BYTES else 0.0

    def moved(self, count: int, *, written: bool = True) -> float:
        """What it costs that so many numbers do not stay in the cache.

        Args:
            count: of numbers.
            written: whether they take memory of their own, which may be fresh.
        """
        cost = 0.0
        if count * self.itemsize > L2_BYTES:
            cost += count * self.rates.cold
        if written and count * self.itemsize >= FRESH_BYTES:
            cost += count * self.rates.fresh
        return cost

    def multiply(self, order: Dim, left: Layout, right: Layout, turns: str | None = None) -> float:
        """An elementwise product whose result lies in this order, without the call.

        With `turns`, products along this axis, which are added up one after the other.
        """
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
        if count * self.itemsize > L2_BYTES:
            cost += count * rates.cold_multiply
        cost = (cost + self.moved(count)) * self.scale
        if not distant:
            cost += self.left_over(count, both[0][-1][0], _MULTIPLIED_BYTES)
        cost *= self.unshared(count)
        if turns is not None:
            cost *= self.sizes[turns]
            count *= self.sizes[turns]
            order = (turns, *order)
            both = self.walk_both(order, left, right)
        if count * self.itemsize <= _KNOWN_BYTES:
            return cost
        cost += self.pages(both[0]) + self.pages(both[1])
        if count * self.itemsize > HELD_BYTES:
            cost += (self.broken(order, left) + self.broken(order, right)) * self.scale
        return cost

    def broken(self, order: Dim, layout: Layout) -> float:
        """What it costs that an operand is read in runs, each of which waits for memory."""
        loops = self.walk(order, layout)
        if loops[-1][1] != 1:
            return 0.0
        runs = math.prod([inner for inner, step in loops[:-1] if step])
        return runs * self.rates.run_waiting * self.waiting_for(loops)

    def left_over(self, count: int, size: int, block: int) -> float:
        """What it costs that loops of this size do not fill blocks of so many bytes.

        It is known of integers and float16, of which blocks hold more numbers.
        """
        if self.loops is None:
            return 0.0
        return count / size * (size % (block // self.itemsize)) * self.loops.loop_rest

    def multiply_in_turns(self, turns: str, order: Dim, left: Layout, right: Layout) -> float:
        """The same with its calls."""
        return self.turned(turns) + self.multiply(order, left, right, turns)

    def turned(self, turns: str) -> float:
        """The calls of an elementwise product in turns.

        Each turn takes a view of either operand, and reads and writes the result; as in `turns`,
        threads have less to share.
        """
        rates = self.rates
        return rates.view + self.sizes[turns] * (rates.multiply_call + 3 * rates.view)

    def least_elementwise(self, *, summed: bool) -> float:
        """What each number of an elementwise product costs at least, and to sum it."""
        rates = self.rates
        each = min(rates.multiply_number, rates.multiply_strided) * self.scale
        return each + self.least_sum() if summed else each

    def least_sum(self) -> float:
        """What it costs at least to sum a number."""
        rates = self.rates
        return min(rates.sum_near, rates.sum_across, rates.sum_strided) * self.scale

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
        rest = 0.0
        if step == 1:
            cost = count * rates.sum_near + count / size * rates.sum_run
            rest = self.left_over(count, size, _SUMMED_BYTES)
            if count * self.itemsize > HELD_BYTES:
                every = self.walk((*outer, *inner), layout)
                cost += count / every[-1][0] * rates.run_waiting * self.waiting_for(every)
        elif len(loops) == 1 and outer and strides.get(outer[-1], 0) == 1:
            # Whole vectors of columns are added, unless there are two loops to add over.
            width = self.walk(outer, layout)[-1][0]
            cost = count * rates.sum_across + count / (size * width) * rates.sum_plane
            cost += count / width * rates.sum_run * 0.1
            rest = self.left_over(count, width, _SUMMED_BYTES)
        else:
            cost = count * rates.sum_strided
        if count >= GRAIN and step != 1 and rates.alone > 1:
            cost += count * rates.shared_sum
        cost = (cost + self.moved(count, written=False)) * self.scale + rest
        return cost * self.unshared(count)

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
