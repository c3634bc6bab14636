"""Looks at einheads alone: what its calls cost beside their operations, what they hold and copy."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from einheads.call import apply, entry_for
from einheads.choices import told
from einheads.functional import einsum
from einheads.gradients import held
from einheads.operands import Declaration
from einheads.program import cache, prepare, program_for
from einheads.steps import Linear, Steps, elements, is_view
from einheads.stopwatch import Racer, Watch, race
from einheads.training import Schedule

from .agreement import agree, reference
from .cases import Case
from .contestants import declared
from .races import operands_for
from .result import Row


class _Plain(nn.Module):
    """A module as anybody writes it: it holds the weights, and its forward is one call."""

    def __init__(self, pattern: str, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.pattern = pattern
        self.weights = tuple(weights)

    def forward(self, *inputs: Tensor) -> Tensor:
        return einsum(self.pattern, *inputs, *self.weights)


def overhead(case: Case, watch: Watch, dtype: torch.dtype = torch.float32) -> Row:
    """Microseconds of a call above the bare operations of its own program."""
    operands = operands_for(case, watch, dtype)
    pattern = case.pattern
    program, bound = program_for(Declaration(pattern), (), operands)
    run, extra = program.run, program.trailing(bound)
    empty = nn.Identity()
    # The same number of arguments as in the program, so that only our own work is counted.
    racers = [
        Racer("einsum", lambda: einsum(pattern, *operands)),
        Racer("bare", lambda: run(*operands, *extra)),
        Racer("module", lambda: empty(operands[0])),
    ]
    agree("einsum", case, einsum(pattern, *operands), reference(case, operands))
    if case.weights:
        inputs = len(operands) - case.weights
        layer = declared(case).to(operands[0])
        with torch.no_grad():
            for own, weight in zip(layer.parameters(), operands[inputs:], strict=True):
                own.copy_(weight)
        given = operands[:inputs]
        agree("layer", case, layer(*given), reference(case, operands))
        racers.append(Racer("layer", lambda: layer(*given)))
        plain = _Plain(pattern, operands[inputs:])
        agree("plain", case, plain(*given), reference(case, operands))
        racers.append(Racer("plain", lambda: plain(*given)))
        if isinstance(program.steps.steps[0], Linear) and len(program.steps.steps) == 1:
            x, weight = operands
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False).to(weight)
            racers.append(Racer("nn.Linear", lambda: linear(x)))
            racers.append(Racer("F.linear", lambda: nn.functional.linear(x, weight)))
    with torch.no_grad():
        # Microseconds scatter more than ratios do.
        times = race(racers, Watch(watch.device, watch.threads, 3 * watch.rounds, watch.span))
    numbers = {
        "operations, us": times.median("bare") * 1e6,
        "einsum above, us": times.difference("einsum", "bare") * 1e6,
    }
    if case.weights:
        numbers["layer above, us"] = times.difference("layer", "einsum") * 1e6
        # What no layer can be without, where the operations have left little in the caches.
        numbers["plain module above, us"] = times.difference("plain", "einsum") * 1e6
    # The call of a module that does nothing, again and again.
    numbers["empty module, us"] = times.median("module") * 1e6
    if "nn.Linear" in times.rounds:
        numbers["nn.Linear above, us"] = times.difference("nn.Linear", "F.linear") * 1e6
    return Row(case, numbers, notes={"chosen": told(program.steps)})


def planning(case: Case, watch: Watch, dtype: torch.dtype = torch.float32) -> Row:
    """Milliseconds that the first call of a pattern takes before anything runs."""
    operands = operands_for(case, watch, dtype)
    agree("einsum", case, einsum(case.pattern, *operands), reference(case, operands))
    times = []
    with torch.no_grad():
        for _ in range(watch.rounds):
            cache.clear()
            # A call would run as well, which scatters by more than it takes to plan it.
            times.append(watch.time(lambda: entry_for(case.pattern, (), operands).plain(), 1))
            # Nobody plans again and again with nothing in between, while all is in the caches.
            einsum(case.pattern, *operands)
    count = len(operands)
    return Row(
        case,
        {f"{count} operands, ms": statistics.median(times) * 1e3},
        notes={"chosen": told(_steps(case, operands))},
    )


# Both imports in one process: torch takes seconds on some machines, never twice the same.
_IMPORTS = """
import time
start = time.perf_counter()
import torch
middle = time.perf_counter()
import einheads
print(middle - start, time.perf_counter() - middle)
"""


def start(case: Case, watch: Watch, dtype: torch.dtype = torch.float32) -> Row:  # noqa: ARG001
    """Milliseconds until a new Python has imported einheads, or explained a pattern."""
    sizes = [f"{axis}={size}" for axis, size in case.sizes.items()]
    found: list[tuple[float, float, float]] = []
    for _ in range(1 + watch.rounds):
        imports = _run("-c", _IMPORTS).split()
        now = time.perf_counter()
        _run("-m", "einheads", "explain", case.pattern, *sizes)
        found.append((float(imports[0]), float(imports[1]), time.perf_counter() - now))
    # The first time, files are read that later ones find in memory.
    told = [1e3 * statistics.median(column) for column in zip(*found[1:], strict=True)]
    names = ("import torch, ms", "import einheads above, ms", "explain in all, ms")
    return Row(case, dict(zip(names, told, strict=True)))


def _run(*words: str) -> str:
    # Python keeps what it has compiled, unless it is told not to; then it compiles all files anew.
    kept = {name: told for name, told in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, *words]
    done = subprocess.run(  # noqa: S603
        command, check=True, capture_output=True, text=True, env=kept
    )
    return done.stdout


def memory(case: Case, watch: Watch, dtype: torch.dtype = torch.float32) -> Row:
    """Bytes that a forward holds at most, beside what it was given."""
    operands = operands_for(case, watch, dtype)
    steps = _steps(case, operands)
    # Planning is not what is looked at, nor the second call, which prepares for those that follow.
    for _ in range(2):
        einsum(case.pattern, *operands)
    peak = peak_bytes(lambda: einsum(case.pattern, *operands), watch)
    output = math.prod(case.sizes[axis] for axis in case.terms[-1]) * dtype.itemsize
    copied = _bytes(steps, steps.copies, case, dtype)
    # Views hold nothing.
    first = len(steps.inputs)
    made = [number for number, step in enumerate(steps.steps, first) if not is_view(step)]
    numbers = {
        "peak, kB": peak / 1e3,
        "output, kB": output / 1e3,
        "copies, kB": copied / 1e3,
        "peak / (output + copies)": peak / max(output + copied, 1),
        "peak / all values": peak / max(_bytes(steps, made, case, dtype), 1),
    }
    if len(steps.products) > 1:
        numbers |= _backward(case, operands, watch)
    return Row(case, numbers, notes={"chosen": told(steps)})


def _backward(case: Case, operands: Sequence[Tensor], watch: Watch) -> dict[str, float]:
    """What a backward with `checkpoint=True` holds at most beside the gradients of the operands.

    It is counted in inner results of the largest size: as measured, and by plan, where inner
    results and their gradients are all there is, and nothing is copied on the way.
    """
    declaration = Declaration(case.pattern, checkpoint=True)
    leaves = [operand.detach().requires_grad_() for operand in operands]

    def result() -> Tensor:
        return apply(declaration, (), *leaves)

    gradient = torch.randn_like(result())
    torch.autograd.grad(result(), leaves, gradient)  # planning is not what is looked at
    forward = result()
    peak = peak_bytes(lambda: torch.autograd.grad(forward, leaves, gradient), watch)
    schedule = Schedule(declaration, prepare(declaration, (), leaves), (True,) * len(leaves))
    plan = schedule.prepared.lowered.plan
    inner = max(
        math.prod(case.sizes[axis] for axis in step.result) for step in plan.contractions[:-1]
    )
    own = sum(leaf.numel() for leaf in leaves)
    return {
        "inner results in a backward": (peak / leaves[0].itemsize - own) / inner,
        "the same by plan": (held(plan, schedule.pulls) - own) / inner,
    }


def copies(case: Case, watch: Watch, dtype: torch.dtype = torch.float32) -> Row:
    """How many copies run, and how many are declared."""
    operands = operands_for(case, watch, dtype)
    program, bound = program_for(Declaration(case.pattern), (), operands)
    steps, counter = program.steps, CopyCounter()
    # Not by a call, which runs something else for whoever follows it.
    with counter:
        program.run(*operands, *program.trailing(bound))
    return Row(
        case,
        {
            "declared": float(len(steps.copies)),
            "seen": float(counter.copies.total()),
            "declared, kB": _bytes(steps, steps.copies, case, dtype) / 1e3,
        },
        notes={"chosen": told(steps), "operations": ", ".join(counter.copies)},
    )


class CopyCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that copy a tensor, while it is entered."""

    _COPIES = ("clone", "contiguous", "copy_", "_to_copy")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.copies: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Let an operation run, and count it if it copies."""
        name = func.overloadpacket.__name__
        if name in self._COPIES:
            self.copies[name] += 1
        return func(*args, **(kwargs or {}))


def _steps(case: Case, operands: Sequence[Tensor]) -> Steps:
    program, _ = program_for(Declaration(case.pattern), (), operands)
    return program.steps


def _bytes(steps: Steps, numbers: Sequence[int], case: Case, dtype: torch.dtype) -> int:
    return sum(elements(steps.dims(number), case.sizes) for number in numbers) * dtype.itemsize


def peak_bytes(call: Callable[[], object], watch: Watch) -> int:
    """Bytes allocated at most while a call runs, its result included."""
    if watch.device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        trace = json.loads(path.read_text(encoding="utf-8"))
    events = [event for event in trace["traceEvents"] if event.get("name") == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: float(event["ts"])):
        held += int(event["args"]["Bytes"])
        peak = max(peak, held)
    return peak


__all__ = ["CopyCounter", "copies", "memory", "overhead", "peak_bytes", "planning", "start"]
