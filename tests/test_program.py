"""Programs: what compiled text is to a debugger, and what the cache forgets."""

import inspect
import linecache
import traceback
import warnings

import pytest
import torch

import einheads
from einheads import call, program
from einheads.compiled import compile_source
from einheads.operands import Declaration
from einheads.program import program_for


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Begin with an empty cache."""
    einheads.cache_clear()


def made(pattern: str, *tensors: torch.Tensor) -> program.Program:
    """The program of a pattern for these tensors."""
    return program_for(Declaration(pattern), (), tensors)[0]


def test_source_can_be_inspected() -> None:
    """`inspect.getsource` shows the text of what runs, under a speaking file name."""
    found = made("b i, o i -> b o", torch.ones(2, 3), torch.ones(5, 3))
    assert inspect.getsource(found.run) == found.source
    assert found.run.__code__.co_filename.endswith(": b i, o i -> b o>")


def test_a_traceback_shows_the_line() -> None:
    """An error inside of a program names the line of the program."""
    run = compile_source("def contract(x):\n    return x.nonsense()\n", "contract", "<einheads t>")
    with pytest.raises(AttributeError) as caught:
        run(torch.ones(1))
    assert "return x.nonsense()" in "".join(traceback.format_exception(caught.value))


def test_clearing_forgets_the_text_too() -> None:
    """Nothing of a forgotten program stays in `linecache`."""
    found = made("b i, o i -> b o", torch.ones(2, 3), torch.ones(5, 3))
    name = found.run.__code__.co_filename
    assert name in linecache.cache
    einheads.cache_clear()
    assert name not in linecache.cache
    assert einheads.cache_info().programs == 0


def test_another_layout_is_another_program() -> None:
    """A transposed weight is read as it lies, by a program of its own."""
    x, weight = torch.randn(4, 64), torch.randn(32, 64)
    first = made("b i, o i -> b o", x, weight)
    second = made("b i, o i -> b o", x, weight.t().contiguous().t())
    assert first.source == second.source or first.steps != second.steps
    assert made("b i, o i -> b o", x, weight) is first


def test_names_reach_the_source() -> None:
    """A layer's program is written in the layer's own names."""
    layer = einheads.Einsum("b i, o i -> b o", i=3, o=5, names=("up",), bias="o")
    layer(torch.ones(2, 3))
    assert "F.linear(x, up, bias)" in layer.source()
    found, _ = program_for(
        layer._declaration, layer._given, (torch.ones(2, 3), layer.up, layer.bias)
    )
    assert found.source.startswith("def contract(x, up, bias):")


def test_old_signatures_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of signatures is bounded; the newest half survives."""
    monkeypatch.setattr(program, "_MAX_SIGNATURES", 8)
    weight = torch.ones(5, 3)
    for batch in range(1, 30):
        einheads.einsum("b i, o i -> b o", torch.ones(batch, 3), weight)
        assert einheads.cache_info().signatures <= 8
    assert einheads.cache_info().programs <= 2


def test_old_programs_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of programs is bounded, and what was forgotten is made again."""
    monkeypatch.setattr(program, "_MAX_PROGRAMS", 4)
    for count in range(1, 12):
        axes = " ".join(f"a{place}" for place in range(count))
        value = torch.ones([1] * count)
        assert einheads.einsum(f"{axes} -> ", value) == 1
        assert einheads.cache_info().programs <= 4
    assert einheads.einsum("a0 -> ", torch.full((3,), 2.0)) == 6


def test_a_pattern_that_keeps_compiling_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ever new ranks under `...` are said to be the reason, once."""
    monkeypatch.setattr(program, "_SUSPICIOUS", 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for rank in range(1, 8):
            einheads.einsum("... i -> i ...", torch.ones([2] * rank))
    (only,) = caught
    assert only.category is RuntimeWarning
    assert str(only.message).startswith("the pattern '... i -> i ...' has been compiled 3 times")


def test_errors_that_are_not_ours_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no mistake of dtypes or devices is raised as torch raised it."""

    def full(*_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(call, "entry_for", lambda *_: call.Entry(full))
    with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
        einheads.einsum("a b -> b a", torch.ones(2, 3))
