"""Calibration: the lessons are fair, the fit finds rates that are known, and the output is Python.

No time is ever judged here: how fast a machine is proves nothing about the code.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from einheads.__main__ import main
from einheads.bench import calibrate as calibrate_module
from einheads.bench import suites
from einheads.bench.calibrate import judged, settle, units
from einheads.bench.lessons import Answer, Lesson, lessons, study
from einheads.bench.operations import Loops, MatrixProduct, Operation, clocked, operations
from einheads.calibrated import read_rates
from einheads.devices import AVX2, AVX512, CUDA
from einheads.rates import Rates
from einheads.stopwatch import Watch, with_threads
from einheads.units import WORK


def test_lessons_are_no_cases_of_a_suite() -> None:
    """The rates are fitted to other contractions than those by which they are judged."""
    told = [*lessons(60)]
    assert told == [*lessons(60)]
    known = {
        (one.pattern, *one.sizes.items()) for suite in suites().values() for one in suite.cases
    }
    assert not known & {(one.case.pattern, *one.case.sizes.items()) for one in told}
    turned = [one for one in told if one.orders != one.case.terms[:2]]
    assert 5 < len(turned) < 45
    for lesson in told[:10]:
        for operand, axes in zip(
            lesson.operands("cpu", torch.float32), lesson.case.terms, strict=False
        ):
            assert operand.shape == tuple(lesson.case.sizes[axis] for axis in axes)


def answered(count: int) -> list[Answer]:
    """Answers whose times follow the rates of the AVX512, but for two of them."""
    watch = Watch(rounds=1, span=1e-5)
    truth = replace(AVX512, copy_strided=3.0, bmm_call=9000.0)
    found = []
    for number, lesson in enumerate(lessons(7 * count, seed=3)):
        if math.prod(lesson.case.sizes.values()) < 20_000 and len(found) < count:
            answer = study(lesson, watch)
            told = tuple(answer.price(k, truth) * 1e-9 for k in range(len(answer.steps)))
            found.append(replace(answer, seconds=told))
        assert number < 7 * count
    return found


def test_a_fit_finds_the_rates_behind_the_times() -> None:
    """Times that follow other rates are learned: the choice loses less, and a rate is found."""
    answers = answered(24)
    before = [answer.lost(AVX512) for answer in answers]
    found = judged([[answer] for answer in answers], AVX512)
    after = [answer.lost(found.rates) for answer in answers]
    assert max(before) > 1.05
    assert sum(after) < sum(before)
    assert found.error < 1.25
    assert found.rates.bmm_call > 1.5 * AVX512.bmm_call
    assert found.lessons == 24
    assert found.lowerings == sum(len(answer.steps) for answer in answers)
    assert found.worst >= found.fresh >= 1


def test_more_threads_are_not_cheaper_on_the_whole() -> None:
    """Times with other threads count as much, by their ratios: what is only faster changes none."""
    answers = answered(16)
    faster = [replace(one, seconds=tuple(taken / 3 for taken in one.seconds)) for one in answers]
    alone = judged([[one] for one in answers], AVX512)
    both = judged([*map(list, zip(answers, faster, strict=True))], AVX512)
    assert both.lessons == alone.lessons == 16
    assert both.lowerings == 2 * alone.lowerings
    assert both.error == pytest.approx(alone.error, rel=1e-3)
    for name in WORK:
        assert getattr(both.rates, name) == pytest.approx(getattr(alone.rates, name), rel=0.02)
    # If threads make stacks slow, stacks are worth less than by one thread alone.
    stacks = replace(AVX512, bmm_call=90000.0)
    other = [
        replace(one, seconds=tuple(one.price(k, stacks) * 1e-9 for k in range(len(one.steps))))
        for one in answers
    ]
    mixed = judged([*map(list, zip(answers, other, strict=True))], AVX512)
    assert mixed.rates.bmm_call > 1.2 * alone.rates.bmm_call


def test_a_rate_of_nothing_is_begun_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stay nothing: of two kinds of CPU, one may have what the other one lacks."""
    monkeypatch.setattr(calibrate_module, "rates_for", lambda device: AVX2)
    begun = calibrate_module._begun("cpu")
    lacking = [name for name in WORK if not getattr(AVX2, name)]
    assert "tlb_first" in lacking
    for name in WORK:
        assert getattr(begun, name) > 0
        assert name in lacking or getattr(begun, name) == getattr(AVX2, name)
    # Other devices are unlike any CPU.
    monkeypatch.setattr(calibrate_module, "rates_for", lambda device: CUDA)
    assert calibrate_module._begun("cuda") is CUDA


def test_units_times_rates_are_the_price() -> None:
    """A price is a sum of units times rates, which is what makes it easy to fit."""
    (answer, *_) = answered(1)
    rates = torch.tensor([getattr(AVX512, name) for name in WORK], dtype=torch.float64)
    for number in range(len(answer.steps)):
        assert float(units(partial(answer.price, number)) @ rates) == pytest.approx(
            answer.price(number, AVX512)
        )


@pytest.mark.parametrize("threads", [(), ("--threads", "1"), ("--threads", "1", "2")])
def test_calibrate_on_the_command_line(
    threads: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """It prints the rates as Python that `devices.py` can hold, and keeps them in a file."""
    path = tmp_path / "rates.json"
    monkeypatch.setattr(calibrate_module, "COUNT", 8)
    monkeypatch.setattr(calibrate_module, "OPERATIONS", 40)
    monkeypatch.setattr(calibrate_module, "_PASSES", 1)
    monkeypatch.setattr(calibrate_module, "operations", small_operations)
    monkeypatch.setattr(calibrate_module, "lessons", lambda count, seed: small_lessons(count))
    with with_threads(2):
        assert main(["bench", "--calibrate", "--json", str(path), *threads]) == 0
        assert torch.get_num_threads() == 2
    out = capsys.readouterr().out
    assert "# counted: cpu time of the thread with threads: 1" in out
    assert (", wall time with threads: 2\n" in out) == (len(threads) != 2)
    assert "8 contractions" in out
    assert "40 timed operations" in out
    namespace: dict[str, object] = {"Rates": Rates}
    exec(out[out.index("# ") :], namespace)
    assert isinstance(namespace["AVX512"], Rates)
    found = read_rates(path)["cpu"]
    assert Rates(**found["rates"]) == namespace["AVX512"]
    assert found["fit"]["lessons"] == 8
    assert found["machine"]["versions"]["torch"] == torch.__version__
    assert f"EINHEADS_RATES={path}" in out


def test_a_file_is_looked_at_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Minutes of work are not lost to a file that holds something else, or to a missing folder."""
    path = tmp_path / "found.json"
    path.write_text('{"results": []}', encoding="utf-8")
    assert main(["bench", "--calibrate", "--json", str(path)]) == 2
    assert f"'{path}' holds no rates\n" in capsys.readouterr().err
    path = tmp_path / "nowhere" / "rates.json"
    assert main(["bench", "--calibrate", "--json", str(path)]) == 1
    assert capsys.readouterr().err.startswith(f"cannot write '{path}': No such file")


def small_operations(count: int, seed: int) -> Iterator[Operation]:
    """Operations that take no time."""
    every = operations(20 * count, seed)
    free = replace(CUDA, **{name: 0.0 for name in WORK if name.endswith("_call")})
    return itertools.islice((one for one in every if one.price(free, 4) < 100), count)


def test_operations_run_and_do_what_they_say() -> None:
    """Shapes, strides and sums are those that the price is asked for."""
    for one in operations(80, seed=5):
        made = one.call("cpu", torch.float32)()
        if isinstance(one, MatrixProduct):
            stack = () if one.batch is None else (one.batch,)
            assert made.shape == (*stack, one.rows, one.columns)
            continue
        assert isinstance(one, Loops)
        left = [one.sizes[axis] for axis in one.order if axis not in one.summed]
        assert list(made.shape) == left
        assert len(one.stored) == 1 or not one.summed


def test_the_rates_of_operations_are_found() -> None:
    """Where each takes as long as other rates say, these are found again, from a wrong start."""
    every = [*operations(200, seed=8)]
    truth = replace(AVX512, copy_strided=1.5, sum_near=0.5, multiply_number=0.3, bmm_call=3000.0)
    seconds = [1e-9 * one.price(truth, 4) for one in every]
    found, off = settle(every, seconds, AVX512)
    assert off < 1.03
    for name in ("copy_strided", "sum_near", "multiply_number", "bmm_call"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=0.15)


def test_every_operation_is_clocked() -> None:
    """Each has its turn, and takes some time."""
    few = [*small_operations(6, seed=1)]
    seconds = clocked(few, Watch(rounds=1, span=1e-5), torch.float32, 2, progress=False)
    assert len(seconds) == 6
    assert all(0 < taken < math.inf for taken in seconds)


def small_lessons(count: int) -> list[Lesson]:
    """Lessons that take no time."""
    every = lessons(40 * count)
    few = [one for one in every if math.prod(one.case.sizes.values()) < 20_000]
    return few[:count]
