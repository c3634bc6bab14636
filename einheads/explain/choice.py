"""Why these steps and no others: the chosen lowering beside the one that came next."""

from __future__ import annotations

from einheads.layout import in_order
from einheads.lower import drafts
from einheads.price import parts
from einheads.rates import sure_for
from einheads.steps import PRODUCTS, Steps, Sum, elements, flat, verb

from .spellings import dims_text
from .story import Alternative
from .subject import Subject

# Prices that differ by less are the same.
_EQUAL = 1.005


def in_a_line(steps: Steps) -> str:
    """The products of some steps, what is copied for them, and along what they are added up.

    Example:
        >>> from einheads.steps import Linear
        >>> dims = (("b",), ("i",)), (("o",), ("i",))
        >>> in_a_line(Steps(dims, (Linear(0, 1, None, ("i",), ()),), 2))
        'linear b i x o i'
    """
    words = []
    for number, step in enumerate(steps.steps, start=len(steps.inputs)):
        if isinstance(step, PRODUCTS):
            left, right = (dims_text(steps.dims(value)) for value in (step.left, step.right))
            words.append(f"{verb(step)} {left} x {right}")
        elif isinstance(step, Sum) and words and not words[-1].startswith("multiply"):
            before = steps.dims(step.source)
            words.append(f"sum {' '.join(flat(tuple(before[place] for place in step.places)))}")
        elif number in steps.copies:
            words.append(f"copy {dims_text(step.dims)}")
    return "; ".join(words) or "no product"


def runner_up(subject: Subject) -> Alternative | None:
    """The next best lowering, if there is another one at all.

    Args:
        subject: what is explained.
    """
    own, price = in_a_line(subject.steps), sum(_parts(subject, subject.steps).values())
    every = drafts(subject.bound, subject.plan, subject.layouts, subject.traits, subject.bias)
    # A price that is lower by too little is no reason to leave what torch does itself; one that the
    # search has not found is none at all.
    least = price * sure_for(subject.traits.device, subject.traits.numbers)
    others = [one for one in every if one.price >= least and in_a_line(one.steps) != own]
    if not others:
        return None
    second = min(others, key=lambda draft: draft.price)
    return Alternative(
        steps=in_a_line(second.steps),
        price=second.price / price,
        bytes_copied=_copied(subject, second.steps),
        reason=_reason(subject, second.steps),
    )


def _copied(subject: Subject, steps: Steps) -> int:
    numbers = (elements(steps.dims(number), subject.plan.sizes) for number in steps.copies)
    return sum(numbers) * subject.traits.itemsize


def _reason(subject: Subject, second: Steps) -> str:
    """What makes the second one dearer, by the largest difference between the two."""
    own, other = _parts(subject, subject.steps), _parts(subject, second)
    ratio = sum(other.values()) / sum(own.values())
    if ratio * _EQUAL < 1:
        return "it may be a little faster, too little to be sure"
    if ratio < _EQUAL:
        return "both cost the same"
    part = max(own, key=lambda name: other[name] - own[name])
    if part == "copies":
        more = _copied(subject, second) - _copied(subject, subject.steps)
        return f"it copies {more:,} bytes more" if more > 0 else "its copies take longer"
    return {
        "products": "its matrix products take longer",
        "elementwise": "multiplying elementwise takes longer",
        "views": "it makes more views",
        "reader": "its result lies in another order",
    }[part]


def _parts(subject: Subject, steps: Steps) -> dict[str, float]:
    sizes, traits = subject.plan.sizes, subject.traits
    layouts = subject.layouts or [in_order(dims, sizes) for dims in steps.inputs]
    return parts(steps, layouts, sizes, traits.itemsize, traits.rates)
