"""The pages of the site run and show what they print, and their pictures can be drawn.

To paste anew what the blocks print: `python tests/test_readme.py`.
"""

import importlib.util
import json
import queue
import re
import shutil
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
import torch

import einheads
from pages import ROOT, blocks, check, examples, execute

PAGES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))
WITH_CODE = [page for page in PAGES if list(examples((ROOT / page).read_text()))]
PICTURES = [
    (page, kind, code)
    for page in PAGES
    for kind in ("picture", "card")
    for code in blocks((ROOT / page).read_text(), kind)
]
SHEET = "docs/cheat-sheet.md"


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """The file that mkdocs loads while it builds the site."""
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_both_columns_of_the_cheat_sheet_agree() -> None:
    """Every row with code on both sides has the same values on both sides."""
    text = (ROOT / SHEET).read_text()
    namespace: dict[str, object] = {}
    for example in examples(text):
        execute(example, SHEET, namespace)
    rows = re.findall(r"^\| `(.+)` \| `(.+)` \|$", text, re.MULTILINE)
    assert len(rows) > 30
    for theirs, ours in rows:
        torch.testing.assert_close(eval(ours, namespace), eval(theirs, namespace), msg=ours)


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


# A page that opens every page of the site, narrow and wide, and tells what it finds.
BROWSER = """<!doctype html><body><script>
const pages = PAGES, found = [];
function visit(page, width) {
  return new Promise((done) => {
    const frame = document.createElement("iframe");
    frame.style = `width: ${width}px; height: 900px; border: 0`;
    frame.onload = () => {
      const inside = frame.contentDocument, root = inside.documentElement;
      const flat = [...inside.querySelectorAll(".picture svg")].filter((one) => {
        const closed = one.closest("details:not([open])");
        return !closed && !(one.getBoundingClientRect().width > 0);
      });
      const loaded = frame.contentWindow.performance.getEntriesByType("resource");
      const away = loaded.map((one) => one.name).filter((one) => !one.startsWith(location.origin));
      found.push({page, width, over: root.scrollWidth - width, flat: flat.length, away});
      frame.remove();
      done();
    };
    frame.src = page;
    document.body.append(frame);
  });
}
(async () => {
  for (const page of pages) await Promise.all([visit(page, 400), visit(page, 1400)]);
  await fetch("/", {method: "POST", body: JSON.stringify(found)});
})();
</script>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser, where there is one."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("there is no Chromium")
    return found


@pytest.fixture(scope="module")
def site(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; building it warns of nothing, since it is strict."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


class Listening(SimpleHTTPRequestHandler):
    """Serve files, say nothing, and keep what the page sends back."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Take what was found."""
        length = int(self.headers["Content-Length"])
        self.server.found.put(json.loads(self.rfile.read(length)))
        self.send_response(204)
        self.end_headers()


def test_site_in_a_browser(chromium: str, site: Path, tmp_path: Path) -> None:
    """On a phone and on a wide screen no page is too wide, and nothing comes from elsewhere."""
    pages = [str(path.relative_to(site)) for path in sorted(site.rglob("index.html"))]
    (site / "browser.html").write_text(BROWSER.replace("PAGES", json.dumps(pages)))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Listening, directory=str(site))) as server:
        server.found = queue.Queue()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/browser.html"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        # Headless Chromium stays until it is ended if it can be debugged.
        options += [f"--user-data-dir={tmp_path}", "--remote-debugging-port=0"]
        with subprocess.Popen([chromium, *options, address], stderr=subprocess.DEVNULL) as browser:
            try:
                found = server.found.get(timeout=100)
            finally:
                browser.terminate()
                server.shutdown()
    assert len(found) == 2 * len(pages)
    assert [one for one in found if one["over"] > 0 or one["flat"] or one["away"]] == []
