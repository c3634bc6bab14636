"""The example of structured layers: equal budgets, real text, and figures that its page shows."""

import math
import re
from pathlib import Path
from statistics import fmean
from unittest.mock import Mock

import pytest
import torch

from einheads import demo
from einheads.demo import structured

PAGE = Path(__file__).parent.parent / "docs/structured.md"
WIDTHS = {"dense": 96, "Monarch": 1024, "BlockTensorTrain": 384}


@pytest.fixture(scope="module")
def text() -> demo.Text:
    """A part of the real text, small enough to be read in no time."""
    return demo.read_text(500_000)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, text: demo.Text) -> None:
    """Let the example read that part, in small batches."""
    monkeypatch.setattr(structured, "read_text", lambda: text)
    monkeypatch.setattr(structured, "BATCH", 64)


def test_budgets_are_equal() -> None:
    """All kinds have the same parameters and operations, and other widths."""
    assert {structured.cost(kind)[1:] for kind in structured.KINDS} == {(98304, 196608)}
    assert {kind: structured.cost(kind)[0] for kind in structured.KINDS} == WIDTHS


@pytest.mark.parametrize("kind", structured.KINDS)
def test_each_learns(small: None, text: demo.Text, kind: str) -> None:
    """After some steps a network knows more than how frequent each character is."""
    trained = structured.train(kind, text, 60)
    assert len(trained.losses) == 60
    assert trained.losses[0] > math.log(60)
    assert fmean(trained.losses[-5:]) < text.entropy() - 0.2
    assert trained.validation < text.entropy() - 0.1
    assert trained.hidden == WIDTHS[kind]
    assert trained.milliseconds > 0


def test_seed_decides_everything(small: None, text: demo.Text) -> None:
    """The same seed gives the same numbers, another seed gives others."""
    first, again, other = (structured.train("Monarch", text, 2, seed) for seed in (5, 5, 6))
    assert (first.losses, first.validation) == (again.losses, again.validation)
    assert first.losses != other.losses


def test_command_prints_the_table(small: None, capsys: pytest.CaptureFixture[str]) -> None:
    """What a user reads; torch's threads are given back."""
    threads = torch.get_num_threads()
    assert structured.main(["--steps", "1", "--seeds", "2"]) == 0
    assert torch.get_num_threads() == threads
    told = capsys.readouterr().out
    assert told.startswith("text: ")
    assert "1 steps, 2 runs of each" in told
    rows = re.findall(
        r"^\| (\w+) \| (\d+) \| 98304 \| 196608 \| (\S+) \((\S+) to (\S+)\) ", told, re.MULTILINE
    )
    assert {kind: int(width) for kind, width, *_ in rows} == WIDTHS
    for _, _, mean, least, most in rows:
        assert float(least) <= float(mean) <= float(most)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [(KeyboardInterrupt, 130, "interrupted"), (FileNotFoundError("no text"), 1, "no text")],
    ids=["Ctrl-C", "no text"],
)
def test_ends_cleanly(
    error: BaseException,
    status: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line, and the status that shells expect."""
    monkeypatch.setattr(structured, "read_text", Mock(side_effect=error))
    assert structured.main([]) == status
    assert capsys.readouterr().err == f"structured: {words}\n"
    with pytest.raises(SystemExit):
        structured.main(["--steps", "0"])


def test_page_shows_what_the_code_trains() -> None:
    """The rows of the page are those kinds, with the widths and budgets of the code."""
    page = PAGE.read_text()
    for kind in structured.KINDS:
        width, parameters, flops = structured.cost(kind)
        assert f"| {kind} | {width} | {parameters} | {flops} | " in page
    assert f"{structured.STEPS} steps" in page
    assert "python -m einheads.demo.structured --seeds 3" in page
