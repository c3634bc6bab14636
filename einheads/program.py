"""From tensors to a program: the only cache, and so the only state.

A call (`call.py`) looks up its exact signature (shapes, strides, dtypes); a new signature looks up
its coarse class (layouts, powers of two); a new class is planned and lowered; new steps are a new
program. Its text is symbolic in its sizes, so that all batch sizes share it. This file knows
nothing of the syntax of patterns, of modules or of parameters.
"""

from __future__ import annotations

import linecache
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .candidates import Traits
from .choices import measured, problem
from .compiled import Program
from .guards import Recent
from .layout import Layout
from .operands import (
    Declaration,
    check_bias,
    check_mixture,
    check_types,
    hint,
    input_names,
    labels,
    layout_of,
    traits_of,
)
from .pattern import Pattern, parse
from .placing import placed
from .plan import Plan
from .planning import planned
from .sizes import Bound, Dim, bind
from .steps import Steps


class CacheInfo(NamedTuple):
    """The state of the cache.

    Attributes:
        programs: functions, each for all sizes that it serves; compiled when they first run.
        signatures: exact shapes, strides and dtypes that lead to one of them by a single look-up.
        compilations: programs made since the cache was last cleared.
        max_programs: the bound of `programs`.
        max_signatures: the bound of `signatures`.
    """

    programs: int
    signatures: int
    compilations: int
    max_programs: int
    max_signatures: int


@dataclass(frozen=True, slots=True)
class Request:
    """What a program is asked for.

    Attributes:
        title: what it computes, in words.
        names: what the tensors are called.
        bound: the dimensions and sizes.
        layouts: of the operands, then of the bias if there is one.
        traits: device, dtype and whatever else matters.
        bias: its axes.
        free: whether the result may have any order of dimensions.
    """

    title: str
    names: tuple[str, ...]
    bound: Bound
    layouts: tuple[Layout, ...]
    traits: Traits
    bias: Dim | None = None
    free: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """The size of every axis, or an example of it where a tracer has none yet."""
        return {name: hint(size) for name, size in self.bound.sizes.items()}

    @property
    def problem(self) -> str:
        """What a measured choice belongs to."""
        return problem(self.bound, self.sizes, self.layouts, self.traits, self.bias, free=self.free)


@dataclass(frozen=True, slots=True, eq=False)
class Lowered:
    """What is known of a class of calls.

    Attributes:
        request: what was asked for, with the first sizes met.
        program: what runs.
        plan: the contractions that it makes, in order.
        unwatched: what runs where nobody follows the single operations: products are written
            straight into the result then, on CUDA in another order, on a CPU one after the other.
            Mostly it is the same program.
        planned: whether a planned backward pays, by the tensors that need gradients; filled in by
            whoever finds out.
    """

    request: Request
    program: Program
    plan: Plan
    unwatched: Program
    planned: dict[tuple[bool, ...], bool] = field(default_factory=dict)


_Signature = tuple[Any, ...]

# A program is a few kilobytes; a signature a few hundred bytes.
_MAX_PROGRAMS = 1024
_MAX_SIGNATURES = 8192
# A pattern has one program for most uses, and a handful where layouts differ.
_SUSPICIOUS = 64


class _Cache:
    """Signatures to entries, coarse classes to what is known of them, steps to programs."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.signatures: dict[_Signature, Any] = {}
        self.recent = Recent()
        self.classes: dict[_Signature, Lowered] = {}
        self.programs: dict[tuple[str, tuple[str, ...], Steps], Program] = {}
        self.patterns: dict[str, Pattern] = {}
        self.per_pattern: dict[str, int] = {}
        self.compilations = 0
        # Cannot be made again in no time, so they stay when there are too many programs.
        self.choices = measured
        # Note the calls that are made, for whoever wants to know.
        self.recorders: list[Callable[[Any, Any, Sequence[Tensor]], None]] = []

    def clear(self) -> None:
        with self.lock:
            for filename in [name for name in linecache.cache if name.startswith("<einheads ")]:
                del linecache.cache[filename]
            self.forget_calls()
            for table in (self.classes, self.programs, self.patterns, self.per_pattern):
                table.clear()
            self.compilations = 0

    def info(self) -> CacheInfo:
        with self.lock:
            return CacheInfo(
                len(self.programs),
                len(self.signatures),
                self.compilations,
                _MAX_PROGRAMS,
                _MAX_SIGNATURES,
            )

    def pattern(self, text: str) -> Pattern:
        found = self.patterns.get(text)
        if found is None:
            found = parse(text)
            with self.lock:
                if len(self.patterns) >= _MAX_PROGRAMS:
                    self.patterns.clear()
                self.patterns[text] = found
        return found

    def remember(self, signature: _Signature, entry: object) -> None:
        """Keep what a call with exactly this signature runs."""
        with self.lock:
            if len(self.signatures) >= _MAX_SIGNATURES:
                # The oldest half goes: dictionaries keep the order of insertion.
                for old in list(self.signatures)[: _MAX_SIGNATURES // 2]:
                    del self.signatures[old]
            self.signatures[signature] = entry

    def forget_calls(self) -> None:
        """Let every call look for its program again."""
        with self.lock:
            self.signatures.clear()
            # A new one: who still looks a call up remembers it in the old one, for nobody.
            self.recent = Recent()

    def lowered(self, key: _Signature, make: Callable[[], Lowered]) -> Lowered:
        """What is known of a class of calls, made if it is a new one."""
        found = self.classes.get(key)
        if found is None:
            found = make()
            with self.lock:
                if len(self.classes) >= _MAX_SIGNATURES:
                    self.classes.clear()
                self.classes[key] = found
        return found

    def forget(self, lowered: Lowered) -> None:
        """Let the next calls of a problem look for their program again, whatever they call it."""
        line = lowered.request.problem
        with self.lock:
            self.forget_calls()
            for key in [key for key, one in self.classes.items() if one.request.problem == line]:
                del self.classes[key]

    def program(self, title: str, names: tuple[str, ...], steps: Steps) -> Program:
        """The program for some steps, a new one if there is none."""
        with self.lock:
            found = self.programs.get((title, names, steps))
            if found is not None:
                return found
            if len(self.programs) >= _MAX_PROGRAMS:
                compilations, per_pattern = self.compilations, dict(self.per_pattern)
                self.clear()
                self.compilations, self.per_pattern = compilations, per_pattern
            self.compilations += 1
            self.per_pattern[title] = self.per_pattern.get(title, 0) + 1
            if self.per_pattern[title] == _SUSPICIOUS:
                warnings.warn(
                    f"the pattern '{title}' has been compiled {_SUSPICIOUS} times: its tensors "
                    "keep coming with other layouts or ranks; make them contiguous, or see "
                    "einheads.cache_info()",
                    RuntimeWarning,
                    stacklevel=2,
                )
            filename = f"<einheads {self.compilations}: {title}>"
            program = Program(steps, title, names, filename)
            self.programs[(title, names, steps)] = program
            return program


cache = _Cache()


def cache_info() -> CacheInfo:
    """How many programs and signatures are cached.

    Example:
        >>> import torch, einheads
        >>> einheads.cache_clear()
        >>> for batch in (2, 3, 5):
        ...     y = einheads.einsum("b i, o i -> b o", torch.ones(batch, 7), torch.ones(4, 7))
        >>> info = einheads.cache_info()
        >>> info.programs, info.signatures
        (1, 3)
    """
    return cache.info()


def cache_clear() -> None:
    """Forget every program and every tuned choice; the next calls plan and compile again."""
    cache.clear()
    cache.choices.clear()


# The public question names a device and takes twice as long; this is asked at every call.
autocasts: Callable[[], bool] = torch._C._is_any_autocast_enabled  # noqa: SLF001


def uncast(device: str) -> AbstractContextManager[object]:
    """A context in which autocast leaves the numbers of a device type as they are.

    Args:
        device: such as "cpu" or "cuda"; some, such as "meta", have no autocast.
    """
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    found: AbstractContextManager[object] = torch.autocast(device, enabled=False)
    return found


class Prepared(NamedTuple):
    """What a call needs that has not been made before.

    Attributes:
        lowered: what runs.
        bound: the pattern with the dimensions and sizes of this call.
    """

    lowered: Lowered
    bound: Bound

    @property
    def traits(self) -> Traits:
        """What of its tensors decided the lowering."""
        return self.lowered.request.traits

    @property
    def extra(self) -> tuple[int, ...]:
        """The sizes that the program takes behind the tensors."""
        return self.lowered.program.trailing(self.bound)


def prepare(
    declaration: Declaration, given: tuple[tuple[str, int], ...], tensors: Sequence[Tensor]
) -> Prepared:
    """Find or make the program for a call; refuses what does not fit."""
    check_types(declaration, tensors)
    check_mixture(declaration, tensors, cast=autocasts())
    pattern = cache.pattern(declaration.text)
    operands = tensors if declaration.bias is None else tensors[:-1]
    bound = bind(
        pattern,
        [tensor.shape for tensor in operands],
        dict(given),
        labels(declaration, len(pattern.operands)),
    )
    traits = traits_of(tensors, len(operands), autocast=autocasts())
    bias = None if declaration.bias is None else tuple(declaration.bias.split())
    title = str(pattern)
    if bias is not None:
        check_bias(declaration, bias, bound, tensors[-1])
        title += f", plus a bias: {declaration.bias}"
    names = input_names(declaration, len(tensors))
    dims = bound.operands if bias is None else (*bound.operands, tuple((name,) for name in bias))
    layouts = tuple(
        layout_of(one, tensor, bound) for one, tensor in zip(dims, tensors, strict=True)
    )
    found = lowered(Request(title, names, bound, layouts, traits, bias))
    return Prepared(found, bound)


def lowered(request: Request) -> Lowered:
    """The program for a request, made if it is the first one of its class."""
    bound, sizes = request.bound, request.sizes
    # Sizes within a factor of two are planned alike; the text is symbolic and right for all of
    # them.
    classes = tuple(size.bit_length() for size in sizes.values())
    output = None if request.free else bound.output
    what = request.title, request.names, bound.operands, output, bound.needed
    key = (*what, classes, request.layouts, request.traits)

    def make() -> Lowered:
        best = cache.choices.get(request.problem) if cache.choices else None
        layouts, traits, bias = request.layouts, request.traits, request.bias
        made = planned(bound, sizes, layouts, traits, bias, free=request.free, choice=best)
        chosen, steps = made.plan, made.steps
        program = cache.program(request.title, request.names, steps)
        unwatched = program
        # On a CPU, a strided result is written to a buffer and copied: slower than a view of it.
        if traits.device == "cuda" and not traits.autocast:
            written = placed(steps, sizes)
            if written != steps:
                unwatched = cache.program(request.title, request.names, written)
        elif made.alone is not None:
            unwatched = cache.program(request.title, request.names, made.alone)
        return Lowered(request, program, chosen, unwatched)

    return cache.lowered(key, make)


def program_for(
    declaration: Declaration, given: tuple[tuple[str, int], ...], tensors: Sequence[Tensor]
) -> tuple[Program, Bound]:
    """The program that a call runs if nobody follows it, and the sizes it was found for."""
    prepared = prepare(declaration, given, tensors)
    return prepared.lowered.unwatched, prepared.bound
