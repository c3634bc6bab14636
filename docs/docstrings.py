"""How the docstrings of the package become pages: a section `Example:` is code, not prose.

The file is named in `mkdocs.yml` among the extensions of the Python handler, and is no page.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Give the section the name under which griffe reads doctests."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section in the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE
            )
