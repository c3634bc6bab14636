"""The best of all candidates, found by trying each; the choice by price is compared with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from einheads import lower
from einheads.candidates import Traits
from einheads.layout import layout
from einheads.pattern import parse
from einheads.plan import plan
from einheads.program import compile_source
from einheads.sizes import bind
from einheads.source import write
from einheads.steps import Bmm, Linear, Matmul, Multiply, Permute, Reshape, Steps, Sum

from .cases import Case
from .measure import Racer, Watch, race


@dataclass(frozen=True, slots=True)
class Draft:
    """One candidate, written down.

    Attributes:
        steps: its steps.
        source: its text.
        run: the compiled text.
        price: what the cost model thinks of it, in nanoseconds.
    """

    steps: Steps
    source: str
    run: Callable[..., Tensor]
    price: float

    def __str__(self) -> str:
        return told(self.steps)


def told(steps: Steps) -> str:
    """The products of some steps in one line: their dimensions, and what is copied.

    Example:
        >>> from einheads.steps import Linear
        >>> told(Steps(((("b",), ("i",)), (("o",), ("i",))), (Linear(0, 1, None, ("i",), ()),), 2))
        'linear b,i x o,i'
    """
    words = []
    for number, step in enumerate(steps.steps, start=len(steps.inputs)):
        if isinstance(step, (Bmm, Matmul, Linear, Multiply)):
            kind = type(step).__name__.lower()
            left, right = (_dims(steps, value) for value in (step.left, step.right))
            words.append(f"{kind} {left} x {right}")
        elif isinstance(step, Sum):
            words.append("sum")
        elif number in steps.copies:
            words.append(f"COPY {_dims(steps, number)}")
    if isinstance(steps.steps[-1], (Permute, Reshape)) and steps.result not in steps.copies:
        words.append("view")
    return "; ".join(words)


def _dims(steps: Steps, number: int) -> str:
    return ",".join("".join(dim) or "1" for dim in steps.dims(number))


# Candidates that are priced so many times higher than the cheapest one are left out: prices are
# wrong by a factor of ten at most, and what multiplies large operands elementwise would fill the
# memory of the machine.
_HOPELESS = 30.0


def drafts(case: Case, operands: Sequence[Tensor]) -> list[Draft]:
    """Every candidate with any hope for two operands, the cheapest by price first."""
    pattern = parse(case.pattern)
    bound = bind(pattern, [operand.shape for operand in operands], {})
    chosen = plan(bound)
    layouts = [
        layout(dims, operand.stride(), bound.sizes)
        for dims, operand in zip(bound.operands, operands, strict=True)
    ]
    first = operands[0]
    traits = Traits(device=first.device.type, itemsize=first.element_size())
    every = []
    found = lower.drafts(bound, chosen, layouts, traits)
    for draft in found:
        if draft.price > _HOPELESS * found[0].price:
            break
        text = write(draft.steps, ["x", "y"], title=str(pattern))
        run = compile_source(text, "contract", f"<einheads bench: {pattern}>")
        every.append(Draft(draft.steps, text, run, draft.price))
    return every


def fastest(every: Sequence[Draft], operands: Sequence[Tensor], watch: Watch) -> Draft:
    """Try all, then the best few of them again and longer, and give the fastest."""
    alive = list(every)
    for keep, rounds in ((6, 2), (2, 5), (1, 9)):
        if len(alive) <= keep:
            continue
        quick = Watch(watch.device, watch.threads, rounds, watch.span / 4)
        racers = [
            Racer(str(number), _call(draft.run, operands)) for number, draft in enumerate(alive)
        ]
        times = race(racers, quick)
        order = sorted(range(len(alive)), key=lambda number: min(times.rounds[str(number)]))
        alive = [alive[number] for number in order[:keep]]
    return alive[0]


def _call(run: Callable[..., Tensor], operands: Sequence[Tensor]) -> Callable[[], Tensor]:
    return lambda: run(*operands)
