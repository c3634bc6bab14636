"""The best of all candidates, found by trying each; the choice by price is compared with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from einheads import lower, stopwatch
from einheads.choices import told
from einheads.compiled import compile_source
from einheads.layout import layout
from einheads.operands import traits_of
from einheads.pattern import parse
from einheads.plan import plan
from einheads.planning import unfollowed
from einheads.sizes import bind
from einheads.source import write
from einheads.steps import Steps
from einheads.stopwatch import Watch

from .cases import Case


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
    traits = unfollowed(bound, traits_of(operands, len(operands), autocast=False), free=False)
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
    """Try all, and give the fastest."""
    calls = [partial(draft.run, *operands) for draft in every]
    return every[stopwatch.fastest(calls, watch)]
