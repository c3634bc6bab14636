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
_LABELS, _PLOT, _NUMBERS, _ROW, _TOP = 140.0, 420.0, 150.0, 32.0, 52.0

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

    bottom = _TOP + _ROW * len(contestants)
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
    for row, (name, ratios) in enumerate(contestants.items()):
        y = _TOP + _ROW * (row + 0.5)
        parts.append(f'<text x="16" y="{y + 4:g}">{escape(name)}</text>')
        # Losses last, so that no win covers one.
        for number, (case, ratio) in enumerate(sorted(ratios, key=lambda one: -one[1])):
            parts.append(_dot(place(ratio), y + (-5, 0, 5)[number % 3], name, case, ratio))
        middle = mean([ratio for _, ratio in ratios])
        x = place(middle)
        parts.append(
            f'<line class="mean" x1="{x:.1f}" y1="{y - 11:g}" x2="{x:.1f}" y2="{y + 11:g}"/>'
            f'<text x="{_LABELS + _PLOT + 24:g}" y="{y + 4:g}">'
            f"{times(middle)}, {times(min(ratio for _, ratio in ratios))}</text>"
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="eh-race" role="img" width="{width:g}" '
        f'height="{height:g}" viewBox="0 0 {width:g} {height:g}"><title>{escape(title)}</title>'
        f"<desc>{escape(_words(contestants))}</desc><style>{_STYLE}</style>"
        f'<rect class="ground" x="1" y="1" width="{width - 2:g}" height="{height - 2:g}" '
        f'rx="10"/>{"".join(parts)}</svg>'
    )


def mean(ratios: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))


def times(ratio: float) -> str:
    """A ratio with three digits, or none behind the point where it is large."""
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.3g}" if ratio < 999.5 else f"{ratio:,.0f}"


def _dot(x: float, y: float, name: str, case: str, ratio: float) -> str:
    told = f"<title>{escape(f'{case}: {name} takes {times(ratio)} times as long')}</title>"
    if ratio < 1:
        path = f"M{x:.1f} {y - 5:g}l5 5l-5 5l-5 -5z"
        return f'<path class="loss" d="{path}">{told}</path>'
    return f'<circle class="win" cx="{x:.1f}" cy="{y:g}" r="4.2">{told}</circle>'


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
