"""What the site needs while it is built: pictures drawn by the library, so that none goes stale.

A fenced block `picture` holds one Python expression that gives an `Explanation`, and becomes its
drawing. A block `card` holds a layer and the shapes of its inputs, and becomes a drawing with what
the layer holds and costs. A line `<!-- made: NAME -->` becomes Markdown that is made here, from the
classes or from committed benchmarks. The file is named in `mkdocs.yml` under `hooks`, and is no
page.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

import cards
import einheads
import races

# The drawing follows the system's choice of light and dark; the site has a switch of its own.
_SYSTEM = "@media (prefers-color-scheme:dark)"
_SWITCH = '[data-md-color-scheme="slate"]'


def on_config(config: Any) -> Any:
    """Teach the Markdown of the site what a `picture` and a `card` are."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [
        {"name": "picture", "class": "picture", "format": picture},
        {"name": "card", "class": "card", "format": card},
    ]
    return config


def on_files(files: Any, *, config: Any) -> Any:
    """Add a page for each file of benchmarks, which the page of benchmarks leads to."""
    # Only a build of the site has it; tests load this file without.
    from mkdocs.structure.files import File, InclusionLevel

    for name, text in races.pages(figure):
        files.append(
            File.generated(
                config,
                f"benchmarks/{name}.md",
                content=text,
                inclusion=InclusionLevel.NOT_IN_NAV,
            )
        )
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in what is made from classes and measurements."""
    return re.sub(
        r"^<!-- made: (.+) -->$", lambda found: made(found[1]), markdown, flags=re.MULTILINE
    )


def made(name: str) -> str:
    """The Markdown of a name."""
    makers = {
        "collection": lambda: cards.collection(figure),
        "machines": races.machines,
        "benchmarks": lambda: races.benchmarks(figure),
        "heads": races.heads,
    }
    if name not in makers:
        raise ValueError(f"nothing is made under the name {name!r}; there are {', '.join(makers)}")
    return makers[name]()


def picture(source: str, *_: Any, **__: Any) -> str:
    """Draw the explanation that an expression gives."""
    # The pages are ours, as the modules are.
    story = eval(source, {"eh": einheads})  # noqa: S307
    return figure(story.svg())


def card(source: str, *_: Any, **__: Any) -> str:
    """Draw a layer, and count its numbers and its work."""
    layer, *shapes = eval(source, {"eh": einheads})  # noqa: S307
    story = layer.explain(*shapes)
    held = ", ".join(
        f"<code>{name}</code> {escape(str(tuple(one.shape)))}"
        for name, one in layer.named_parameters()
    )
    total = sum(one.numel() for one in layer.parameters())
    given = " and ".join(escape(str(shape)) for shape in shapes)
    return (
        f'<div class="card"><p><code>{escape(repr(layer))}</code> on {given}: '
        f"{story.multiply_adds:,} multiply-adds, {story.bytes_copied:,} bytes copied.<br>"
        f"Parameters: {held}; {total:,} numbers.</p>{figure(story.svg())}</div>"
    )


def figure(drawing: str) -> str:
    """Put a drawing on a page, where it can be scrolled if the screen is narrow."""
    if _SYSTEM not in drawing:
        raise ValueError("the drawing has no colors for the dark any more; see docs/hooks.py")
    inline = drawing.replace(_SYSTEM, _SWITCH).replace("\n", " ")
    # It gives way to a narrow screen by a quarter, as far as its letters can be read.
    width = float(re.search(r' width="([\d.]+)"', drawing)[1])  # type: ignore[index]
    room = f'style="width:100%;max-width:{width:g}px;min-width:{0.75 * width:g}px;height:auto"'
    inline = inline.replace("<svg ", f"<svg {room} ", 1)
    return f'<div class="picture" tabindex="0">{inline}</div>'
