"""The story of a pattern (being written)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Explanation:
    """The story of a pattern."""


def explain(pattern: str, /, *operands: Any, **sizes: int) -> Explanation:
    """Explain a pattern."""
    raise NotImplementedError
