"""The command line: what it prints, where, with which status, and how fast."""

import errno
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

import einheads as eh
from einheads import __main__ as command_line
from einheads.__main__ import main

PATTERN = "b w h i, h o i -> b w h o"
SIZES = {"b": 4, "w": 10, "h": 8, "i": 64, "o": 32}
WORDS = [f"{axis}={size}" for axis, size in SIZES.items()]


def run(*words: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run the command line as a program of its own."""
    command = [sys.executable, "-m", "einheads", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


# What is printed


def test_explain_prints_the_story(capsys: pytest.CaptureFixture[str]) -> None:
    """As `print(einheads.explain(...))` does, without colors where there is no terminal."""
    assert main(["explain", PATTERN, *WORDS]) == 0
    assert capsys.readouterr() == (f"{eh.explain(PATTERN, **SIZES)}\n", "")


def test_explain_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The same as `to_dict`."""
    assert main(["explain", PATTERN, *WORDS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == eh.explain(PATTERN, **SIZES).to_dict()


def test_explain_draws_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The story is printed as well."""
    path = tmp_path / "drawing.svg"
    assert main(["explain", PATTERN, *WORDS, "--svg", str(path)]) == 0
    assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert capsys.readouterr().out.startswith(PATTERN)


def test_a_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Is told in one line."""
    path = tmp_path / "nowhere" / "drawing.svg"
    assert main(["explain", "a -> a", "--svg", str(path)]) == 1
    assert capsys.readouterr().err == f"cannot write '{path}': No such file or directory\n"


def test_source_prints_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing else, so that it can go into a file."""
    assert main(["source", PATTERN, *WORDS]) == 0
    assert capsys.readouterr() == (eh.source(PATTERN, **SIZES), "")


def test_patterns_may_begin_with_an_arrow(capsys: pytest.CaptureFixture[str]) -> None:
    """A scalar has no axes in front of it."""
    assert main(["source", "-> n", "n=3"]) == 0
    assert "def contract(x, n=3):" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The one of the package."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"einheads {eh.__version__}\n"


# Mistakes


@pytest.mark.parametrize("command", ["explain", "source"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["b i o i - b o"],
            (
                "'-' has no meaning in a pattern\n"
                "    b i o i - b o\n"
                "            ^\n"
                "    write: '->' before the output\n"
            ),
        ),
        (["b i -> b", "b"], "'b' is no AXIS=SIZE\n    write: an axis and its size, such as b=4\n"),
        (["b i -> b", "b =4"], None),
        (
            ["b i -> b", "2=4"],
            "'2=4' is no AXIS=SIZE\n    write: an axis and its size, such as b=4\n",
        ),
        (
            ["b i -> b", "b=four"],
            "the size of axis 'b' is an integer, not 'four'\n    write: b=4\n",
        ),
        (
            ["b i -> b", "b=4", "b=5"],
            "axis 'b' is given two sizes: 4 and 5\n    write: one of them\n",
        ),
        (["b i -> b", "b=4", "b=4"], None),
    ],
)
def test_mistakes_are_told_without_a_traceback(
    command: str, words: list[str], message: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the error stream, with status 2; what is harmless passes."""
    status = main([command, *words])
    printed = capsys.readouterr()
    if message is None:
        assert (status, printed.err) == (0, "")
    else:
        assert (status, printed.out, printed.err) == (2, "", message)


@pytest.mark.parametrize("words", [[], ["explain"], ["fly", "a -> a"], ["demo", "--steps", "0"]])
def test_wrong_commands_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With a line on how to use it, and status 2."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: einheads")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["explain"], "the following arguments are required: PATTERN"),
        (["demo", "--steps", "0"], "argument --steps: a positive number is wanted, not 0"),
        (["demo", "--steps", "few"], "argument --steps: a positive number is wanted, not few"),
        (["bench", "--threads", "1025"], "argument --threads: at most 1024 are wanted, not 1025"),
        (
            ["bench", "--threads", "1", "b -> b"],
            (
                "argument --threads: a positive number is wanted, not b -> b; "
                "the pattern stands before all options"
            ),
        ),
        (["bench", "--rounds=-1"], "argument --rounds: a positive number is wanted, not -1"),
        (
            ["demo", "--seed", str(2**64)],
            f"argument --seed: a number of at most 64 bits is wanted, not {2**64}",
        ),
        (
            ["demo", f"--seed={-(2**63) - 1}"],
            f"argument --seed: a number of at most 64 bits is wanted, not {-(2**63) - 1}",
        ),
        (["demo", "--seed", "x"], "argument --seed: a number of at most 64 bits is wanted, not x"),
    ],
)
def test_wrong_arguments_are_told(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the words of the user, not of Python."""
    with pytest.raises(SystemExit):
        main(words)
    assert capsys.readouterr().err.endswith(f"einheads {words[0]}: error: {message}\n")


def test_axes_are_normalized_like_keywords(capsys: pytest.CaptureFixture[str]) -> None:
    """An axis that is written with other characters of the same meaning is the same axis."""
    assert main(["source", "(\ufb01 b) -> \ufb01 b", "\ufb01=3"]) == 0
    assert "def contract(x, fi=3):" in capsys.readouterr().out


def test_a_wrong_pattern_ends_the_program_with_2() -> None:
    """The status reaches the shell."""
    done = run("source", "b i -> b (")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("'(' without ')'\n    b i -> b (\n             ^\n")


# Terminals, pipes and interrupts


class Terminal:
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def test_colors_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not where `NO_COLOR` is set, the terminal is dumb, or there is no terminal."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal: Any = Terminal()
    assert command_line._colors(terminal)
    with (Path(os.devnull)).open() as stream:
        assert not command_line._colors(stream)
    monkeypatch.setenv("TERM", "dumb")
    assert not command_line._colors(terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not command_line._colors(terminal)


def test_colors_change_no_character(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Headings are bold, comments dim, and the text is the same."""
    monkeypatch.setattr(command_line, "_colors", lambda stream: True)
    assert main(["explain", PATTERN, *WORDS]) == 0
    printed = capsys.readouterr().out
    assert f"\033[1m{PATTERN}\033[0m\n" in printed
    assert "\033[2m  # b w h o\033[0m\n" in printed
    assert re.sub(r"\033\[\d*m", "", printed) == f"{eh.explain(PATTERN, **SIZES)}\n"


def test_a_closed_pipe_is_no_error() -> None:
    """Whoever reads only the first line hears no complaint."""
    command = [sys.executable, "-u", "-m", "einheads", "explain", PATTERN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk is full here")
def test_a_full_disk_is_told_in_one_line() -> None:
    """At once and at the end, as the stream is flushed at exit."""
    for options in (["-u"], []):
        command = [sys.executable, *options, "-m", "einheads", "explain", PATTERN]
        with Path("/dev/full").open("w") as disk:
            done = subprocess.run(command, stdout=disk, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 1
        assert done.stderr == b"cannot write the answer: No space left on device\n"


def test_another_error_of_the_system_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a full disk is ours to explain."""

    def failing(*words: object, **sizes: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(command_line, "explain", failing)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        main(["explain", "a -> a"])


def test_a_terminal_without_the_letters_gets_escapes() -> None:
    """A name that the encoding of the terminal lacks is shown, and is no error."""
    done = run(
        "explain",
        "gr\u00f6\u00dfe -> gr\u00f6\u00dfe",
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("gr\\xf6\\xdfe -> gr\\xf6\\xdfe\n")


def test_an_interrupt_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends with the status that shells give it."""

    def interrupted(*words: object, **sizes: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "explain", interrupted)
    assert main(["explain", "a -> a"]) == 130
    assert capsys.readouterr() == ("", "")


# The demo


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"json": False}),
        (["--seed", str(2**64 - 1)], {"seed": 2**64 - 1, "json": False}),
        ([f"--seed={-(2**63)}"], {"seed": -(2**63), "json": False}),
        (
            ["--steps", "3", "--device", "cpu", "--seed", "7", "--json"],
            {"steps": 3, "device": "cpu", "seed": 7, "json": True},
        ),
    ],
)
def test_demo_gets_its_options(
    words: list[str], expected: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those that were given; the others are the defaults of the demo. Its status is ours."""
    calls = []

    def demo(**options: object) -> int:
        calls.append(options)
        return 5

    monkeypatch.setitem(sys.modules, "einheads.demo", SimpleNamespace(run=demo))
    monkeypatch.setattr(eh, "demo", SimpleNamespace(run=demo), raising=False)
    assert main(["demo", *words]) == 5
    assert calls == [expected]


def test_demo_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without PyTorch there is a sentence, not a traceback."""
    monkeypatch.delitem(sys.modules, "einheads.demo", raising=False)
    monkeypatch.delattr(eh, "demo", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "the demo needs the package 'torch'\n"


def test_demo_without_numpy_warns_of_nothing() -> None:
    """The first command of the README installs no NumPy, which torch complains about."""
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from einheads.__main__ import main\n"
        "sys.exit(main(['demo', '--steps', '1', '--device', 'nowhere']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("demo: device 'nowhere' cannot be used: ")


# Speed


@pytest.mark.parametrize("command", ["explain", "source"])
def test_answers_take_no_time(command: str) -> None:
    """Less than 0.4 s from start to end, counted as work, since others use the machine as well."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    taken = []
    for _ in range(3):
        start = spent()
        assert run(command, PATTERN).returncode == 0
        taken.append(spent() - start)
    assert 0 < min(taken) < 0.4
