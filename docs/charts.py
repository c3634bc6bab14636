"""A race as a drawing: one dot for each case, on a logarithmic scale of how many times longer.

Wins are circles to the right of the line, losses are diamonds to the left of it, of the same size.
The file is used by `races.py`, and is no page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_STYLE = """
.eh-race{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}
.eh-race .ground{fill:#ffffff;stroke:#d3d8e0}
.eh-race text{fill:#1b1f27;font-size:12px}
.eh-race .soft{fill:#5d6675;font-size:11px}
.eh-race .grid{stroke:#e1e5eb}
.eh-race .even{stroke:#5d6675;stroke-width:1.5}
.eh-race .win{fill:#1f6feb;fill-opacity:.55}
.eh-race .loss{fill:#c2410c;fill-opacity:.85}
.eh-race .mean{stroke:#1b1f27;stroke-width:2.5}
@media (prefers-color-scheme:dark){
.eh-race .ground{fill:#161920;stroke:#343b48}
.eh-race text{fill:#e9ecf2}
.eh-race .soft{fill:#a3acbb}
.eh-race .grid{stroke:#2b313c}
.eh-race .even{stroke:#a3acbb}
.eh-race .win{fill:#79b0ff;fill-opacity:.6}
.eh-race .loss{fill:#ff9a5c;fill-opacity:.9}
.eh-race .mean{stroke:#e9ecf2}
}
"""
_LABELS, _PLOT, _NUMBERS, _TOP = 140.0, 420.0, 150.0, 52.0
# How high a row is, at least and at most, and how far from its edges marks stay.
_LEAST, _MOST, _EDGE = 32.0, 96.0, 5.0
# The radius of a mark, where cases are few and where they are many.
_LARGE, _SMALL, _FEW = 4.2, 2.8, 30

# What one contestant did: the name of each case, and the ratio there.
Ratios = Sequence[tuple[str, float]]


def strip(title: str, contestants: Mapping[str, Ratios]) -> str:
    """Draw how many times longer than einheads each contestant took in each case.

    Example:
        >>> drawing = strip("a race", {"loop": [("small", 4.0), ("large", 0.5)]})
        >>> drawing.count('class="win"'), drawing.count('class="loss"')
        (1, 1)
    """
    every = [ratio for ratios in contestants.values() for _, ratio in ratios]
    low = min(-1, math.floor(math.log2(min(every))))
    high = max(1, math.ceil(math.log2(max(every))))

    def place(ratio: float) -> float:
        return _LABELS + _PLOT * (math.log2(ratio) - low) / (high - low)

    radius = _LARGE if max(map(len, contestants.values())) <= _FEW else _SMALL
    # Losses last, so that no win covers one.
    ordered = {name: sorted(one, key=lambda case: -case[1]) for name, one in contestants.items()}
    rises = {
        name: swarm([place(ratio) for _, ratio in ratios], 2 * radius)
        for name, ratios in ordered.items()
    }
    heights = {
        name: min(_MOST, max(_LEAST, 2 * (max(map(abs, one)) + radius + _EDGE)))
        for name, one in rises.items()
    }
    bottom = _TOP + sum(heights.values())
    width, height = _LABELS + _PLOT + _NUMBERS, bottom + 44
    parts = [f'<text x="16" y="24" font-weight="bold">{escape(title)}</text>']
    # Where there are many powers of two, not all of them have a number.
    stride = -(-(high - low) // 10)
    for power in range(low, high + 1):
        if power % stride == 0:
            x, kind = place(2.0**power), "even" if power == 0 else "grid"
            parts.append(
                f'<line class="{kind}" x1="{x:.1f}" y1="{_TOP - 10:g}" x2="{x:.1f}" '
                f'y2="{bottom:g}"/>'
                f'<text class="soft" x="{x:.1f}" y="{bottom + 14:g}" text-anchor="middle">'
                f"{_power(power)}</text>"
            )
    parts.append(
        f'<text class="soft" x="{place(1) - 8:.1f}" y="{bottom + 32:g}" text-anchor="end">'
        "\u2190 einheads is slower</text>"
        f'<text class="soft" x="{place(1) + 8:.1f}" y="{bottom + 32:g}">faster \u2192</text>'
        f'<text class="soft" x="{_LABELS + _PLOT + 24:g}" y="{_TOP - 14:g}">mean, worst</text>'
    )
    y = _TOP
    for name, ratios in ordered.items():
        half = heights[name] / 2
        y += half
        parts.append(f'<text x="16" y="{y + 4:.1f}">{escape(name)}</text>')
        # A heap that is too high for its row is pressed together.
        room = half - radius - _EDGE
        press = min(1.0, room / max(room, *map(abs, rises[name])))
        for (case, ratio), rise in zip(ratios, rises[name], strict=True):
            parts.append(_dot(place(ratio), y + press * rise, radius, name, case, ratio))
        middle = mean([ratio for _, ratio in ratios])
        x, bar = place(middle), half - _EDGE
        parts.append(
            f'<line class="mean" x1="{x:.1f}" y1="{y - bar:.1f}" x2="{x:.1f}" y2="{y + bar:.1f}"/>'
            f'<text x="{_LABELS + _PLOT + 24:g}" y="{y + 4:.1f}">'
            f"{times(middle)}, {times(min(ratio for _, ratio in ratios))}</text>"
        )
        y += half
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="eh-race" role="img" width="{width:g}" '
        f'height="{height:g}" viewBox="0 0 {width:g} {height:g}"><title>{escape(title)}</title>'
        f"<desc>{escape(_words(contestants))}</desc><style>{_STYLE}</style>"
        f'<rect class="ground" x="1" y="1" width="{width - 2:g}" height="{height - 2:g}" '
        f'rx="10"/>{"".join(parts)}</svg>'
    )


def swarm(places: Sequence[float], size: float) -> list[float]:
    """How far above or below its line each mark has to stand, so that none covers another.

    Example:
        >>> swarm([0, 1, 10], 5)
        [0.0, 4.898979485566356, 0.0]

    Args:
        places: along the line.
        size: the diameter of a mark.
    """
    put: list[tuple[float, float]] = []
    for x in places:
        near = [(x - other, rise) for other, rise in put if abs(x - other) < size]
        touching = [
            rise + side * math.sqrt(size**2 - by**2) for by, rise in near for side in (1, -1)
        ]
        free = (
            rise
            for rise in sorted([0.0, *touching], key=abs)
            if all(by**2 + (rise - other) ** 2 > 0.999 * size**2 for by, other in near)
        )
        put.append((x, next(free)))
    return [rise for _, rise in put]


def mean(ratios: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))


def times(ratio: float) -> str:
    """A ratio with three digits, or none behind the point where it is large."""
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.3g}" if ratio < 999.5 else f"{ratio:,.0f}"


def _dot(x: float, y: float, radius: float, name: str, case: str, ratio: float) -> str:
    told = f"<title>{escape(f'{case}: {name} takes {times(ratio)} times as long')}</title>"
    if ratio < 1:
        r = 1.2 * radius  # as large as a circle, to the eye
        path = f"M{x:.1f} {y - r:.1f}l{r:.1f} {r:.1f}l-{r:.1f} {r:.1f}l-{r:.1f} -{r:.1f}z"
        return f'<path class="loss" d="{path}">{told}</path>'
    return f'<circle class="win" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}">{told}</circle>'


def _power(power: int) -> str:
    return f"{2**power}" if power >= 0 else f"1/{2**-power}"


def _words(contestants: Mapping[str, Ratios]) -> str:
    """The drawing in words, for those who cannot see it."""
    told = (
        f"{name}: geometric mean {times(mean([ratio for _, ratio in ratios]))}, "
        f"einheads is slower in {sum(ratio < 1 for _, ratio in ratios)} of {len(ratios)} cases"
        for name, ratios in contestants.items()
    )
    return "How many times longer than einheads each takes. " + "; ".join(told) + "."
