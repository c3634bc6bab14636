"""Pages with code: what their blocks are, and what they do.

Every Python block is executed, in order, one namespace a page. A `text` block right after it is
what it prints. A `console` block is a command of the library after `$`, and what that prints.
Blocks may be indented, as they are in a note that can be unfolded. A block behind a line
`<!-- needs: PACKAGE -->` is left out where that package is not installed.
"""

import contextlib
import importlib.util
import io
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from einheads.__main__ import main

ROOT = Path(__file__).parent.parent
NEEDS = re.compile(r"<!-- needs: (\w+) -->\s*\Z")
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A block of Python, or a command, on a page, and the output that the page shows for it."""

    line: int
    code: str
    shown: str | None
    span: tuple[int, int]  # of the shown output in the text of the page
    indent: str = ""
    command: bool = False
    needs: str | None = None  # a package

    @property
    def possible(self) -> bool:
        """Whether it can run here."""
        return self.needs is None or find_spec(self.needs) is not None


def outdented(block: re.Match[str]) -> str:
    """The lines of a block as they are written, without what the block itself is indented by."""
    return re.sub(f"^{block[1]}", "", block[3], flags=re.MULTILINE)


def blocks(text: str, language: str) -> list[str]:
    """Find the blocks of a page that are written in a language."""
    return [outdented(one) for one in FENCE.finditer(text) if one[2] == language]


def examples(text: str) -> Iterator[Example]:
    """Find the blocks of a page that can be run."""
    found = list(FENCE.finditer(text))
    for block, after in zip(found, [*found, None][1:], strict=True):
        line = text[: block.start(3)].count("\n") + 1
        code = outdented(block)
        if block[2] == "console":
            command, _, shown = code.partition("\n")
            span = block.start(3) + len(block[1] + command) + 1, block.end(3)
            yield Example(line, command.removeprefix("$ "), shown, span, block[1], command=True)
        elif block[2] == "python":
            marked = NEEDS.search(text, 0, block.start())
            needs = marked[1] if marked else None
            shown, span = None, (block.end(), block.end())
            if after and after[2] == "text" and not text[block.end() : after.start()].strip():
                shown, span = outdented(after), after.span(3)
            yield Example(line, code, shown, span, block[1], needs=needs)


def execute(example: Example, page: str, namespace: dict[str, object]) -> str:
    """Run one block and return what it prints, without blank lines at the end."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if example.command:
            with contextlib.redirect_stderr(printed):
                main(shlex.split(example.code.removeprefix("python -m einheads")))
        else:
            # The blank lines make a traceback tell the line of the page.
            code = compile("\n" * (example.line - 1) + example.code, str(ROOT / page), "exec")
            exec(code, namespace)
    # An editor would take spaces at the end of a line away.
    lines = [line.rstrip() for line in printed.getvalue().rstrip("\n").splitlines()]
    return "\n".join(lines) + "\n"


def check(text: str, page: str) -> int:
    """Run a page, compare what it prints with what it shows, and count the comparisons.

    A block that shows nothing has to print nothing.
    """
    namespace: dict[str, object] = {"__name__": "page"}
    compared = 0
    for example in filter(lambda one: one.possible, examples(text)):
        printed = execute(example, page, namespace)
        assert (example.shown or "\n") == printed, f"{page}, line {example.line}"
        compared += example.shown is not None
    return compared


def refresh(page: str) -> None:
    """Write what the blocks print into the page, in place of what it shows."""
    text = (ROOT / page).read_text()
    namespace: dict[str, object] = {"__name__": "page"}
    fresh, end = "", 0
    for example in filter(lambda one: one.possible, examples(text)):
        printed = execute(example, page, namespace)
        start, stop = example.span
        shown = "" if example.shown is None else textwrap.indent(printed, example.indent)
        fresh += text[end:start] + shown
        end = stop
    (ROOT / page).write_text(fresh + text[end:])


def hooks_of_the_site() -> ModuleType:
    """The file that mkdocs loads while it builds the site, loaded as mkdocs does."""
    path = ROOT / "docs/hooks.py"
    spec = importlib.util.spec_from_file_location("hooks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.path.copy()
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
    return module
