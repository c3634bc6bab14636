"""Drawings and pages: well-formed, complete, within their frame, and without overlaps."""

import re
from html.parser import HTMLParser
from itertools import combinations, pairwise
from xml.etree import ElementTree as ET

import pytest

import einheads as eh
from cases import BY_NAME, CASES, Case
from einheads.explain import explain_declared

SPACE = "{http://www.w3.org/2000/svg}"
Box = tuple[float, float, float, float]


def drawing(story: eh.Explanation) -> ET.Element:
    """Parse the drawing of a story."""
    return ET.fromstring(story.svg())


def words(root: ET.Element) -> list[str]:
    """Every text of a drawing."""
    return [element.text or "" for element in root.iter(f"{SPACE}text")]


def cells(root: ET.Element) -> list[Box]:
    """The colored cells: left, top, right, bottom."""
    boxes = []
    for element in root.iter(f"{SPACE}rect"):
        if element.get("fill"):
            x, y, width, height = (float(element.attrib[k]) for k in ("x", "y", "width", "height"))
            boxes.append((x, y, x + width, y + height))
    return boxes


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes share more than an edge."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def text_box(element: ET.Element) -> Box:
    """About where a text lies: fixed-width letters are 0.6 of their height wide."""
    x, y, size = (float(element.attrib[k]) for k in ("x", "y", "font-size"))
    width = 0.6 * size * len(element.text or "")
    left = x - {"start": 0.0, "middle": width / 2}[element.attrib["text-anchor"]]
    return left, y - 0.7 * size, left + width, y


STORIES = {
    "forum": eh.explain("b w h i, h o i -> b w h o", b=4, w=10, h=8, i=64, o=64),
    "bias": explain_declared(
        "... i, h o i -> ... h o",
        [(4, 10, 64), (8, 32, 64)],
        {},
        names=["x", "weight", "bias"],
        bias="h o",
    ),
    "tree": eh.explain("... (i1 i2), p i1 q, q i2 s, s o1 t, t o2 p -> ... (o1 o2)"),
    "one operand": eh.explain("a a b -> b n", n=3),
    "long names": eh.explain("batch heads_of_attention i, heads_of_attention i -> i"),
    "scalars": eh.explain(", ->"),
    "millions": eh.explain("b i, o i -> b o", b=10**6, i=10**7, o=10**5),
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES.keys())
def test_nothing_overlaps_or_leaves_the_frame(story: eh.Explanation) -> None:
    """Cells lie apart, texts lie apart, and all of it lies inside."""
    root = drawing(story)
    frame = tuple(map(float, root.attrib["viewBox"].split()))
    boxes = cells(root)
    texts = [text_box(element) for element in root.iter(f"{SPACE}text")]
    for found in (boxes, texts):
        assert not [pair for pair in combinations(found, 2) if overlap(*pair)]
    for left, top, right, bottom in (*boxes, *texts):
        assert frame[0] <= left
        assert frame[1] <= top
        assert right <= frame[2]
        assert bottom <= frame[3]


def test_overlaps_would_be_found() -> None:
    """The test above can fail."""
    assert overlap((0, 0, 2, 2), (1, 1, 3, 3))
    assert not overlap((0, 0, 2, 2), (2, 0, 4, 2))


@pytest.mark.parametrize("example", CASES, ids=lambda example: example.name)
def test_drawing_is_complete(example: Case) -> None:
    """Well-formed, with a cell for each axis of each operand and a line for each summed axis."""
    story = eh.explain(example.pattern, *example.shapes, **example.sizes)
    root = drawing(story)
    values = (*story.inputs, story.result)
    large = [element for element in root.iter(f"{SPACE}text") if element.get("font-size") == "14"]
    shown = [element for element in large if element.get("class") == "eh-cell"]
    assert len(shown) == sum(len({axis for dim in value.dims for axis in dim}) for value in values)
    result = {axis for dim in story.result.dims for axis in dim}
    branches = 2 * len(story.contractions) if len(story.contractions) > 1 else 0
    lines = list(root.iter(f"{SPACE}polyline"))
    assert len(lines) == len(set(story.sizes) - result) + branches
    assert words(root).count("\u03a3") == len(set(story.sizes) - result)


def test_each_axis_has_one_color() -> None:
    """The same in every row, and another for another axis."""
    story = STORIES["forum"]
    root = drawing(story)
    colors: dict[str, set[str]] = {}
    pieces = list(root)
    for rect, label in pairwise(pieces):
        if rect.tag == f"{SPACE}rect" and rect.get("fill"):
            colors.setdefault(label.text or "", set()).add(rect.attrib["fill"])
    assert set(colors) == set(story.sizes)
    assert all(len(found) == 1 for found in colors.values())
    assert len(set.union(*colors.values())) == len(colors)


def test_axes_are_aligned() -> None:
    """An axis has the same place in every row, so that a gap is what broadcasts."""
    root = drawing(STORIES["forum"])
    places: dict[str, set[str]] = {}
    for element in root.iter(f"{SPACE}text"):
        if element.get("class") == "eh-cell" and element.get("font-size") == "14":
            places.setdefault(element.text or "", set()).add(element.attrib["x"])
    assert {axis: len(found) for axis, found in places.items()} == dict.fromkeys("bwhoi", 1)
    holes = [element for element in root.iter(f"{SPACE}rect") if element.get("class") == "eh-hole"]
    assert len(holes) == 3  # x1 lacks o, x2 lacks b and w


def test_folds_and_loops_are_told() -> None:
    """The words under the boxes of a matrix product."""
    shown = words(drawing(STORIES["forum"]))
    for caption in ("looped 8", "folded rows 40", "sum 64", "columns 64", "y = bmm(x1, x2)"):
        assert caption in shown


def test_drawing_can_be_read_aloud() -> None:
    """A title and a description stand in front, and nothing comes from elsewhere."""
    text = STORIES["bias"].svg()
    root = ET.fromstring(text)
    assert [child.tag for child in root][:2] == [f"{SPACE}title", f"{SPACE}desc"]
    assert root[0].text == "... i, h o i -> ... h o"
    assert "weight has h (8), o (32), i (64)" in (root[1].text or "")
    assert "Summed: i." in (root[1].text or "")
    assert root.get("role") == "img"
    assert re.findall(r"https?://[^\"]*|url\(|@import", text) == ["http://www.w3.org/2000/svg"]
    assert "prefers-color-scheme:dark" in text


def test_large_drawings_shorten_their_words() -> None:
    """Sixty operands are drawn; a long pattern does not make the drawing wider."""
    story = eh.explain(BY_NAME["chain of 60"].pattern, *BY_NAME["chain of 60"].shapes)
    shown = words(drawing(story))
    assert all(len(text) <= 120 for text in shown if text != "")
    assert shown[0].endswith("\u2026")


class Page(HTMLParser):
    """The tags and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.data: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Open a tag."""
        self.open.append(tag)
        self.seen.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """See a tag that closes itself."""
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the last tag, which has to be this one."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """See a text."""
        self.data.append(data)


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES.keys())
def test_page_is_whole(story: eh.Explanation) -> None:
    """Every tag is closed, the drawing is in it, and so is all the code."""
    page = Page(story._repr_html_())
    assert page.open == []
    assert page.seen.count("svg") == 1
    assert story.source in page.data
    written = [one.text for one in story.spellings if one.text is not None]
    assert page.seen.count("details") == 1 + len(written)
    assert all(text in page.data for text in written)
    assert not {"script", "link", "img"}.intersection(page.seen)
