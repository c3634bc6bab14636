"""The loops in which an operation walks through memory: their sizes, and how far each steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .layout import Layout
from .sizes import Dim

# Facts about machines that no fit can tell: vectors of 16 numbers, caches of 512 and 8192 lines
# that are half full, pages, and the addresses of how many of them the first and the second TLB
# know, memory that comes fresh from the system from 32 MiB on. They are those of a CPU with
# AVX-512; other ones fit AVX2 no better. A CPU with AVX2 alone showed how much a third cache holds
# that others use as well.
VECTOR = 16
L1_LINES, L2_LINES = 512, 8192
L2_BYTES, HELD_BYTES, FRESH_BYTES = 1 << 20, 1 << 22, 1 << 25
PAGE, TLB_FIRST, PAGES = 4096, 64, 1024
# Of fewer numbers torch gives none to another thread, and a matrix that is no smaller than this it
# transposes with one thread, however large.
GRAIN, TRANSPOSED = 1 << 15, 60 * 60


class Walks:
    """How values of these sizes are walked through.

    Args:
        sizes: of every axis.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        self._strides: dict[Layout, dict[str, int]] = {}

    def count(self, dim: Dim) -> int:
        """The size of a folded dimension."""
        sizes, count = self.sizes, 1
        for name in dim:
            count *= sizes[name]
        return count

    def strides(self, layout: Layout) -> dict[str, int]:
        """The strides of a value, as if it were dense; axes inside of the unit one are expanded."""
        found = self._strides.get(layout)
        if found is None:
            found = {}
            place = layout.order.index(layout.unit) + 1 if layout.unit else len(layout.order)
            step = 1 if layout.unit else 2
            for name in reversed(layout.order[:place]):
                found[name] = step
                step *= self.sizes[name]
            self._strides[layout] = found
        return found

    def walk(self, order: Dim, layout: Layout) -> list[tuple[int, int]]:
        """Size and stride of the loops through a value, the outermost first, neighbors joined."""
        sizes, strides = self.sizes, self.strides(layout)
        loops: list[tuple[int, int]] = []
        outer, before = 1, -1
        for name in order:
            size = sizes[name]
            if size == 1:
                continue
            step = strides.get(name, 0)
            if step * size == before:
                outer *= size
                loops[-1] = outer, step
            else:
                outer = size
                loops.append((size, step))
            before = step
        return loops

    def revisits(
        self,
        loops: Sequence[tuple[int, int]],
        itemsize: int,
        known: tuple[int, int] = (TLB_FIRST, PAGES),
    ) -> tuple[float, float]:
        """How often loops come back to a page of memory that is not known any more.

        Args:
            loops: size and stride of each, the outermost first.
            itemsize: bytes for one number.
            known: how many pages stay known; twice, for two answers.
        """
        pages = first = second = 1.0
        few, many = known
        for size, step in reversed(loops):
            reach = step * itemsize
            touched = size if reach >= PAGE else max(1.0, size * reach / PAGE)
            # Those that the inner loops have touched are touched again, and others.
            first *= size if pages > few else touched
            second *= size if pages > many else touched
            pages *= touched
        # Loops that do not run come back to nothing.
        return max(0.0, first - pages), max(0.0, second - pages)

    def walk_both(
        self, order: Dim, left: Layout, right: Layout
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """The loops through two values at once; `walk`, spelled out, is asked much more often."""
        first, second = self.strides(left), self.strides(right)
        every: tuple[list[tuple[int, int]], list[tuple[int, int]]] = [], []
        outer, before = 1, (-1, -1)
        for name in order:
            size = self.sizes[name]
            if size == 1:
                continue
            steps = first.get(name, 0), second.get(name, 0)
            joins = (steps[0] * size, steps[1] * size) == before
            outer = outer * size if joins else size
            for loops, step in zip(every, steps, strict=True):
                if joins:
                    loops.pop()
                loops.append((outer, step))
            before = steps
        return every
