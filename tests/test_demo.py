"""The demonstration learns from real text, compares honestly, and ends cleanly."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

import einheads as eh
from einheads import demo
from einheads.demo import contest
from einheads.demo.contest import (
    Contestant,
    DisagreementError,
    check,
    contestants,
    definition,
    race,
)

ROOT = Path(__file__).parent.parent
NAMES = ["loop over nn.Linear", "matmul + unsqueeze", "torch.func.vmap", "torch.einsum", "einheads"]


@pytest.fixture(scope="module")
def text() -> demo.Text:
    """A part of the real text, small enough to be read in no time."""
    return demo.read_text(1_000_000)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, text: demo.Text) -> None:
    """Let the demonstration read that part, write little and take few times."""
    monkeypatch.setattr(demo, "read_text", lambda: text)
    monkeypatch.setattr(demo, "SAMPLE", 20)
    monkeypatch.setattr(demo, "ROUNDS", 3)


def found(capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    """Run the demonstration and give its findings."""
    assert demo.run(device="cpu", json=True, **options) == 0
    findings: dict[str, Any] = json.loads(capsys.readouterr().out)
    return findings


# the text


def test_text_is_the_source_code_of_the_standard_library(text: demo.Text) -> None:
    """All files lie in its folder, none in those of other packages or of tests."""
    library = Path(sysconfig.get_path("stdlib"))
    folders = {folder for path in text.files for folder in path.relative_to(library).parts[:-1]}
    assert folders
    assert not folders & {"site-packages", "dist-packages", "test", "tests", "idle_test"}
    assert {"abc.py", "argparse.py"} <= {path.name for path in text.files}


def test_text_is_what_the_files_say(text: demo.Text) -> None:
    """Nothing is added, changed or left out, and no file is in both parts."""
    kept = [path.read_text(encoding="ascii") for path in text.files]
    training = "".join(content for place, content in enumerate(kept) if place % 10 != 9)
    validation = "".join(kept[9::10])
    read = [
        "".join(text.alphabet[number] for number in part.tolist())
        for part in (text.training, text.validation)
    ]
    assert len(read[0]) + len(read[1]) == 1_000_000
    # The budget cuts the last file, which may belong to either part.
    assert training.startswith(read[0])
    assert validation.startswith(read[1])
    assert set(text.alphabet) == set(read[0] + read[1])


def test_text_is_the_same_every_time(text: demo.Text) -> None:
    """The order of the files does not depend on how the file system lists them."""
    again = demo.read_text(1_000_000)
    assert again.files == text.files
    assert torch.equal(again.training, text.training)
    assert torch.equal(again.validation, text.validation)


def test_source_files_leave_out_packages_tests_and_tables(tmp_path: Path) -> None:
    """Only code that belongs to the library is read, in the order of names."""
    kept = ["a.py", "json/a.py", "json/deep/z.py", "json/tool.py", "unittest/case.py", "z.py"]
    left_out = [
        *("site-packages/torch/a.py", "dist-packages/a.py", "test/a.py", "json/tests/a.py"),
        *("encodings/cp1252.py", "_sysconfigdata__linux_x86_64.py", "a.txt", "lib-dynload/a.so"),
    ]
    for name in [*left_out, *reversed(kept)]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    files = [path.relative_to(tmp_path).as_posix() for path in demo.source_files(tmp_path)]
    assert files == kept


def test_files_in_other_scripts_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The alphabet stays that of code; a budget larger than the library takes all the rest."""
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    for place in range(11):
        (tmp_path / f"{place:02}.py").write_text("a" if place != 4 else "\u00e4", encoding="utf-8")
    read = demo.read_text(1_000)
    assert [path.stem for path in read.files] == [
        f"{place:02}" for place in range(11) if place != 4
    ]
    assert (read.alphabet, len(read.training), len(read.validation)) == ("a", 9, 1)


def test_entropy_is_that_of_the_frequencies(text: demo.Text) -> None:
    """The baseline is minus the mean logarithm of how frequent each character is."""
    counts = Counter(text.training.tolist())
    shares = [count / len(text.training) for count in counts.values()]
    expected = -sum(share * math.log(share) for share in shares)
    assert text.entropy() == pytest.approx(expected, rel=1e-5)
    assert 2.8 < text.entropy() < 3.5  # of Python, in nats


def test_python_without_sources_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A Python that has no source files cannot run the demonstration, and says why."""
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    assert demo.run(steps=1, device="cpu") == 1
    message = "demo: this Python has no source code of its standard library to read\n"
    assert capsys.readouterr().err == message


# the model


def test_every_projection_is_an_einheads_layer() -> None:
    """Nothing but the embedding, the norms and declared patterns has parameters."""
    model = demo.Transformer(7)
    owners = [part for part in model.modules() if list(part.parameters(recurse=False))]
    assert {type(part) for part in owners} == {nn.Embedding, nn.LayerNorm, eh.Einsum}
    patterns = Counter(str(part.pattern) for part in owners if isinstance(part, eh.Einsum))
    assert patterns == {
        "b t i, h d i -> b h t d": 2 * demo.BLOCKS,
        "b t i, h d i -> b t h d": demo.BLOCKS,
        "b t h d, h e d -> b t h e": demo.BLOCKS,
        "b t h d, o h d -> b t o": demo.BLOCKS,
        "b t i, f i -> b t f": demo.BLOCKS,
        "b t f, o f -> b t o": demo.BLOCKS,
        "b t i, c i -> b t c": 1,
    }


def test_model_does_not_look_ahead() -> None:
    """Scores depend on all characters up to their own and on none after it."""
    model = demo.Transformer(7)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)  # zeros would hide what depends on what
    numbers = torch.randint(7, (1, 13))
    changed = numbers.clone()
    changed[0, 6] = (numbers[0, 6] + 1) % 7
    same = (model(numbers) - model(changed)).abs().amax(dim=(0, 2)) < 1e-6
    assert same.tolist() == [True] * 6 + [False] * 7


def test_model_sees_the_order_of_characters() -> None:
    """Two earlier characters in the other order give other scores: positions do enter."""
    model = demo.Transformer(7)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    scores = [model(torch.tensor([order]))[0, -1] for order in ([0, 1, 2], [1, 0, 2])]
    assert (scores[0] - scores[1]).abs().max() > 1e-3


# the contest


@pytest.fixture
def layer() -> eh.Einsum:
    """The layer of the contest, with sizes that differ."""
    return eh.Einsum("b t h d, h e d -> b t h e", bias="h e", h=3, e=7, d=5)


@pytest.fixture
def heads() -> Tensor:
    """An input for it."""
    return torch.randn(2, 11, 3, 5, requires_grad=True)


def test_all_contestants_agree(layer: eh.Einsum, heads: Tensor) -> None:
    """Five ways to compute one layer, all of them right."""
    differences = check(definition(layer), contestants(layer), heads, torch.randn(2, 11, 3, 7))
    assert list(differences) == NAMES
    assert all(0 <= difference < 2e-6 for difference in differences.values())


def slightly_off(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Right but for one part in ten thousand."""
    return 1.0001 * (torch.einsum("bthd,hed->bthe", y, weight) + bias)


def other_heads(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each head through the weights of its neighbor."""
    return torch.einsum("bthd,hed->bthe", y, weight.roll(1, 0)) + bias


def not_a_number(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One value is none."""
    result = torch.einsum("bthd,hed->bthe", y, weight) + bias
    return result.index_fill(0, torch.tensor([1]), math.nan)


def wrong_gradient(which: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The right result, with twice the gradient for one of the operands."""

    def forward(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        operands = {"input": y, "weight": weight, "bias": bias}
        operands[which] = 2 * operands[which] - operands[which].detach()
        y, weight, bias = operands.values()
        return torch.einsum("bthd,hed->bthe", y, weight) + bias

    return forward


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (slightly_off, r"impostor: the result is off by 1\.0e-04 of its scale; 1e-05 is allowed"),
        (other_heads, r"impostor: the result is off by \d\.\de[-+]\d\d of its scale"),
        (not_a_number, "impostor: the result is off by nan of its scale"),
        (wrong_gradient("input"), r"the gradient for the input is off by 1\.0e\+00"),
        (wrong_gradient("weight"), r"the gradient for the weight is off by 1\.0e\+00"),
        (wrong_gradient("bias"), r"the gradient for the bias is off by 1\.0e\+00"),
    ],
)
def test_wrong_contestant_is_an_error(
    layer: eh.Einsum,
    heads: Tensor,
    forward: Callable[[Tensor, Tensor, Tensor], Tensor],
    message: str,
) -> None:
    """The check can fail: in the result, and in each gradient alone."""
    weight, bias = layer.parameters()
    impostor = Contestant("impostor", lambda y: forward(y, weight, bias), [weight], [bias])
    with pytest.raises(DisagreementError, match=message):
        check(definition(layer), [impostor], heads, torch.randn(2, 11, 3, 7))


def test_result_of_another_shape_is_an_error(layer: eh.Einsum, heads: Tensor) -> None:
    """Shapes that would broadcast are not compared."""
    impostor = Contestant(
        "impostor", lambda y: layer(y)[:1], *([one] for one in layer.parameters())
    )
    message = r"impostor: the result has the shape \(1, 11, 3, 7\), not \(2, 11, 3, 7\)"
    with pytest.raises(DisagreementError, match=message):
        check(definition(layer), [impostor], heads, torch.randn(2, 11, 3, 7))


def test_tasks_run_in_turn() -> None:
    """Rounds are A B C A B C, and each gives one time for each task."""
    calls: list[str] = []
    tasks = {name: partial(calls.append, name) for name in "ABC"}
    seconds = race(tasks, 4, torch.device("cpu"))
    # One call to warm up and one to see how many calls a round needs make two turns more.
    assert "".join(name for name, _ in itertools.groupby(calls)) == 6 * "ABC"
    assert {name: len(times) for name, times in seconds.items()} == {"A": 4, "B": 4, "C": 4}
    assert all(time > 0 for times in seconds.values() for time in times)


def test_queue_of_an_accelerator_is_emptied_before_the_clock_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was only enqueued has not been done yet."""
    story: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: story.append("wait"))
    race({"A": lambda: story.append("run")}, 1, torch.device("cuda"))
    told = [name for name, _ in itertools.groupby(story)]
    assert told == ["run", "wait", "run", "wait", "run", "wait"]


# the whole


def test_short_training_beats_the_frequencies(
    small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """After some seconds the model knows more than how frequent each character is."""
    findings = found(capsys, steps=60)
    losses, entropy = findings["losses"], findings["unigram_entropy"]
    assert len(losses) == 60
    assert losses[0] > math.log(80) > entropy
    assert fmean(losses[-5:]) < entropy - 0.3
    assert findings["validation_loss"] < entropy - 0.3
    assert findings["sample"].startswith("    def ")
    assert len(findings["sample"]) == len("    def ") + 20
    assert list(findings["contestants"]) == NAMES
    for row in findings["contestants"].values():
        assert row["difference"] < contest.TOLERANCE
        assert row["forward"] > 0
        assert row["step"] > 0
    ours = findings["contestants"]["einheads"]
    assert (ours["forward_ratio"], ours["step_ratio"]) == (1, 1)


def test_seed_decides_everything(small: None, capsys: pytest.CaptureFixture[str]) -> None:
    """The same seed gives the same numbers and the same sample, another seed gives others."""
    first, again, other = (found(capsys, steps=3, seed=seed) for seed in (5, 5, 6))
    for name in ("losses", "validation_loss", "sample"):
        assert first[name] == again[name]
        assert first[name] != other[name]


def test_story_tells_the_losses_the_sample_and_the_times(
    small: None, text: demo.Text, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a user reads, from start to end."""
    assert demo.run(steps=2, device="cpu") == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].startswith("text: ")
    assert f"(nats per character; the unigram entropy is {text.entropy():.2f}, at |)" in told.out
    assert [line.split()[0] for line in lines if "#|" in line] == ["1", "2"]
    assert "a sample, begun with '    def ':" in lines
    assert [name for name in NAMES if any(line.startswith(name) for line in lines)] == NAMES
    assert lines[-1].endswith("agree with the definition in float64 to 1e-05")
    assert not told.err  # the bar is for terminals


def test_disagreement_ends_the_demonstration(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong way is never timed: the error comes before the table."""

    def cheated(layer: nn.Module) -> list[Contestant]:
        *others, ours = contestants(layer)
        return [*others, replace(ours, forward=lambda y: 1.001 * layer(y))]

    monkeypatch.setattr(contest, "contestants", cheated)
    with pytest.raises(DisagreementError, match="einheads: the result is off by"):
        demo.run(steps=1, device="cpu")
    assert "training step" not in capsys.readouterr().out


def test_interrupt_during_training_ends_cleanly(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C gives one line and the status that shells expect."""
    monkeypatch.setattr(demo.Transformer, "loss", Mock(side_effect=KeyboardInterrupt))
    assert demo.run(steps=9, device="cpu") == 130
    assert capsys.readouterr().err == "demo: interrupted\n"


def test_interrupt_of_the_process_leaves_no_traceback() -> None:
    """The signal of a real Ctrl-C ends a real run."""
    # What a shell starts in the background ignores the signal, and so do all its children.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from einheads import demo; sys.exit(demo.run(steps=10**6, device='cpu'))"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("text: ")
        process.send_signal(signal.SIGINT)
        try:
            _, complaint = process.communicate(timeout=60)
        finally:
            process.kill()  # or the test would wait for it for ever
    # Where the signal meets `exec` of a text, as in the making of a dataclass, Python remembers it
    # and ends itself by it; shells report both endings as 130.
    assert process.returncode in {130, -signal.SIGINT}
    assert complaint == "demo: interrupted\n"


@pytest.mark.parametrize(("chosen", "used"), [(None, 1), ("2", 2)])
def test_one_thread_unless_the_environment_chooses(
    chosen: str | None, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that would wait for each other are not started, and the setting is given back."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if chosen:
        monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    seen: list[int] = []

    def demonstrate(*_: object) -> dict[str, object]:
        seen.append(torch.get_num_threads())
        return {}

    monkeypatch.setattr(demo, "demonstrate", demonstrate)
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # as the variable would have done at the start
    try:
        assert demo.run(device="cpu") == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [used]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "demo: steps must be at least 1, not 0"),
        ({"steps": 1, "device": "toaster"}, "demo: device 'toaster' cannot be used: "),
        ({"steps": 1, "device": "meta"}, "demo: device 'meta' cannot be used: "),
    ],
)
def test_wrong_options_are_told(
    options: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be met is one line, not a traceback."""
    assert demo.run(**options) == 2
    told = capsys.readouterr()
    assert not told.out
    assert told.err.startswith(message)
    assert len(told.err.splitlines()) == 1
