"""The definition of an einsum pattern, in numpy, as the judge of everything else.

Lay every operand out along all axes, multiply, and sum the axes that the output does not name.
This file reads patterns itself and shares nothing with the package: no parser, no plan, no matrix
product. It trusts its input, so it has no messages; a wrong pattern ends in an assertion.
"""

import re
from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def dimensions(term: str) -> list[list[str]]:
    """Split a term into its dimensions, each the list of the axes that it holds.

    `"b (h d) 1 ..."` gives `[["b"], ["h", "d"], [], ["..."]]`.
    """
    parts = re.findall(r"\([^)]*\)|[^\s()]+", term)
    return [re.findall(r"\.\.\.|[^\W\d]\w*", part) for part in parts]


def spread(term: list[list[str]], count: int) -> list[list[str]]:
    """Write `count` axes for the ellipsis of a term, numbered from the right as they broadcast."""
    names = [[f"...{number}"] for number in reversed(range(count))]
    return list(chain.from_iterable(names if part == ["..."] else [part] for part in term))


def solve(
    terms: Sequence[list[list[str]]], shapes: Sequence[tuple[int, ...]], given: dict[str, int]
) -> dict[str, int]:
    """Find the size of every axis, going round until each composite gave up its one unknown."""
    sizes = dict(given)
    pending = []
    for term, shape in zip(terms, shapes, strict=True):
        for part, length in zip(term, shape, strict=True):
            if part and part[0].startswith("..."):
                assert 1 in (length, sizes.get(part[0], 1)) or sizes[part[0]] == length
                sizes[part[0]] = sizes.get(part[0], 1) if length == 1 else length
            else:
                pending.append((part, length))
    while pending:
        later = []
        for part, length in pending:
            unknown = [axis for axis in part if axis not in sizes]
            known = prod(sizes[axis] for axis in part if axis in sizes)
            if len(unknown) > 1 or (unknown and known == 0):
                later.append((part, length))
                continue
            for axis in unknown:
                sizes[axis] = length // known
            assert prod(sizes[axis] for axis in part) == length, (part, length, sizes)
        assert len(later) < len(pending), f"not solvable: {later}"
        pending = later
    return sizes


def align(array: Array, names: list[str], axes: list[str]) -> Array:
    """Lay an array out along `axes`: diagonals of repeated names, the order, unit dimensions."""
    while len(set(names)) < len(names):
        twin = next(name for name in names if names.count(name) > 1)
        first = names.index(twin)
        second = names.index(twin, first + 1)
        array = np.diagonal(array, axis1=first, axis2=second)
        names = [name for place, name in enumerate(names) if place not in (first, second)] + [twin]
    # Axes of size 1 change no value; without them, patterns of many axes fit into an array.
    array = array.reshape([array.shape[k] for k, name in enumerate(names) if name in axes])
    names = [name for name in names if name in axes]
    array = array.transpose(sorted(range(len(names)), key=lambda place: axes.index(names[place])))
    return array[tuple(slice(None) if axis in names else None for axis in axes)]


def oracle(pattern: str, *arrays: Array, **given: int) -> Array:
    """Einsum as it is defined: align every operand to all axes, multiply, sum."""
    left, right = pattern.split("->")
    terms = [dimensions(text) for text in left.split(",")]
    hidden = [
        array.ndim - len(term) + 1 if ["..."] in term else 0
        for term, array in zip(terms, arrays, strict=True)
    ]
    terms = [spread(term, count) for term, count in zip(terms, hidden, strict=True)]
    output = spread(dimensions(right), max(hidden))
    sizes = solve(terms, [array.shape for array in arrays], given)

    kept = list(chain.from_iterable(output))
    axes = list(dict.fromkeys(chain(kept, chain.from_iterable(chain.from_iterable(terms)))))
    axes = [axis for axis in axes if sizes[axis] != 1]
    product: Array = np.ones((), dtype=np.float64)
    for term, array in zip(terms, arrays, strict=True):
        # A dimension under an ellipsis may be 1 where the axis is longer.
        lengths = [
            length if axis.startswith("...") else sizes[axis]
            for part, length in zip(term, array.shape, strict=True)
            for axis in part
        ]
        wide = array.astype(np.result_type(array.dtype, np.float64)).reshape(lengths)
        product = product * align(wide, list(chain.from_iterable(term)), axes)

    product = np.broadcast_to(product, [sizes[axis] for axis in axes])
    summed = product.sum(tuple(k for k, axis in enumerate(axes) if axis not in kept))
    return summed.reshape([prod(sizes[axis] for axis in part) for part in output])
