"""The search: every way is right for all strides, few are written down, and copies are real."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from checks import bound_for
from einheads import beam
from einheads import lower as lowering
from einheads import ways as search_module
from einheads.bench.contestants import letters
from einheads.bench.probes import CopyCounter
from einheads.bench.suites import random_cases
from einheads.candidates import Candidate, Traits
from einheads.compiled import compile_source
from einheads.costs import Costs
from einheads.devices import AVX2, AVX512, CUDA
from einheads.explain import explain
from einheads.functional import einsum
from einheads.layout import in_order, layout
from einheads.lower import drafts, lower
from einheads.operands import Declaration
from einheads.pattern import parse
from einheads.plan import plan
from einheads.price import price
from einheads.program import cache_clear, program_for
from einheads.rates import Rates, cpu_kind, rates_for, sure_for
from einheads.sizes import bind
from einheads.source import write
from einheads.steps import Bmm, Linear, Matmul, Steps
from einheads.stopwatch import with_threads
from einheads.units import WORK
from einheads.ways import ways
from oracle import oracle

# With expanded tensors, whose numbers overlap in memory, and without.
DISTINCT = ("dense", "turned", "sliced", "backward")
KINDS = (*DISTINCT, "expanded")


def drawn(shape: tuple[int, ...], kind: str, draw: random.Random) -> Tensor:
    """A random tensor that lies in memory as the kind says."""
    generator = torch.Generator().manual_seed(draw.randrange(1000))

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, dtype=torch.float64)

    if kind == "turned":
        order = list(range(len(shape)))
        draw.shuffle(order)
        stored = normal(*(shape[place] for place in order))
        return stored.permute([order.index(place) for place in range(len(order))])
    if kind == "sliced":
        return normal(*(2 * size + 1 for size in shape))[tuple(slice(1, None, 2) for _ in shape)]
    if kind == "expanded":
        place = draw.randrange(len(shape))
        return normal(*(1 if k == place else size for k, size in enumerate(shape))).expand(shape)
    if kind == "backward":
        return normal(*reversed(shape)).permute(*reversed(range(len(shape))))
    return normal(*shape)


def small_patterns(count: int) -> list[tuple[str, dict[str, int]]]:
    """Random contractions with sizes small enough for the definition, a few of them one."""
    draw = random.Random(7)
    found = []
    for case in random_cases(count, seed=11):
        axes = list(case.sizes)
        sizes = {axis: draw.choice((1, 2, 2, 3, 3, 4)) for axis in axes}
        found.append((case.pattern, sizes))
    return found


@pytest.mark.parametrize("number", range(20))
def test_every_way_agrees_with_the_definition(number: int) -> None:
    """Values and gradients of each candidate, for operands of every kind of stride."""
    pattern, sizes = small_patterns(20)[number]
    draw = random.Random(number)
    shapes = [
        tuple(sizes[name] for name in term.split()) for term in pattern.split(" -> ")[0].split(", ")
    ]
    seen: set[Steps] = set()
    for _ in range(4):
        tensors = [drawn(shape, draw.choice(KINDS), draw) for shape in shapes]
        bound, layouts = bound_for(pattern, tensors)
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        plain = torch.einsum(pattern.replace(" ", ""), *leaves)
        weights = torch.randn_like(plain)
        expected = torch.autograd.grad((plain * weights).sum(), leaves)
        values = oracle(pattern, *(tensor.numpy() for tensor in tensors))
        for draft in drafts(bound, plan(bound), layouts, Traits(itemsize=8)):
            seen.add(draft.steps)
            run = compile_source(write(draft.steps, ["x", "y"], title=pattern), "contract", "<way>")
            result = run(*tensors)
            np.testing.assert_allclose(result.numpy(), values, rtol=1e-10, atol=1e-10)
            twins = [tensor.detach().requires_grad_() for tensor in tensors]
            found = torch.autograd.grad((run(*twins) * weights).sum(), twins)
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other)
    assert seen


@pytest.mark.parametrize("number", range(20))
def test_exactly_the_declared_copies_run(number: int) -> None:
    """Of every candidate, on strided operands: what says that it copies does, and nothing else."""
    pattern, sizes = small_patterns(20)[number]
    # No size is one, where a copy may turn out to be a view.
    sizes = {name: size + 1 for name, size in sizes.items()}
    draw = random.Random(number)
    shapes = [
        tuple(sizes[name] for name in term.split()) for term in pattern.split(" -> ")[0].split(", ")
    ]
    tensors = [drawn(shape, draw.choice(KINDS[:2]), draw) for shape in shapes]
    bound, layouts = bound_for(pattern, tensors)
    checked = 0
    for draft in drafts(bound, plan(bound), layouts, Traits(itemsize=8)):
        run = compile_source(write(draft.steps, ["x", "y"], title=pattern), "contract", "<way>")
        with CopyCounter() as counter:
            run(*tensors)
        products = [step for step in draft.steps.steps if isinstance(step, (Bmm, Matmul, Linear))]
        if all(isinstance(step, Bmm) for step in products):
            assert counter.copies.total() == len(draft.steps.copies), write(
                draft.steps, ["x", "y"], title=pattern
            )
            checked += 1
    assert checked > 1


class Counter:
    """Counts how many lowerings are written down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        original: Any = lowering.Lowering.written

        def written(own: Any, chosen: Any) -> Any:
            self.count += 1
            return original(own, chosen)

        monkeypatch.setattr(lowering.Lowering, "written", written)


def test_few_lowerings_are_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing down and pricing exactly is the slow part of planning: two at most, mostly one."""
    counter = Counter(monkeypatch)
    counts = []
    for case in random_cases(30, seed=5):
        bound = bind(parse(case.pattern), case.shapes)
        counter.count = 0
        lower(bound, plan(bound))
        assert 1 <= counter.count <= 2
        counts.append(counter.count)
    assert sorted(counts)[len(counts) // 2] == 1


def test_a_bias_may_decide() -> None:
    """Its price is seen only where a lowering is written down, so the next ones are as well."""
    shapes = [(22, 34, 6, 6, 6), (6, 5, 6, 27, 34)]
    bound = bind(parse("d a e b c, b f c g a -> g d a e b f"), shapes)
    chosen = lower(bound, plan(bound), bias=("f",))
    layouts = [in_order(dims, bound.sizes) for dims in (*bound.operands, (("f",),))]
    every = drafts(bound, plan(bound), bias=("f",))
    # Nearly as cheap as the cheapest one, bias and all.
    assert price(chosen, layouts, bound.sizes) <= 1.1 * every[0].price


def test_a_long_chain_is_searched_in_a_beam(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred operands: as few are written down, and each contraction is searched a few times."""
    counter = Counter(monkeypatch)
    searched = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal searched
        searched += 1
        return ways(*arguments, **options)

    monkeypatch.setattr(beam, "ways", counted)
    terms = ["b x0", *(f"x{k} x{k + 1}" for k in range(99))]
    bound = bind(parse(f"{', '.join(terms)} -> b x99"), [(8, 8)] * 100)
    steps = lower(bound, plan(bound))
    assert counter.count <= 3
    assert searched <= 4 * 99
    assert len(steps.products) == 99


def test_hopeless_ways_are_not_priced_closely() -> None:
    """The search for the choice gives a fraction of all ways, and the cheapest of all first."""
    ratio = []
    for case in random_cases(20, seed=5):
        bound = bind(parse(case.pattern), case.shapes)
        (step,) = plan(bound).contractions
        own = [
            layout(dims, torch.empty(shape).stride(), bound.sizes)
            for dims, shape in zip(bound.operands, case.shapes, strict=True)
        ]
        few = ways(step, own[0], own[1], bound.sizes, Traits(), bound.output)
        every = ways(step, own[0], own[1], bound.sizes, Traits(), bound.output, every=True)
        assert few[0][0] == pytest.approx(every[0][0], rel=0.3)
        # What is certainly not the cheapest is left out even earlier where nothing follows.
        fewest = ways(step, own[0], own[1], bound.sizes, Traits(), bound.output, slack=1.0)
        assert fewest[0] == few[0]
        assert len(fewest) <= len(few)
        assert len(few) <= len(every)
        ratio.append(len(few) / len(every))
    assert sum(ratio) / len(ratio) < 0.5


def test_the_lowering_of_torch_is_a_candidate() -> None:
    """Permuted to batch, left, contract and batch, contract, right, and folded: as textbooks do."""
    bound = bind(parse("c b a d, c a e b -> e a d"), [(6, 3, 4, 5), (6, 4, 7, 3)])
    wanted = {(("a",), ("d",), ("c", "b")), (("a",), ("e",), ("c", "b"))}
    found = {
        bound_dims
        for draft in drafts(bound, plan(bound))
        for step in draft.steps.steps
        if isinstance(step, Bmm)
        for bound_dims in (draft.steps.dims(step.left), draft.steps.dims(step.right))
    }
    assert wanted & found


@pytest.fixture
def avx2(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CPU whose prices are not trusted to the last tenth."""
    monkeypatch.setenv("EINHEADS_CPU", "avx2")
    cpu_kind.cache_clear()
    cache_clear()
    yield
    monkeypatch.undo()
    cpu_kind.cache_clear()
    cache_clear()


@pytest.mark.usefixtures("avx2")
def test_what_is_hardly_cheaper_is_left_to_torch() -> None:
    """The lowering of `torch.einsum` is taken, unless another one is clearly cheaper."""
    sure, kept, left = sure_for("cpu"), 0, 0
    for case in random_cases(60, seed=3):
        bound = bind(parse(case.pattern), case.shapes)
        (step,) = plan(bound).contractions
        own = [in_order(dims, bound.sizes) for dims in bound.operands]
        every = ways(step, *own, bound.sizes, Traits(), bound.output, every=True)
        fewest = ways(step, *own, bound.sizes, Traits(), bound.output, slack=1.0)
        wary = ways(step, *own, bound.sizes, Traits(), bound.output, slack=1.0, cautious=True)
        if wary == fewest:
            kept += 1
            continue
        left += 1
        # Torch's own: nothing is looped over, and what is copied is copied as a matrix product is
        # written.
        ((price, way),) = wary
        assert isinstance(way, Candidate)
        assert set(way.batch) == set(step.batch)
        assert (price, way) in every
        assert fewest[0][0] <= price <= fewest[0][0] / sure
        steps = lower(bound, plan(bound))
        assert steps == lower(bound, plan(bound), chosen=[way])
    assert kept > 20
    assert left > 3


class Products(TorchDispatchMode):
    """Notes down what is multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let everything run."""
        if func.overloadpacket.__name__ == "bmm":
            self.shapes.append((tuple(args[0].shape), tuple(args[1].shape)))
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("avx2")
def test_what_is_left_to_torch_is_what_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same operand is on the left, which depends on the order of the output."""
    # Nothing is sure, so torch's own is always taken.
    monkeypatch.setattr(search_module, "sure_for", lambda *_: 1e-9)
    turned = 0
    for case in random_cases(80, seed=4):
        bound = bind(parse(case.pattern), case.shapes)
        (step,) = plan(bound).contractions
        rows, columns = (
            math.prod(case.sizes[axis] for axis in axes)
            for axes in (step.left_axes, step.right_axes)
        )
        if rows == columns or not step.batch:
            continue  # it cannot be told which is which
        own = [in_order(dims, bound.sizes) for dims in bound.operands]
        cheapest, *_ = ways(step, *own, bound.sizes, Traits(), bound.output)
        wary, *_ = ways(step, *own, bound.sizes, Traits(), bound.output, cautious=True)
        if wary == cheapest:
            continue  # there was nothing to be wary of
        way = wary[1]
        assert isinstance(way, Candidate)
        with Products() as seen:
            torch.einsum(letters(case), *(torch.randn(shape) for shape in case.shapes))
        ((left, right),) = seen.shapes
        assert (left[-2], right[-1]) == ((columns, rows) if way.swapped else (rows, columns))
        turned += way.swapped
    assert turned > 5


@pytest.mark.usefixtures("avx2")
def test_what_was_left_aside_is_told() -> None:
    """What may be a little faster is named, and called what it is: not sure."""
    story = explain("c b a d, c a e b -> e a d", a=11, b=5, c=44, d=28, e=49)
    assert story.runner_up is not None
    assert sure_for("cpu") < story.runner_up.price < 1
    assert story.runner_up.reason == "it may be a little faster, too little to be sure"


@pytest.mark.usefixtures("avx2")
@pytest.mark.parametrize("number", range(12))
def test_cautious_choices_agree_with_the_definition(number: int) -> None:
    """Whichever way is taken, with values and gradients."""
    pattern, sizes = small_patterns(12)[number]
    draw = random.Random(number)
    terms = [term.split() for term in pattern.split("->")[0].split(",")]
    tensors = [
        drawn(tuple(sizes[axis] for axis in term), draw.choice(DISTINCT), draw).requires_grad_()
        for term in terms
    ]
    result = einsum(pattern, *tensors)
    expected = oracle(pattern, *(tensor.detach().numpy() for tensor in tensors))
    np.testing.assert_allclose(result.detach().numpy(), expected, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(lambda *given: einsum(pattern, *given), tensors)


UNEVEN = [(3, True, True), (3, False, True), (3, True, False), (15, True, False), (16, True, True)]


@pytest.mark.parametrize(("columns", "left", "right"), UNEVEN)
def test_columns_that_fill_no_vector(columns: int, left: bool, right: bool) -> None:  # noqa: FBT001
    """Few columns cost more for each, most of all where BLAS reads them crossed; 16 fill one."""

    def price(rates: Rates) -> float:
        return Costs(rates, {}, 4).product(
            50, 100, columns, 64, left=left, right=right, stacked=True
        )

    plain = replace(AVX2, ragged=0.0, few=0.0, few_dots=0.0, few_dot=0.0, few_crossed=0.0)
    more = price(AVX2) - price(plain)
    each = 50 * 100 * 64
    if columns == 16:
        assert more == 0
    elif columns == 15:
        # Eight, four, two and one of them: three pieces beyond the first.
        assert more == pytest.approx(each * 3 * AVX2.ragged)
    elif left and right:
        assert more == pytest.approx(each * 3 * (AVX2.few_dots + AVX2.few_dot / 64))
    else:
        assert more == pytest.approx(each * (AVX2.few + right * 3 * AVX2.few_crossed))


@pytest.mark.parametrize(("rows", "stacked"), [(10, False), (255, False), (256, False), (10, True)])
def test_few_rows_of_a_single_product(rows: int, stacked: bool) -> None:  # noqa: FBT001
    """They cost more, the fewer they are; in a stack threads share the matrices."""

    def price(rates: Rates) -> float:
        return Costs(rates, {}, 4).product(
            1, rows, 4000, 30, left=True, right=False, stacked=stacked
        )

    more = price(AVX2) - price(replace(AVX2, few_rows=0.0))
    short = 0.0 if stacked else 1 - rows / 256
    assert more == pytest.approx(rows * 4000 * 30 * short * AVX2.few_rows, abs=1e-6)


@pytest.mark.parametrize(
    ("batch", "rows", "columns", "stacked", "turns", "shared", "wide"),
    [
        (1, 40, 81, False, 1, True, True),
        (1, 40, 80, False, 1, True, False),
        (1, 81, 40, False, 1, True, False),
        (1, 40, 81, True, 1, True, True),
        # Too few numbers to share; and a stack, whose matrices are shared, unless it is made
        # matrix by matrix.
        (1, 20, 81, False, 1, False, False),
        (3, 40, 81, True, 1, False, False),
        (3, 40, 81, True, 3, True, True),
    ],
)
@pytest.mark.parametrize("itemsize", [4, 8])
def test_threads_that_share_a_product(
    batch: int,
    rows: int,
    columns: int,
    stacked: bool,  # noqa: FBT001
    turns: int,
    shared: bool,  # noqa: FBT001
    wide: bool,  # noqa: FBT001
    itemsize: int,
) -> None:
    """They wait for each other, and more where a single result has many more columns than rows."""

    def price(rates: Rates) -> float:
        return Costs(rates, {}, itemsize).product(
            batch, rows, columns, 30, left=True, right=False, stacked=stacked, turns=turns
        )

    more = price(AVX2.shared()) - price(AVX2)
    each = shared * AVX2.shared_product
    each += wide * rows * columns * AVX2.shared_wide * itemsize / 4
    assert more == pytest.approx(batch * each, abs=1e-6)


def test_what_threads_do_not_share() -> None:
    """Few numbers are left to one thread, and so is every transposed matrix."""
    rates = replace(AVX2, shared_copy=0.0).shared()

    def ratio(price: Callable[[Costs], float], **sizes: int) -> float:
        one, several = (price(Costs(kind, sizes, 4)) for kind in (AVX2, rates))
        return several / one

    def copied(order: str, stored: str, rows: int = 0, **sizes: int) -> float:
        lies = in_order(tuple((name,) for name in stored), sizes)
        return ratio(lambda costs: costs.copy(tuple(order), lies, rows), **sizes)

    def elementwise(**sizes: int) -> list[float]:
        dims = tuple((name,) for name in sizes)
        lies, order = in_order(dims, sizes), tuple(sizes)
        return [
            ratio(lambda costs: costs.multiply(order, lies, lies), **sizes),
            ratio(lambda costs: costs.sum(dims, lies, order[-1:]), **sizes),
            ratio(lambda costs: costs.sum(dims, lies, order[:1]), **sizes),
        ]

    alone, together = pytest.approx(rates.alone), pytest.approx(1.0)
    assert rates.alone > 1
    assert copied("bac", "abc", a=32, b=32, c=31) == alone
    assert copied("bac", "abc", a=32, b=32, c=32) == together
    assert copied("ba", "ab", 501, a=500, b=501) == alone
    assert copied("cab", "abc", 167, a=500, b=3, c=167) == alone
    # Where it is no matrix, or one of other rows, it is copied as all else is.
    assert copied("cab", "abc", a=500, b=3, c=167) == together
    assert copied("cab", "abc", 167 * 500, a=500, b=3, c=167) == together
    assert copied("cba", "abc", 32, a=32, b=32, c=32) == together
    assert elementwise(a=1023, b=32) == [alone] * 3
    *near, across = elementwise(a=1024, b=32)
    assert near == [together] * 2
    assert across > 1

    def stack(count: int) -> float:
        shape = count, 4, 4, 4
        return ratio(lambda costs: costs.product(*shape, left=True, right=False, stacked=True))

    assert stack(511) == alone
    assert stack(512) == together


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize(
    ("rows", "columns", "matrix", "read"),
    [(400, 100, True, True), (400, 100, False, False), (300, 100, True, False)],
)
def test_what_several_threads_copy_and_all_of_them_read(
    rows: int,
    columns: int,
    matrix: bool,  # noqa: FBT001
    read: bool,  # noqa: FBT001
    itemsize: int,
) -> None:
    """A matrix goes from core to core; of a stack each reads what it has copied itself."""
    sizes = {"a": rows, "b": columns}
    lies = in_order((("b",), ("a",)), sizes)
    shared = AVX2.shared()
    more, less = (
        Costs(rates, sizes, itemsize).copy(("a", "b"), lies, rows if matrix else 0)
        for rates in (shared, replace(shared, shared_copy=0.0))
    )
    each = AVX2.shared_copy * itemsize / 4
    assert more - less == pytest.approx(read * rows * columns * each, abs=1e-6)


def test_threads_do_not_share_calls() -> None:
    """So calls count for more where they share the rest."""
    shared = AVX2.shared()
    for name in WORK:
        call = name == "view" or name.endswith("_call")
        assert getattr(shared, name) == getattr(AVX2, name) * (shared.alone if call else 1)
    assert AVX2.alone == 1


@pytest.mark.usefixtures("avx2")
def test_threads_get_rows_to_share() -> None:
    """Many rows are better than many columns, unless they have to be copied for it."""
    bound = bind(parse("a c d, d b -> a b c"), [(90, 85, 90), (90, 85)])
    for shared in (False, True):
        steps = lower(bound, plan(bound), traits=Traits(shared=shared))
        assert steps.copies == ()
        assert steps.steps[0].dims == (("a",), ("c",), ("b",))


@pytest.mark.usefixtures("avx2")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_call_is_planned_for_its_threads(threads: int) -> None:
    """Those that there are when it comes for the first time; and so it is told."""
    pattern = "b a, a c -> b c"
    operands = torch.rand(297, 7), torch.rand(7, 818)
    with with_threads(threads):
        cache_clear()
        program, bound = program_for(Declaration(pattern), (), operands)
        told = str(explain(pattern, *operands))
    for other in (1, 2):
        steps = lower(bound, plan(bound), traits=Traits(shared=other > 1))
        assert (program.steps == steps) == (threads == other)
    # Threads share many rows, but not as well many columns.
    assert ("permute" in told) == (threads == 2), told
    cache_clear()


def test_what_no_cache_holds_is_read_in_its_order() -> None:
    """Each run that begins elsewhere has to wait for memory, in a copy as in a sum."""
    sizes = {"a": 8, "b": 512, "c": 8, "d": 64}
    stored = in_order(tuple((name,) for name in sizes), sizes)

    def waited(dims: str, sizes: dict[str, int]) -> tuple[float, float]:
        costs, patient = (
            Costs(rates, sizes, 4) for rates in (AVX2, replace(AVX2, run_waiting=0.0))
        )
        apart = tuple((name,) for name in dims)
        return (
            costs.sum(apart, stored, ["d"]) - patient.sum(apart, stored, ["d"]),
            costs.copy(tuple(dims), stored) - patient.copy(tuple(dims), stored),
        )

    assert waited("abcd", sizes) == pytest.approx([AVX2.run_waiting] * 2)
    assert waited("acbd", sizes) == pytest.approx([8 * 512 * 8 * AVX2.run_waiting] * 2)
    # A cache holds less.
    assert waited("acbd", sizes | {"b": 64}) == (0.0, 0.0)


def test_sums_over_an_outer_axis_are_priced_by_whole_planes() -> None:
    """Axes that lie next to each other in memory are one long row of columns."""
    sizes = {"a": 9, "b": 91, "c": 105, "d": 3}
    dims = tuple((name,) for name in sizes)
    costs = Costs(AVX2, sizes, 4)
    outer = costs.sum(dims, in_order(dims, sizes), ["a"])
    count, plane = 9 * 91 * 105 * 3, 9 * 91 * 105 * 3
    assert outer == pytest.approx(
        count * AVX2.sum_across + count / plane * AVX2.sum_plane + 9 * AVX2.sum_run * 0.1
    )
    # The sum over an axis in between is done row by row of what lies behind it.
    inner = costs.sum(dims, in_order(dims, sizes), ["c"])
    rows = count / (105 * 3)
    assert inner == pytest.approx(
        count * AVX2.sum_across + rows * AVX2.sum_plane + count / 3 * AVX2.sum_run * 0.1
    )


def test_each_device_has_rates() -> None:
    """Those of the device that the traits name."""
    assert rates_for("cpu") is rates_for("mps") is AVX512
    assert rates_for("cuda") is CUDA
    # On CUDA a launch costs more than a view, and small work is free beside it.
    assert CUDA.bmm_call > CUDA.view
    assert CUDA.multiply_add < AVX512.multiply_add < AVX2.multiply_add


def test_the_device_decides() -> None:
    """Rows of dot products are a stack of products where that is faster: on the CPU, not off it."""
    pattern, shapes = "n c, n c -> n", [(65536, 32), (65536, 32)]
    bound = bind(parse(pattern), shapes)
    off = lower(bound, plan(bound), traits=Traits(device="cuda"))
    assert not any(isinstance(step, Bmm) for step in off.steps)
    on = lower(bound, plan(bound), traits=Traits(device="cpu"))
    assert any(isinstance(step, Bmm) for step in on.steps)
