"""The pages of benchmarks, from the files that `python -m einheads bench --json FILE` writes.

Nothing on them is written by hand: machines, goals, tables and drawings are what the files in
`assets/benchmarks` hold. The file is used by `hooks.py`, and is no page.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import charts
from einheads.bench.goals import GOALS

FOLDER = Path(__file__).parent / "assets/benchmarks"
# Not alternatives that a user would take: the hand-written product, the operations of einheads
# without einheads, and the best of our candidates.
YARDSTICKS = ("hand", "program", "best")
# Two ways within this of each other are as fast as each other, as far as can be measured.
NOISE = 0.95
# More cases than this that are no race are not listed one by one.
MANY = 60


@dataclass(frozen=True)
class Run:
    """One suite, as one file has it."""

    document: dict[str, Any]
    result: dict[str, Any]

    @property
    def machine(self) -> dict[str, Any]:
        """Where and how the file was made."""
        return dict(self.document["machine"])

    @property
    def label(self) -> str:
        """Where and with what it ran."""
        name = str(self.machine["processor"]).replace("(R)", "").replace(" Processor", "")
        if self.machine["device"] != "cpu":
            return name
        count = self.result["threads"]
        return f"{name}, {count} thread{'s' * (count != 1)}"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One for each case."""
        return list(self.result["rows"])

    @property
    def race(self) -> bool:
        """Whether its numbers say how many times longer than einheads something takes."""
        return self.result["kind"] in ("forward", "training")


def files(folder: Path = FOLDER) -> dict[str, list[Run]]:
    """What is in each file, by its name without the ending, in order."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        found[path.stem] = [Run(document, one) for one in document["results"]]
    return found


def runs(folder: Path = FOLDER) -> list[Run]:
    """Everything in the files."""
    return [run for same in files(folder).values() for run in same]


def pages(figure: Callable[[str], str], folder: Path = FOLDER) -> Iterator[tuple[str, str]]:
    """A page for each file, with all of its suites: the name of the page, and what is on it.

    Args:
        figure: puts a drawing on a page.
        folder: where the files lie.
    """
    for name, same in files(folder).items():
        parts = [f"# {title(same)}", machine(name, same[0].document)]
        for run in same:
            parts.append(f"## {run.result['suite']}: {run.result['purpose']}")
            if rows := list(goals([run])):
                parts.append(table(["goal", "measured"], rows))
            parts += race(run, figure) if run.race else probe(run)
        # Thousands of numbers are no words that anybody looks for.
        yield name, "\n\n".join(["---\nsearch:\n  exclude: true\n---", *parts]) + "\n"


def title(same: Sequence[Run]) -> str:
    """What a file holds: where and with what it ran, and the suite if it is but one."""
    names = list(dict.fromkeys(run.result["suite"] for run in same))
    return same[0].label + (f", {names[0]}" if len(names) == 1 else "")


def machine(name: str, document: dict[str, Any]) -> str:
    """What a file measured where, with which versions, and what the machine can do at most."""
    told = document["machine"]
    versions = ", ".join(f"{name} {one}" for name, one in told["versions"].items())
    rows = [
        ("file", f"[{name}.json](../assets/benchmarks/{name}.json)"),
        ("processor", f"{told['processor']}, {told['system']}"),
        ("numbers", f"{told['dtype']} on {told['device']}"),
        ("turns of every contestant", str(told["rounds"])),
        ("clock", ", ".join(dict.fromkeys(one["clock"] for one in document["results"]))),
        ("versions", versions),
    ]
    for threads, limit in document["limits"].items():
        rates = ", ".join(
            f"{rate / 1e9:.0f} GB/s for {int(size) / 2**20:g} MiB"
            for size, rate in limit["bandwidth"].items()
        )
        rows += [
            ("threads", threads),
            ("one large product", f"{limit['multiply_adds'] / 1e9:.0f} G multiply-adds/s"),
            ("copying", rates),
        ]
    return table(["", ""], rows)


def machines(folder: Path = FOLDER) -> str:
    """The pages that hold every case."""
    rows = []
    for name, same in files(folder).items():
        told = same[0].machine
        cases = sum(len(run.rows) for run in same)
        page = f"[{title(same)}](benchmarks/{name}.md)"
        rows.append((page, told["system"], f"torch {told['versions']['torch']}", cases))
    return table(["every case", "system", "with", "cases"], rows)


def benchmarks(figure: Callable[[str], str], folder: Path = FOLDER) -> str:
    """Every suite: what was to be reached, what was reached where, and one drawing.

    Args:
        figure: puts a drawing on a page.
        folder: where the files lie.
    """
    every = runs(folder)
    parts = []
    for name in dict.fromkeys(run.result["suite"] for run in every):
        same = [run for run in every if run.result["suite"] == name]
        parts.append(f"## {name}: {same[0].result['purpose']}")
        if rows := list(goals(same)):
            parts.append(table(["goal", *(run.label for run in same)], rows))
        if same[0].race:
            parts.append(drawing(same[0], figure))
    return "\n\n".join(parts) + "\n"


def drawing(run: Run, figure: Callable[[str], str]) -> str:
    """A race as a picture."""
    return figure(charts.strip(f"{run.result['suite']}, {run.label}", contestants(run)))


def contestants(run: Run) -> dict[str, charts.Ratios]:
    """How many times longer each took in each case: rivals first, yardsticks last."""
    columns = {
        name: [(row["case"], row["numbers"][name]) for row in run.rows if name in row["numbers"]]
        for name in run.result["summary"]
        if name != "best peer"
    }
    peers = [(row["case"], row["numbers"][row["peer"]]) for row in run.rows if row["peer"]]
    if peers:
        columns["fastest peer"] = peers
    return dict(sorted(columns.items(), key=lambda one: one[0] in YARDSTICKS))


def race(run: Run, figure: Callable[[str], str]) -> Iterator[str]:
    """A race: the drawing, what it comes to, what was lost, and every number."""
    summaries = run.result["summary"]
    yield drawing(run, figure)
    shown = {name.replace("best peer", "fastest peer"): one for name, one in summaries.items()}
    yield table(
        ["times as long as einheads", "geometric mean", "worst", "where", "cases"],
        [
            (name, charts.times(one["mean"]), charts.times(one["worst"]), one["case"], one["count"])
            for name, one in shown.items()
        ],
    )
    parts = [row["limit"] / row["seconds"] for row in run.rows if row["limit"]]
    if parts:
        yield (
            "Of the speed that the machine has at most, einheads reaches "
            f"{median(parts):.0%} in the median, from {min(parts):.0%} to {max(parts):.0%}."
        )
    yield losses(run)
    names = [name for name in contestants(run) if name != "fastest peer"]
    rows = [
        (
            row["case"],
            charts.times(row["seconds"] * 1e6),
            f"{row['limit'] / row['seconds']:.0%}" if row["limit"] else "",
            *(
                charts.times(row["numbers"][name]) if name in row["numbers"] else ""
                for name in names
            ),
        )
        for row in run.rows
    ]
    heads = ["case", "einheads, \u00b5s", "of limit", *names]
    yield unfold(f"All {len(rows)} cases", table(heads, rows))


def goals(same: Sequence[Run]) -> Iterator[tuple[str, ...]]:
    """What was to be reached in a suite, and what was in each of its runs."""
    for goal in GOALS.get(same[0].result["suite"], ()):
        reached = [goal.reached(run.rows) for run in same]
        if any(value is not None for value in reached):
            yield (
                str(goal),
                *(
                    ""
                    if value is None
                    else f"{charts.times(value)} {'met' if goal.met(value) else '**missed**'}"
                    for value in reached
                ),
            )


def losses(run: Run) -> str:
    """The cases in which a peer is faster by more than the noise, the worst first."""
    raced = [row for row in run.rows if row["peer"]]
    lost = [row for row in raced if row["numbers"][row["peer"]] < NOISE]
    if not lost:
        return f"No peer is more than {1 - NOISE:.0%} faster in any of {len(raced)} cases."
    lost.sort(key=lambda row: float(row["numbers"][row["peer"]]))
    sizes = (" ".join(f"{axis}={size}" for axis, size in row["sizes"].items()) for row in lost)
    rows = [
        (
            f"`{row['pattern']}`",
            size,
            row["peer"],
            charts.times(row["numbers"][row["peer"]]),
            charts.times(row["seconds"] * 1e6),
        )
        for row, size in zip(lost, sizes, strict=True)
    ]
    heads = ["pattern", "sizes", "faster", "takes", "einheads, \u00b5s"]
    told = f"In {len(lost)} of {len(raced)} cases a peer is more than {1 - NOISE:.0%} faster"
    if len(rows) <= 8:
        return f"{told}:\n\n{table(heads, rows)}"
    rest = unfold(f"The other {len(rows) - 8} that are lost", table(heads, rows[8:]))
    return f"{told}; the worst are:\n\n{table(heads, rows[:8])}\n\n{rest}"


def probe(run: Run) -> Iterator[str]:
    """What is not a race: the range of each number, and every case, unless there are very many."""
    names = list(dict.fromkeys(name for row in run.rows for name in row["numbers"]))
    ranges = []
    for name in names:
        found = [row["numbers"][name] for row in run.rows if name in row["numbers"]]
        ranges.append((name, *map(charts.times, (min(found), median(found), max(found)))))
    yield table(["", "least", "median", "most"], ranges)
    if len(run.rows) > MANY:
        return  # a browser takes long to lay out thousands of rows; the files have them
    rows = [
        (
            row["case"],
            *(
                charts.times(row["numbers"][name]) if name in row["numbers"] else ""
                for name in names
            ),
        )
        for row in run.rows
    ]
    whole = table(["case", *names], rows)
    yield whole if len(rows) <= 12 else unfold(f"All {len(rows)} cases", whole)


def heads(folder: Path = FOLDER) -> str:
    """The question of the tutorial, measured: every way, by how many rows share a matrix."""
    run = next(one for one in runs(folder) if one.result["suite"] == "heads")
    ways = ["unsqueeze", "loop", "vmap", "torch.einsum", "hand", "program"]
    rows = []
    for row in sorted(run.rows, key=lambda row: row["sizes"]["b"] * row["sizes"]["w"]):
        sizes, unit = row["sizes"], row["seconds"] * 1e6
        rows.append(
            (
                sizes["b"] * sizes["w"],
                f"{sizes['h']} of {sizes['o']} \u00d7 {sizes['i']}",
                *(charts.times(unit * row["numbers"][name]) for name in ways),
                charts.times(unit),
            )
        )
    titles = [
        "rows each",
        "matrices",
        "unsqueeze",
        "loop",
        "vmap",
        "einsum",
        "bmm by hand",
        "program alone",
        "einheads",
    ]
    told = table(titles, rows)
    where = f"{run.label}, {run.machine['dtype']}"
    return (
        f"{told}\n\nMicroseconds for one call; {where}, torch {run.machine['versions']['torch']}."
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown; columns of numbers, but for the first, are aligned at the right."""
    marks = [
        "---:" if place and all(_number(row[place]) for row in rows) else "---"
        for place in range(len(heads))
    ]
    lines = [heads, marks, *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _number(cell: object) -> bool:
    return not str(cell) or str(cell)[0].isdigit()


def unfold(title: str, body: str) -> str:
    """Something to unfold."""
    inside = "\n".join(f"    {line}" for line in body.splitlines())
    return f'??? note "{title}"\n\n{inside}'
