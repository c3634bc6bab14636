"""The plan and the lowering together: among orders of contraction, the cheapest once lowered.

An order of few multiply-adds may have inner results that lie badly or are long to write. Only the
lowering knows, so each order is lowered, and priced: with its gradients, if these are wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .candidates import Traits
from .choices import Choice, fits
from .layout import Layout
from .lower import Draft, begin
from .plan import Plan, plans
from .sizes import Bound, Dim
from .steps import Bmm, Linear, Matmul, Steps, Sum
from .unplanned import price_undone


@dataclass(frozen=True, slots=True)
class Planned:
    """An order of contraction, and what is done for it.

    Attributes:
        plan: the order.
        steps: the operations.
        alone: what is done instead where nobody follows the single operations, if that is cheaper:
            products that are made one after the other, into one result.
    """

    plan: Plan
    steps: Steps
    alone: Steps | None = None


def planned(
    bound: Bound,
    sizes: Mapping[str, int],
    layouts: Sequence[Layout],
    traits: Traits,
    bias: Dim | None = None,
    *,
    free: bool = False,
    choice: Choice | None = None,
) -> Planned:
    """Choose the order of contraction and its lowering.

    Example:
        >>> from einheads.layout import contiguous
        >>> from einheads.pattern import parse
        >>> from einheads.sizes import bind
        >>> bound = bind(parse("b i, i r, r o -> b o"), [(8, 64), (64, 4), (4, 32)])
        >>> layouts = [contiguous(dims, bound.sizes) for dims in bound.operands]
        >>> found = planned(bound, bound.sizes, layouts, Traits())
        >>> [type(step).__name__ for step in found.steps.steps]
        ['Matmul', 'Matmul']

    Args:
        bound: the pattern with its dimensions.
        sizes: to plan with.
        layouts: of each operand, and then of the bias.
        traits: device, dtype and whatever else matters.
        bias: axes of a bias.
        free: whether the result may have any order of dimensions.
        choice: what somebody has measured: ways for each contraction of one of the orders; those
            that compute something else are left aside.
    """
    starts = [begin(bound, one, layouts, traits, bias, free=free) for one in plans(bound, sizes)]
    start = starts[0]
    ways, turns = (None, None) if choice is None else (choice.ways, choice.turns)
    fitting = [one for one in starts if ways is not None and fits(one.plan, ways, traits)]
    if fitting and ways is not None:
        start = fitting[0]
        found = start.written(ways)
    elif len(starts) == 1:
        found = start.best()
    else:
        every = [(one, one.best()) for one in starts]
        start, found = min(every, key=lambda entry: _cost(entry[1], layouts, sizes, traits))
    turning, alone = unfollowed(bound, traits, free=free), None
    if turning.turns and turns is not None and fits(start.plan, turns, turning):
        alone = start.written(turns)
    # What was measured to be the best without turns is not compared with them again; and a product
    # that copies nothing leaves them nothing to save.
    elif turning.turns and ways is None and _saves(found.steps):
        alone = start.in_turns(found.price)
    # Both are called alike, with the same sizes behind the tensors.
    if alone is None or alone.steps.given != found.steps.given:
        return Planned(start.plan, found.steps)
    return Planned(start.plan, found.steps, alone.steps)


def unfollowed(bound: Bound, traits: Traits, *, free: bool) -> Traits:
    """The traits where nobody follows the single operations: products may be made in turns.

    Calls have to be cheap; and there must be no inner value, which would lie differently then.
    """
    cheap = traits.device == "cpu" and not traits.autocast
    return replace(traits, turns=cheap and len(bound.operands) == 2 and not free)


def _saves(steps: Steps) -> bool:
    """Whether products in turns could save a copy, or take the place of a sum.

    One that comes before all products is taken for such a sum, at the cost of a search.
    """
    product = any(isinstance(step, (Matmul, Bmm, Linear)) for step in steps.steps)
    summed = any(isinstance(step, Sum) for step in steps.steps)
    return bool(steps.copies) or summed or not product


def _cost(one: Draft, layouts: Sequence[Layout], sizes: Mapping[str, int], traits: Traits) -> float:
    if not traits.trains:
        return one.price
    return one.price + price_undone(one.steps, layouts, [True] * len(layouts), sizes, traits)
