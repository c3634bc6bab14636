"""Choices that somebody has measured, as data that can be kept in a file.

A choice belongs to a problem: dimensions, coarse sizes, layouts and traits, whatever decides which
program is made. The file knows which choices fit a contraction, but not how they were found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .candidates import Candidate, Elementwise, Traits, Way, elementwise_only, turning
from .gradients import spelled
from .layout import Layout
from .plan import Contraction, Plan
from .sizes import Bound, Dim
from .steps import PRODUCTS, Permute, Reshape, Steps, Sum, verb


@dataclass(slots=True)
class Choice:
    """What was measured to be the best for a problem.

    Attributes:
        ways: a way for each contraction; None where the one by price is the best.
        planned: by the tensors that need gradients, such as "110", whether a planned backward pays.
        turns: what is better still where stacks may be multiplied one after the other, if anything.
    """

    ways: tuple[Way, ...] | None = None
    planned: dict[str, bool] = field(default_factory=dict)
    turns: tuple[Way, ...] | None = None


# What was measured, by its problem: of the whole process, for whoever plans or explains.
measured: dict[str, Choice] = {}


def problem(
    bound: Bound,
    sizes: Mapping[str, int],
    layouts: Sequence[Layout],
    traits: Traits,
    bias: Dim | None,
    *,
    free: bool,
) -> str:
    """What a choice belongs to, as one line of JSON.

    Example:
        >>> from einheads.layout import contiguous
        >>> from einheads.pattern import parse
        >>> from einheads.sizes import bind
        >>> bound = bind(parse("b i -> i"), [(8, 5)])
        >>> rows = contiguous((("b",), ("i",)), bound.sizes)
        >>> line = problem(bound, bound.sizes, [rows], Traits(), None, free=False)
        >>> line[:66]
        '{"pattern": "b i -> i", "bias": null, "sizes": {"b": 4, "i": 3}, "'

    Args:
        bound: the dimensions.
        sizes: of every axis; only their class counts, the power of two above.
        layouts: of the tensors.
        traits: of the tensors.
        bias: its axes.
        free: whether the result may have any order of dimensions.
    """
    text = spelled(bound)
    return json.dumps(
        {
            "pattern": f"{text.split('->')[0]}-> any order of {text.split('-> ')[1]}"
            if free
            else text,
            "bias": None if bias is None else " ".join(bias),
            "sizes": {name: size.bit_length() for name, size in sizes.items()},
            "layouts": [_layout(one) for one in layouts],
            # A choice says what is best with turns and what without.
            "traits": {name: one for name, one in asdict(traits).items() if name != "turns"},
        }
    )


def _layout(layout: Layout) -> str:
    joins = ", ".join(sorted(" ".join(pair) for pair in layout.joins))
    text = f"{' '.join(layout.order)} | {joins} | {layout.unit or ''}"
    return f"{text} | {' '.join(sorted(layout.expanded))}" if layout.expanded else text


_KINDS = {kind.__name__: kind for kind in (Candidate, Elementwise)}


def to_data(choice: Choice) -> dict[str, Any]:
    """A choice as what JSON can hold."""
    told: dict[str, Any] = {"planned": choice.planned}
    for name in ("ways", "turns"):
        ways = getattr(choice, name)
        told[name] = ways and [{"kind": type(way).__name__, **way._asdict()} for way in ways]
    return told


def from_data(data: Mapping[str, Any]) -> Choice:
    """The choice that was written as data.

    Example:
        >>> way = Candidate(("h",), ("b",), ("o",), ("i",), swapped=False)
        >>> choice = Choice((way,), {"11": True})
        >>> from_data(json.loads(json.dumps(to_data(choice)))) == choice
        True

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    ways, turns = _ways(data["ways"]), _ways(data.get("turns"))
    planned = dict(data["planned"])
    if not all(type(needs) is str and type(pays) is bool for needs, pays in planned.items()):
        raise ValueError(planned)
    return Choice(ways, planned, turns)


def _ways(data: object) -> tuple[Way, ...] | None:
    if data is None:
        return None
    if type(data) is not list:
        raise ValueError(data)
    return tuple(_way(dict(one)) for one in data)


def _way(data: dict[str, Any]) -> Way:
    kind = _KINDS[data.pop("kind")]
    fields: dict[str, Any] = {}
    for name, value in data.items():
        if name in ("swapped", "each"):
            right = type(value) is bool
        else:
            pair = name in ("near", "copies")
            wanted = bool if pair else str
            right = type(value) is list and all(type(one) is wanted for one in value)
            right = right and (not pair or len(value) == 2)
        if not right:
            raise ValueError(f"{name}: {value!r}")
        fields[name] = tuple(value) if type(value) is list else value
    return kind(**fields)


def fits(plan: Plan, ways: Sequence[Way], traits: Traits) -> bool:
    """Whether these ways compute these contractions, whatever file they came from."""
    steps = plan.contractions
    if not traits.turns and turning(ways):
        return False
    return len(steps) == len(ways) and all(
        _fits(step, way) and _allowed(step, way, traits, plan.sizes)
        for step, way in zip(steps, ways, strict=True)
    )


def _allowed(step: Contraction, way: Way, traits: Traits, sizes: Mapping[str, int]) -> bool:
    """Whether the numbers may be multiplied and summed so, as the search has it."""
    summed_apart = bool(way.contract) if isinstance(way, Elementwise) else bool(way.added)
    if summed_apart and not traits.wide:
        return False
    if summed_apart and way.each:
        # The first of the products is made by itself.
        first = (way.order if isinstance(way, Elementwise) else way.batch)[0]
        return sizes[first] > 0
    return isinstance(way, Elementwise) or not elementwise_only(step, traits)


def _fits(step: Contraction, way: Way) -> bool:
    if isinstance(way, Elementwise):
        every = (*step.result, *step.contract)
        summed = not way.each or (bool(way.contract) and way.order[:1] == way.contract)
        return (
            sorted(way.order) == sorted(every)
            and set(way.contract) == set(step.contract)
            and summed
        )
    in_turns = way.added == way.batch[:1] if way.added else len(way.batch) > 1
    rows, columns = step.left_axes, step.right_axes
    if way.swapped:
        rows, columns = columns, rows
    return (
        bool(way.contract)
        and sorted((*way.contract, *way.added)) == sorted(step.contract)
        and sorted((*way.batch, *way.rows, *way.columns)) == sorted((*step.result, *way.added))
        and set(way.rows) <= set(rows)
        and set(way.columns) <= set(columns)
        and (in_turns or not way.each)
    )


def told(steps: Steps) -> str:
    """The products of some steps in one line: their dimensions, and what is copied.

    Example:
        >>> from einheads.steps import Linear
        >>> told(Steps(((("b",), ("i",)), (("o",), ("i",))), (Linear(0, 1, None, ("i",), ()),), 2))
        'linear b,i x o,i'
    """
    words = []
    for number, step in enumerate(steps.steps, start=len(steps.inputs)):
        if isinstance(step, PRODUCTS):
            left, right = (_dims(steps, value) for value in (step.left, step.right))
            words.append(f"{verb(step)} {left} x {right}")
        elif isinstance(step, Sum):
            words.append("sum")
        elif number in steps.copies:
            words.append(f"COPY {_dims(steps, number)}")
    if isinstance(steps.steps[-1], (Permute, Reshape)) and steps.result not in steps.copies:
        words.append("view")
    return "; ".join(words)


def _dims(steps: Steps, number: int) -> str:
    return ",".join("".join(dim) or "1" for dim in steps.dims(number))
