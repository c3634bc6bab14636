"""What is made while the site is built: the cards of the collection, the pages of benchmarks."""

import doctest
import inspect
import json
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import nn

import einheads
from einheads.bench.run import Options, tell
from pages import ROOT, hooks_of_the_site

SPACE = "{http://www.w3.org/2000/svg}"
LAYERS = [
    name
    for name in einheads.__all__
    if inspect.isclass(getattr(einheads, name)) and issubclass(getattr(einheads, name), nn.Module)
]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """The file that mkdocs loads while it builds the site."""
    return hooks_of_the_site()


@pytest.fixture(scope="module")
def collection(hooks: ModuleType) -> dict[str, str]:
    """The text of each card."""
    parts = re.split(r"^### (\w+)$", hooks.made("collection"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_collection_has_a_card_for_each_layer(collection: dict[str, str]) -> None:
    """For each public module, once."""
    assert sorted(collection) == sorted(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_card_is_complete(collection: dict[str, str], name: str) -> None:
    """Picture, pattern, formula, example, parameters, work, paper and equivalent torch."""
    card = collection[name]
    rows = dict(re.findall(r"^\| (\w+) \| (.+) \|$", card, re.MULTILINE))
    assert rows["example"].startswith("`")
    assert "FLOPs" in rows["work"] or rows["work"] == "no products of matrices"
    assert f"reference/layers.md#einheads.{name}" in card
    if name != "Einsum":
        assert len(rows["paper"]) > 20
        assert "The same in plain torch" in card
        assert "```python" in card
    if name != "Rotary":
        assert "->" in rows["pattern"]
        assert " = " in rows["formula"]
        assert re.search(r": [\d,]+ numbers$", rows["parameters"])
        ET.fromstring(re.search(r"<svg.*?</svg>", card)[0])


def test_formula_is_that_of_the_pattern(hooks: ModuleType) -> None:
    """Sums are named, weights have their own names, a bias its axes, brackets stay one index."""
    low = einheads.Einsum("... i, i r, r o -> ... o", i=4, r=2, o=3, names=("down", "up"))
    formula = hooks.cards.formula
    assert formula(low) == "y[..., o] = \u03a3(i, r) x[..., i] \u00b7 down[i, r] \u00b7 up[r, o]"
    grouped = einheads.GroupedLinear(g=4, i=16, o=8)
    assert formula(grouped) == (
        "y[..., (g o)] = \u03a3(i) x[..., (g i)] \u00b7 weight[g, o, i] + bias[g, o]"
    )


def test_work_of_a_card_is_counted(hooks: ModuleType) -> None:
    """Two operations for each multiply-add; of several patterns, those that torch counts."""
    card = hooks.cards.example(einheads.Linear)
    assert hooks.cards.work(card, alone=True) == f"{2 * 40 * 64 * 32:,} FLOPs; copies nothing"
    whole = hooks.cards.example(einheads.FeedForward)
    assert hooks.cards.work(whole, alone=False).startswith(f"{2 * 2 * 20 * 64 * 256:,} FLOPs")


def test_docstring_without_a_call_is_refused(hooks: ModuleType) -> None:
    """A card never shows what was not run."""

    class Silent(nn.Module):
        """Nothing.

        Example:
            >>> 1
            1
        """

    with pytest.raises(ValueError, match="does not call the layer"):
        hooks.cards.example(Silent)
    with pytest.raises(ValueError, match="does not make the layer"):
        hooks.cards.construction(Silent)


def test_unknown_name_is_refused(hooks: ModuleType) -> None:
    """A slip in a page stops the build."""
    with pytest.raises(ValueError, match="nothing is made under the name 'colection'"):
        hooks.on_page_markdown("words\n<!-- made: colection -->\n")
    assert hooks.on_page_markdown("words\n") == "words\n"


def row(case: str, peer: str | None = None, **numbers: float) -> dict[str, Any]:
    """One case of a file of benchmarks."""
    return {
        "case": case,
        "pattern": "b i, o i -> b o",
        "sizes": {"b": 4, "i": 8, "o": 6},
        "seconds": 2e-6,
        "limit": 5e-7,
        "peer": peer,
        "numbers": numbers,
        "notes": {},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file of benchmarks as the command writes it, with a win and a loss."""
    heads = {"loop": {"mean": 1.0, "worst": 0.5, "case": "lost", "count": 2}}
    machine = {"processor": "A, B", "system": "C", "device": "cpu", "dtype": "float32"}
    result = {"purpose": "why", "threads": 1, "clock": "a clock"}
    document = {
        "machine": {**machine, "rounds": 3, "versions": {"torch": "2.0"}},
        "limits": {"1": {"multiply_adds": 7e10, "bandwidth": {"1048576": 9e9}}},
        "results": [
            {
                **result,
                "suite": "few",
                "kind": "forward",
                "summary": heads | {"best peer": heads["loop"]},
                "rows": [row("won", "loop", loop=2.0), row("lost", "loop", loop=0.5)],
            },
            {
                **result,
                "suite": "memory",
                "kind": "memory",
                "summary": {},
                "rows": [row("one", peak=3.0), row("two", peak=5.0)],
            },
        ],
    }
    (tmp_path / "one.json").write_text(json.dumps(document))
    return tmp_path


def page_of(hooks: ModuleType, folder: Path) -> str:
    """The page of the only file in a folder."""
    ((_, page),) = hooks.races.pages(hooks.figure, folder)
    return str(page)


def test_losses_are_shown_like_wins(hooks: ModuleType, folder: Path) -> None:
    """Each case is a mark, losses on their side of the line, and they are listed with the peer."""
    page = page_of(hooks, folder)
    drawn = re.search(r"<svg.*?</svg>", page)[0]
    svg = ET.fromstring(drawn)
    marks = [*svg.iter(f"{SPACE}circle"), *svg.iter(f"{SPACE}path")]
    # For the loop, and for the fastest peer, which is the loop.
    assert [one.get("class") for one in marks] == ["win", "win", "loss", "loss"]
    even = next(one for one in svg.iter(f"{SPACE}line") if one.get("class") == "even")
    won, lost = float(marks[0].get("cx")), float(re.match(r"M([\d.]+)", marks[2].get("d"))[1])
    assert lost < float(even.get("x1")) < won
    # Twice as fast and half as fast lie equally far from the line.
    assert won - float(even.get("x1")) == pytest.approx(float(even.get("x1")) - lost, abs=0.2)
    assert "slower in 1 of 2 cases" in svg.findtext(f"{SPACE}desc")
    assert "In 1 of 2 cases a peer is more than 5% faster" in page
    assert "| `b i, o i -> b o` | b=4 i=8 o=6 | loop | 0.50 | 2.00 |" in page
    assert drawn in hooks.races.benchmarks(hooks.figure, folder)


def test_page_of_a_file_names_machine_mean_worst_and_limit(hooks: ModuleType, folder: Path) -> None:
    """Whatever the file holds."""
    page = page_of(hooks, folder)
    assert "# A, B, 1 thread\n\n" in page
    assert "\n\n## few: why\n\n" in page
    assert "| loop | 1.00 | 0.50 | lost | 2 |" in page
    assert "| won | 2.00 | 25% | 2.00 |" in page
    assert "reaches 25% in the median, from 25% to 25%" in page
    assert "| peak | 3.00 | 4.00 | 5.00 |" in page
    for words in ("A, B, C", "a clock", "torch 2.0", "70 G multiply-adds/s", "9 GB/s for 1 MiB"):
        assert words in page


def test_page_of_benchmarks_compares_machines_by_goal(
    hooks: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column for each run of a suite, where it was run, and the way to every case."""
    path = folder / "one.json"
    document = json.loads(path.read_text())
    document["machine"]["processor"] = "D"
    document["results"] = document["results"][:1]
    document["results"][0]["rows"][1]["numbers"]["loop"] = 1.5
    (folder / "two.json").write_text(json.dumps(document))
    goal = hooks.races.GOALS["heads"][0]
    monkeypatch.setitem(hooks.races.GOALS, "few", (replace(goal, columns=("loop",), bound=1.4),))
    page = hooks.races.benchmarks(hooks.figure, folder)
    assert page.count("## few: why") == 1
    assert "| goal | A, B, 1 thread | D, 1 thread |" in page
    assert "| 1.00 **missed** | 1.73 met |" in page
    assert page.count("<svg") == 1
    told = hooks.races.machines(folder)
    assert "| [A, B, 1 thread](benchmarks/one.md) | C | torch 2.0 | 4 |" in told
    assert "| [D, 1 thread, few](benchmarks/two.md) | C | torch 2.0 | 2 |" in told


def test_no_loss_is_said_too(hooks: ModuleType, folder: Path) -> None:
    """And a difference within the noise is none."""
    path = folder / "one.json"
    path.write_text(path.read_text().replace("0.5", "0.96"))
    page = page_of(hooks, folder)
    assert "No peer is more than 5% faster in any of 2 cases." in page


def test_page_is_made_from_what_the_command_writes(hooks: ModuleType, tmp_path: Path) -> None:
    """From the file of a short run of a suite of each kind, as it is."""
    kinds = ("heads", "training", "overhead", "memory")
    options = Options(kinds, rounds=1, span=1e-5, largest=3, search=False, progress=False)
    assert list(tell(options, tmp_path / "short.json"))
    page = page_of(hooks, tmp_path)
    written = json.loads((tmp_path / "short.json").read_text())
    for result in written["results"]:
        assert f"## {result['suite']}: {result['purpose']}" in page
        for one in result["rows"]:
            assert f"| {one['case']} |" in page
    assert hooks.races.heads(tmp_path).count("\n") > 13


def test_committed_benchmarks_were_written_by_the_command(hooks: ModuleType) -> None:
    """They tell the machine, the clock and the limits, and every ratio comes from a case."""
    files = sorted((ROOT / "docs/assets/benchmarks").glob("*.json"))
    assert files
    for path in files:
        document = json.loads(path.read_text())
        assert set(document) == {"machine", "limits", "results"}
        assert document["machine"]["versions"]["torch"]
        for result in document["results"]:
            assert result["clock"]
            assert str(result["threads"]) in document["limits"]
    pages = dict(hooks.races.pages(hooks.figure))
    assert list(pages) == [path.stem for path in files]
    for page in (hooks.made("benchmarks"), *pages.values()):
        # A browser lays out half a million characters in a moment, and millions in a minute.
        assert len(page) < 5e5
        for drawing in re.findall(r"<svg.*?</svg>", page):
            ET.fromstring(drawing)
    for name in pages:
        assert f"(benchmarks/{name}.md)" in hooks.made("machines")


def test_nothing_in_a_chart_leaves_its_frame(hooks: ModuleType) -> None:
    """Marks, letters and lines lie within, also where ratios are far from one."""
    wild = {"slow": [("a", 900.0), ("b", 3.0)], "fast": [("a", 0.05)], "even": [("a", 1.0)]}
    root = ET.fromstring(hooks.races.charts.strip("a race", wild))
    width, height = float(root.get("width")), float(root.get("height"))
    for text in root.iter(f"{SPACE}text"):
        anchor = {"end": 1.0, "middle": 0.5}.get(text.get("text-anchor", ""), 0.0)
        long = 7.3 * len(text.text or "")
        left = float(text.get("x")) - anchor * long
        assert left >= 0, text.text
        assert left + long <= width, text.text
        assert float(text.get("y")) < height
    for circle in root.iter(f"{SPACE}circle"):
        assert 100 < float(circle.get("cx")) < width - 100


def test_many_marks_stay_in_their_rows(hooks: ModuleType) -> None:
    """A hundred alike are pressed together; a few are spread so that none covers another."""
    heap = [(str(number), 1.5) for number in range(100)]
    root = ET.fromstring(hooks.races.charts.strip("a race", {"heap": heap, "one": [("a", 0.5)]}))
    circles = list(root.iter(f"{SPACE}circle"))
    (diamond,) = (one.get("d") for one in root.iter(f"{SPACE}path"))
    lowest = max(float(one.get("cy")) + float(one.get("r")) for one in circles)
    assert len(circles) == 100
    assert lowest < float(diamond.split()[1].partition("l")[0])
    assert len({one.get("cy") for one in circles}) > 90
    rises = hooks.races.charts.swarm([0.0] * 7, 6.0)
    assert sorted(rises) == [-18.0, -12.0, -6.0, 0.0, 6.0, 12.0, 18.0]


@pytest.mark.parametrize("name", ["cards", "charts"])
def test_examples_of_the_makers_run(hooks: ModuleType, name: str) -> None:
    """They are no part of the package, whose examples are collected."""
    result = doctest.testmod(sys.modules[name])
    assert result.attempted > 0
    assert result.failed == 0
