"""What came out, as data: rows of numbers by column, and what they add up to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .cases import Case, Suite
from .goals import GOALS


@dataclass(frozen=True, slots=True)
class Row:
    """The result of one case.

    Attributes:
        case: what was looked at.
        numbers: by column. In a race: how many times longer than einheads it took.
        seconds: in a race, of one call of einheads.
        limit: in a race, the seconds that arithmetic or memory needs at least.
        peer: the fastest peer.
        notes: sentences by name, such as the chosen candidate and the best one.
    """

    case: Case
    numbers: Mapping[str, float]
    seconds: float | None = None
    limit: float | None = None
    peer: str | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Summary:
    """What the ratios against one contestant come to.

    Attributes:
        mean: geometric mean.
        worst: the smallest ratio.
        case: where that was.
        count: of cases.
    """

    mean: float
    worst: float
    case: str
    count: int


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one suite with one number of threads.

    Attributes:
        suite: which one.
        threads: of torch on the CPU.
        clock: what was counted.
        rows: one for each case.
    """

    suite: Suite
    threads: int
    clock: str
    rows: Sequence[Row]

    @property
    def columns(self) -> list[str]:
        """Every column that any row has, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.numbers))

    @property
    def race(self) -> bool:
        """Whether the numbers are ratios."""
        return self.suite.kind in {"forward", "training"}

    def summaries(self) -> dict[str, Summary]:
        """What the ratios of each column come to; `best peer` is the fastest one of each row."""
        if not self.race:
            return {}
        columns = {
            name: [(row.numbers[name], row.case.name) for row in self.rows if name in row.numbers]
            for name in self.columns
        }
        peers = [(row.numbers[row.peer], row.case.name) for row in self.rows if row.peer]
        if peers:
            columns["best peer"] = peers
        return {name: summary(found) for name, found in columns.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "suite": self.suite.name,
            "purpose": self.suite.purpose,
            "kind": self.suite.kind,
            "goals": [str(goal) for goal in GOALS.get(self.suite.name, ())],
            "threads": self.threads,
            "clock": self.clock,
            "summary": {name: asdict(one) for name, one in self.summaries().items()},
            "rows": [
                {
                    "case": row.case.name,
                    "pattern": row.case.pattern,
                    "sizes": dict(row.case.sizes),
                    "seconds": row.seconds,
                    "limit": row.limit,
                    "peer": row.peer,
                    "numbers": dict(row.numbers),
                    "notes": dict(row.notes),
                }
                for row in self.rows
            ],
        }


def summary(ratios: Sequence[tuple[float, str]]) -> Summary:
    """Put ratios, each with the name of its case, together.

    Example:
        >>> summary([(2.0, "first"), (0.5, "second")])
        Summary(mean=1.0, worst=0.5, case='second', count=2)
    """
    worst, case = min(ratios)
    mean = math.exp(math.fsum(math.log(ratio) for ratio, _ in ratios) / len(ratios))
    return Summary(mean, worst, case, len(ratios))
