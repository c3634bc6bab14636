"""The pages of the site run and show what they print, and their pictures can be drawn.

What is made while the site is built is tested in `test_made.py`, the built site in `test_site.py`.

To paste anew what the blocks print: `python tests/test_readme.py`.
"""

import re
import xml.etree.ElementTree as ET
from types import ModuleType

import pytest
import torch

import einheads
from pages import ROOT, blocks, check, examples, execute, hooks_of_the_site
from test_architecture import ORDER

PAGES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))
WITH_CODE = [page for page in PAGES if list(examples((ROOT / page).read_text()))]
PICTURES = [
    (page, kind, code)
    for page in PAGES
    for kind in ("picture", "card")
    for code in blocks((ROOT / page).read_text(), kind)
]
SHEETS = ("docs/cheat-sheet.md", "docs/moving.md")
NEEDED = [
    (page, example.line, example.needs)
    for page in PAGES
    for example in examples((ROOT / page).read_text())
    if example.needs
]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """The file that mkdocs loads while it builds the site."""
    return hooks_of_the_site()


@pytest.mark.parametrize("page", WITH_CODE)
def test_page_prints_what_it_shows(page: str) -> None:
    """Each page runs from top to bottom, and every output on it is what is printed."""
    check((ROOT / page).read_text(), page)


@pytest.mark.parametrize(("page", "kind", "code"), PICTURES)
def test_picture_is_drawn(hooks: ModuleType, page: str, kind: str, code: str) -> None:
    """Each picture is one line of well-formed SVG with words for those who cannot see it."""
    drawing = getattr(hooks, kind)(code)
    assert "\n" not in drawing, page
    svg = ET.fromstring(re.search(r"<svg.*</svg>", drawing)[0])
    space = "{http://www.w3.org/2000/svg}"
    assert svg.get("role") == "img"
    assert svg.findtext(f"{space}title")
    assert svg.findtext(f"{space}desc")
    assert float(svg.get("width")) > 0
    assert float(svg.get("height")) > 0


def test_pictures_follow_the_switch_of_the_site(hooks: ModuleType) -> None:
    """Light and dark are chosen on the page; a drawing without dark colors is refused."""
    drawing = hooks.picture('eh.explain("b i, o i -> b o")')
    assert '[data-md-color-scheme="slate"]' in drawing
    assert "prefers-color-scheme" not in drawing
    with pytest.raises(ValueError, match="no colors for the dark"):
        hooks.figure("<svg></svg>")


@pytest.mark.parametrize(("page", "line", "package"), NEEDED)
def test_other_library_is_there(page: str, line: int, package: str) -> None:
    """Where a package is missing, the block that needs it is told to be left out, not forgotten."""
    pytest.importorskip(package, reason=f"{page}, line {line}, is left out", exc_type=ImportError)
    assert next(one for one in examples((ROOT / page).read_text()) if one.line == line).possible


def test_blocks_that_need_a_missing_package_are_left_out() -> None:
    """They alone: what follows runs, and is compared."""
    page = "<!-- needs: {} -->\n```python\nprint(1)\n```\n\n```text\n2\n```\n"
    assert check(page.format("no_such_package"), "page.md") == 0
    with pytest.raises(AssertionError, match="line 3"):
        check(page.format("torch"), "page.md")


@pytest.mark.parametrize("page", SHEETS)
def test_both_columns_agree(page: str) -> None:
    """Every row with code on both sides has the same values on both sides."""
    text = (ROOT / page).read_text()
    namespace: dict[str, object] = {"__name__": "page"}
    for example in examples(text):
        if example.possible:
            execute(example, page, namespace)
        # The rows stand behind the blocks that they need, and names are used again further down.
        rows = re.findall(r"\A\n*(?:^.*\n)*?(?=```|\Z)", text[example.span[1] :], re.MULTILINE)[0]
        for theirs, ours in re.findall(r"^\| `(.+)` \| `(.+)` \|$", rows, re.MULTILINE):
            if theirs.startswith("einx") and "einx" not in namespace:
                continue
            torch.testing.assert_close(eval(ours, namespace), eval(theirs, namespace), msg=ours)
            namespace["compared"] = namespace.get("compared", 0) + 1
    assert namespace["compared"] > 7


def test_commands_are_those_of_the_readme() -> None:
    """The start page shows the same two commands."""
    readme, start = (
        blocks((ROOT / page).read_text(), "bash") for page in ("README.md", "docs/index.md")
    )
    assert start == readme


def test_reference_is_complete() -> None:
    """Each public name stands once in the curated reference."""
    text = "\n".join(path.read_text() for path in sorted(ROOT.glob("docs/reference/*.md")))
    listed = re.findall(r"^::: einheads\.(\w+)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(set(einheads.__all__) - {"__version__"})


def test_stages_stand_in_the_order_of_imports() -> None:
    """The table of stages names files in the order that `test_architecture.py` enforces."""
    page = (ROOT / "docs/how-it-works.md").read_text()
    rows = re.findall(r"^\| (`.+?`) \|", page, re.MULTILINE)
    files = re.findall(r"`(\w+)`", " ".join(rows))
    assert len(files) > 20
    assert files == sorted(files, key=ORDER.index)
    torch_free, last = ORDER.index("explain"), files.index("placing")
    assert all((ORDER.index(name) < torch_free) == (files.index(name) <= last) for name in files)


def test_navigation_names_pages_that_exist() -> None:
    """Every page is in the navigation, and every entry of it is a page."""
    named = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(f"docs/{name}" for name in named) == PAGES


def test_nothing_is_fetched_from_elsewhere() -> None:
    """No page, style or setting asks for a script, a font or a picture of another site."""
    for path in [*ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.css"), ROOT / "mkdocs.yml"]:
        text = path.read_text()
        assert not re.search(r"!\[[^\]]*\]\(https?:|src=|@import|url\(", text), path
        assert "extra_javascript" not in text
