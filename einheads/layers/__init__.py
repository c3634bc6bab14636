"""Layers: a pattern, its sizes, and parameters in the axis order that the pattern writes."""

from .base import Einsum

__all__ = ["Einsum"]
