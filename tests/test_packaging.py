"""What the package says about itself is true, and the tested set of versions is complete."""

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import entry_points, metadata, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import einheads
from einheads.__main__ import main

ROOT = Path(__file__).parent.parent
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def pins(python: str) -> Iterator[Requirement]:
    """Read the lines of the constraints file that hold for one Python."""
    for line in (ROOT / "tests/constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate({"python_version": python}):
                yield pin


def asked(extra: str, python: str) -> set[str]:
    """Name what an installation with this extra asks for; no extra is the empty text."""
    lines = [Requirement(line) for line in requires("einheads") or ()]
    here = {"extra": extra, "python_version": python}
    return {
        canonicalize_name(line.name)
        for line in lines
        if not line.marker or line.marker.evaluate(here)
    }


def test_version_has_one_source() -> None:
    """The installed version is the one in `einheads/__init__.py`."""
    assert version("einheads") == einheads.__version__


def test_package_is_typed() -> None:
    """Type checkers find the marker."""
    assert (Path(einheads.__file__).parent / "py.typed").is_file()


def test_console_script_is_the_module() -> None:
    """`einheads` and `python -m einheads` are the same function."""
    (script,) = entry_points(group="console_scripts", name="einheads")
    assert script.load() is main


def test_four_packages_are_needed_to_run() -> None:
    """Nothing but PyTorch, einops, opt_einsum and tqdm comes along."""
    assert {"torch", "einops", "opt-einsum", "tqdm"} == asked("", "3.11")


def test_extras_are_the_promised_ones() -> None:
    """The extras are for tests, docs, benchmarks and development."""
    assert {"test", "docs", "bench", "dev"} == set(metadata("einheads").get_all("Provides-Extra"))


@pytest.mark.parametrize("python", PYTHONS)
def test_tested_set_has_one_exact_version_of_each_package(python: str) -> None:
    """Every pin is one exact version, never a local build such as `+cpu`."""
    for pin in pins(python):
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert "+" not in specifier.version
    assert {1} == set(Counter(canonicalize_name(pin.name) for pin in pins(python)).values())


@pytest.mark.parametrize(
    ("python", "extra"),
    [
        *((python, extra) for python in PYTHONS for extra in ("", "test")),
        *((python, extra) for python in PYTHONS[1:] for extra in ("docs", "bench", "dev")),
    ],
)
def test_tested_set_covers_every_extra(python: str, extra: str) -> None:
    """What an installation asks for is pinned; the tools of developers from Python 3.11 on."""
    pinned = {canonicalize_name(pin.name) for pin in pins(python)}
    assert set() == asked(extra, python) - pinned - {"einheads"}
