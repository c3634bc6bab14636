"""Tables for a terminal, from results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .goals import GOALS
from .result import Result, Row

_WIDTH = 34


def lines(result: Result) -> Iterator[str]:
    """One suite as a table; lines that do not begin with a space are headings."""
    count = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    yield f"{result.suite.name}: {result.suite.purpose} ({count}, {result.clock})"
    if result.race:
        yield "  times as long as einheads; `of limit`: the part of the speed of the machine"
    yield from _table(result)
    yield from _summary(result)
    yield from _goals(result)
    if result.race and not any(row.peer for row in result.rows):
        yield "  nobody else takes part: the others read plain axis names, no (...) and no ..."
    yield from _missed(result)


def _table(result: Result) -> Iterator[str]:
    columns = result.columns
    lead = ["einheads, us", "of limit"] if result.race else []
    header = [*lead, *columns]
    body = [(row.case.name, _cells(row, columns, race=result.race)) for row in result.rows]
    widths = [
        max(len(title), *(len(cells[place]) for _, cells in body))
        for place, title in enumerate(header)
    ]
    yield "  " + _line("", header, widths)
    for name, cells in body:
        yield "  " + _line(name, cells, widths)


def _cells(row: Row, columns: Sequence[str], *, race: bool) -> list[str]:
    cells = [_number(row.numbers.get(name)) for name in columns]
    if not race:
        return cells
    assert row.seconds is not None
    limit = "" if row.limit is None else f"{row.limit / row.seconds:.0%}"
    return [_number(row.seconds * 1e6), limit, *cells]


def _line(name: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    name = name if len(name) <= _WIDTH else name[: _WIDTH - 3] + "..."
    padded = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return f"{name:{_WIDTH}}  {'  '.join(padded)}".rstrip()


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _summary(result: Result) -> Iterator[str]:
    if len(result.rows) == 1:
        return
    for name, one in result.summaries().items():
        cases = "1 case" if one.count == 1 else f"{one.count} cases"
        yield (
            f"  {name + ':':16} geometric mean {one.mean:.3f}, "
            f"worst {one.worst:.3f} ({one.case}), {cases}"
        )


def _goals(result: Result) -> Iterator[str]:
    rows = result.to_dict()["rows"]
    for goal in GOALS.get(result.suite.name, ()):
        value = goal.reached(rows)
        if value is not None:
            verdict = "met" if goal.met(value) else "MISSED"
            yield f"  {verdict + ':':8} {value:.3f} for {goal}"


def _missed(result: Result) -> Iterator[str]:
    """The cases where another candidate is more than 5% faster than the chosen one."""
    missed = [row for row in result.rows if row.numbers.get("best", 1.0) < 0.95]
    if missed:
        yield f"  another candidate is more than 5% faster in {len(missed)} of {len(result.rows)}:"
    for row in sorted(missed, key=lambda row: row.numbers["best"]):
        sizes = " ".join(f"{axis}={size}" for axis, size in row.case.sizes.items())
        yield f"    {row.numbers['best']:.2f}  {row.case.pattern}  {sizes}"
        yield f"          chosen: {row.notes['chosen']}"
        yield f"          best:   {row.notes['best']}"


def about(machine: Mapping[str, Any]) -> Iterator[str]:
    """Where this was measured."""
    yield f"{machine['processor']}, {machine['system']}"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    yield f"  {versions}"
    if "prices" in machine:
        yield f"  prices: {machine['prices']}"


def limits(threads: int, table: Mapping[str, Any]) -> Iterator[str]:
    """What the machine can do."""
    rates = ", ".join(
        f"{rate / 1e9:.1f} GB/s ({int(size) / 2**20:.3g} MiB)"
        for size, rate in table["bandwidth"].items()
    )
    yield f"limits with {threads} thread{'s' * (threads != 1)}"
    yield f"  one big mm: {table['multiply_adds'] / 1e9:.1f} G multiply-adds/s; copies: {rates}"
