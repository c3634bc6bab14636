"""Which rates a machine gets: by its instructions, unless the environment tells."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from einheads.rates import AVX2, AVX512, cpu_kind, rates_for
from einheads.rates import _kind_of as kind_of


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
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512dq\n", "avx512"),
        ("processor\t: 0\nflags\t\t: fpu avx avx2 fma\n", "avx2"),
        # The first core speaks for all; a word in a name is no instruction.
        ("model name\t: avx512f\nflags\t\t: fpu avx2\nflags\t\t: avx512f\n", "avx2"),
        ("Features\t: fp asimd\n", "avx2"),
        ("", "avx2"),
    ],
)
def test_the_processor_tells(text: str, kind: str, tmp_path: Path) -> None:
    """In the list of its instructions."""
    path = tmp_path / "cpuinfo"
    path.write_text(text, encoding="utf-8")
    assert kind_of(path) == kind


def test_where_nobody_tells(tmp_path: Path) -> None:
    """A system without such a file has no wide vectors, as most computers."""
    assert kind_of(tmp_path / "nothing") == "avx2"


@pytest.mark.parametrize(("kind", "rates"), [("avx2", AVX2), ("avx512", AVX512)])
def test_the_environment_tells(kind: str, rates: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor is."""
    monkeypatch.setenv("EINHEADS_CPU", kind)
    assert rates_for("cpu") is rates


def test_the_environment_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset or empty, the processor is asked."""
    monkeypatch.delenv("EINHEADS_CPU")
    assert cpu_kind() == kind_of(Path("/proc/cpuinfo"))
    cpu_kind.cache_clear()
    monkeypatch.setenv("EINHEADS_CPU", "")
    assert cpu_kind() == kind_of(Path("/proc/cpuinfo"))
