"""From steps to a callable: the only `exec`, the only cache, and so the only state.

A call looks up its exact signature (shapes, strides, dtypes); a new signature looks up its coarse
class (layouts, powers of two); a new class is planned, lowered and written; a new text is compiled.
The text is symbolic in its sizes, so that all batch sizes share one program. This file knows
nothing of the syntax of patterns, of modules or of parameters.
"""

from __future__ import annotations

import linecache
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .candidates import Traits
from .layout import layout
from .lower import lower
from .operands import (
    Declaration,
    check_mixture,
    check_support,
    check_types,
    input_names,
    labels,
)
from .pattern import Pattern, parse
from .plan import plan
from .sizes import Bound, bind
from .source import write
from .steps import Steps


class CacheInfo(NamedTuple):
    """The state of the cache.

    Attributes:
        programs: compiled functions.
        signatures: exact shapes, strides and dtypes that lead to one of them by a single look-up.
        compilations: functions compiled since the cache was last cleared.
        max_programs: the bound of `programs`.
        max_signatures: the bound of `signatures`.
    """

    programs: int
    signatures: int
    compilations: int
    max_programs: int
    max_signatures: int


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled function.

    Attributes:
        steps: what it does.
        source: its text.
        run: the function; takes the tensors and then the sizes named in `steps.given`.
    """

    steps: Steps
    source: str
    run: Callable[..., Tensor]


_Signature = tuple[Any, ...]
_Entry = tuple[Callable[..., Tensor], tuple[int, ...]]

# A program is a few kilobytes; a signature a few hundred bytes.
_MAX_PROGRAMS = 1024
_MAX_SIGNATURES = 8192
# A pattern has one program for most uses, and a handful where layouts differ.
_SUSPICIOUS = 64


class _Cache:
    """Signatures to entries, coarse classes to programs, texts to compiled functions."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.signatures: dict[_Signature, _Entry] = {}
        self.classes: dict[_Signature, Program] = {}
        self.programs: dict[tuple[Declaration, Steps], Program] = {}
        self.patterns: dict[str, Pattern] = {}
        self.per_pattern: dict[str, int] = {}
        self.compilations = 0

    def clear(self) -> None:
        with self.lock:
            for program in self.programs.values():
                linecache.cache.pop(program.run.__code__.co_filename, None)
            for table in (
                self.signatures,
                self.classes,
                self.programs,
                self.patterns,
                self.per_pattern,
            ):
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

    def remember(self, signature: _Signature, entry: _Entry) -> None:
        with self.lock:
            if len(self.signatures) >= _MAX_SIGNATURES:
                # The oldest half goes: dictionaries keep the order of insertion.
                for old in list(self.signatures)[: _MAX_SIGNATURES // 2]:
                    del self.signatures[old]
            self.signatures[signature] = entry

    def program(self, declaration: Declaration, pattern: Pattern, steps: Steps) -> Program:
        with self.lock:
            found = self.programs.get((declaration, steps))
            if found is not None:
                return found
            if len(self.programs) >= _MAX_PROGRAMS:
                compilations, per_pattern = self.compilations, dict(self.per_pattern)
                self.clear()
                self.compilations, self.per_pattern = compilations, per_pattern
            self.compilations += 1
            text = str(pattern)
            self.per_pattern[text] = self.per_pattern.get(text, 0) + 1
            if self.per_pattern[text] == _SUSPICIOUS:
                warnings.warn(
                    f"the pattern '{text}' has been compiled {_SUSPICIOUS} times: its tensors keep "
                    "coming with other layouts or ranks; make them contiguous, or see "
                    "einheads.cache_info()",
                    RuntimeWarning,
                    stacklevel=2,
                )
            title = text if declaration.bias is None else f"{text}, plus a bias: {declaration.bias}"
            source = write(steps, input_names(declaration, len(steps.inputs)), title=title)
            run = compile_source(source, "contract", f"<einheads {self.compilations}: {text}>")
            program = Program(steps, source, run)
            self.programs[(declaration, steps)] = program
            return program


_cache = _Cache()


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
    return _cache.info()


def cache_clear() -> None:
    """Forget every program; the next call of each pattern plans and compiles again."""
    _cache.clear()


def compile_source(source: str, name: str, filename: str) -> Callable[..., Tensor]:
    """Turn the text of a function into a function whose text tracebacks and debuggers show."""
    linecache.cache[filename] = len(source), None, source.splitlines(keepends=True), filename
    namespace: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, "__name__": __name__}
    exec(compile(source, filename, "exec"), namespace)
    function: Callable[..., Tensor] = namespace[name]
    return function


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def apply(
    declaration: Declaration | str, given: tuple[tuple[str, int], ...], *tensors: Tensor
) -> Tensor:
    """Run a declaration, or a pattern alone, on tensors.

    `torch.compile` and `torch.export` see this call as one operation while they read the Python
    code, and then trace the operations inside of it with symbolic sizes; nothing of the planning is
    traced.
    """
    entry = None
    try:
        if len(tensors) == 2:  # by far the most calls; spelled out, this is twice as fast
            a, b = tensors
            dense = a.is_contiguous() or a.stride(), b.is_contiguous() or b.stride()
            parts = (a.shape, a.dtype, b.shape, b.dtype, b.is_cpu, *dense)
        else:
            parts = _parts(tensors)
        # True and 2.0 would be found as 1 and 2, and nobody would refuse them.
        if not given or all(type(size) is int for _, size in given):
            signature = declaration, given, _autocast(), tensors[0].is_cpu, parts
            entry = _cache.signatures.get(signature)
    except (TypeError, AttributeError, IndexError, RuntimeError):
        # Symbolic sizes, which cannot be looked up; or something that is no strided tensor, which
        # will be refused in our words.
        entry = None
    run, extra = entry or _miss(declaration, given, tensors)
    try:
        return run(*tensors, *extra)
    except RuntimeError as error:
        # A tensor of another kind, such as mkldnn's, may have the signature of a dense one.
        check_types(_declared(declaration), tensors)
        check_mixture(_declared(declaration), tensors)
        check_support(tensors, error)
        raise


def _parts(tensors: Sequence[Tensor]) -> _Signature:
    """What of the tensors tells their program: shape, dtype, and the strides unless contiguous."""
    if len(tensors) == 2:
        a, b = tensors
        dense = a.is_contiguous() or a.stride(), b.is_contiguous() or b.stride()
        return (a.shape, a.dtype, b.shape, b.dtype, b.is_cpu, *dense)
    parts = [part for one in tensors for part in (one.shape, one.dtype, one.is_cpu)]
    return (*parts, *[one.is_contiguous() or one.stride() for one in tensors])


# The public question names a device and takes twice as long; this is asked at every call.
_autocast: Callable[[], bool] = torch._C._is_any_autocast_enabled  # noqa: SLF001


def program_for(
    declaration: Declaration, given: tuple[tuple[str, int], ...], tensors: Sequence[Tensor]
) -> tuple[Program, Bound]:
    """The program that `apply` runs for these tensors, and the sizes it was found for."""
    check_types(declaration, tensors)
    if not _autocast():
        check_mixture(declaration, tensors)
    # What is no text cannot be looked up; `parse` explains it.
    known = type(declaration.text) is str
    pattern = _cache.pattern(declaration.text) if known else parse(declaration.text)
    operands = tensors if declaration.bias is None else tensors[:-1]
    bound = bind(
        pattern,
        [tensor.shape for tensor in operands],
        dict(given),
        labels(declaration, len(pattern.operands)),
    )
    sizes = {name: _hint(size) for name, size in bound.sizes.items()}
    bias = None if declaration.bias is None else tuple(declaration.bias.split())
    dims = bound.operands if bias is None else (*bound.operands, tuple((name,) for name in bias))
    layouts = tuple(
        layout(dims[number], [_hint(stride) for stride in tensor.stride()], sizes)
        for number, tensor in enumerate(tensors)
    )
    first = tensors[0]
    traits = Traits(
        device=first.device.type,
        itemsize=first.element_size(),
        integer=not (first.is_floating_point() or first.is_complex()),
        autocast=_autocast(),
    )
    # Sizes within a factor of two are planned alike; the text is symbolic and right for all of
    # them.
    classes = tuple(size.bit_length() for size in sizes.values())
    key = (declaration, bound.operands, bound.output, bound.needed, classes, layouts, traits)
    program = _cache.classes.get(key)
    if program is None:
        steps = lower(bound, plan(bound, sizes), layouts, traits, bias)
        program = _cache.program(declaration, pattern, steps)
        with _cache.lock:
            if len(_cache.classes) >= _MAX_SIGNATURES:
                _cache.classes.clear()
            _cache.classes[key] = program
    return program, bound


def _declared(declaration: Declaration | str) -> Declaration:
    return declaration if isinstance(declaration, Declaration) else Declaration(declaration)


def _miss(
    declaration: Declaration | str,
    given: tuple[tuple[str, int], ...],
    tensors: Sequence[Tensor],
) -> _Entry:
    program, bound = program_for(_declared(declaration), given, tensors)
    entry = program.run, tuple(bound.sizes[name] for name in program.steps.given)
    told = [*(size for _, size in given), *(size for one in tensors for size in one.shape)]
    if all(type(size) is int for size in told):
        signature = declaration, given, _autocast(), tensors[0].is_cpu, _parts(tensors)
        _cache.remember(signature, entry)
    return entry


def _hint(size: int) -> int:
    """The number to plan with: for a symbolic size the tracer's example, read without a guard."""
    if type(size) is int:
        return size
    node = getattr(size, "node", None)
    if node is not None and node.has_hint():
        return int(node.hint)
    # A size that depends on data has no example. Any middle-sized number will do: it only ranks
    # plans.
    return 64
