"""The built site, in a browser: it works, it is complete, and it needs nothing from elsewhere.

Left out only where there is no Chromium; `.ci/run` installs one.
"""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest

from browser import Chromium
from pages import ROOT

PHONE, WIDE = 390, 1400

# What is wider than the page without a place of its own to scroll in, and what has no size.
OVERFLOW = """(() => {
    const root = document.documentElement;
    return Math.max(root.scrollWidth, document.body.scrollWidth) - window.innerWidth;
})()"""
PICTURES = """[...document.querySelectorAll("article svg[role=img]")].map((one) => {
    const box = one.getBoundingClientRect();
    return [Math.round(box.width), Math.round(box.height)];
})"""
UNFOLD = "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
LINKS = "[...document.querySelectorAll('a[href]')].map((one) => one.getAttribute('href'))"
NAMES = "[...document.querySelectorAll('[id]')].map((one) => one.id)"


class Quiet(SimpleHTTPRequestHandler):
    """Serve files, and say nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser, where there is one."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        # A browser is no Python package; `.ci/run` installs one, or says that it could not.
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


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def pages(site: Path) -> list[str]:
    """The address of every page, within the site."""
    found = [f"{path.parent.relative_to(site)}/" for path in sorted(site.rglob("index.html"))]
    return [page.removeprefix("./") for page in found]


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Chromium]:
    """One browser for all tests."""
    with Chromium(chromium) as one:
        yield one


@pytest.mark.parametrize("width", [PHONE, WIDE])
def test_every_page_is_whole(browser: Chromium, address: str, pages: list[str], width: int) -> None:
    """Nothing is complained of, nothing is too wide, no picture is empty, all comes from here."""
    assert len(pages) > 20
    browser.complaints.clear()
    browser.asked.clear()
    browser.resize(width)
    drawn = 0
    for page in pages:
        browser.open(address + page)
        browser.run(UNFOLD)
        assert browser.run(OVERFLOW) <= 0, page
        sizes = browser.run(PICTURES)
        assert all(min(size) > 100 for size in sizes), page
        drawn += len(sizes)
        assert browser.complaints == [], page
    assert drawn > 80
    assert [one for one in browser.asked if not one.startswith((address, "data:"))] == []


def test_what_would_be_wrong_is_noticed(browser: Chromium, address: str) -> None:
    """Every check above can fail."""
    browser.resize(PHONE)
    browser.open(address)
    for spoil in (
        "console.error('spoiled')",
        "setTimeout(() => { throw new Error('spoiled') })",
        "fetch('no-such-file')",
    ):
        browser.complaints.clear()
        browser.run(f"{spoil}; new Promise((done) => setTimeout(done, 200))")
        assert browser.complaints, spoil
    browser.run("document.querySelector('article').style.width = '600px'")
    assert browser.run(OVERFLOW) > 0
    browser.run("document.querySelector('article svg[role=img]').style.display = 'none'")
    assert [0, 0] in browser.run(PICTURES)
    browser.asked.clear()
    browser.run("fetch('https://example.org/').catch(() => 0)")
    assert "https://example.org/" in browser.asked
    # It was asked for, and there was no network to answer.
    assert any("NAME_NOT_RESOLVED" in one for one in browser.complaints)
    browser.complaints.clear()


def test_every_link_has_a_target(browser: Chromium, address: str, pages: list[str]) -> None:
    """Also those that no Markdown wrote, and to the very place on the page."""
    names: dict[str, set[str]] = {}
    links: dict[str, set[str]] = {}
    for page in pages:
        browser.open(address + page)
        names[address + page] = set(browser.run(NAMES))
        links[address + page] = set(browser.run(LINKS))
    followed = 0
    for page, hrefs in links.items():
        for href in hrefs:
            target, place = urldefrag(urljoin(page, href))
            if not target.startswith(address):
                assert target.startswith("https://"), (page, href)
            elif place and place != "__skip":
                assert unquote(place) in names[target], (page, href)
                followed += 1
            elif target.endswith(".json"):
                assert browser.run(f"fetch('{target}').then((one) => one.ok)"), (page, href)
            else:
                assert target in names, (page, href)
    assert followed > 200


def test_search_finds_unsqueeze(browser: Chromium, address: str) -> None:
    """Typed letter by letter into the field, and the first tutorial is among what is found."""
    browser.resize(WIDE)
    browser.open(address)
    browser.click("input.md-search__input")
    browser.send("Input.insertText", text="unsqueeze")
    found = browser.wait(
        "[...document.querySelectorAll('.md-search-result__link')].map((one) => one.href)"
    )
    assert any("1-from-a-loop-to-one-bmm" in link for link in found)
    assert browser.run("document.querySelector('.md-search-result__meta').innerText[0]") != "0"
    assert browser.run("document.querySelectorAll('.md-search-result mark').length") > 0

    browser.open(address)
    browser.click("input.md-search__input")
    browser.send("Input.insertText", text="nosuchwordanywhere")
    browser.wait("document.querySelector('.md-search-result__meta').innerText.startsWith('No ')")


def test_code_is_copied(browser: Chromium, address: str) -> None:
    """The button beside the first block puts its code, and nothing else, on the clipboard."""
    browser.resize(WIDE)
    browser.open(address)
    origin = address.rstrip("/")
    permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    browser.send("Browser.grantPermissions", origin=origin, permissions=permissions)
    browser.run("navigator.clipboard.writeText('before')")
    browser.click("article button.md-clipboard, article .md-code__button[data-md-type=copy]")
    copied = browser.wait(
        "navigator.clipboard.readText().then((text) => text === 'before' ? '' : text)"
    )
    assert copied.startswith("import torch\nimport einheads as eh\n")
    assert copied.rstrip().endswith("print(heads(x).shape)")


def test_pictures_follow_the_switch(browser: Chromium, address: str) -> None:
    """Ground and letters of a drawing are for a light page on a light one, and for a dark one."""
    looked = {}
    for dark in (False, True):
        browser.resize(WIDE, dark=dark)
        for page in ("", "benchmarks/"):
            browser.open(address + page)
            scheme = "slate" if dark else "default"
            browser.run(f"document.body.setAttribute('data-md-color-scheme', '{scheme}')")
            looked[dark, page] = browser.run(
                "['rect', 'text'].map((one) => getComputedStyle("
                "document.querySelector('article svg[role=img] ' + one)).fill)"
            )
    for page in ("", "benchmarks/"):
        assert looked[False, page] == ["rgb(255, 255, 255)", "rgb(27, 31, 39)"]
        assert looked[True, page] == ["rgb(22, 25, 32)", "rgb(233, 236, 242)"]
