"""Declare a layer by its einsum; get the batched matmul an expert would have written.

Errors, `explain` and `source` work without PyTorch, so they are imported at once; whatever needs
PyTorch is imported when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

from .errors import EinheadsError, PatternError, SizeError

# Two functions have the names of modules. Importing a module for the first time sets the attribute
# of its name here, so both modules have to be loaded before the functions take these names; later
# imports of a loaded module leave the attribute alone. `explain` loads `source`.
from .explain import Explanation, explain
from .standalone import source

if TYPE_CHECKING:
    from .functional import einsum
    from .layers import Einsum
    from .program import cache_clear, cache_info

__version__ = "0.1.0"

__all__ = [
    "EinheadsError",
    "Einsum",
    "Explanation",
    "PatternError",
    "SizeError",
    "__version__",
    "cache_clear",
    "cache_info",
    "einsum",
    "explain",
    "source",
]

# The names that need PyTorch, and the module of each.
_LAZY = {
    "Einsum": "layers",
    "cache_clear": "program",
    "cache_info": "program",
    "einsum": "functional",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'einheads' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value  # the next look-up is an ordinary one
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
