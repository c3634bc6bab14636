"""The command line: reads arguments, prints, and turns mistakes into an exit status.

`explain` and `source` work without PyTorch; `bench` and `demo` import what they need in their own
branch.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import sys
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

from . import EinheadsError, __version__, explain, source

# What a shell reports for a program that was ended by the signals of Ctrl-C and of a closed pipe.
_INTERRUPTED, _PIPE_CLOSED = 130, 141

_MOST_THREADS = 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Example:
        >>> main(["source", "b i, o i -> b o"])
        import torch.nn.functional as F
        <BLANKLINE>
        <BLANKLINE>
        def contract(x1, x2):
            \"\"\"b i, o i -> b o\"\"\"
            return F.linear(x1, x2)  # b o
        0

    Args:
        argv: the arguments, without the name of the program; those of the process by default.

    Returns:
        The exit status: 0 if all went well, 1 if a file could not be written or a package is
        missing, 2 for a wrong pattern, size or argument.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Not every terminal can show every name of an axis; better an escape than no answer.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run(_parsed(argv))
        # A closed pipe shows only when the text really leaves; at exit it would be too late to
        # catch it.
        sys.stdout.flush()
    except EinheadsError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        _give_up_output()
        return _PIPE_CLOSED
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _give_up_output()
        print(f"cannot write the answer: {error.strerror}", file=sys.stderr)
        return 1
    return status


def _give_up_output() -> None:
    """Let Python, which flushes once more at exit, not complain about the same stream again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; sizes may stand behind options, too."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    sizes = [word for word in rest if "=" in word and not word.startswith("-")]
    if rest and (len(sizes) < len(rest) or not hasattr(options, "sizes")):
        spaced = "; before a pattern without operands, write a space" if "->" in rest[0] else ""
        parser.error(f"unrecognized arguments: {' '.join(rest)}{spaced}")
    if sizes:
        options.sizes = [*options.sizes, *sizes]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="einheads",
        description="Declare a layer by its einsum; "
        "get the batched matmul an expert would have written.",
    )
    parser.add_argument("--version", action="version", version=f"einheads {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, purpose in (
        ("explain", "tell what a pattern means, what runs for it, and what that costs"),
        ("source", "write a pattern down as stand-alone PyTorch"),
    ):
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.add_argument(
            "pattern", metavar="PATTERN", help='such as "b w h i, h o i -> b w h o"'
        )
        command.add_argument(
            "sizes",
            metavar="AXIS=SIZE",
            nargs="*",
            default=[],  # without it, older versions of Python ask for sizes in their message
            help="sizes that are not given are assumed",
        )
        if name == "explain":
            command.add_argument("--json", action="store_true", help="print the story as JSON")
            command.add_argument(
                "--svg", metavar="FILE", type=Path, help="also draw it into a file"
            )
    purpose = "time suites of patterns, or one of your own, against the alternatives"
    bench = commands.add_parser(
        "bench",
        help=purpose,
        description=purpose,
        # Options that take several words would take the pattern as well.
        usage="%(prog)s [-h] [PATTERN AXIS=SIZE ...] [--suite NAME ...] [--threads N ...] "
        "[--device D] [--dtype T] [--rounds R] [--json FILE] [--no-search] [--calibrate]",
    )
    bench.add_argument(
        "pattern", metavar="PATTERN", nargs="?", help="instead of suites; needs all sizes"
    )
    bench.add_argument("sizes", metavar="AXIS=SIZE", nargs="*", help="the size of every axis")
    bench.add_argument(
        "--suite",
        metavar="NAME",
        nargs="+",
        action="extend",
        help="suites to run, all by default",
    )
    bench.add_argument(
        "--threads",
        metavar="N",
        nargs="+",
        action="extend",
        type=_threads,
        help="1 by default; to calibrate, as many as torch uses, too",
    )
    bench.add_argument("--device", metavar="D", help="such as cpu or cuda")
    bench.add_argument("--dtype", metavar="T", help="such as float32 or bfloat16")
    bench.add_argument("--rounds", metavar="R", type=_count, help="turns of every contestant")
    bench.add_argument("--json", metavar="FILE", type=Path, help="keep everything in a file")
    bench.add_argument(
        "--no-search",
        dest="search",
        action="store_false",
        default=None,
        help="do not look for the best candidate, which takes most of the time",
    )
    bench.add_argument(
        "--calibrate", action="store_true", help="fit the cost model to this machine instead"
    )
    purpose = "train a small character-level transformer of einheads layers, and compare its layers"
    demo = commands.add_parser("demo", help=purpose, description=purpose)
    demo.add_argument("--steps", type=_count, metavar="N", help="training steps")
    demo.add_argument("--device", metavar="D", help="such as cpu or cuda")
    demo.add_argument("--seed", type=_seed, metavar="S", help="for weights, batches and the sample")
    demo.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser


def _run(options: argparse.Namespace) -> int:
    # Torch misses NumPy as soon as it is imported, and nothing here needs it.
    warnings.filterwarnings("ignore", "Failed to initialize NumPy", UserWarning)
    if options.command == "demo":
        return _demo(options)
    if options.command == "bench":
        return _bench(options)
    sizes = _sizes(options.sizes)
    if options.command == "source":
        _print(source(options.pattern, **sizes).splitlines())
        return 0
    story = explain(options.pattern, **sizes)
    if options.json:
        print(json.dumps(story.to_dict(), indent=2))
    else:
        _print(str(story).splitlines())
    if options.svg is not None:
        try:
            options.svg.write_text(story.svg(), encoding="utf-8")
        except OSError as error:
            print(f"cannot write '{options.svg}': {error.strerror}", file=sys.stderr)
            return 1
    return 0


def _demo(options: argparse.Namespace) -> int:
    try:
        from . import demo
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "einheads":
            raise
        print(f"the demo needs the package '{error.name}'", file=sys.stderr)
        return 1
    # What is not asked for is left to the defaults of the demo.
    chosen = {name: getattr(options, name) for name in ("steps", "device", "seed")}
    return demo.run(
        json=options.json, **{name: value for name, value in chosen.items() if value is not None}
    )


def _bench(options: argparse.Namespace) -> int:
    from . import bench

    # What is not asked for is left to the defaults of the benchmark.
    chosen = {
        "suites": options.suite,
        "threads": options.threads,
        "device": options.device,
        "dtype": options.dtype,
        "rounds": options.rounds,
        "search": options.search,
        "pattern": options.pattern,
        "sizes": _sizes(options.sizes),
    }
    wanted = bench.Options(**{name: value for name, value in chosen.items() if value is not None})
    told = bench.calibrated if options.calibrate else bench.tell
    lines = told(wanted, options.json)
    try:
        for line in lines:
            _print([line])
            sys.stdout.flush()
    except OSError as error:
        if options.json is None or error.filename != str(options.json):
            raise
        print(f"cannot write '{options.json}': {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _sizes(words: Iterable[str]) -> dict[str, int]:
    """Read `b=4 w=10`."""
    sizes: dict[str, int] = {}
    for word in words:
        axis, equals, digits = word.partition("=")
        # As Python does with the names of keywords, and `parse` with those of axes.
        axis = unicodedata.normalize("NFKC", axis.strip())
        if not equals or not axis.isidentifier():
            raise EinheadsError(
                f"'{word}' is no AXIS=SIZE", notes=["write: an axis and its size, such as b=4"]
            )
        try:
            size = int(digits)
        except ValueError:
            raise EinheadsError(
                f"the size of axis '{axis}' is an integer, not '{digits}'",
                notes=[f"write: {axis}=4"],
            ) from None
        if sizes.setdefault(axis, size) != size:
            raise EinheadsError(
                f"axis '{axis}' is given two sizes: {sizes[axis]} and {size}",
                notes=["write: one of them"],
            )
    return sizes


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        before = "; the pattern stands before all options" if "->" in text else ""
        raise argparse.ArgumentTypeError(f"a positive number is wanted, not {text}{before}")
    return int(text)


def _threads(text: str) -> int:
    # Torch makes as many as it is told to, and dies of too many.
    if _count(text) > _MOST_THREADS:
        raise argparse.ArgumentTypeError(f"at most {_MOST_THREADS} are wanted, not {text}")
    return int(text)


def _seed(text: str) -> int:
    # The seeds that the generators of torch take.
    if not text.removeprefix("-").isdecimal() or not -(2**63) <= int(text) < 2**64:
        raise argparse.ArgumentTypeError(f"a number of at most 64 bits is wanted, not {text}")
    return int(text)


def _print(lines: Iterable[str]) -> None:
    colored = _colors(sys.stdout)
    for line in lines:
        print(_paint(line) if colored else line)


def _colors(stream: TextIO) -> bool:
    """Whether to color: only for a terminal that can, and nobody minds (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _paint(line: str) -> str:
    """Bold headings, dim comments."""
    if line[:1] not in ("", " "):
        return f"\033[1m{line}\033[0m"
    code, mark, comment = line.partition("  # ")
    return f"{code}\033[2m{mark}{comment}\033[0m" if mark else line


if __name__ == "__main__":
    sys.exit(main())
