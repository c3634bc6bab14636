"""The README does what it says; `pages` knows how its blocks are run.

To paste anew what the blocks of all pages print: `python tests/test_readme.py`.
"""

import re
import subprocess

import pytest

import collection
from pages import ROOT, blocks, check, refresh


def bash_blocks() -> list[str]:
    """Find the commands of the README."""
    return blocks((ROOT / "README.md").read_text(), "bash")


def test_readme_prints_what_it_shows() -> None:
    """It runs from top to bottom and shows at least one true output."""
    assert check((ROOT / "README.md").read_text(), "README.md") > 0


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


if __name__ == "__main__":
    collection.refresh()
    for page in ["README.md", *(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))]:
        refresh(page)
