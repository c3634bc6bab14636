"""The benchmark: its suites are what they claim, it refuses what disagrees, and nothing rots.

No time is ever judged here: how fast a machine is proves nothing about the code.
"""

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import einheads
from einheads import EinheadsError
from einheads.__main__ import main
from einheads.bench import Options, run, suites
from einheads.bench import races as races_module
from einheads.bench import training as training_module
from einheads.bench.agreement import Disagreement, agree, reference
from einheads.bench.cases import Case, Suite, case
from einheads.bench.contestants import EINHEADS, FORWARD, Contestant, letters
from einheads.bench.goals import GOALS, Goal
from einheads.bench.probes import CopyCounter, copies, memory, overhead, planning, start
from einheads.bench.races import PROGRAM, forward, operands_for
from einheads.bench.report import lines
from einheads.bench.result import Result, Row, summary
from einheads.bench.run import _chosen
from einheads.bench.search import drafts, fastest
from einheads.bench.suites import random_cases
from einheads.bench.tccg import tccg
from einheads.bench.training import training
from einheads.stopwatch import Limits, Racer, Times, Watch, limits, race

QUICK = Watch(rounds=1, span=1e-6)
FREE = Limits(1e9, {1: 1e9})
TINY = {"rounds": 1, "span": 1e-6, "largest": 3, "progress": False}
LINEAR = case("b i, o i -> b o", "b=3 i=5 o=7", weights=1, bias="o")


# The suites as data


def roles(one: Case) -> tuple[int, int, int, int]:
    """How many axes are batch, contracted, left and right, in a pattern of two operands."""
    first, second, output = (set(term) for term in one.terms)
    return (
        len(first & second & output),
        len((first & second) - output),
        len((first & output) - second),
        len((second & output) - first),
    )


def test_there_are_the_suites_that_were_asked_for() -> None:
    """Every suite has cases, a goal, and names that tell its cases apart."""
    every = suites()
    assert list(every) == [
        *("heads", "tccg", "tccg-full", "random", "attention", "known-slow", "factorized"),
        *("training", "overhead", "planning", "start", "memory", "copies"),
    ]
    assert [name for name, suite in every.items() if suite.optional] == ["tccg-full"]
    for name, suite in every.items():
        assert suite.name == name
        assert suite.purpose
        assert suite.cases
    for name in ("heads", "tccg", "random", "attention", "known-slow", "factorized", "training"):
        names = [one.name for one in every[name].cases]
        assert len(set(names)) == len(names)


def test_tccg_has_its_48_contractions() -> None:
    """All different, each a contraction of two operands without batch axes, none too large."""
    scaled, full = tccg(), tccg(math.inf)
    assert len(scaled) == len({one.pattern for one in scaled}) == 48
    for one, whole in zip(scaled, full, strict=True):
        assert 30e6 < one.multiply_adds <= 60e6
        assert whole.multiply_adds > one.multiply_adds
        assert one.multiply_adds == math.prod(one.sizes.values())
        batch, contract, left, right = roles(one)
        assert batch == 0
        assert contract >= 1
        assert left >= 1
        assert right >= 1
        # No axis is only in one operand.
        assert set(one.terms[0]) ^ set(one.terms[1]) == set(one.terms[2])
    assert full[0].sizes == {"a": 312, "b": 312, "c": 24, "d": 312}


def test_random_cases_keep_their_bounds() -> None:
    """One hundred, always the same, with every number of axes that was promised."""
    drawn = random_cases()
    assert len(drawn) == 100
    assert random_cases() == drawn
    assert random_cases(seed=1) != drawn
    seen = [roles(one) for one in drawn]
    for place, bounds in enumerate(((0, 2), (1, 2), (0, 2), (1, 2))):
        assert {counts[place] for counts in seen} == set(range(bounds[0], bounds[1] + 1))
    for one in drawn:
        assert one.multiply_adds <= 60e6
        assert all(4 <= size <= 64 for size in one.sizes.values())
        assert {axis for term in one.terms for axis in term} == set(one.sizes)
    assert any(list(one.terms[0]) != sorted(one.terms[0]) for one in drawn)


def test_factorized_cases_have_several_operands_in_two_sizes() -> None:
    """Three and more operands, each pattern small and medium."""
    factorized = suites()["factorized"].cases
    assert {len(one.terms) - 1 for one in factorized} == {3, 4, 5, 6}
    assert sum(one.name.endswith(", small") for one in factorized) * 2 == len(factorized)
    for small, medium in zip(factorized[::2], factorized[1::2], strict=True):
        assert small.pattern == medium.pattern
        assert small.multiply_adds < medium.multiply_adds


def test_a_case_knows_its_numbers() -> None:
    """Shapes, multiply-adds and elements of a composite pattern."""
    one = case("b (h i), h i o -> b (h o)", "b=2 h=3 i=4 o=5")
    assert one.shapes == ((2, 12), (3, 4, 5))
    assert one.multiply_adds == 2 * 3 * 4 * 5
    assert one.elements == 24 + 60 + 30
    assert not one.plain
    assert LINEAR.plain
    assert letters(LINEAR) == "ab,cb->ac"


# Agreement


def test_what_is_right_agrees() -> None:
    """The float32 result of another order of operations is let through."""
    operands = operands_for(LINEAR, QUICK, torch.float32)
    agree("mm", LINEAR, operands[0] @ operands[1].T, reference(LINEAR, operands))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda y: y + 1e-3, r"^bad on 'b i, o i -> b o' \(b3 i5 o7\) is off by 0\.001"),
        (lambda y: y.clone().index_fill_(0, torch.tensor(1), math.nan), "is off by nan"),
        (lambda y: y.T, r"has shape \(7, 3\), not \(3, 7\)$"),
    ],
)
def test_what_is_wrong_is_refused(spoil: Callable[[Tensor], Tensor], complaint: str) -> None:
    """A number that is a little off, one that is none, and a transposed result."""
    operands = operands_for(LINEAR, QUICK, torch.float32)
    y = operands[0] @ operands[1].T
    with pytest.raises(Disagreement, match=complaint):
        agree("bad", LINEAR, spoil(y), reference(LINEAR, operands))


def test_a_wrong_contestant_stops_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed before everybody agrees."""

    def prepare(_: Case, __: Sequence[Tensor]) -> Callable[..., Tensor]:
        return lambda x, weight: 1.01 * torch.mm(x, weight.T)

    monkeypatch.setattr(races_module, "FORWARD", (EINHEADS, Contestant("cheat", prepare)))
    monkeypatch.setattr(races_module, "race", lambda *_: pytest.fail("timed before agreed"))
    with pytest.raises(Disagreement, match=r"^cheat on"):
        forward(LINEAR, QUICK, FREE, search=False)


def test_a_wrong_gradient_stops_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients are compared as well as the result."""
    honest = training_module.each_head

    def bent(layers: torch.nn.ModuleList, x: Tensor) -> Tensor:
        # The same numbers, but one more in every gradient of the input.
        return honest(layers, x) + (x - x.detach()).sum()

    one = suites()["training"].shrunk(3).cases[0]
    training(one, QUICK, FREE)
    monkeypatch.setattr(training_module, "each_head", bent)
    with pytest.raises(Disagreement, match=r"^loop on"):
        training(one, QUICK, FREE)


# Measuring


def test_ratios_are_taken_within_a_round() -> None:
    """The machine was twice as slow in the second round: the ratio does not notice."""
    times = Times({"a": [1.0, 2.0, 1.0], "b": [3.0, 6.0, 3.5], "late": [9.0]})
    assert times.ratio("b", "a") == 3.0
    assert times.difference("b", "a") == 2.5
    assert times.median("b") == 3.5
    assert times.ratio("late", "a") == 9.0


def test_everybody_has_a_turn_in_every_round() -> None:
    """A B A B, with the first place going round; whoever is far behind is excused."""
    calls: list[str] = []

    class Script(Watch):
        """A watch that reads 1 second for a and b, and 100 for c."""

        def time(self, call: Callable[[], object], repeats: int) -> float:
            """What the script says."""
            call()
            return 100.0 if calls[-1] == "c" else 1.0

    names = ("a", "b", "c")
    times = race([Racer(name, lambda name=name: calls.append(name)) for name in names], Script())
    assert {name: len(found) for name, found in times.rounds.items()} == {"a": 7, "b": 7, "c": 1}
    assert times.ratio("c", "a") == 100.0


def test_a_restless_machine_gets_more_rounds() -> None:
    """Three times as many at most; only if somebody close scatters."""

    class Noisy(Watch):
        """A watch that reads 1 second for a, and two readings in turn for b."""

        def time(self, call: Callable[[], object], repeats: int) -> float:
            """What the script says."""
            call()
            return 1.0 if calls[-1] == "a" else next(readings)

    calls: list[str] = []
    for first, second, wanted in ((0.8, 1.6, 12), (1.6, 2.4, 4), (0.8, 0.8, 4)):
        readings = itertools.cycle((first, second))
        racers = [Racer(name, lambda name=name: calls.append(name)) for name in ("a", "b")]
        times = race(racers, Noisy(rounds=4))
        assert len(times.rounds["a"]) == len(times.rounds["b"]) == wanted


def test_an_optional_suite_waits_to_be_named() -> None:
    """It is not among all of them."""
    assert "tccg-full" not in [suite.name for suite in _chosen(Options())]
    assert [suite.name for suite in _chosen(Options(suites=["tccg-full"]))] == ["tccg-full"]


def test_goals_are_held_against_numbers() -> None:
    """Each names a column that its suite has, and says whether it is met."""
    assert set(GOALS) == set(suites())
    rows = [
        {"case": "one, small", "numbers": {"x": 2.0, "y": 3.0}, "peer": "y"},
        {"case": "b32 of them", "numbers": {"x": 0.5, "y": 1.0}, "peer": "x"},
    ]
    assert Goal(("x",), 1.0).reached(rows) == 1.0
    assert Goal(("x",), 1.0).met(1.0)
    assert Goal(("x",), 1.0, "most").met(1.0)
    assert not Goal(("x",), 1.0, "most").met(1.1)
    assert Goal(("y", "x"), 1.0, "least").reached(rows) == 0.5
    assert not Goal(("x",), 0.6, "least").met(0.5)
    assert Goal(("best peer",), 1.0, "most").reached(rows) == 3.0
    assert Goal(("x",), 1.0, "least", among="small").reached(rows) == 2.0
    assert Goal(("x",), 1.0, "least", but=("b32 ",)).reached(rows) == 2.0
    assert Goal(("y",), 1.0, "most", beyond="x").reached(rows) == 1.0
    assert Goal(("y",), 1.0, "most", over="x").reached(rows) == 2.0
    assert Goal(("y",), 1.0, over="z").reached(rows) is None
    assert str(Goal(("y",), 1.0, over="x")) == "y over x: geometric mean at least 1"
    assert Goal(("z",), 1.0).reached(rows) is None
    assert str(Goal(("x", "y"), 2.0, among="small")) == (
        "x or y, small cases: geometric mean at least 2"
    )


def test_limits_are_those_of_the_machine() -> None:
    """Arithmetic or memory, whichever takes longer; small copies are faster than large ones."""
    table = Limits(100.0, {10: 20.0, 1000: 5.0})
    assert table.seconds(400, 10) == 4.0
    assert table.seconds(0, 10) == 0.5
    assert table.seconds(0, 100) == 20.0
    assert table.seconds(0, 10_000) == 2000.0
    measured = limits(QUICK, side=16)
    assert measured.multiply_adds > 0
    assert all(rate > 0 for rate in measured.bandwidth.values())


def test_means_are_geometric() -> None:
    """And the worst case is named."""
    rows = [
        Row(LINEAR, {"x": 4.0, "y": 2.0}, 1.0, 0.5, "y"),
        Row(replace(LINEAR, name="slow"), {"x": 0.25}, 1.0, 0.5, "x"),
    ]
    suite = Suite("s", "", "forward", "", (LINEAR,))
    found = Result(suite, 1, "", rows).summaries()
    assert found["x"] == summary([(4.0, "b3 i5 o7"), (0.25, "slow")])
    assert math.isclose(found["x"].mean, 1.0)
    assert (found["x"].worst, found["x"].case) == (0.25, "slow")
    assert math.isclose(found["best peer"].mean, math.sqrt(0.5))
    assert Result(replace(suite, kind="copies"), 1, "", rows).summaries() == {}


# Candidates


def test_the_search_tries_different_candidates_that_agree() -> None:
    """More than one, all right, and the fastest is one of them."""
    one = case("j k, i j k l -> i l", "i=3 j=4 k=5 l=6")
    operands = operands_for(one, QUICK, torch.float32)
    every = drafts(one, operands)
    assert len({draft.source for draft in every}) == len(every) > 3
    for draft in every:
        agree(str(draft), one, draft.run(*operands), reference(one, operands))
    assert fastest(every, operands, QUICK) in every


# Looking at einheads alone


def test_the_counter_sees_copies() -> None:
    """A clone hidden in a reshape is counted; views are not."""
    x = torch.randn(3, 4)
    with CopyCounter() as counter:
        x.T.view(2, 2, 3).permute(2, 0, 1)
    assert counter.copies.total() == 0
    with CopyCounter() as counter:
        x.T.reshape(12)
        x.T.contiguous()
        x.T.copy_(x.T)
    assert counter.copies.total() == 3


@pytest.mark.parametrize("one", suites()["memory"].cases, ids=lambda one: one.pattern + one.name)
def test_a_forward_holds_no_more_than_is_declared(one: Case) -> None:
    """Nothing is allocated but the values of the steps; measured by the allocator."""
    numbers = memory(one.shrunk(7), QUICK).numbers
    assert numbers["peak, kB"] >= numbers["output, kB"] > 0
    assert numbers["peak / all values"] <= 1.0
    # One that is made again is let go before its gradient is made.
    assert ("inner results in a backward" in numbers) == (len(one.terms) > 3)
    if one.name.startswith(("low rank", "Monarch")):
        assert numbers["inner results in a backward"] <= 1.0


@pytest.mark.parametrize("one", suites()["copies"].cases, ids=lambda one: one.pattern + one.name)
def test_no_copy_runs_that_is_not_declared(one: Case) -> None:
    """Counted while it runs, against the copies that the steps declare."""
    numbers = copies(one.shrunk(5), QUICK).numbers
    assert numbers["seen"] <= numbers["declared"]


def test_overhead_tells_einsum_and_layer_apart() -> None:
    """The layer only for a case with a weight, and beside what no layer can be without."""
    linear = replace(LINEAR, bias=None)
    without = ["operations, us", "einsum above, us", "empty module, us"]
    assert list(overhead(replace(linear, weights=0), QUICK).numbers) == without
    assert set(overhead(linear, QUICK).numbers) == {
        *without,
        "layer above, us",
        "plain module above, us",
        "nn.Linear above, us",
    }


def test_the_first_call_is_timed_without_a_cache() -> None:
    """In each round everything is forgotten, and what a call does before it runs is timed."""
    compiled: list[int] = []

    class Script(Watch):
        """A watch that reads 3 s where something has been compiled, else 1 s."""

        def time(self, call: Callable[[], object], repeats: int) -> float:
            """What the script says."""
            before = einheads.cache_info().compilations
            call()
            compiled.append(einheads.cache_info().compilations - before)
            return 3.0 if compiled[-1] else 1.0

    found = planning(LINEAR, Script(rounds=3))
    assert compiled == [1] * 3
    assert found.numbers == {"2 operands, ms": 3000.0}


def test_a_new_python_is_timed() -> None:
    """It starts with torch, with einheads, and with the command."""
    numbers = start(LINEAR, QUICK).numbers
    assert list(numbers) == ["import torch, ms", "import einheads above, ms", "explain in all, ms"]
    assert numbers["import torch, ms"] > 0
    assert numbers["explain in all, ms"] > 0


# Whole suites, tiny


@pytest.mark.parametrize("name", suites())
def test_every_suite_runs(name: str) -> None:
    """With tiny sizes, one round; every case ends up in the table and in the JSON."""
    # The large ones are tried in part: their cases differ in nothing but data.
    options = Options(suites=[name], search=name == "known-slow", **TINY)  # type: ignore[arg-type]
    ((result, bound),) = run(options)
    assert bound.multiply_adds > 0
    assert len(result.rows) == len(suites()[name].cases)
    assert all(math.isfinite(number) for row in result.rows for number in row.numbers.values())
    text = "\n".join(lines(result))
    assert all(row.case.name[:30] in text for row in result.rows)
    kept = json.loads(json.dumps(result.to_dict()))
    for goal in GOALS[name]:
        # Without the search, nobody knows the best candidate.
        assert goal.reached(kept["rows"]) is not None or "best" in (*goal.columns, goal.over)
    assert [row["pattern"] for row in kept["rows"]] == [row.case.pattern for row in result.rows]
    if result.race:
        assert all(row.peer for row in result.rows)
        assert "best peer" in result.summaries()


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("name", ["heads", "training", "factorized", "planning", "memory"])
def test_suites_run_with_other_numbers(name: str, dtype: str) -> None:
    """With narrow and with wide ones, a hundred products in a row among them."""
    options = Options(suites=[name], dtype=dtype, search=False, **TINY)  # type: ignore[arg-type]
    ((result, _),) = run(options)
    assert len(result.rows) == len(suites()[name].cases)


def test_a_dtype_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is kept with what was measured, and what is none is refused in our words."""
    path = tmp_path / "found.json"
    words = ["bench", "b i, o i -> b o", "b=2", "i=3", "o=4", "--rounds", "1"]
    assert main([*words, "--dtype", "bfloat16", "--json", str(path)]) == 0
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept["machine"]["dtype"] == "bfloat16"
    capsys.readouterr()
    assert main([*words, "--dtype", "bfloat"]) == 2
    assert capsys.readouterr().err == (
        "dtype='bfloat' is none of those that are timed: float32, float64, bfloat16\n"
        "    write: --dtype bfloat16\n"
    )


def test_the_contestants_take_part_where_they_can() -> None:
    """Of everybody who is installed and runs on a CPU, each is in some race."""
    seen: set[str] = set()
    for name in ("heads", "factorized"):
        options = Options(suites=[name], search=False, **TINY)  # type: ignore[arg-type]
        for result, _ in run(options):
            seen |= {column for row in result.rows for column in row.numbers}
    wanted = {one.name for one in FORWARD if one.installed and one.device is None}
    assert seen == wanted - {EINHEADS.name} | {PROGRAM}


# The command line


def test_a_pattern_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed as a table, kept as JSON."""
    path = tmp_path / "found.json"
    words = ["b i, o i -> b o", "b=2", "i=3", "o=4", "--rounds", "1", "--json", str(path)]
    assert main(["bench", *words]) == 0
    out = capsys.readouterr().out
    assert "pattern: your own (1 thread, cpu time of the thread)" in out
    assert "\033" not in out
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept["machine"]["versions"]["torch"] == torch.__version__
    assert kept["machine"]["processor"]
    assert kept["limits"]["1"]["multiply_adds"] > 0
    (row,) = kept["results"][0]["rows"]
    assert row["sizes"] == {"b": 2, "i": 3, "o": 4}
    assert {"torch.einsum", "einops", "best"} <= set(row["numbers"])
    assert {"chosen", "best"} <= set(row["notes"])
    assert row["limit"] > 0


def test_suites_are_measured_again_one_by_one(tmp_path: Path) -> None:
    """A file keeps the others, if it is of the same machine and versions."""
    path = tmp_path / "found.json"
    words = ["bench", "--rounds", "1", "--no-search", "--json", str(path), "--suite"]
    main([*words, "overhead"])
    first = json.loads(path.read_text())
    main([*words, "copies"])
    main([*words, "overhead"])
    kept = json.loads(path.read_text())
    assert [one["suite"] for one in kept["results"]] == ["overhead", "copies"]
    assert kept["results"][0] != first["results"][0]
    assert kept["machine"] == first["machine"]
    for text in ("", "[1]", json.dumps({**kept, "machine": {}})):
        path.write_text(text)
        main([*words, "overhead"])
        assert [one["suite"] for one in json.loads(path.read_text())["results"]] == ["overhead"]


def test_other_prices_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They choose other lowerings, so that a file does not mix results by both."""
    path = tmp_path / "found.json"
    words = ["bench", "--rounds", "1", "--no-search", "--json", str(path), "--suite"]
    main([*words, "copies"])
    assert "  prices: EINHEADS_CPU=avx512\n" in capsys.readouterr().out
    # What this process chooses by is known to it already; the file is told all the same.
    monkeypatch.delenv("EINHEADS_CPU")
    main([*words, "overhead"])
    out = capsys.readouterr().out
    assert f"'{path}' holds results of other prices: it is begun anew" in out
    assert "prices:" not in out.replace("other prices:", "")
    kept = json.loads(path.read_text())
    assert "prices" not in kept["machine"]
    assert [one["suite"] for one in kept["results"]] == ["overhead"]
    monkeypatch.setenv("EINHEADS_CPU", "avx512")
    main([*words, "copies"])
    assert "of other prices: it is begun anew" in capsys.readouterr().out


def test_a_composite_pattern_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Which no other contestant reads: einheads alone, beside its limit."""
    words = ["b (h i), h i o -> b h o", "b=2", "h=2", "i=3", "o=4", "--rounds", "1"]
    assert main(["bench", *words]) == 0
    told = capsys.readouterr().out
    assert "b (h i), h i o -> b h o" in told
    assert "nobody else takes part" in told


@pytest.mark.parametrize(
    "words",
    [
        ["i i -> i", "i=4"],
        ["i j -> i j n", "i=3", "j=4", "n=5"],
        ["-> n", "n=3"],
        ["\u03b2 i, o i -> \u03b2 o", "\u03b2=3", "i=4", "o=5"],
    ],
)
def test_patterns_that_not_everybody_reads(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Who cannot take part is left out."""
    assert main(["bench", *words, "--rounds", "1", "--no-search"]) == 0
    assert words[0] in capsys.readouterr().out


def test_more_axes_than_the_alphabet_has() -> None:
    """Both cases of letters are axes to `torch.einsum`, and nothing else is."""
    axes = [f"a{number}" for number in range(53)]
    many = Case("", f"{' '.join(axes[:52])} -> {axes[0]}", {})
    assert many.plain
    assert letters(many).endswith("->a")
    assert "Z" in letters(many)
    assert not Case("", f"{' '.join(axes)} -> {axes[0]}", {}).plain


def test_own_patterns_stand_side_by_side_in_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is measured otherwise begins a file anew, and says so; a mistake leaves it alone."""
    path = tmp_path / "found.json"
    for pattern in ("b i, i -> b", "b i, o i -> b o", "b i, i -> b"):
        words = [pattern, "b=2", "i=3", *(["o=4"] if "o" in pattern else [])]
        words += ["--rounds", "1", "--no-search", "--json", str(path)]
        assert main(["bench", *words]) == 0
    before = path.read_text()
    kept = [one["rows"][0]["pattern"] for one in json.loads(before)["results"]]
    assert kept == ["b i, i -> b", "b i, o i -> b o"]
    assert main(["bench", *words[:3], "z=3", "--json", str(path)]) == 2
    assert "the pattern has no axis 'z'" in capsys.readouterr().err
    assert path.read_text() == before
    words[words.index("--rounds") + 1] = "2"
    assert main(["bench", *words]) == 0
    assert f"'{path}' holds results of other rounds: it is begun anew" in capsys.readouterr().out
    assert len(json.loads(path.read_text())["results"]) == 1


@pytest.mark.parametrize("change", [{"limits": []}, {"results": [{}]}, {"results": [3]}])
def test_a_file_of_another_shape_is_begun_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    """Whoever has written into it."""
    path = tmp_path / "found.json"
    words = ["bench", "b i, i -> b", "b=2", "i=3", "--rounds", "1", "--no-search"]
    words += ["--json", str(path)]
    main(words)
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | change))
    assert main(words) == 0
    assert len(json.loads(path.read_text())["results"]) == 1


def test_suites_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are named one by one, as those that are named at once; sizes stand anywhere."""
    seen: list[Options] = []

    def tell(options: Options, _: Path | None) -> list[str]:
        seen.append(options)
        return []

    monkeypatch.setattr("einheads.bench.tell", tell)
    main(["bench", "--suite", "heads", "--threads", "1", "--suite", "tccg", "start"])
    main(["bench", "b i, i -> b", "b=2", "--rounds", "3", "i=4"])
    assert seen[0].suites == ["heads", "tccg", "start"]
    assert (seen[1].pattern, seen[1].sizes) == ("b i, i -> b", {"b": 2, "i": 4})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["b i, i -> b", f"b={10**9}", f"i={10**9}"], "there is no memory for operands of"),
        (["--suite", "head"], "there is no suite 'head'\n    did you mean 'heads'?\n"),
        (["--suite", "heads", "b i, o i -> b o"], "a pattern stands before all options"),
        (["b i, o i -> b o", "b=2", "--suite", "heads"], "either a pattern is timed, or suites\n"),
        (["--calibrate", "--suite", "heads"], "a calibration takes contractions of its own"),
        (["--device", "meta"], "device='meta' has no clock that a benchmark can read\n"),
        (["b i, o i -> b o", "b=2", "i=0", "o=3"], "axis 'i' has size 0"),
        (["--device", "warp"], "device='warp' cannot be used on this machine\n"),
        (["b i, o i -> b o", "b=2"], "2 sizes missing: i, o\n"),
        (["b i, o i -> b o", "b"], "'b' is no AXIS=SIZE\n"),
        (["bi,oi->bo", "b=2"], "did you mean 'b i, o i -> b o'?\n"),
    ],
)
def test_wrong_arguments_are_explained(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sentence and status 2, no traceback."""
    assert main(["bench", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Said in a sentence, with status 1."""
    path = tmp_path / "nowhere" / "found.json"
    words = ["b i, o i -> b o", "b=2", "i=3", "o=4", "--rounds", "1", "--json", str(path)]
    assert main(["bench", *words]) == 1
    assert capsys.readouterr().err.startswith(f"cannot write '{path}': No such file")


def test_threads_are_set_and_put_back() -> None:
    """Each number of threads gives results of its own."""
    before = torch.get_num_threads()
    options = Options(
        pattern="b i, o i -> b o",
        sizes={"b": 2, "i": 3, "o": 4},
        threads=(1, 2),
        search=False,
        **{**TINY, "largest": 64},  # type: ignore[arg-type]
    )
    seen = []
    for result, _ in run(options):
        seen.append((result.threads, result.clock, torch.get_num_threads()))
    assert seen == [(1, "cpu time of the thread", 1), (2, "wall time", 2)]
    assert torch.get_num_threads() == before


def test_unknown_suites_are_refused_before_anything_runs() -> None:
    """Whoever calls from Python gets the library's own error."""
    with pytest.raises(EinheadsError, match=r"^there is no suite 'x'"):
        next(run(Options(suites=["x"])))
