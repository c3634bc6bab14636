"""What steps cost, in nanoseconds: a model of torch on a CPU.

A price ranks lowerings and promises nothing; whichever is chosen, the result is right. The figures
were fitted to 1,358 timed lowerings of 80 random contractions (float32, one thread, torch 2.13, a
shared x86-64 server with AVX-512 and MKL); only their ratios matter. There are none for CUDA yet.
The file sees steps and layouts, never a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .layout import Layout, combined, contiguous
from .sizes import Dim, Dims
from .steps import (
    Add,
    Bmm,
    Diagonal,
    Expand,
    Linear,
    Multiply,
    Permute,
    Product,
    Reshape,
    Step,
    Steps,
    Sum,
    elements,
    flat,
)

# One call, before any number is touched.
_VIEW = 1200.0
_COPY = 5000.0
_MM = 1500.0
_MM_OF_MANY_DIMENSIONS = 2400.0
_LINEAR = 3200.0
_BMM = 2500.0
_ELEMENTWISE = 3100.0
_SUM = 2400.0
# A copy: for each inner run, for each number in a run, and what strided reading adds to it when the
# lines of memory that it comes back to have left the first or the second cache, or share a set.
_RUN = 20.0
_NUMBER = 0.45
_STRIDED = 1.0
_OUT_OF_L1 = 1.2
_OUT_OF_L2 = 3.5
_SAME_SET = 2.0
_L1_LINES = 512
_L2_LINES = 16384
# A copy that does not fit into the second cache drives out what the product will read.
_LARGE = 1 << 20
_EVICTED = 1.0
# From this many bytes on, memory comes fresh from the system, page by page.
_FRESH = 1 << 25
_PAGE_FAULTS_PER_BYTE = 0.36
# A matrix product: for each matrix, multiply-adds for each nanosecond, and with how many rows,
# columns or contracted numbers it reaches half of that.
_MATRIX = 110.0
_RATE = 35.0
_HALF_ROWS, _HALF_COLUMNS, _HALF_CONTRACT = 6.2, 6.4, 2.9
# Below this many multiply-adds, torch's own loops replace the library's.
_TINY = 400
_TINY_MATRIX, _TINY_RESULT, _TINY_NEAR, _TINY_FAR = 40.0, 2.0, 1.0, 2.2
_MULTIPLY = 0.45
_ADD = 0.48


def price(
    steps: Steps,
    layouts: Sequence[Layout],
    sizes: Mapping[str, int],
    itemsize: int = 4,
    *,
    dense: bool = False,
) -> float:
    """Price the steps of a program.

    Args:
        steps: what is computed.
        layouts: how each input lies in memory.
        sizes: of every axis.
        itemsize: bytes for one number.
        dense: whether the reader of the result copies it, unless its dimensions lie in order.
    """
    return _Pricing(steps, layouts, sizes, itemsize, dense=dense).total()


def layouts_of(steps: Steps, layouts: Sequence[Layout], sizes: Mapping[str, int]) -> list[Layout]:
    """How every value lies in memory, if the inputs lie like this."""
    pricing = _Pricing(steps, layouts, sizes, 4, dense=False)
    for step in steps.steps:
        pricing.layouts.append(pricing.made(step))
    return pricing.layouts


class _Pricing:
    def __init__(
        self,
        steps: Steps,
        layouts: Sequence[Layout],
        sizes: Mapping[str, int],
        itemsize: int,
        *,
        dense: bool,
    ) -> None:
        self.steps = steps
        self.sizes = sizes
        self.itemsize = itemsize
        self.dense = dense
        self.layouts = list(layouts)

    def total(self) -> float:
        nanoseconds = 0.0
        for step in self.steps.steps:
            nanoseconds += self.one(step)
            self.layouts.append(self.made(step))
        return nanoseconds + self.reader()

    def reader(self) -> float:
        """What the reader of the result pays, if it is a permuted view.

        It is the more if the last axis, over which softmax, norms and sums run, is not innermost.
        """
        axes = flat(self.steps.dims(self.steps.result))
        layout = self.layouts[self.steps.result]
        if layout.folds(axes):
            return 0.0
        last = next((name for name in reversed(axes) if name in layout.order), None)
        copy = self.copy(axes, layout)
        if self.dense:
            return copy + _COPY
        return copy * 0.05 if last == layout.unit else copy * 0.1 + _VIEW

    def one(self, step: Step) -> float:
        if isinstance(step, Reshape) and step.copies:
            return _COPY + self.copy(flat(step.dims), self.layouts[step.source])
        if isinstance(step, (Permute, Reshape, Expand, Diagonal)):
            return _VIEW
        if isinstance(step, Sum):
            return _SUM + _ADD * elements(self.steps.dims(step.source), self.sizes)
        if isinstance(step, (Multiply, Add)):
            return self.elementwise(step)
        return self.product(step)

    def made(self, step: Step) -> Layout:
        """The layout of what a step makes."""
        if isinstance(step, (Permute, Expand, Diagonal)) or (
            isinstance(step, Reshape) and not step.copies
        ):
            return self.layouts[step.source]
        if isinstance(step, (Multiply, Add)):
            return combined(
                step.dims, self.layouts[step.left], self.layouts[step.right], self.sizes
            )
        return contiguous(step.dims, self.sizes)

    def count(self, dim: Dim) -> int:
        return math.prod([self.sizes[name] for name in dim])

    # Copies

    def strides(self, layout: Layout) -> dict[str, int]:
        """The strides of a value, as if it were dense; axes inside of the unit one are expanded."""
        strides: dict[str, int] = {}
        place = layout.order.index(layout.unit) + 1 if layout.unit else len(layout.order)
        step = 1 if layout.unit else 2
        for name in reversed(layout.order[:place]):
            strides[name] = step
            step *= self.sizes[name]
        return strides

    def loops(self, order: Dim, layout: Layout) -> list[tuple[int, int]]:
        """Size and source stride of the loops of a copy, from the outermost in."""
        strides = self.strides(layout)
        loops: list[tuple[int, int]] = []
        for name in order:
            size, stride = self.sizes[name], strides.get(name, 0)
            if size == 1:
                continue
            if loops and loops[-1][1] == stride * size:
                loops[-1] = (loops[-1][0] * size, stride)
            else:
                loops.append((size, stride))
        return loops

    def copy(self, order: Dim, layout: Layout) -> float:
        """A copy into this order of axes."""
        loops = self.loops(order, layout)
        count = math.prod(size for size, _ in loops)
        if not loops or not count:
            return 0.0
        size, stride = loops[-1]
        nanoseconds = count / size * _RUN
        if stride <= 1:
            nanoseconds += count * _NUMBER
        else:
            lines = 1
            for inner, step in reversed(loops):
                if step == 1:
                    break
                lines *= inner
            each = _STRIDED
            if lines > _L1_LINES:
                each += _OUT_OF_L1 * min(1.0, math.log2(lines / _L1_LINES) / 2)
            if lines > _L2_LINES:
                each += _OUT_OF_L2
            if stride * self.itemsize % 4096 == 0 and size > 16:
                each += _SAME_SET
            nanoseconds += count * each
        if count * self.itemsize > _LARGE:
            nanoseconds += count * _EVICTED
        if count * self.itemsize >= _FRESH:
            nanoseconds += count * self.itemsize * _PAGE_FAULTS_PER_BYTE
        return nanoseconds * self.itemsize / 4

    def elementwise(self, step: Multiply | Add) -> float:
        count = elements(step.dims, self.sizes)
        order = self.made(step).order
        nanoseconds = _ELEMENTWISE + count * _MULTIPLY
        for number in (step.left, step.right):
            loops = self.loops(order, self.layouts[number])
            if loops:
                size, stride = loops[-1]
                nanoseconds += count * _STRIDED if stride > 1 else count / max(size, 1) * _RUN
        return nanoseconds

    # Matrix products

    def product(self, step: Product) -> float:
        left, right = self.steps.dims(step.left), self.steps.dims(step.right)
        stack: Dims = ()
        rows: Dim = ()
        columns: Dim = ()
        call = _MM
        if isinstance(step, Bmm) and step.bias is not None:
            # The result is filled with the bias first, as a copy is.
            call += _VIEW + elements(step.dims, self.sizes) * _NUMBER
        if isinstance(step, Bmm) or len(right) > 2:
            *front, rows, columns = step.dims
            stack = tuple(front)
            call += _BMM - _MM + (0.0 if isinstance(step, Bmm) else 2 * _VIEW)
        elif len(right) == 2:
            *front, columns = step.dims
            rows = flat(tuple(front))
            call = _LINEAR if isinstance(step, Linear) else call
            call = max(call, _MM_OF_MANY_DIMENSIONS) if len(left) > 2 else call
        else:
            rows = flat(step.dims)
        near = self.unit(step.left, step.contract), self.unit(step.right, step.contract)
        dense = near[0] or self.unit(step.left, rows), near[1] or self.unit(step.right, columns)
        batch, m, n = self.count(flat(stack)), self.count(rows), self.count(columns)
        k = self.count(step.contract)
        if stack and m * n * k < _TINY:
            each = _TINY_MATRIX + m * n * _TINY_RESULT
            return call + batch * (each + m * n * k * (_TINY_NEAR if all(near) else _TINY_FAR))
        rate = _RATE * self.itemsize**-1 * 4
        for count, half in ((m, _HALF_ROWS), (n, _HALF_COLUMNS), (k, _HALF_CONTRACT)):
            rate *= count / (count + half) if count else 1.0
        each = _MATRIX + m * n * k / rate
        each += (not dense[0]) * m * k + (not dense[1]) * n * k
        if stack and not all(dense):
            # No batched product for such strides: torch loops over single ones.
            each += 3500.0
        return call + batch * each

    def unit(self, number: int, dim: Dim) -> bool:
        """Whether a folded dimension has stride one, or does not matter."""
        layout = self.layouts[number]
        inner = [name for name in dim if self.sizes[name] != 1 and name in layout.order]
        return not inner or inner[-1] == layout.unit
