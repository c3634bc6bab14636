"""Stand-alone text of a pattern (being written)."""

from __future__ import annotations

from typing import Any

from . import source as _load  # noqa: F401


def source(pattern: str, /, *operands: Any, **sizes: int) -> str:
    """Stand-alone PyTorch text of a pattern."""
    raise NotImplementedError
