"""Tuning: what is timed, what is remembered, and what a file of choices may do.

The clock is never asked here: a test says which candidate is the fastest.
"""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode

import einheads
from cases import case
from einheads import tuned, tuning
from einheads.choices import Choice, fits
from einheads.operands import Declaration
from einheads.plan import plan
from einheads.program import cache, prepare, program_for
from einheads.stopwatch import with_threads

HEADS = "b w h i, h o i -> b w h o"
CASES = (
    case("heads", HEADS, (3, 5, 2, 7), (2, 11, 7)),
    case("token mixing", "b t c, t s -> b s c", (3, 5, 7), (5, 11)),
    case("outer", "b i, b j -> b i j", (3, 5), (3, 7)),
    case("dots", "b i, b i -> b", (3, 5), (3, 5)),
    case("composite", "b (h i), h i o -> b (h o)", (3, 10), (2, 5, 7)),
    case("low rank", "b i, i r, r o -> b o", (3, 7), (7, 2), (2, 11)),
)


class Clock:
    """Says which of the candidates is the fastest, and how many there were."""

    def __init__(self) -> None:
        self.winner = 0
        self.counts: list[int] = []

    def fastest(self, calls: list[Callable[[], object]], _: object) -> int:
        """Run every candidate once, and name the winner."""
        for call in calls:
            call()
        self.counts.append(len(calls))
        return self.winner % len(calls)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """No stopwatch, and an empty cache before and after."""
    made = Clock()
    monkeypatch.setattr(tuning, "fastest", made.fastest)
    einheads.cache_clear()
    yield made
    einheads.cache_clear()


def program_of(pattern: str, tensors: list[Tensor]) -> Any:
    """What a call runs by now."""
    return prepare(Declaration(pattern), (), tensors).lowered.unwatched.steps


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.name)
def test_every_candidate_is_right(clock: Clock, one: Any) -> None:
    """Whichever candidate wins runs from then on, with the values of the definition."""
    tensors = one.tensors()
    seen = set()
    for winner in range(60):
        einheads.cache_clear()
        clock.winner = winner
        clock.counts.clear()
        found = einheads.tune(one.pattern, *tensors, progress=False)
        one.check_call(einheads.einsum, tensors)
        seen.add(program_of(one.pattern, tensors))
        # Where the winner is one that nobody can follow, the best of the others is looked for too.
        tried = clock.counts[0]
        assert found.rows[0].tried == tried
        if winner >= tried:
            break
    assert len(seen) == tried


def test_a_choice_holds_for_its_class_of_sizes(clock: Clock) -> None:
    """Other batch sizes of the class run the winner, another class its own."""
    weight = torch.randn(2, 11, 7)
    clock.winner = 1
    einheads.tune(HEADS, torch.randn(4, 5, 2, 7), weight, progress=False)
    best = program_of(HEADS, [torch.randn(4, 5, 2, 7), weight])
    assert program_of(HEADS, [torch.randn(7, 5, 2, 7), weight]) == best
    assert len(cache.choices) == 1


def test_a_choice_holds_for_one_thread_or_for_several(clock: Clock) -> None:
    """What is fastest for one of them may be slow where several share the work."""
    operands = torch.randn(4, 5, 2, 7), torch.randn(2, 11, 7)
    clock.winner = 2
    with with_threads(2):
        einheads.tune(HEADS, *operands, progress=False)
    for threads in (1, 2, 3):
        with with_threads(threads):
            assert einheads.explain(HEADS, *operands).measured == (threads > 1)


def test_what_runs_is_explained(clock: Clock) -> None:
    """`explain` and `source` show the choice, and say that it was measured."""
    operands = torch.randn(4, 5, 2, 7), torch.randn(2, 11, 7)
    layer = einheads.Einsum(HEADS, h=2, i=7, o=11)
    clock.winner = 2
    einheads.tune(HEADS, *operands, progress=False)
    einheads.tune(layer, operands[0], progress=False)
    program, _ = program_for(Declaration(HEADS), (), operands)
    for story in (einheads.explain(HEADS, *operands), layer.explain(operands[0])):
        assert story.measured
        assert story.runner_up is None
        assert "measured by einheads.tune" in str(story)
    told = einheads.source(HEADS, *operands)
    assert told.endswith(program.source)
    assert layer.source(operands[0]).count("torch.bmm") == told.count("torch.bmm")
    untold = einheads.explain(HEADS, *[one.double() for one in operands])
    assert not untold.measured
    einheads.cache_clear()
    assert not einheads.explain(HEADS, *operands).measured
    assert einheads.source(HEADS, *operands) != told


@pytest.mark.parametrize("backward", [False, True])
def test_low_ranks_are_explained_as_they_run(clock: Clock, backward: bool) -> None:  # noqa: FBT001
    """Of several operands, a choice for training is none for inference, and none is shown."""
    layer = einheads.Einsum("b i, i r, r o -> b o", i=5, r=2, o=7)
    clock.winner = 1
    einheads.tune(layer, torch.randn(3, 5), backward=backward, progress=False)
    assert layer.explain(torch.randn(3, 5)).measured is backward
    with torch.no_grad():
        assert layer.explain(torch.randn(3, 5)).measured is not backward


def test_a_choice_is_compiled(clock: Clock) -> None:
    """`torch.compile` traces the operations of the winner."""
    x, weight = torch.randn(4, 5, 2, 7), torch.randn(2, 11, 7)
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        graphs.append(str(graph.graph))
        return make_boxed_func(graph.forward)

    traced = []
    for winner in (0, 1):
        einheads.cache_clear()
        torch.compiler.reset()
        graphs.clear()
        clock.winner = winner
        einheads.tune(HEADS, x, weight, progress=False)
        compiled = torch.compile(
            lambda x, weight: einheads.einsum(HEADS, x, weight),
            fullgraph=True,
            backend=aot_autograd(fw_compiler=backend),
        )
        torch.testing.assert_close(compiled(x, weight), torch.einsum("bwhi,hoi->bwho", x, weight))
        traced.append(graphs[0])
    assert traced[0] != traced[1]


def test_a_model_is_tuned_as_a_whole(clock: Clock) -> None:
    """Each different call that a model makes is tuned once."""
    model = nn.Sequential(
        einheads.Einsum("b h i, h o i -> b h o", h=2, i=5, o=5),
        einheads.Einsum("b h i, h o i -> b h o", h=2, i=5, o=5),
        einheads.Einsum("b h i, h i o -> b o", h=2, i=5, o=7, bias=True),
    )
    found = einheads.tune(model, torch.randn(3, 2, 5), progress=False)
    # The second layer may get its input in another layout than the first one.
    assert list(dict.fromkeys(row.title for row in found.rows)) == [
        "b h i, h o i -> b h o",
        "b h i, h i o -> b o, plus a bias: o",
    ]
    assert f"{len(found.rows)} contractions tuned" in str(found)
    assert "times as fast as before" in str(found)


def test_gradients_are_tuned_too(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `backward`, each gradient has a choice, and so has the backward as a whole."""
    layer = einheads.Einsum(HEADS, h=2, i=7, o=11, bias="h o", dtype=torch.float64)
    x = torch.randn(3, 5, 2, 7, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(3, 5, 2, 11, dtype=torch.float64)
    leaves = (x, *layer.parameters())
    wanted = torch.autograd.grad(layer(x), leaves, gradient)
    for winner in range(6):
        for faster in ("autograd's own backward", "a planned backward"):
            einheads.cache_clear()
            clock.winner = winner
            monkeypatch.setattr(tuning, "race", lambda racers, _, faster=faster: Times(faster))
            found = einheads.tune(layer, x, backward=True, progress=False)
            assert [row.title.split(":")[-1].strip() for row in found.rows] == [
                "h o",
                "b w h o, h o i -> b w h i",
                "b w h o, b w h i -> h o i",
                "h o",
            ]
            assert found.rows[-1].choice == faster
            result = layer(x)
            planned = type(result.grad_fn).__name__ == "_ContractBackward"
            assert planned == (faster == "a planned backward")
            for one, other in zip(
                torch.autograd.grad(result, leaves, gradient), wanted, strict=True
            ):
                torch.testing.assert_close(one, other)


class Times:
    """A race that one racer wins."""

    def __init__(self, winner: str) -> None:
        self.winner = winner

    def median(self, name: str) -> float:
        """Seconds."""
        return 1.0 if name == self.winner else 2.0


def test_chains_tune_their_inner_gradients(clock: Clock) -> None:
    """Gradients of inner results may take any order of dimensions, and agree whichever wins."""
    leaves = [one.requires_grad_() for one in CASES[-1].tensors()]
    pattern = CASES[-1].pattern
    wanted = torch.autograd.grad(einheads.einsum(pattern, *leaves).sum(), leaves)
    for winner in range(4):
        einheads.cache_clear()
        clock.winner = winner
        found = einheads.tune(pattern, *leaves, backward=True, progress=False)
        assert len(found.rows) == 1 + 4 + 1
        gradients = torch.autograd.grad(einheads.einsum(pattern, *leaves).sum(), leaves)
        for one, other in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(one, other)


def test_before_is_what_ran_before(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuned twice, nothing is faster than before; a layer that computes again goes on doing so."""
    layer = einheads.Einsum(HEADS, h=2, i=7, o=11)
    x = torch.randn(4, 5, 2, 7, requires_grad=True)
    for faster in ("a planned backward", "autograd's own backward"):
        times = Times(faster)
        monkeypatch.setattr(tuning, "race", lambda *_, times=times: times)
        first = einheads.tune(layer, x, backward=True, progress=False).rows[-1]
        again = einheads.tune(layer, x, backward=True, progress=False).rows[-1]
        assert first.choice == again.choice == faster
        assert again.before == again.seconds == 1.0
    layer.checkpoint = True
    rows = einheads.tune(layer, x, backward=True, progress=False).rows
    assert not any(row.title.startswith("backward of") for row in rows)


def test_no_gradients_in_inference_mode() -> None:
    """They are refused in our words."""
    layer = einheads.Einsum(HEADS, h=2, i=7, o=11)
    with torch.inference_mode():
        einheads.tune(layer, torch.randn(4, 5, 2, 7), progress=False)
        with pytest.raises(einheads.EinheadsError, match="has no gradients to time"):
            einheads.tune(layer, torch.randn(4, 5, 2, 7), backward=True)


def test_a_model_with_threads(clock: Clock) -> None:
    """What is tuned may wait for threads of its own that call einheads."""
    assert clock.counts == []
    layer = einheads.Einsum(HEADS, h=2, i=7, o=11)

    def run() -> None:
        with ThreadPoolExecutor(2) as pool:
            for result in pool.map(layer, [torch.randn(4, 5, 2, 7), torch.randn(64, 5, 2, 7)]):
                assert result.shape[1:] == (5, 2, 11)

    assert len(einheads.tune(run, progress=False).rows) == 2


def test_nothing_to_tune() -> None:
    """A model without einheads says so."""
    found = einheads.tune(nn.Linear(3, 5), torch.randn(2, 3), progress=False)
    assert str(found) == "nothing tuned: no contraction of einheads was called"


def test_what_torch_lacks_is_no_candidate() -> None:
    """A dtype that only some operations know is tuned among these."""
    operands = [torch.randn(16, 16).to(torch.float8_e4m3fn) for _ in range(2)]
    (row,) = einheads.tune("b i, o i -> b o", *operands, progress=False).rows
    assert row.tried >= 1
    assert "sum" not in str(row)
    assert einheads.einsum("b i, o i -> b o", *operands).dtype == torch.float8_e4m3fn


def test_under_autocast(clock: Clock) -> None:
    """What is called under autocast is tuned under autocast."""
    layer = einheads.Einsum(HEADS, h=2, i=7, o=11)
    x = torch.randn(3, 5, 2, 7)

    def call(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            result: Tensor = layer(x)
        return result

    found = einheads.tune(call, x, backward=True, progress=False)
    assert len(found.rows) == 1
    assert call(x).dtype == torch.bfloat16
    (problem,) = cache.choices
    assert json.loads(problem)["traits"]["autocast"] is True


def test_integers_expanded_operands_and_no_contraction(clock: Clock) -> None:
    """Integers are drawn as integers, stride zero stays, and a lone operand has no choice."""
    left, right = torch.ones(3, 5, dtype=torch.int64), torch.ones(5, dtype=torch.int64)
    einheads.tune("a b, b c -> a c", left, right[:, None].expand(5, 7), progress=False)
    result = einheads.einsum("a b, b c -> a c", left, right[:, None].expand(5, 7))
    assert torch.equal(result, torch.full((3, 7), 5))
    assert einheads.tune("a b -> b a", left, progress=False).rows == ()


def test_a_failing_call_leaves_nothing_behind() -> None:
    """After an error, calls are no longer noted."""

    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        einheads.tune(broken)
    assert cache.recorders == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: einheads.tune(5), "tune takes a pattern, a layer or a function, not 5"),
        (lambda: einheads.tune(len, [], h=2), "h: only a pattern takes sizes"),
        (lambda: einheads.tune(len, [], backward="yes"), "backward is True or False, not 'yes'"),
        (lambda: einheads.tune(len, [], progress="no"), "progress is True or False, not 'no'"),
        (lambda: einheads.load_tuned(3), "the file of tuned choices is a path, not 3"),
        (lambda: einheads.save_tuned(None), "the file of tuned choices is a path, not None"),
    ],
)
def test_wrong_types(call: Callable[[], object], message: str) -> None:
    """The mistake and what to write instead."""
    with pytest.raises(TypeError, match=message):
        call()


class TestFiles:
    """`save_tuned` and `load_tuned`."""

    def tuned_file(self, clock: Clock, path: Path) -> Any:
        """Tune one pattern, keep it, and give the steps of the winner."""
        clock.winner = 1
        x, weight = CASES[0].tensors()
        einheads.tune(HEADS, x, weight, backward=False, progress=False)
        assert einheads.save_tuned(path) == 1
        best = program_of(HEADS, [x, weight])
        einheads.cache_clear()
        assert program_of(HEADS, [x, weight]) != best
        return best

    def test_round_trip(self, clock: Clock, tmp_path: Path) -> None:
        """What was kept runs in the next process, at once, also if the pattern ran before."""
        best = self.tuned_file(clock, tmp_path / "tuned.json")
        x, weight = CASES[0].tensors()
        assert einheads.load_tuned(tmp_path / "tuned.json") == 1
        assert program_of(HEADS, [x, weight]) == best
        CASES[0].check_call(einheads.einsum, [x, weight])
        assert einheads.save_tuned(tmp_path / "again.json") == 1
        assert (tmp_path / "again.json").read_text() == (tmp_path / "tuned.json").read_text()

    def test_other_machines(
        self, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A choice of another machine is not used."""
        self.tuned_file(clock, tmp_path / "tuned.json")
        monkeypatch.setattr(tuned, "device_name", lambda _: "another one")
        assert einheads.load_tuned(tmp_path / "tuned.json") == 0
        assert cache.choices == {}

    @pytest.mark.parametrize(
        ("told", "name"),
        [
            ({"model name": "A", "cpu family": "26", "model": "2"}, "A (family 26, model 2)"),
            ({"model name": "A 7"}, "A 7"),
            ({}, "B"),
        ],
    )
    def test_a_processor_is_named_with_its_generation(
        self, told: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The name alone may be that of another generation, for which other choices are best."""
        monkeypatch.setattr(tuned, "processor", lambda: told)
        monkeypatch.setattr("platform.processor", lambda: "B")
        assert tuned.device_name() == name

    def test_a_device_that_is_not_there(self, tmp_path: Path) -> None:
        """A file may hold choices for CUDA; without it, they are left alone."""
        assert not torch.cuda.is_available() or tuned.device_name("cuda")
        problem = {"traits": {"device": "cuda"}}
        entry = {"device": "a GPU that nobody has", "problem": problem, "ways": None, "planned": {}}
        document = {"format": 2, "torch": "2", "choices": [entry]}
        (tmp_path / "tuned.json").write_text(json.dumps(document))
        assert einheads.load_tuned(tmp_path / "tuned.json") == 0

    @pytest.mark.parametrize(
        "text",
        ["", "[]", "{}", '{"format": 2, "choices": [1]}'],
        ids=["empty", "list", "nothing", "entry"],
    )
    def test_no_such_file(self, tmp_path: Path, text: str) -> None:
        """What is no file of choices is refused in words."""
        path = tmp_path / "tuned.json"
        path.write_text(text)
        with pytest.raises(einheads.EinheadsError, match=r"holds no tuned choices\n.*save_tuned"):
            einheads.load_tuned(path)

    def test_another_version(self, tmp_path: Path) -> None:
        """It is told from a file of something else."""
        path = tmp_path / "tuned.json"
        path.write_text('{"format": 1, "choices": []}')
        with pytest.raises(einheads.EinheadsError, match=r"its format is 1, this version reads 2"):
            einheads.load_tuned(path)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *((field, value) for field in ("batch", "contract") for value in (None, 7, [["h"]])),
            *(("near", value) for value in (None, [], ["i"], [True], {"a": 1}, [1, 0])),
            ("swapped", "no"),
            ("kind", "Miracle"),
            ("spare", ["h"]),
        ],
    )
    def test_a_choice_that_is_none(
        self, clock: Clock, tmp_path: Path, field: str, value: object
    ) -> None:
        """It is refused at once, not when a layer is called."""
        self.tuned_file(clock, tmp_path / "tuned.json")
        document = json.loads((tmp_path / "tuned.json").read_text())
        document["choices"][0]["ways"][0][field] = value
        (tmp_path / "tuned.json").write_text(json.dumps(document))
        with pytest.raises(einheads.EinheadsError, match="holds no tuned choices"):
            einheads.load_tuned(tmp_path / "tuned.json")
        assert cache.choices == {}

    @pytest.mark.parametrize("field", ["rows", "columns", "contract", "batch"])
    def test_a_choice_that_does_not_fit(self, clock: Clock, tmp_path: Path, field: str) -> None:
        """A file cannot make a result wrong: what does not compute the pattern is not used."""
        self.tuned_file(clock, tmp_path / "tuned.json")
        document = json.loads((tmp_path / "tuned.json").read_text())
        (way,) = document["choices"][0]["ways"]
        assert way["kind"] == "Candidate"
        way[field] = ["h", "h"]
        (tmp_path / "tuned.json").write_text(json.dumps(document))
        assert einheads.load_tuned(tmp_path / "tuned.json") == 1
        x, weight = CASES[0].tensors()
        CASES[0].check_call(einheads.einsum, [x, weight])
        prepared = prepare(Declaration(HEADS), (), [x, weight])
        (choice,) = cache.choices.values()
        assert choice.ways is not None
        assert not fits(plan(prepared.bound), choice.ways, prepared.traits)

    def test_a_sum_in_turns_over_nothing(self, tmp_path: Path) -> None:
        """There is no axis to take turns along."""
        path = tmp_path / "tuned.json"
        x, scalar = torch.randn(2), torch.randn(())
        einheads.tune("a, ->", x, scalar, progress=False)
        einheads.save_tuned(path)
        document = json.loads(path.read_text())
        way = {"kind": "Elementwise", "order": [], "contract": [], "each": True}
        document["choices"][0]["turns"] = [way]
        path.write_text(json.dumps(document))
        einheads.cache_clear()
        assert einheads.load_tuned(path) == 1
        assert torch.allclose(einheads.einsum("a, ->", x, scalar), x.sum() * scalar)


class TestAtOnce:
    """Several threads tune, and keep what is found."""

    def test_one_does_not_end_the_other(self) -> None:
        """Each sees its own calls, whichever is done first."""
        begun, ended = threading.Event(), threading.Event()
        found = []

        def slow() -> Tensor:
            begun.set()
            ended.wait(10)
            return einheads.einsum("b i, o i -> b o", torch.randn(4, 5), torch.randn(6, 5))

        thread = threading.Thread(target=lambda: found.append(einheads.tune(slow, progress=False)))
        thread.start()
        begun.wait(10)
        einheads.tune("i o, b i -> b o", torch.randn(3, 2), torch.randn(5, 3), progress=False)
        ended.set()
        thread.join()
        assert "b i, o i -> b o" in [row.title for row in found[0].rows]
        assert cache.recorders == []

    def test_choices_are_kept_while_others_are_found(self, tmp_path: Path) -> None:
        """A file is written from a copy of them."""
        path = tmp_path / "tuned.json"
        einheads.tune("b i, o i -> b o", torch.randn(4, 5), torch.randn(6, 5), progress=False)

        class Growing(dict[str, Choice]):
            """Another thread may add a choice only where the lock is free."""

            def items(self) -> Any:
                others: list[bool] = []
                thread = threading.Thread(
                    target=lambda: others.append(cache.lock.acquire(blocking=False))
                )
                thread.start()
                thread.join()
                assert others == [False]
                return super().items()

        before = cache.choices
        cache.choices = Growing(before)
        try:
            assert einheads.save_tuned(path) == 1
        finally:
            cache.choices = before


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_the_default_device_is_not_asked(device: str) -> None:
    """Operands are made where those of the call are."""
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    with torch.device(device):
        found = einheads.tune("b i, o i -> b o", x, weight, progress=False)
        for dtype in (torch.float32, torch.int64):
            drawn = tuning._random((3,), (1,), dtype, torch.device("cpu"))
            assert drawn.device.type == "cpu"
    assert len(found.rows) == 1


def test_nothing_is_timed_where_nothing_is_computed() -> None:
    """What takes the place of the operations says nothing of their time."""
    with FakeTensorMode() as mode:
        x, weight = (mode.from_tensor(torch.randn(3, 4)) for _ in range(2))
        with pytest.raises(einheads.EinheadsError, match=r"nothing can be timed\n.*outside of it"):
            einheads.tune("b i, o i -> b o", x, weight, progress=False)
    assert cache.choices == {}


def test_choices_outlive_programs(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too many programs are forgotten, choices are not; `cache_clear` forgets both."""
    einheads.tune(HEADS, *CASES[0].tensors(), progress=False)
    monkeypatch.setattr("einheads.program._MAX_PROGRAMS", 1)
    einheads.einsum("a b -> b", torch.ones(2, 3))
    einheads.einsum("a b -> a", torch.ones(2, 3))
    assert len(cache.choices) == 1
    einheads.cache_clear()
    assert cache.choices == {}
    assert Choice() == Choice(None, {})
