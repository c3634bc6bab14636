"""The ways for all contractions of a plan together, since each result is the operand of another.

The result of one step is born in a layout that may suit the next one or not. The file knows nothing
of steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from .candidates import Traits, Way, made
from .layout import Layout
from .plan import Plan
from .sizes import Dim, Dims
from .ways import SLACK, ways

# The price so far, the ways, and the layouts of all values.
_Entry = tuple[float, tuple[Way, ...], list[Layout]]


def schedules(
    plan: Plan,
    layouts: Sequence[Layout],
    traits: Traits,
    output: Dims | None,
    *,
    width: int = 8,
    slack: float = SLACK,
    cautious: bool = False,
) -> list[tuple[float, tuple[Way, ...]]]:
    """The likeliest ways to go through the contractions, with rough prices, the cheapest first.

    A beam search over the ways, by the sum of their prices. Of choices that leave the same layouts
    behind, only the cheapest one can be part of the best.

    Args:
        plan: the contractions.
        layouts: of their operands.
        traits: device, dtype and autocast.
        output: the dimensions of the result; None if it may have any order.
        width: how many choices are followed.
        slack: how many times the price of the cheapest way the last contraction may cost.
        cautious: whether each contraction is left to what `torch.einsum` does, unless another way
            is clearly cheaper.
    """
    beam: list[_Entry] = [(0.0, (), list(layouts))]
    for place, step in enumerate(plan.contractions):
        final = place == len(plan.contractions) - 1
        seen: dict[tuple[Layout, Layout], list[tuple[float, Way, tuple[Layout, ...]]]] = {}
        found = []
        for before, chosen, known in beam:
            pair = known[step.left], known[step.right]
            if pair not in seen:
                wanted, margin = (output, slack) if final else (None, SLACK)
                seen[pair] = [
                    # Nobody asks how the last result lies.
                    (price, way, () if final else (made(way, *pair, plan.sizes),))
                    for price, way in ways(
                        step, *pair, plan.sizes, traits, wanted, slack=margin, cautious=cautious
                    )
                ]
            found += [
                (before + price, (*chosen, way), [*known, *lies]) for price, way, lies in seen[pair]
            ]
        found.sort(key=lambda entry: entry[0])
        beam = found[:width] if final else _different(found, _alive(plan, place))[:width]
    return [(cost, chosen) for cost, chosen, _ in beam]


def _alive(plan: Plan, place: int) -> set[int]:
    """The values that contractions behind this place read."""
    later = plan.contractions[place + 1 :]
    return {side for step in later for side in (step.left, step.right)}


def _different(found: Sequence[_Entry], alive: set[int]) -> list[_Entry]:
    """Of choices that leave the same layouts behind, the first one."""
    left: dict[tuple[tuple[Dim, str | None], ...], _Entry] = {}
    for entry in found:
        lies = entry[2]
        key = tuple((lies[value].order, lies[value].unit) for value in alive if value < len(lies))
        left.setdefault(key, entry)
    return list(left.values())
