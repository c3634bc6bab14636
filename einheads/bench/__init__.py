"""Benchmarks: `python -m einheads bench` times patterns against the alternatives.

A claim of speed must be repeatable by a reader, so the suites are part of the package. Nothing else
of the package imports this folder.
"""

from .run import Options, calibrated, run, tell
from .suites import suites

__all__ = ["Options", "calibrated", "run", "suites", "tell"]
