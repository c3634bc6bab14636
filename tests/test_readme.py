"""The README and the pages with code do what they say.

Every Python block is executed, in order, one namespace a page.
A `text` block right after a Python block is what that block prints.
To paste anew what the blocks print: `python tests/test_readme.py`.
"""

import contextlib
import io
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/how-it-works.md"]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A block of Python on a page, and the output that the page shows for it."""

    line: int
    code: str
    shown: str | None
    span: tuple[int, int]  # of the shown output in the text of the page


def examples(text: str) -> Iterator[Example]:
    """Find the Python blocks of a page."""
    blocks = list(FENCE.finditer(text))
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        if block[1] != "python":
            continue
        line = text[: block.start(2)].count("\n") + 1
        if after and after[1] == "text" and not text[block.end() : after.start()].strip():
            yield Example(line, block[2], after[2], after.span(2))
        else:
            yield Example(line, block[2], None, (block.end(), block.end()))


def execute(example: Example, page: str, namespace: dict[str, object]) -> str:
    """Run one block and return what it prints."""
    # The blank lines make a traceback tell the line of the page.
    code = compile("\n" * (example.line - 1) + example.code, str(ROOT / page), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, namespace)
    return printed.getvalue()


def check(text: str, page: str) -> int:
    """Run a page, compare what it prints with what it shows, and count the comparisons."""
    namespace: dict[str, object] = {"__name__": "page"}
    compared = 0
    for example in examples(text):
        printed = execute(example, page, namespace)
        if example.shown is not None:
            assert example.shown == printed, f"{page}, line {example.line}"
            compared += 1
    return compared


def bash_blocks() -> list[str]:
    """Find the commands of the README."""
    return [
        block[2] for block in FENCE.finditer((ROOT / "README.md").read_text()) if block[1] == "bash"
    ]


@pytest.mark.parametrize("page", PAGES)
def test_page_prints_what_it_shows(page: str) -> None:
    """Each page runs from top to bottom and shows at least one true output."""
    assert check((ROOT / page).read_text(), page) > 0


def test_wrong_output_is_noticed() -> None:
    """The check above can fail."""
    with pytest.raises(AssertionError, match="line 2"):
        check("```python\nprint(1)\n```\n\n```text\n2\n```\n", "page.md")


def test_readme_is_short() -> None:
    """There is code by line 10, and an end by line 120."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert lines.index("```python") < 10
    assert len(lines) <= 120


def test_readme_links_to_files_that_exist() -> None:
    """A relative link has a target."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_ci_runs_the_two_commands() -> None:
    """`.ci/run` reads its commands from the README: the demo first, then the tests."""
    script = (ROOT / ".ci/run").read_text()
    reader = re.search(r"^readme_command\(\) \{$.*?^\}$", script, re.MULTILINE | re.DOTALL)
    assert reader is not None
    read = [
        subprocess.run(
            ["bash", "-c", f"{reader[0]}\nreadme_command {number}"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for number in (1, 2, 3)
    ]
    assert [*bash_blocks(), ""] == read
    assert re.findall(r"^run_readme (\d)", script, re.MULTILINE) == ["1", "2"]


def test_commands_do_everything() -> None:
    """Each command is one line that makes an environment, installs the tested set and runs."""
    demo, tests = bash_blocks()
    for command in (demo, tests):
        assert command.count("\n") == 1
        assert command.startswith(
            "python3 -m venv .venv && .venv/bin/pip install -c tests/constraints.txt"
        )
    assert demo.endswith(".venv/bin/python -m einheads demo\n")
    assert ".venv/bin/python -m pytest" in tests


def refresh(page: str) -> None:
    """Write what the blocks print into the page, in place of what it shows."""
    text = (ROOT / page).read_text()
    namespace: dict[str, object] = {"__name__": "page"}
    fresh, end = "", 0
    for example in examples(text):
        printed = execute(example, page, namespace)
        start, stop = example.span
        fresh += text[end:start] + (printed if example.shown is not None else "")
        end = stop
    (ROOT / page).write_text(fresh + text[end:])


if __name__ == "__main__":
    for page in PAGES:
        refresh(page)
