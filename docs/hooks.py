"""What the site needs while it is built: pictures drawn by the library, so that none goes stale.

A fenced block `picture` holds one Python expression that gives an `Explanation`, and becomes its
drawing. The file is named in `mkdocs.yml` under `hooks`, and is no page.
"""  # noqa: INP001  mkdocs loads a hook by its path

from __future__ import annotations

from typing import Any

import einheads

# The drawing follows the system's choice of light and dark; the site has a switch of its own.
_SYSTEM = "@media (prefers-color-scheme:dark)"
_SWITCH = '[data-md-color-scheme="slate"]'


def on_config(config: Any) -> Any:
    """Teach the Markdown of the site what a `picture` is."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "picture", "class": "picture", "format": picture}]
    return config


def picture(source: str, *_: Any, **__: Any) -> str:
    """Draw the explanation that an expression gives."""
    # The pages are ours, as the modules are.
    story = eval(source, {"eh": einheads})  # noqa: S307
    return figure(story.svg())


def figure(drawing: str) -> str:
    """Put a drawing on a page, where it can be scrolled if the screen is narrow."""
    if _SYSTEM not in drawing:
        raise ValueError("the drawing has no colors for the dark any more; see docs/hooks.py")
    inline = drawing.replace(_SYSTEM, _SWITCH).replace("\n", " ")
    return f'<div class="picture" tabindex="0">{inline}</div>'
