"""Rates of somebody's own machine: kept in a file, used where the environment names it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from einheads.calibrated import keep_rates, own_rates, read_rates
from einheads.devices import AVX2, AVX512, CUDA, NUMBERS
from einheads.errors import EinheadsError
from einheads.loops import LOOPS, LoopRates
from einheads.rates import _of_numbers, rates_for, sure_for
from einheads.units import WORK, Rates

# Nothing is as dear as to start a product of stacks.
OWN = replace(AVX2, bmm_call=1e9)


def told(rates: Rates) -> dict[str, float]:
    """The rates as a file tells them."""
    return {name: getattr(rates, name) for name in WORK}


@pytest.fixture(autouse=True)
def asked_again() -> Iterator[None]:
    """The answer is kept for the whole process, but not beyond a test."""
    assert "EINHEADS_RATES" not in os.environ
    own_rates.cache_clear()
    _of_numbers.cache_clear()
    yield
    own_rates.cache_clear()
    _of_numbers.cache_clear()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of rates that the environment names."""
    path = tmp_path / "rates.json"
    monkeypatch.setenv("EINHEADS_RATES", str(path))
    return path


def test_rates_of_a_cpu(kept: Path) -> None:
    """They are those of this machine, and of devices that nobody has timed."""
    keep_rates(kept, "cpu", OWN, {"machine": "this"})
    assert rates_for("cpu") == rates_for("mps") == OWN
    assert rates_for("cuda") is CUDA
    assert sure_for("cpu") == sure_for("mps") > sure_for("cuda")


def test_rates_of_a_gpu(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They say nothing of the CPU, and are as trustworthy as others that were timed."""
    timed = replace(CUDA, multiply_add=0.1)
    with monkeypatch.context() as patch:
        patch.delenv("EINHEADS_RATES")
        before = sure_for("cuda")
    own_rates.cache_clear()
    keep_rates(kept, "cuda", timed, {})
    assert rates_for("cuda") == rates_for("cuda", "int8") == timed
    assert rates_for("cpu") is AVX512
    assert sure_for("cuda") > before


def test_one_file_for_all_devices(kept: Path) -> None:
    """Who is timed again is replaced, and others stay."""
    kept.touch()
    for device, rates in (("cpu", AVX2), ("cuda", CUDA), ("cpu", OWN)):
        keep_rates(kept, device, rates, {"machine": device})
    found = read_rates(kept)
    assert [*found] == ["cpu", "cuda"]
    assert found["cpu"] == {"machine": "cpu", "rates": told(OWN)}
    assert (rates_for("cpu"), rates_for("cuda")) == (OWN, CUDA)


def test_numbers_without_blas_stand_beside_them(kept: Path) -> None:
    """Calibration times floats; the others have the nanoseconds of the kind they were timed on."""
    keep_rates(kept, "cpu", OWN, {})
    long = rates_for("cpu", "int64")
    assert long.matrix == NUMBERS["int64"]["matrix"]
    assert long.copy_number == OWN.copy_number
    short = rates_for("cpu", "int8")
    assert isinstance(short, LoopRates)
    assert short.loop_row == LOOPS["int8"]["loop_row"]


@pytest.mark.parametrize("told", [None, ""])
def test_the_environment_is_optional(told: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset or empty, nobody looks for a file."""
    if told is not None:
        monkeypatch.setenv("EINHEADS_RATES", told)
    assert own_rates() == {}
    assert rates_for("cpu") is AVX512


def test_they_decide(kept: Path) -> None:
    """In a new process, whose programs are made by these prices."""
    command = [sys.executable, "-m", "einheads", "source", "b h i, h o i -> b h o"]
    command += ["b=4", "h=3", "i=5", "o=7"]

    def made() -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    keep_rates(kept, "cpu", AVX512, {})
    assert "torch.bmm(" in made()
    keep_rates(kept, "cpu", OWN, {})
    assert "bmm" not in made()
    kept.write_text("{}", encoding="utf-8")
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith(f"'{kept}' holds no rates\n")


def damaged(change: Callable[[dict[str, Any]], object]) -> str:
    """A document in which something was changed by hand."""
    rates: dict[str, Any] = told(OWN)
    change(rates)
    return json.dumps({"format": 1, "devices": {"cpu": {"rates": rates}}})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (damaged(lambda rates: rates.pop("cold")), "'cold' of 'cpu' is missing"),
        (damaged(lambda rates: rates.update(warm=1)), "'warm' of 'cpu' is no kind of work"),
        (damaged(lambda rates: rates.update(cold=-1)), "'cold' of 'cpu' is no number of"),
        (damaged(lambda rates: rates.update(cold="1")), "no number of nanoseconds: '1'"),
        (damaged(lambda rates: rates.update(cold=True)), "no number of nanoseconds: True"),
        (damaged(lambda rates: rates.update(cold=[])), "no number of nanoseconds: []"),
        (damaged(lambda rates: rates.update(cold=float("nan"))), "no number of nanoseconds: nan"),
        (damaged(lambda rates: rates.update(cold=float("inf"))), "no number of nanoseconds: inf"),
        (damaged(lambda rates: rates.update(cold=10**400)), "no number of nanoseconds: 1000"),
        (f'{{"format": 1, "devices": {{"cpu": {{"rates": [{"1, " * 80}1]}}}}}}', "is missing"),
        ('{"format": 1, "devices": {"cpu": {}}}', "holds no rates"),
        ('{"format": 1, "devices": {"cpu": 1}}', "holds no rates"),
        ('{"format": 1, "devices": []}', "holds no rates"),
        ('{"format": "2", "devices": {}}', "its format is '2', this version reads 1"),
        ("[" * 100_000, "holds no rates"),
        ("1", "holds no rates"),
    ],
)
def test_a_damaged_file_is_refused(text: str, why: str, kept: Path) -> None:
    """With the reason, whether it is read or would be written; and it stays as it is."""
    kept.write_text(text, encoding="utf-8")
    with pytest.raises(EinheadsError, match="holds no rates") as caught:
        rates_for("cpu")
    assert why in str(caught.value)
    with pytest.raises(EinheadsError, match="holds no rates"):
        keep_rates(kept, "cpu", OWN, {})
    assert kept.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("text", ["", '{"format": 1, "devices": {}}'])
def test_a_file_for_no_device_is_refused(text: str, kept: Path) -> None:
    """Whoever names it believes that it does something; but rates may be put into it."""
    kept.write_text(text, encoding="utf-8")
    with pytest.raises(EinheadsError, match="holds no rates"):
        rates_for("cpu")
    keep_rates(kept, "cpu", OWN, {})
    assert rates_for("cpu") == OWN


def test_what_is_no_text_is_refused(kept: Path) -> None:
    """Nor is a folder."""
    kept.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(EinheadsError, match="holds no rates"):
        read_rates(kept)
    with pytest.raises(EinheadsError, match="cannot be read: Is a directory"):
        read_rates(kept.parent)
