"""What prices say of memory: pages that come again, rows that fill no vectors."""

import math
import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from einheads.bench.suites import random_cases
from einheads.candidates import Candidate, Traits
from einheads.costs import Costs
from einheads.devices import AVX2, AVX512
from einheads.functional import einsum
from einheads.layout import Layout, contiguous, in_order, layout
from einheads.lower import drafts, lower
from einheads.pattern import parse
from einheads.plan import plan
from einheads.price import price
from einheads.rates import CPUS, Rates
from einheads.sizes import bind
from einheads.steps import Bmm, Matmul, Steps
from einheads.ways import ways

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

    def cost(ragged: float) -> float:
        costs = Costs(replace(AVX512, ragged_result=ragged), {}, 4)
        return costs.product(7, 30, columns, 20, left=True, right=False, stacked=True)

    more = cost(1.0) - cost(0.0)
    assert more == (pytest.approx(7 * 30 * columns) if slower else 0)


def test_nothing_of_it_was_seen_without_avx512() -> None:
    """Where it was not measured, it is not priced."""
    assert AVX2.tlb_first == AVX2.tlb_second == AVX2.ragged_result == 0


@pytest.mark.parametrize("contract", [3, 4, 6, 8])
def test_tiny_dot_products_are_made_in_fours(contract: int) -> None:
    """What does not fill a four is added one by one."""

    def cost(contract: int, *, right: bool) -> float:
        costs = Costs(AVX512, {}, 4)
        return costs.product(100, 1, 20, contract, left=True, right=right, stacked=True)

    results = 100 * 20
    rest = cost(contract, right=True) - 100 * AVX512.tiny_matrix - results * AVX512.tiny_result
    each = contract * AVX512.tiny_near + contract % 4 * AVX512.tiny_rest
    assert rest == pytest.approx(results * each)
    # Nothing of the kind where columns are read at a distance.
    more = cost(contract + 1, right=False) - cost(contract, right=False)
    assert more == pytest.approx(results * AVX512.tiny_far)


@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_no_product_costs_less_than_the_least(itemsize: int) -> None:
    """Whatever its shape and however its operands lie; the search leaves out by the least price."""
    draw = random.Random(7)
    costs = Costs(AVX512, {}, itemsize)
    for _ in range(300):
        batch, rows, columns, contract = (
            draw.choice((1, 2, 3, 5, 17, 64, 209, 3001)) for _ in range(4)
        )
        stacked = batch > 1 or draw.random() < 0.5
        least = costs.least(batch, rows, columns, contract, stacked=stacked)
        for left in (True, False):
            for right in (True, False):
                found = costs.product(
                    batch, rows, columns, contract, left=left, right=right, stacked=stacked
                )
                assert found >= least * (1 - 1e-9)


EMPTY = [
    ("b i, o i -> b o", (0, 2048), (2048, 2048)),
    ("b c i, o i -> b c o", (0, 3, 2048), (2048, 2048)),
    ("b c i, o i -> c o b", (0, 3, 2048), (2048, 2048)),
    ("b i, b j, i j o -> b o", (0, 256), (0, 256), (256, 256, 64)),
    ("b i, h i, o h -> b o", (0, 2048), (2048, 2048), (8, 2048)),
    ("a b, c b z -> z c a", (2048, 1024), (5, 1024, 0)),
]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("pattern", "shapes"), [(one[0], one[1:]) for one in EMPTY])
def test_empty_tensors_meet_large_ones(
    pattern: str,
    shapes: tuple[tuple[int, ...], ...],
    bias: bool,  # noqa: FBT001
) -> None:
    """Nothing is read then, which costs nothing, and not less than that."""
    bound = bind(parse(pattern), shapes)
    last = bound.output[-1] if bias else None
    chosen = plan(bound)
    assert lower(bound, chosen, bias=last).steps
    every = drafts(bound, chosen, bias=last)
    assert every
    assert all(draft.price > 0 for draft in every)
    tensors = [torch.zeros(shape) for shape in shapes]
    wanted = tuple(bound.sizes[name] for (name,) in bound.output)
    assert einsum(pattern, *tensors).shape == wanted


def test_the_search_reads_as_the_price_does() -> None:
    """What nothing is copied for costs the same in both, but for a view or two."""
    pattern, shapes = "a b, c d e a b -> a e d c", [(14, 40), (27, 58, 9, 14, 40)]
    bound = bind(parse(pattern), shapes)
    (step,) = plan(bound).contractions
    layouts = [in_order(dims, bound.sizes) for dims in bound.operands]
    seen = 0
    for cost, way in ways(step, *layouts, bound.sizes, Traits(), bound.output, slack=9.0):
        steps = lower(bound, plan(bound), layouts, chosen=[way])
        if steps.copies or not isinstance(way, Candidate):
            continue
        axes = [(way.batch, one, way.contract) for one in (way.rows, way.columns)]
        costs = Costs(AVX512, bound.sizes, 4)
        operands = reversed(layouts) if way.swapped else layouts
        read = [
            costs.reading(lies, some, other, near=True)
            for lies, some, other in zip(operands, axes, (way.columns, way.rows), strict=True)
        ]
        seen += max(read) > 1e5
        exact = price(steps, layouts, bound.sizes)
        assert exact == pytest.approx(cost, abs=4 * AVX512.view)
    assert seen


def test_products_in_turns_come_back_to_pages() -> None:
    """At each turn, if a page holds numbers of all turns."""
    sizes = {"a": 30, "b": 1400, "c": 180}
    large = in_order((("b",), ("a",), ("c",)), sizes)
    small = in_order((("a",),), sizes)
    hasty = Costs(replace(AVX512, tlb_first=0.0, tlb_second=0.0), sizes, 4)
    costs = Costs(AVX512, sizes, 4)
    waited = [
        costs.multiply_in_turns(turn, order, large, small)
        - hasty.multiply_in_turns(turn, order, large, small)
        for turn, order in (("a", ("b", "c")), ("b", ("a", "c")))
    ]
    # A row for each `b`, at each turn but the first one; the other way around, memory is walked
    # through in its order.
    rows = 29 * 1400
    assert waited[0] == pytest.approx(rows * (AVX512.tlb_first + AVX512.tlb_second), rel=0.2)
    assert waited[1] == 0
    plain = [one.multiply(("a", "b", "c"), large, small) for one in (costs, hasty)]
    assert plain[0] > 1.01 * plain[1]


def test_short_runs_that_no_cache_holds_wait_for_memory() -> None:
    """Elementwise products in turns read a part of each line, and all lines again in each turn."""
    sizes = {"turn": 18, "row": 40_000, "near": 3}
    dims = tuple((name,) for name in sizes)
    vector = contiguous((("turn",),), sizes)
    whole = contiguous(dims, sizes)
    broken = layout((("row",), ("turn",), ("near",)), (54, 3, 1), sizes)
    order = ("row", "near")

    def cost(rates: Rates, lies: Layout) -> float:
        return Costs(rates, sizes, 4).multiply(order, vector, lies, "turn")

    patient = replace(AVX2, run_waiting=0.0)
    runs = 18 * 40_000
    assert cost(AVX2, whole) - cost(patient, whole) == pytest.approx(AVX2.run_waiting)
    assert cost(AVX2, broken) - cost(patient, broken) == pytest.approx(runs * AVX2.run_waiting)
    # A cache holds a few.
    sizes["row"] = 4000
    assert cost(AVX2, broken) == cost(patient, broken)


def test_two_views_decide_nothing_in_a_large_contraction() -> None:
    """Torch's own lowering is taken there, if it is a tie; where views count, what has fewer."""
    views = 2 * AVX512.view
    large, small = 0, 0
    for case in random_cases(150, seed=31):
        bound = bind(parse(case.pattern), case.shapes)
        (step,) = plan(bound).contractions
        own = [in_order(dims, bound.sizes) for dims in bound.operands]
        told = step, *own, bound.sizes, Traits(), bound.output
        (least, _), *_ = ways(*told, slack=1.0)
        wary = ways(*told, slack=1.0, cautious=True)
        if len(wary) > 1:
            continue
        more = wary[0][0] - least
        assert more <= max(views, least * (1 / 0.99 - 1)) + 1
        large += 0 < more <= views and least > 50 * views
        small += 0 < more <= views and least < 50 * views
    assert large > 0
    assert small == 0


def test_the_dot_product_of_two_vectors_waits_for_nothing() -> None:
    """Both are read along the axis that is summed, whichever is on the right."""
    sizes = {"i": 5000}
    vector = contiguous((("i",),), sizes)
    apart = layout((("i",),), (3,), sizes)
    product = Matmul(0, 1, ("i",), ())
    steps = Steps(((("i",),), (("i",),)), (product,), 2)
    for lies, more in (([vector, vector], 0), ([apart, vector], 1), ([vector, apart], 1)):
        each = AVX512.vector_near + more * AVX512.vector_apart
        found = price(steps, lies, sizes, 4, AVX512)
        assert found == pytest.approx(AVX512.mm_call + 5000 * each, rel=0.01)


@pytest.mark.parametrize("rates", [*CPUS.values()])
def test_few_dot_products_of_a_stack_wait_for_nothing(rates: Rates) -> None:
    """BLAS makes them as such, if it is told that both operands lie along the sum."""

    def cost(rows: int, columns: int, *, left: bool, right: bool) -> float:
        costs = Costs(rates, {}, 4)
        return costs.product(40, rows, columns, 1000, left=left, right=right, stacked=True)

    for few in (2, 3, 6):
        each = few * (1000 * rates.vector_near + rates.vector_dot + rates.result)
        whole = cost(few, 1, left=True, right=True) - 40 * rates.matrix
        assert whole == pytest.approx(40 * each, rel=0.1)
        # The other way round, it is told that a single row lies across, and reads it so.
        across = cost(1, few, left=False, right=True) - cost(1, few, left=True, right=True)
        assert across == pytest.approx(40 * 1000 * (rates.summed_crossed - rates.summed_dot))
    # What fills a vector is made as a matrix product with a single column, and slower.
    assert cost(16, 1, left=True, right=True) > 2 * cost(15, 1, left=True, right=True)
    assert cost(16, 1, left=True, right=True) > 1.2 * cost(1, 16, left=True, right=True)


def test_of_two_rows_the_one_that_is_no_repetition_is_fetched() -> None:
    """Of a stack of dot products, neither operand is the larger one; one may be expanded."""
    costs = Costs(AVX512, {}, 4)
    for different in ((4096, 1), (1, 4096)):
        assert costs.fetched(4096, 1, 1, 2048, different) == pytest.approx(
            4096 * 2048 * (1 - 1 / 32) * AVX512.cold_operand
        )


@pytest.mark.parametrize("summed", ["a", "b"])
def test_a_sum_writes_only_its_result(summed: str) -> None:
    """What it reads waits for memory, but is no fresh memory, which the system hands out."""
    sizes = {"a": 4096, "b": 4096}
    lies = in_order((("a",), ("b",)), sizes)

    def cost(**rates: float) -> float:
        return Costs(replace(AVX512, **rates), sizes, 4).sum((("a",), ("b",)), lies, [summed])

    assert cost(fresh=0.0) == cost(fresh=9.0)
    assert cost(cold=1.0) - cost(cold=0.0) == pytest.approx(4096**2)
