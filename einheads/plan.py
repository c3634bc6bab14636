"""Which two operands are contracted next, and at what cost.

This is the only contact with opt_einsum: long axis names become single symbols here and nowhere
else. The file knows nothing of torch, memory layout or batched matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .sizes import Bound, Dim


@dataclass(frozen=True, slots=True)
class Contraction:
    """Two values become one. Every axis has exactly one role.

    Values are numbered: the operands first, then the result of each contraction.

    Attributes:
        left: the number of the value with the `left_axes`.
        right: the number of the value with the `right_axes`.
        batch: axes of both and of the result.
        contract: axes of both that are summed.
        left_axes: axes of the left value and the result.
        right_axes: axes of the right value and the result.
        multiply_adds: the product of all their sizes.
    """

    left: int
    right: int
    batch: Dim
    contract: Dim
    left_axes: Dim
    right_axes: Dim
    multiply_adds: int

    @property
    def result(self) -> Dim:
        """The axes of the result, in no particular order."""
        return self.batch + self.left_axes + self.right_axes


@dataclass(frozen=True, slots=True)
class Plan:
    """The order of contractions.

    Attributes:
        operands: the axes of each operand once its diagonals are taken and its lonely axes are
            summed.
        lonely: the axes of each operand that stand nowhere else, and are summed before anything.
        contractions: pair by pair.
        repeated: axes that are only in the output.
        multiply_adds: of all contractions together.
        naive: multiply-adds if everything were expanded to all axes at once.
        sizes: of every axis.
    """

    operands: tuple[Dim, ...]
    lonely: tuple[Dim, ...]
    contractions: tuple[Contraction, ...]
    repeated: Dim
    multiply_adds: int
    naive: int
    sizes: Mapping[str, int]

    @property
    def values(self) -> tuple[Dim, ...]:
        """The axes of each value: the operands, then the result of each contraction."""
        return (*self.operands, *(step.result for step in self.contractions))


# Up to so many operands, orders that are the best in another respect are looked for as well.
_FEW = 8
# What `opt_einsum` may minimize instead of multiply-adds: the numbers that are written, the largest
# inner result, and both together.
_RESPECTS = ("write", "size", "combo")
# An order that takes so many times the multiply-adds of another one never pays.
_HOPELESS = 4


def plans(bound: Bound, sizes: Mapping[str, int] | None = None) -> tuple[Plan, ...]:
    """The orders of contraction that may be the cheapest, the one of fewest multiply-adds first.

    With two operands there is one. With more, fewer multiply-adds may mean larger inner results,
    which have to be written and read again; what that costs is not known here.

    Example:
        >>> from einheads.pattern import parse
        >>> from einheads.sizes import bind
        >>> low_rank = bind(parse("b i, i r, r o -> b o"), [(8, 64), (64, 4), (4, 32)])
        >>> [chosen.multiply_adds for chosen in plans(low_rank)]
        [3072]

    Args:
        bound: the pattern.
        sizes: integers to plan with instead of the bound sizes, which may be symbolic.
    """
    first = plan(bound, sizes)
    if not 3 <= len(bound.operands) <= _FEW:
        return (first,)
    output = tuple(name for dim in bound.output for name in dim)
    found = {_shape(first): first}
    paths = [_path(first.operands, output, first.sizes, respect) for respect in _RESPECTS]
    paths.append(_written(len(first.operands)))
    for path in paths:
        other = _along(path, first, output)
        found.setdefault(_shape(other), other)
    every = sorted(found.values(), key=lambda one: one.multiply_adds)
    most = _HOPELESS * every[0].multiply_adds
    return tuple(one for one in every if one.multiply_adds <= most)


def _shape(plan: Plan) -> frozenset[frozenset[int]]:
    """Which operands each contraction brings together, whatever its number."""
    held: dict[int, frozenset[int]] = {k: frozenset([k]) for k in range(len(plan.operands))}
    for place, step in enumerate(plan.contractions):
        held[len(plan.operands) + place] = held[step.left] | held[step.right]
    return frozenset(held.values())


def _written(count: int) -> list[tuple[int, int]]:
    """The order in which the operands are written, which is how a chain is meant."""
    return [(0, 1), *((count + place, place + 2) for place in range(count - 2))]


def plan(bound: Bound, sizes: Mapping[str, int] | None = None) -> Plan:
    """Choose the order of contraction of a bound pattern that takes the fewest multiply-adds.

    Example:
        >>> from einheads.pattern import parse
        >>> from einheads.sizes import bind
        >>> low_rank = parse("b i, i r, r o -> b o")
        >>> chosen = plan(bind(low_rank, [(8, 64), (64, 4), (4, 32)]))
        >>> [(step.left, step.right, step.contract) for step in chosen.contractions]
        [(0, 1, ('i',)), (3, 2, ('r',))]
        >>> chosen.multiply_adds, chosen.naive
        (3072, 65536)

    Args:
        bound: the pattern.
        sizes: integers to plan with instead of the bound sizes, which may be symbolic.
    """
    sizes = bound.sizes if sizes is None else sizes
    flat = [tuple(dict.fromkeys(name for dim in dims for name in dim)) for dims in bound.operands]
    output = tuple(name for dim in bound.output for name in dim)
    every = [name for axes in flat for name in axes]
    lonely = tuple(
        tuple([name for name in axes if name not in output and every.count(name) == 1])
        for axes in flat
    )
    operands = tuple(
        tuple(name for name in axes if name not in alone)
        for axes, alone in zip(flat, lonely, strict=True)
    )
    present = set().union(*operands)
    start = Plan(
        operands,
        lonely,
        (),
        tuple(name for name in output if name not in present),
        0,
        _product(present.union(*lonely), sizes),
        sizes,
    )
    return _along(_path(operands, output, sizes), start, output)


def _along(path: Sequence[tuple[int, int]], start: Plan, output: Dim) -> Plan:
    """The plan that contracts these pairs, for the operands of another one."""
    count = len(start.operands)
    values: dict[int, Dim] = dict(enumerate(start.operands))
    contractions: list[Contraction] = []
    for left, right in path:
        first, second = values.pop(left), values.pop(right)
        kept = set(output).union(*values.values())
        step = _contraction(left, right, first, second, kept, start.sizes)
        values[count + len(contractions)] = step.result
        contractions.append(step)
    return replace(
        start,
        contractions=tuple(contractions),
        multiply_adds=sum(step.multiply_adds for step in contractions),
    )


def _contraction(
    left: int, right: int, first: Dim, second: Dim, kept: set[str], sizes: Mapping[str, int]
) -> Contraction:
    shared = [name for name in first if name in second]
    return Contraction(
        left,
        right,
        batch=tuple([name for name in shared if name in kept]),
        contract=tuple([name for name in shared if name not in kept]),
        left_axes=tuple([name for name in first if name not in second]),
        right_axes=tuple([name for name in second if name not in first]),
        multiply_adds=_product({*first, *second}, sizes),
    )


def _path(
    operands: Sequence[Dim], output: Dim, sizes: Mapping[str, int], respect: str = "flops"
) -> list[tuple[int, int]]:
    """The pairs to contract, in the numbering of `Contraction`."""
    if len(operands) < 2:
        return []
    if len(operands) == 2:
        return [(0, 1)]
    # Imported here: most patterns have two operands and need no search.
    import opt_einsum

    symbols = {name: opt_einsum.get_symbol(number) for number, name in enumerate(sizes)}
    present = set().union(*operands)
    terms = ["".join(symbols[name] for name in axes) for axes in operands]
    result = "".join(symbols[name] for name in output if name in present)
    # A size of zero would make every order cost nothing, and so the choice meaningless.
    shapes = [tuple(max(sizes[name], 1) for name in axes) for axes in operands]
    # "auto" gives up on the best order from five operands on; dynamic programming finds it.
    search = opt_einsum.DynamicProgramming(minimize=respect)
    steps, _ = opt_einsum.contract_path(
        f"{','.join(terms)}->{result}",
        *shapes,
        shapes=True,
        optimize=search if len(operands) <= _FEW else "auto",
    )
    alive = list(range(len(operands)))
    pairs: list[tuple[int, int]] = []
    for step in steps:
        # opt_einsum's numbering counts only the values still alive, and may name more than two.
        numbers = [alive[place] for place in sorted(step)]
        alive = [number for place, number in enumerate(alive) if place not in step]
        current = numbers[0]
        for number in numbers[1:]:
            pairs.append(_in_order(current, number, len(operands)))
            current = len(operands) + len(pairs) - 1
        alive.append(current)
    return pairs


def _in_order(first: int, second: int, operands: int) -> tuple[int, int]:
    # The value that is further along comes first: in a chain x, w1, w2 the activations stay on the
    # left, which is how one writes it by hand.
    if first >= operands or second >= operands:
        return max(first, second), min(first, second)
    return min(first, second), max(first, second)


def _product(names: Iterable[str], sizes: Mapping[str, int]) -> int:
    return math.prod([sizes[name] for name in names])
