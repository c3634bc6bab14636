"""What has to be reached, as data that can be held against what came out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

# The fastest peer of each case, whoever that is.
BEST_PEER = "best peer"


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on what the numbers of a suite come to.

    Attributes:
        columns: whose numbers; of several, the smallest one of each case counts.
        bound: the least or the most that they may come to.
        of: what they come to: the geometric mean, the least or the most of all cases.
        among: only cases with this word in their names.
        but: no cases whose names begin with one of these.
        beyond: a column of the same case that is taken off.
        over: a column of the same case by which is divided: the ratio against that one.
    """

    columns: tuple[str, ...]
    bound: float
    of: Literal["mean", "least", "most"] = "mean"
    among: str = ""
    but: tuple[str, ...] = ()
    beyond: str = ""
    over: str = ""

    def __str__(self) -> str:
        word = {"mean": "geometric mean", "least": "never below", "most": "never above"}[self.of]
        which = " or ".join(self.columns) + (f" beyond {self.beyond}" if self.beyond else "")
        which += f" over {self.over}" if self.over else ""
        which += f", {self.among} cases" if self.among else ""
        if self.but:
            which += ", the largest left out"
        return f"{which}: {word}{' at least' if self.of == 'mean' else ''} {self.bound:g}"

    def reached(self, rows: Iterable[Mapping[str, Any]]) -> float | None:
        """What the rows of a result come to, or None if nobody of the columns took part.

        Example:
            >>> rows = [
            ...     {"case": "a", "numbers": {"x": 4.0, "y": 3.0}, "peer": "y"},
            ...     {"case": "b", "numbers": {"x": 1.0, "y": 3.0}, "peer": "x"},
            ... ]
            >>> [Goal(("x",), 1, of).reached(rows) for of in ("mean", "least", "most")]
            [2.0, 1.0, 4.0]
            >>> Goal(("x", "y"), 1, "most").reached(rows), Goal((BEST_PEER,), 1).met(3.0)
            (3.0, True)

        Args:
            rows: as they stand in the JSON of a result.
        """
        found: list[float] = []
        for row in rows:
            if self.among not in row["case"] or row["case"].startswith(self.but or "\n"):
                continue
            names = [row["peer"]] if self.columns == (BEST_PEER,) else self.columns
            numbers = [row["numbers"][name] for name in names if name in row["numbers"]]
            if numbers and (not self.over or self.over in row["numbers"]):
                whole = min(numbers) - row["numbers"].get(self.beyond, 0.0)
                found.append(whole / row["numbers"].get(self.over, 1.0))
        if not found:
            return None
        if self.of == "mean":
            return math.exp(math.fsum(map(math.log, found)) / len(found))
        return min(found) if self.of == "least" else max(found)

    def met(self, value: float) -> bool:
        """Whether it is met by what the rows of a result come to."""
        return value <= self.bound if self.of == "most" else value >= self.bound


_EINSUM = ("torch.einsum",)
_LARGEST = ("b32 ", "b8 w512")

# What `tune` would find is "best", the fastest candidate.
_TCCG = (Goal(_EINSUM, 1.6), Goal(_EINSUM, 0.95, "least"), Goal(_EINSUM, 1.75, over="best"))

GOALS: Mapping[str, tuple[Goal, ...]] = {
    "heads": (
        Goal(_EINSUM, 1.15),
        Goal(("EinMix",), 1.15),
        Goal(("hand",), 0.97),
        Goal((BEST_PEER,), 0.95, "least"),
    ),
    "tccg": _TCCG,
    "tccg-full": _TCCG,
    "random": (
        Goal(_EINSUM, 1.4),
        Goal(_EINSUM, 0.9, "least"),
        Goal(("best",), 0.95),
        Goal(_EINSUM, 1.5, over="best"),
    ),
    "attention": (Goal(_EINSUM, 0.97, "least"),),
    "known-slow": (Goal(_EINSUM, 0.97, "least"),),
    "factorized": (
        Goal((BEST_PEER,), 2.0, among="small"),
        Goal((BEST_PEER,), 1.1, among="medium"),
    ),
    "training": (
        Goal(("einsum + bias", "EinMix"), 1.25, but=_LARGEST),
        Goal((BEST_PEER,), 0.95, "least"),
    ),
    "overhead": (
        Goal(("einsum above, us",), 3.0, "most"),
        Goal(("layer above, us",), 2.0, "most"),
    ),
    "planning": (
        Goal(("2 operands, ms",), 1.0, "most"),
        Goal(("10 operands, ms",), 50.0, "most"),
        Goal(("100 operands, ms",), 1000.0, "most"),
    ),
    "start": (
        Goal(("import einheads above, ms",), 60.0, "most"),
        Goal(("explain in all, ms",), 400.0, "most"),
    ),
    "memory": (
        Goal(("peak / (output + copies)",), 1.0, "most"),
        Goal(("peak / all values",), 1.0, "most"),
        Goal(("inner results in a backward",), 1.0, "most"),
    ),
    "copies": (Goal(("seen",), 0.0, "most", beyond="declared"),),
}
