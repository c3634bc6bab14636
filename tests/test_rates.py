"""Which rates a machine gets: by its instructions, unless the environment tells."""

import itertools
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from einheads.candidates import Traits
from einheads.costs import Costs
from einheads.devices import AVX2, AVX512
from einheads.layout import in_order
from einheads.loops import LOOPS, LoopRates
from einheads.lower import lower
from einheads.operands import traits_of
from einheads.pattern import parse
from einheads.plan import plan
from einheads.rates import (
    CPUS,
    Rates,
    _of_numbers,
    cpu_kind,
    processor,
    rates_for,
    several_threads,
    sure_for,
)
from einheads.rates import _kind_of as kind_of
from einheads.sizes import bind
from einheads.steps import Bmm
from einheads.stopwatch import with_threads


@pytest.fixture(autouse=True)
def asked_again() -> Iterator[None]:
    """The answer is kept for the whole process, but not beyond a test."""
    before = os.environ["EINHEADS_CPU"]
    cpu_kind.cache_clear()
    yield
    cpu_kind.cache_clear()
    os.environ["EINHEADS_CPU"] = before
    assert cpu_kind() == before


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 avx512f avx512dq\n", "avx512"),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx avx2 fma\n", "avx2"),
        # Which BLAS gives kernels with AVX2, so that it is priced as its older kin.
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f avx512dq\n", "avx2"),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nflags\t\t: fpu avx2\n", "avx2"),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 23\nflags\t\t: fpu avx512f\n", "avx2"),
        # Generations that were timed for themselves, and those after them.
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nflags\t\t: fpu avx512f\n", "zen4"),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 26\nflags\t\t: fpu avx512f\n", "zen5"),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 27\nflags\t\t: fpu avx512f\n", "zen5"),
        ("vendor_id\t: GenuineIntel\ncpu family\t: 26\nflags\t\t: fpu avx2\n", "avx2"),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 1a\nflags\t\t: fpu avx2\n", "avx2"),
        ("flags\t\t: fpu avx2 avx512f avx512dq\n", "avx2"),
        # The first core speaks for all; a word in a name is no instruction.
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx2\nflags\t\t: avx512f\n", "avx2"),
        ("vendor_id\t: GenuineIntel\nmodel name\t: avx512f\nflags\t\t: fpu\n", "avx2"),
        ("Features\t: fp asimd\n", "avx2"),
        ("", "avx2"),
    ],
)
def test_the_processor_tells(text: str, kind: str, tmp_path: Path) -> None:
    """In the list of its instructions."""
    path = tmp_path / "cpuinfo"
    path.write_text(text, encoding="utf-8")
    assert kind_of(processor(path)) == kind


def test_where_nobody_tells(tmp_path: Path) -> None:
    """A system without such a file has no wide vectors, as most computers."""
    assert kind_of(processor(tmp_path / "nothing")) == "avx2"


@pytest.mark.parametrize(("kind", "rates"), [*CPUS.items()])
def test_the_environment_tells(kind: str, rates: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor is."""
    monkeypatch.setenv("EINHEADS_CPU", kind)
    assert rates_for("cpu") is rates


def test_the_environment_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset or empty, the processor is asked."""
    monkeypatch.delenv("EINHEADS_CPU")
    assert cpu_kind() == kind_of(processor())
    cpu_kind.cache_clear()
    monkeypatch.setenv("EINHEADS_CPU", "")
    assert cpu_kind() == kind_of(processor())


def test_numbers_without_blas_have_rates_of_their_own() -> None:
    """On a CPU, it has no kernels for integers and float16; other floats are priced alike."""
    long = rates_for("cpu", "int64")
    assert long.matrix > 10 * AVX512.matrix
    assert long.copy_number == AVX512.copy_number
    for numbers in LOOPS:
        loops = rates_for("cpu", numbers)
        assert isinstance(loops, LoopRates)
        assert loops.multiply_add == AVX512.multiply_add
        assert rates_for("cuda", numbers) is rates_for("cuda")
        assert rates_for("mps", numbers) is AVX512
    assert rates_for("cpu", "") is rates_for("cpu") is AVX512
    assert (Traits(integer=True, itemsize=8).numbers, Traits(itemsize=8).numbers) == ("int64", "")
    assert (Traits(half=True, itemsize=2).numbers, Traits(itemsize=2).numbers) == ("float16", "")
    told = _of_numbers("avx2", "int64")
    slower = told.matrix / long.matrix
    assert 1 < slower < AVX2.multiply_add / AVX512.multiply_add
    slow, fast = _of_numbers("avx2", "int8"), _of_numbers("avx512", "int8")
    assert isinstance(slow, LoopRates)
    assert isinstance(fast, LoopRates)
    assert slow.loop_row / fast.loop_row == pytest.approx(slower)


@pytest.mark.parametrize(("kind", "knows"), [(kind, kind != "avx512") for kind in CPUS])
def test_kinds_that_know_of_threads(
    kind: str,
    knows: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where nobody has timed several threads, prices are as with one; so on other devices."""
    monkeypatch.setenv("EINHEADS_CPU", kind)
    cpu_kind.cache_clear()
    one, several = rates_for("cpu"), rates_for("cpu", shared=True)
    assert several == (one.shared() if knows else one)
    assert one.alone == 1
    assert (several.alone > 1) == knows
    assert rates_for("mps", shared=True) is one
    assert rates_for("cuda", shared=True) is rates_for("cuda")
    assert rates_for("cpu", "int8", shared=True) == rates_for("cpu", "int8")
    assert rates_for("cpu", "int64", shared=True).alone == several.alone


def test_whether_there_are_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch knows, once it is there; before, the environment, or the number of cores."""
    for threads in (1, 2):
        with with_threads(threads):
            assert several_threads() == (threads > 1)
            traits = traits_of([torch.ones(2)], 1, autocast=False)
            assert traits.shared == (threads > 1)
            assert not traits_of([torch.ones(2, device="meta")], 1, autocast=False).shared
    monkeypatch.delitem(sys.modules, "torch")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for cores in (1, 8, None):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert several_threads() == (cores == 8)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for told, several in (("1", False), ("4", True), ("1,4", False), ("", True), ("many", True)):
        monkeypatch.setenv("MKL_NUM_THREADS", told)
        assert several_threads() == several
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert several_threads()


@pytest.mark.parametrize("numbers", [*LOOPS])
def test_loops_are_trusted_where_they_were_timed(
    numbers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere, torch's own lowering is kept unless another one is clearly cheaper."""
    assert sure_for("cpu", numbers) == sure_for("cpu", "int64") == sure_for("cpu")
    monkeypatch.setenv("EINHEADS_CPU", "zen5")
    cpu_kind.cache_clear()
    assert sure_for("cpu", numbers) < sure_for("cpu", "int64") == sure_for("cpu")
    monkeypatch.setenv("EINHEADS_CPU", "avx2")
    cpu_kind.cache_clear()
    assert sure_for("cpu", numbers) == sure_for("cpu")


@pytest.mark.parametrize(("numbers", "itemsize"), [("int8", 1), ("int16", 2), ("int32", 4)])
def test_what_fills_no_vectors_is_taken_one_by_one(numbers: str, itemsize: int) -> None:
    """In sums and elementwise products of integers, where a vector holds many."""
    sizes = {"row": 50, "near": 0}
    matrix = in_order((("row",), ("near",)), sizes)
    column = in_order((("row",),), sizes)
    rates = rates_for("cpu", numbers)

    def cost(kind: str, rates: Rates) -> float:
        costs = Costs(rates, sizes, itemsize)
        if kind == "multiply":
            return costs.multiply(("row", "near"), matrix, column)
        return costs.sum((("row",), ("near",)), matrix, (kind,))

    for kind in ("multiply", "row", "near"):
        sizes["near"] = 256 // itemsize
        whole, simple = cost(kind, rates), cost(kind, AVX512)
        sizes["near"] -= 1
        assert cost(kind, rates) > 1.5 * whole
        assert cost(kind, AVX512) <= simple


@pytest.mark.parametrize(("numbers", "itemsize"), [("int8", 1), ("float16", 2), ("int32", 4)])
def test_no_product_in_loops_costs_less_than_the_least(numbers: str, itemsize: int) -> None:
    """The search leaves out by the least price; single numbers and tiny stacks among them."""
    draw = random.Random(11)
    costs = Costs(rates_for("cpu", numbers), {}, itemsize)
    for _ in range(200):
        batch, rows, columns, contract = (draw.choice((1, 2, 3, 5, 17, 64)) for _ in range(4))
        stacked = batch > 1 or draw.random() < 0.5
        least = costs.least(batch, rows, columns, contract, stacked=stacked)
        for left, right in itertools.product((True, False, None), repeat=2):
            found = costs.product(
                batch, rows, columns, contract, left=left, right=right, stacked=stacked
            )
            assert found >= least * (1 - 1e-9)


@pytest.mark.parametrize(
    ("traits", "copied"),
    [
        (Traits(), 0),
        (Traits(itemsize=2), 0),
        (Traits(itemsize=2, half=True), 1),
        (Traits(itemsize=1, integer=True), 1),
    ],
)
def test_loops_want_rows_of_the_right_matrix(traits: Traits, copied: int) -> None:
    """BLAS reads both matrices as they lie; for loops, one is turned, since dots are far slower."""
    bound = bind(parse("a r k, a c k -> a r c"), [(5, 300, 12), (5, 310, 12)])
    steps = lower(bound, plan(bound), traits=traits)
    assert len(steps.copies) == copied


def test_a_stack_of_small_products_of_integers_is_avoided() -> None:
    """Each matrix takes microseconds: 4 ms where multiply and sum take 0.3."""
    sizes = {"a": 28, "b": 21, "c": 4, "d": 9, "e": 11}
    bound = bind(parse("b c a, e c a b d -> e d a"), [(21, 4, 28), (11, 4, 28, 21, 9)])
    assert bound.sizes == sizes
    floats = lower(bound, plan(bound), traits=Traits(itemsize=8))
    assert any(isinstance(step, Bmm) for step in floats.steps)
    exact = lower(bound, plan(bound), traits=Traits(itemsize=8, integer=True))
    assert not any(isinstance(step, Bmm) for step in exact.steps)
