"""Races: prepare the contestants, make sure that they agree, and time them in turn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from einheads.choices import told
from einheads.errors import EinheadsError
from einheads.operands import Declaration
from einheads.program import program_for
from einheads.stopwatch import Limits, Racer, Times, Watch, race

from .agreement import agree, reference
from .cases import Case
from .contestants import EINHEADS, FORWARD, Contestant, Run
from .result import Row
from .search import drafts, fastest

# The name of the bare operations that einheads has chosen.
PROGRAM = "program"

# On a GPU, one set of operands would stay in the cache of the device.
_CUDA_SETS = 4


def operands_for(case: Case, watch: Watch, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """Random operands."""
    generator = torch.Generator(watch.device).manual_seed(seed)
    try:
        return [
            torch.randn(shape, generator=generator, device=watch.device, dtype=dtype)
            for shape in case.shapes
        ]
    except RuntimeError as error:
        raise EinheadsError(
            f"there is no memory for operands of {' and '.join(map(str, case.shapes))}",
            case.pattern,
            notes=["write: smaller sizes"],
        ) from error


def contestants(watch: Watch) -> tuple[Contestant, ...]:
    """Those that make sense on this device and are installed."""
    return tuple(one for one in FORWARD if one.installed and one.device in {None, watch.device})


def forward(
    case: Case,
    watch: Watch,
    limits: Limits,
    dtype: torch.dtype = torch.float32,
    *,
    search: bool = True,
) -> Row:
    """One race of a forward.

    Args:
        case: what is computed.
        watch: how time is taken.
        limits: of the machine.
        dtype: of the operands.
        search: whether to look for the best candidate, which takes a while.
    """
    count = _CUDA_SETS if watch.device == "cuda" else 1
    sets = [operands_for(case, watch, dtype, seed) for seed in range(count)]
    wanted = reference(case, sets[0])
    racers, peers = [], []
    notes: dict[str, str] = {}
    with torch.no_grad():
        for one in contestants(watch):
            run = one.prepare(case, sets[0])
            if run is None:
                continue
            with one.setting():
                agree(one.name, case, run(*sets[0]), wanted)
            racers.append(Racer(one.name, taking_turns(run, sets), one.setting))
            if one.peer:
                peers.append(one.name)
        program, bound = program_for(Declaration(case.pattern), _given(case), sets[0])
        notes["chosen"] = told(program.steps)
        # The operations alone, as if somebody had pasted what `source` gives.
        extra = program.trailing(bound)
        racers.append(Racer(PROGRAM, taking_turns(lambda *x: program.run(*x, *extra), sets)))
        if search and len(sets[0]) == 2 and case.plain:
            every = drafts(case, sets[0])
            for draft in every:
                agree(f"candidate {draft}", case, draft.run(*sets[0]), wanted)
            best = fastest(every, sets[0], watch)
            notes["best"] = str(best)
            notes["candidates"] = str(len(every))
            if best.steps != program.steps:
                racers.append(Racer("best", taking_turns(best.run, sets)))
        times = race(racers, watch)
    moved = case.elements * dtype.itemsize
    return row(case, times, peers, limits.seconds(case.multiply_adds, moved), notes)


def _given(case: Case) -> tuple[tuple[str, int], ...]:
    return () if case.plain else tuple(case.sizes.items())


def row(case: Case, times: Times, peers: Sequence[str], limit: float, notes: dict[str, str]) -> Row:
    """The times of a race as ratios against einheads."""
    base = EINHEADS.name
    ratios = {name: times.ratio(name, base) for name in times.rounds if name != base}
    if "best" in notes:
        # What a call costs besides is no question of the choice; nor is where in memory the results
        # of two who run the same steps come to lie, which may cost the one more than the other.
        own = min((base, PROGRAM), key=times.median)
        # The same steps need no stopwatch.
        ratios["best"] = times.ratio("best", own) if "best" in ratios else 1.0
    fastest_peer = min(peers, key=times.median, default=None)
    return Row(case, ratios, times.median(base), limit, fastest_peer, notes)


def taking_turns(run: Run, sets: Sequence[Sequence[Tensor]]) -> Callable[[], object]:
    """A call without arguments, which takes the next set of operands each time."""
    if len(sets) == 1:
        operands = tuple(sets[0])
        return lambda: run(*operands)
    turn = itertools.cycle(sets)
    return lambda: run(*next(turn))
