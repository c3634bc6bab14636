"""The lowering: a plan and the layouts of its operands become `Steps`.

Each pairwise contraction becomes a multiply, a multiply and sum, or the cheapest matrix product
that `candidates` finds; between them values are permuted, folded and expanded, as views wherever
memory allows it. The file knows nothing of torch, of how the steps are spelled, or of why the plan
is as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from .beam import schedules
from .build import Builder
from .candidates import Traits, Way
from .layout import Layout, in_order
from .plan import Plan
from .price import price
from .sizes import Bound, Dim
from .steps import Steps, flat
from .ways import SLACK, in_turns, ways
from .writing import Writer


def lower(
    bound: Bound,
    plan: Plan,
    layouts: Sequence[Layout] | None = None,
    traits: Traits | None = None,
    bias: Dim | None = None,
    *,
    free: bool = False,
    chosen: Sequence[Way] | None = None,
) -> Steps:
    """Choose the tensor operations for a plan.

    Example:
        >>> from einheads.pattern import parse
        >>> from einheads.plan import plan
        >>> from einheads.sizes import bind
        >>> bound = bind(parse("b i, o i -> b o"), [(8, 64), (32, 64)])
        >>> lower(bound, plan(bound)).steps
        (Linear(left=0, right=1, bias=None, contract=('i',), dims=(('b',), ('o',))),)

    Args:
        bound: the pattern with its dimensions.
        plan: the order of contraction, and the sizes to price with.
        layouts: how each operand (and then the bias) lies in memory; contiguous by default.
        traits: device, dtype and autocast, as far as they matter.
        bias: axes of a bias which is added to the result; it is the last input.
        free: whether the result may have its dimensions in any order, folded or not, since it is
            read by another program of ours; then it has no bias.
        chosen: a way for each contraction, if somebody has measured which are the best.
    """
    start = begin(bound, plan, layouts, traits, bias, free=free)
    return (start.best() if chosen is None else start.written(chosen)).steps


def drafts(
    bound: Bound,
    plan: Plan,
    layouts: Sequence[Layout] | None = None,
    traits: Traits | None = None,
    bias: Dim | None = None,
    *,
    free: bool = False,
) -> list[Draft]:
    """Every lowering of one contraction, or the likeliest ones of several, the cheapest first.

    `lower` takes the first one; a tuner or a test wants them all.
    """
    start = begin(bound, plan, layouts, traits, bias, free=free)
    traits, output = start.writer.traits, start.writer.output
    if len(plan.contractions) == 1:
        (step,) = plan.contractions
        left, right = start.layouts[step.left], start.layouts[step.right]
        alone = ways(step, left, right, plan.sizes, traits, output, every=True)
        every: list[tuple[Way, ...]] = [(way,) for _, way in alone]
    else:
        found = schedules(plan, start.layouts, traits, output, width=_WIDE)
        every = [chosen for _, chosen in found]
    written: dict[Steps, Draft] = {}
    for chosen in every:
        draft = start.written(chosen)
        written.setdefault(draft.steps, draft)
    return sorted(written.values(), key=lambda draft: draft.price)


@dataclass(frozen=True, eq=False)
class Draft:
    """Steps and their price.

    Attributes:
        steps: a complete lowering.
        ways: what was chosen for each contraction.
        layouts: how each input lies in memory.
        sizes: of every axis.
        traits: device, dtype and autocast.
    """

    steps: Steps
    ways: tuple[Way, ...]
    layouts: Sequence[Layout]
    sizes: Mapping[str, int]
    traits: Traits

    @cached_property
    def price(self) -> float:
        """In nanoseconds, the calls included; who has no choice does not ask for it."""
        itemsize, rates, dense = self.traits.itemsize, self.traits.rates, self.traits.dense
        return price(self.steps, self.layouts, self.sizes, itemsize, rates, dense=dense)


def begin(
    bound: Bound,
    plan: Plan,
    layouts: Sequence[Layout] | None = None,
    traits: Traits | None = None,
    bias: Dim | None = None,
    *,
    free: bool = False,
) -> Lowering:
    """Prepare the operands; all lowerings of a plan begin like this. The arguments of `lower`."""
    dims = bound.operands if bias is None else (*bound.operands, tuple((name,) for name in bias))
    if layouts is None:
        layouts = [in_order(one, plan.sizes) for one in dims]
    build = Builder(dims, plan.sizes, known=dict(enumerate(layouts)))
    values = [build.prepare(number, lonely) for number, lonely in enumerate(plan.lonely)]
    output = None if free else bound.output
    return Lowering(Writer(plan, output, bound.needed, traits or Traits(), bias, build, values))


# How many of the likeliest choices are written down and priced exactly at most: without a bias, and
# with one, which the search has not seen. Prices of a single contraction are less rough: two do.
_WRITTEN, _WITH_BIAS = 3, 4
# What could cost a half percent less is not worth that either.
_NO_LESS = 0.995
# How many there are for somebody who measures them all.
_WIDE = 32


@dataclass(frozen=True)
class Lowering:
    """What all lowerings of a plan begin with.

    Attributes:
        writer: with the operands prepared, and nothing else written.
    """

    writer: Writer

    @property
    def plan(self) -> Plan:
        """The contractions."""
        return self.writer.plan

    @property
    def layouts(self) -> list[Layout]:
        """How the prepared operands lie in memory."""
        return [self.writer.build.known[value] for value in self.writer.values]

    def best(self) -> Draft:
        """The cheapest lowering that the search finds."""
        # Without a bias, the last contraction comes to what it is said to.
        count = len(self.plan.contractions)
        slack, most = 1.0, min(1 + count, _WRITTEN)
        if self.writer.bias is not None:
            slack, most = SLACK, _WITH_BIAS
        best: Draft | None = None
        every = schedules(
            self.plan,
            self.layouts,
            self.writer.traits,
            self.writer.output,
            slack=slack,
            # What `torch.einsum` does is known of two operands alone.
            cautious=count == 1 and self.writer.bias is None and self.writer.output is not None,
        )
        if self.writer.bias is not None and count:
            every = _by_innermost(every, self.plan.sizes)
        for cost, chosen in every[:most]:
            # Rough prices leave out more than they add. With a bias, the next one may cost less.
            if best is not None and best.price * _NO_LESS <= cost:
                continue
            draft = self.written(chosen)
            if best is None or draft.price < best.price:
                best = draft
        assert best is not None
        return best

    def in_turns(self, less: float) -> Draft | None:
        """What makes one product after the other, for two operands, if it costs less than this."""
        (step,) = self.plan.contractions
        left, right = self.layouts
        sizes, traits, output = self.plan.sizes, self.writer.traits, self.writer.output
        best: Draft | None = None
        for cost, way in in_turns(step, left, right, sizes, traits, output, less=less):
            if best is not None and best.price * _NO_LESS <= cost:
                break
            draft = self.written([way])
            if draft.price < (less if best is None else best.price):
                best = draft
        return best

    def written(self, chosen: Sequence[Way]) -> Draft:
        """Write the chosen ways down."""
        build = self.writer.build
        writer = self.writer.copy()
        steps = writer.steps(chosen)
        layouts = [build.known[number] for number in range(len(build.inputs))]
        return Draft(steps, tuple(chosen), layouts, self.plan.sizes, writer.traits)


def _by_innermost(
    every: list[tuple[float, tuple[Way, ...]]], sizes: Mapping[str, int]
) -> list[tuple[float, tuple[Way, ...]]]:
    """The cheapest for each innermost axis of the result before the others.

    A bias that is added to the result afterwards goes along that axis, in runs long or short.
    """
    seen: set[str | None] = set()
    first: list[tuple[float, tuple[Way, ...]]] = []
    others: list[tuple[float, tuple[Way, ...]]] = []
    for entry in every:
        made = flat(entry[1][-1].result)
        inner = next((name for name in reversed(made) if sizes[name] != 1), None)
        (others if inner in seen else first).append(entry)
        seen.add(inner)
    return first + others
