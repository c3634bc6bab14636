"""Calibration: the lessons are fair, the fit finds rates that are known, and the output is Python.

No time is ever judged here: how fast a machine is proves nothing about the code.
"""

import math
from dataclasses import replace

import pytest
import torch

from einheads.__main__ import main
from einheads.bench import calibrate as calibrate_module
from einheads.bench import suites
from einheads.bench.calibrate import RATES, Answer, Lesson, judged, lessons, study, units
from einheads.rates import AVX512, Rates
from einheads.stopwatch import Watch


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
    found = judged(answers, AVX512)
    after = [answer.lost(found.rates) for answer in answers]
    assert max(before) > 1.05
    assert sum(after) < sum(before)
    assert found.error < 1.25
    assert found.rates.bmm_call > 1.5 * AVX512.bmm_call
    assert found.lessons == 24
    assert found.lowerings == sum(len(answer.steps) for answer in answers)
    assert found.worst >= found.fresh >= 1


def test_units_times_rates_are_the_price() -> None:
    """A price is a sum of units times rates, which is what makes it easy to fit."""
    (answer, *_) = answered(1)
    rates = torch.tensor([getattr(AVX512, name) for name in RATES], dtype=torch.float64)
    for number in range(len(answer.steps)):
        assert float(units(answer, number) @ rates) == pytest.approx(answer.price(number, AVX512))


def test_calibrate_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints the rates as Python that `rates.py` can hold, and where they come from."""
    monkeypatch.setattr(calibrate_module, "COUNT", 8)
    monkeypatch.setattr(calibrate_module, "lessons", lambda count, seed: small_lessons(count))
    assert main(["bench", "--calibrate"]) == 0
    out = capsys.readouterr().out
    assert "8 contractions" in out
    namespace: dict[str, object] = {"Rates": Rates}
    exec(out[out.index("# ") :], namespace)
    assert isinstance(namespace["AVX512"], Rates)


def small_lessons(count: int) -> list[Lesson]:
    """Lessons that take no time."""
    every = lessons(40 * count)
    few = [one for one in every if math.prod(one.case.sizes.values()) < 20_000]
    return few[:count]
