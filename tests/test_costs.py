"""What prices say of memory: pages that come again, rows that fill no vectors."""

import math
import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import pytest

from einheads.costs import Costs
from einheads.layout import contiguous, in_order
from einheads.lower import lower
from einheads.pattern import parse
from einheads.plan import plan
from einheads.rates import AVX2, AVX512
from einheads.sizes import bind
from einheads.steps import Bmm

PAGE = 4096


def looked_up_again(loops: Sequence[tuple[int, int]], known: int) -> int:
    """How many pages are not among the last ones when they come again, by walking."""
    last: OrderedDict[int, None] = OrderedDict()
    met: set[int] = set()
    again = 0

    def walk(place: int, depth: int) -> None:
        nonlocal again
        if depth < len(loops):
            size, step = loops[depth]
            for index in range(size):
                walk(place + index * step, depth + 1)
            return
        page = place * 4 // PAGE
        if page in last:
            last.move_to_end(page)
            return
        again += page in met
        met.add(page)
        last[page] = None
        if len(last) > known:
            last.popitem(last=False)

    walk(0, 0)
    return again


@pytest.mark.parametrize("seed", range(30))
def test_pages_that_come_again(seed: int) -> None:
    """As many as a walk through memory finds, roughly: the prices only need the magnitude."""
    draw = random.Random(seed)
    sizes = {name: draw.choice((2, 3, 5, 7)) for name in "abcd"}
    stored = [*sizes]
    draw.shuffle(stored)
    # A long innermost axis, so that there are many pages.
    sizes |= {stored[-1]: 200, stored[0]: 23}
    if draw.random() < 0.5:
        sizes[stored[-1]] = 16
    layout = contiguous(tuple((name,) for name in stored), sizes)
    order = [*sizes]
    draw.shuffle(order)
    costs = Costs(AVX512, sizes, 4)
    loops = costs.walk(tuple(order), layout)
    known = 4, 16
    for told, pages in zip(costs.revisits(loops, 4, known), known, strict=True):
        seen = looked_up_again(loops, pages)
        assert told <= 3 * seen + 200
        assert seen <= 3 * told + 200


def test_memory_in_its_order_is_met_once() -> None:
    """Whatever is known of it; and an expanded axis comes back to all that is too much to know."""
    sizes = {"a": 700, "b": 90, "c": 31}
    dims = tuple((name,) for name in sizes)
    costs = Costs(AVX512, sizes, 4)
    assert costs.revisits(costs.walk(("a", "b", "c"), in_order(dims, sizes)), 4, (1, 2)) == (0, 0)
    stored = in_order(dims[1:], sizes)
    pages = 90 * 31 * 4 / PAGE
    again = costs.revisits(costs.walk(("a", "b", "c"), stored), 4, (1, 16))
    assert again == pytest.approx((699 * pages, 0))


def test_a_copy_that_comes_back_to_pages_waits_for_their_addresses() -> None:
    """Runs wait; numbers that are read alone do so together."""
    sizes = {"a": 40, "b": 150, "c": 64}
    stored = in_order((("b",), ("a",), ("c",)), sizes)
    hasty = Costs(replace(AVX512, tlb_first=0.0, tlb_second=0.0), sizes, 4)

    def waited(*order: str) -> float:
        costs = Costs(AVX512, sizes, 4)
        return costs.copy(order, stored) - hasty.copy(order, stored)

    assert waited("b", "a", "c") == 0
    # A row of `a` lies on another page for each `b`: 150 of them, of 40 * 64 * 4 bytes.
    runs = 40 * 150 - 150 * 40 * 64 * 4 / PAGE
    assert 0 < waited("a", "b", "c") == pytest.approx(runs * AVX512.tlb_first, rel=0.1)
    alone = (40 * 64 - 2.5) * 150
    assert waited("a", "c", "b") == pytest.approx(alone * AVX512.tlb_first / 4, rel=0.1)


def test_few_rows_do_not_hide_how_the_other_operand_is_read() -> None:
    """Dot products of short columns, each on a page of its own, are gathered with other loops."""
    bound = bind(parse("a b, c d e a b -> a e d c"), [(14, 40), (27, 58, 9, 14, 40)])
    steps = lower(bound, plan(bound))
    (product,) = (step for step in steps.steps if isinstance(step, Bmm))
    # As a stack over `a` alone, with a single row, it took three times as long.
    assert len(product.dims[0]) > 1 or product.each
    sizes = bound.sizes
    stored = in_order(bound.operands[1], sizes)
    costs = Costs(AVX512, sizes, 4)
    axes = ("a",), ("c", "d", "e"), ("b",)
    pages = math.prod(sizes.values()) * 4 / PAGE
    passes = (14 - 1) * pages
    assert costs.reading(stored, axes, (), near=True) == pytest.approx(
        passes * (1 - 1 / 32) * AVX512.tlb_second, rel=0.1
    )
    # Many rows hide it, and so does memory that is small.
    assert costs.reading(stored, axes, ("b",), near=True) == 0
    small = Costs(AVX512, sizes | {"c": 2, "d": 3}, 4)
    assert small.reading(stored, axes, (), near=True) == 0


@pytest.mark.parametrize(
    ("columns", "slower"), [(208, False), (209, True), (200, True), (40, False)]
)
def test_rows_that_fill_no_vectors(columns: int, slower: bool) -> None:  # noqa: FBT001
    """Long ones are written more slowly."""

    def price(ragged: float) -> float:
        costs = Costs(replace(AVX512, ragged_result=ragged), {}, 4)
        return costs.product(7, 30, columns, 20, left=True, right=False, stacked=True)

    more = price(1.0) - price(0.0)
    assert more == (pytest.approx(7 * 30 * columns) if slower else 0)


def test_nothing_of_it_was_seen_without_avx512() -> None:
    """Where it was not measured, it is not priced."""
    assert AVX2.tlb_first == AVX2.tlb_second == AVX2.ragged_result == 0


@pytest.mark.parametrize("contract", [3, 4, 6, 8])
def test_tiny_dot_products_are_made_in_fours(contract: int) -> None:
    """What does not fill a four is added one by one."""

    def price(contract: int, *, right: bool) -> float:
        costs = Costs(AVX512, {}, 4)
        return costs.product(100, 1, 20, contract, left=True, right=right, stacked=True)

    results = 100 * 20
    rest = price(contract, right=True) - 100 * AVX512.tiny_matrix - results * AVX512.tiny_result
    each = contract * AVX512.tiny_near + contract % 4 * AVX512.tiny_rest
    assert rest == pytest.approx(results * each)
    # Nothing of the kind where columns are read at a distance.
    more = price(contract + 1, right=False) - price(contract, right=False)
    assert more == pytest.approx(results * AVX512.tiny_far)


@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_no_product_costs_less_than_the_least(itemsize: int) -> None:
    """Whatever its shape and however its operands lie; the search leaves out by the least price."""
    draw = random.Random(7)
    costs = Costs(AVX512, {}, itemsize)
    for _ in range(300):
        batch, rows, columns, contract = (draw.choice((1, 2, 3, 5, 17, 64, 209)) for _ in range(4))
        stacked = batch > 1 or draw.random() < 0.5
        least = costs.least(batch, rows, columns, contract, stacked=stacked)
        for left in (True, False):
            for right in (True, False):
                price = costs.product(
                    batch, rows, columns, contract, left=left, right=right, stacked=stacked
                )
                assert price >= least * (1 - 1e-9)
