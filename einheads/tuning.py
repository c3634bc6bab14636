"""Tuning: measure the candidates on the spot, and remember the winner.

A price is a guess about a machine that nobody has met. `tune` runs a layer, a model or a pattern
once to see which contractions it makes, times the lowerings of each, and from then on the fastest
one runs. What was found can be kept in a file, so that many jobs on the same kind of machine tune
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .candidates import turning
from .choices import Choice, told
from .compiled import compile_source
from .errors import EinheadsError, argument, count, kind
from .functional import einsum
from .lower import Draft, drafts
from .operands import Declaration, modes
from .plan import plans
from .planning import unfollowed
from .program import Request, autocasts, cache, lowered, prepare
from .source import write
from .steps import elements
from .stopwatch import Racer, Watch, fastest, race
from .training import Schedule, contract, pays, trainable


@dataclass(frozen=True, slots=True)
class Measured:
    """One contraction, or the choice of a backward, and what was found.

    Attributes:
        title: what is computed, in words.
        choice: what is fastest, in words.
        seconds: of one call, the fastest.
        before: seconds of what ran before.
        tried: how many candidates were timed.
    """

    title: str
    choice: str
    seconds: float
    before: float
    tried: int


@dataclass(frozen=True, slots=True)
class Tuned:
    """What `tune` found, one row for each contraction; prints as a table."""

    rows: tuple[Measured, ...]

    def __str__(self) -> str:
        if not self.rows:
            return "nothing tuned: no contraction of einheads was called"
        lines = [f"{count(len(self.rows), 'contraction')} tuned"]
        for row in self.rows:
            gain = row.before / row.seconds
            lines.append(f"  {row.title}")
            lines.append(
                f"    {row.choice}: {row.seconds * 1e6:.3g} us, "
                f"{gain:.2f} times as fast as before, the best of {row.tried}"
            )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that was seen: everything but the numbers."""

    declaration: Declaration
    given: tuple[tuple[str, int], ...]
    tensors: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype, torch.device, bool], ...]
    autocast: torch.dtype | None

    @property
    def device(self) -> torch.device:
        return self.tensors[0][3]

    def setting(self) -> AbstractContextManager[object]:
        """Autocast, if it was on."""
        if self.autocast is None:
            return nullcontext()
        setting: AbstractContextManager[object] = torch.autocast(self.device.type, self.autocast)
        return setting

    def operands(self) -> list[Tensor]:
        """Random tensors of the same kind."""
        return [
            _random(shape, strides, dtype, device).requires_grad_(needed)
            for shape, strides, dtype, device, needed in self.tensors
        ]

    @property
    def needs(self) -> tuple[bool, ...]:
        return tuple(needed for *_, needed in self.tensors)


def tune(
    what: str | Callable[..., Any],
    /,
    *inputs: Any,
    backward: bool = False,
    progress: bool = True,
    **sizes: int,
) -> Tuned:
    """Time the lowerings of every contraction that a call makes, and use the fastest from now on.

    Example:
        >>> import torch
        >>> from einheads import Einsum, cache_clear, tune
        >>> layer = Einsum("b w h i, h o i -> b w h o", h=8, i=16, o=16)
        >>> found = tune(layer, torch.randn(4, 10, 8, 16), progress=False)
        >>> found.rows[0].title, found.rows[0].tried > 3
        ('b w h i, h o i -> b w h o', True)
        >>> cache_clear()                               # forgets what was found, too

    Args:
        what: a pattern, a layer, a model, or any function that uses einheads.
        *inputs: what it is called with, of the sizes that matter; a choice holds for all sizes of
            its class, up to the next power of two.
        backward: whether to time gradients too, and whether a planned backward pays; only for what
            needs gradients.
        progress: whether to show a progress bar, on a terminal.
        **sizes: for a pattern, sizes that shapes do not tell.

    Returns:
        What was found, in the order of the calls.

    Raises:
        EinheadsError: gradients are to be timed in inference mode, which has none; or a mode of
            torch, such as `FakeTensorMode`, stands before the operations.
        TypeError: `what` is neither a pattern nor something to call, or `backward` or `progress` no
            boolean.
    """
    for name, value in (("backward", backward), ("progress", progress)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} is True or False, not {kind(value)}; write: {name}=True")
    if backward and torch.is_inference_mode_enabled():
        raise EinheadsError(
            "torch.inference_mode() has no gradients to time",
            notes=["write: tune(..., backward=True) outside of it, or tune(...) inside"],
        )
    if modes():
        raise EinheadsError(
            "a mode of torch stands before the operations, so that nothing can be timed",
            notes=["write: tune(...) outside of it"],
        )
    if isinstance(what, str):
        run: Callable[[], Any] = partial(einsum, what, *inputs, **sizes)
    elif callable(what):
        if sizes:
            one = argument(next(iter(sizes)))
            raise TypeError(
                f"{', '.join(sizes)}: only a pattern takes sizes; a layer has its own; "
                f"write: tune(lambda: layer(x, {one})) for what a layer takes"
            )
        run = partial(what, *inputs)
    else:
        raise TypeError(
            f"tune takes a pattern, a layer or a function, not {kind(what)}; write: tune(layer, x)"
        )
    calls = _seen(run, backward=backward)
    rows: list[Measured] = []
    bar = tqdm(calls, desc="tune", leave=False, disable=None if progress else True)
    for call in bar:
        with call.setting(), torch.set_grad_enabled(backward):
            rows += _tuned(call, backward=backward)
    return Tuned(tuple(rows))


def _seen(run: Callable[[], Any], *, backward: bool) -> list[_Call]:
    """The different calls that something makes."""
    calls: dict[_Call, None] = {}

    def note(
        declaration: Declaration, given: tuple[tuple[str, int], ...], tensors: Sequence[Tensor]
    ) -> None:
        described = tuple(
            (tuple(one.shape), one.stride(), one.dtype, one.device, one.requires_grad)
            for one in tensors
        )
        device = tensors[0].device.type
        dtype = torch.get_autocast_dtype(device) if autocasts() else None
        calls[_Call(declaration, given, described, dtype)] = None

    # Without the lock: what runs may wait for threads of its own, which need it.
    cache.recorders.append(note)
    # What is known already would not be noted.
    cache.forget_calls()
    try:
        with torch.set_grad_enabled(backward):
            run()
    finally:
        cache.recorders.remove(note)
    return list(calls)


def _random(
    shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """A random tensor, whose axes may be expanded at stride zero."""
    held = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    held = 0 if 0 in shape else held
    if dtype.is_floating_point or dtype.is_complex:
        drawn = torch.complex64 if dtype.is_complex else torch.float32
        flat = torch.randn(held, dtype=drawn, device=device)
    else:
        flat = torch.randint(-2, 3, (held,), device=device)
    return flat.to(dtype).as_strided(shape, strides)


def _tuned(call: _Call, *, backward: bool) -> Iterator[Measured]:
    operands = call.operands()
    prepared = prepare(call.declaration, call.given, operands)
    watch = Watch(call.device.type, torch.get_num_threads(), rounds=5, span=1e-3)
    with torch.no_grad():
        yield from _contraction(prepared.lowered.request, operands, watch)
    prepared = prepare(call.declaration, call.given, operands)
    if not backward or True not in call.needs or not trainable(prepared, operands):
        return
    # Each gradient may be born in another layout than before once the one it reads is tuned.
    place = 0
    while True:
        prepared = prepare(call.declaration, call.given, operands)
        schedule = Schedule(call.declaration, prepared, call.needs)
        tasks = schedule.predicted()
        if place == len(tasks):
            break
        request = tasks[place].lowered.request
        values = [_like(request, number, operands[0]) for number in range(len(request.layouts))]
        with torch.no_grad():
            yield from _contraction(request, values, watch)
        place += 1
    # What computes inner results again was asked for, however long it takes; what would keep far
    # more than autograd does is not taken, however fast it is.
    if not call.declaration.checkpoint and schedule.lean:
        yield _backward(schedule, operands, watch)


def _like(request: Request, place: int, model: Tensor) -> Tensor:
    """A random tensor with the layout that an operand of a request has."""
    dims, layout, sizes = request.bound.operands[place], request.layouts[place], request.sizes
    steps: dict[str, int] = {}
    step = 1
    for name in reversed(layout.order):
        steps[name] = step
        step *= sizes[name]
    shape = [elements((dim,), sizes) for dim in dims]
    inner = [[name for name in dim if name in steps][-1:] for dim in dims]
    strides = [steps[names[0]] if names else 1 for names in inner]
    return _random(tuple(shape), tuple(strides), model.dtype, model.device)


# Candidates that are priced so many times higher than the cheapest one are not tried, nor more than
# so many: what multiplies large operands elementwise would fill the memory of the machine.
_HOPELESS = 6.0
_MOST = 48


def _contraction(request: Request, operands: Sequence[Tensor], watch: Watch) -> Iterator[Measured]:
    """Time the lowerings of a request, and remember the fastest."""
    before = lowered(request)
    if not before.plan.contractions:
        return
    bound, free = request.bound, request.free
    traits = unfollowed(bound, request.traits, free=free)
    every = [
        draft
        for order in plans(bound, request.sizes)
        for draft in drafts(bound, order, request.layouts, traits, request.bias, free=free)
    ]
    every.sort(key=lambda one: one.price)
    tried = [one for one in every[:_MOST] if one.price <= _HOPELESS * every[0].price]
    # What runs by now is the first one, and wins where nothing is faster.
    runs = before.unwatched if traits.turns else before.program
    tried.sort(key=lambda one: one.steps != runs.steps)
    calls = [_call(one, request, operands) for one in tried]
    # What runs by now has run.
    able = [place == 0 or _able(call) for place, call in enumerate(calls)]
    tried, calls = list(compress(tried, able)), list(compress(calls, able))
    best = fastest(calls, watch)
    times = race([Racer("best", calls[best]), Racer("before", calls[0])], watch)
    with cache.lock:
        choice = cache.choices.setdefault(request.problem, Choice())
    turns = [turning(one.ways) for one in tried]
    choice.turns = tried[best].ways if turns[best] else None
    choice.ways = None if turns[best] else tried[best].ways
    others = [place for place, turned in enumerate(turns) if not turned]
    if turns[best] and others:
        # Whoever follows what is done gets the best of the others.
        choice.ways = tried[others[fastest([calls[place] for place in others], watch)]].ways
    cache.forget(before)
    yield Measured(
        request.title,
        told(tried[best].steps),
        times.median("best"),
        times.median("before") if best else times.median("best"),
        len(tried),
    )


def _able(call: Callable[[], object]) -> bool:
    """Whether torch has the operations of a candidate for its dtype: float8 has no sum, say."""
    try:
        call()
    except NotImplementedError:
        return False
    return True


def _call(draft: Draft, request: Request, operands: Sequence[Tensor]) -> Callable[[], object]:
    text = write(draft.steps, request.names, title=request.title)
    run = compile_source(text, "contract", f"<einheads tune: {request.title}>")
    return partial(run, *operands, *(request.sizes[name] for name in draft.steps.given))


def _backward(schedule: Schedule, operands: Sequence[Tensor], watch: Watch) -> Measured:
    """Time a training step with autograd's own backward and with the planned one."""
    leaves = [
        one.detach().requires_grad_(needed)
        for one, needed in zip(operands, schedule.needs, strict=True)
    ]
    program = schedule.prepared.lowered.program
    extra = schedule.extra
    ways: dict[str, Callable[[], Tensor]] = {
        "autograd's own backward": lambda: program.run(*leaves, *extra),
        "a planned backward": lambda: contract(schedule, *leaves),
    }
    gradient = torch.randn_like(program.run(*leaves, *extra))

    def step(forward: Callable[[], Tensor]) -> None:
        for leaf in leaves:
            leaf.grad = None
        torch.autograd.backward(forward(), gradient)

    before = list(ways)[pays(schedule)]
    times = race([Racer(name, partial(step, one)) for name, one in ways.items()], watch)
    best = min(ways, key=times.median)
    lower = schedule.prepared.lowered
    with cache.lock:
        choice = cache.choices.setdefault(lower.request.problem, Choice())
    choice.planned[schedule.key] = best != next(iter(ways))
    cache.forget(lower)
    return Measured(
        f"backward of {lower.request.title}",
        best,
        times.median(best),
        times.median(before),
        len(ways),
    )


__all__ = ["Measured", "Tuned", "tune"]
