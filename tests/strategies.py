"""Random valid patterns with sizes, for Hypothesis and for a seeded plain generator.

Both make their choices through one function, `build`, which is told how to draw a whole number:
Hypothesis shrinks what fails, the plain generator is fast and always the same.
"""

import random
from collections.abc import Callable
from math import prod
from typing import TypeVar

from hypothesis import strategies as st

from cases import Case

NAMES = ("a", "b", "heads", "x_1", "größe", "q2")

Draw = Callable[[int, int], int]
Item = TypeVar("Item")


def shuffled(items: list[Item], draw: Draw) -> list[Item]:
    """The items in a random order."""
    rest = list(items)
    return [rest.pop(draw(0, len(rest) - 1)) for _ in items]


def grouped(axes: list[str], draw: Draw) -> list[tuple[str, ...]]:
    """Cut a list of axes into dimensions: mostly single axes, some composites, some units."""
    parts: list[tuple[str, ...]] = []
    while axes:
        length = draw(2, 3) if len(axes) > 1 and draw(0, 4) == 0 else 1
        parts.append(tuple(axes[:length]))
        axes = axes[length:]
    if draw(0, 7) == 0:
        parts.insert(draw(0, len(parts)), ())
    return parts


def written(parts: list[tuple[str, ...]]) -> str:
    """A term as text."""
    return " ".join(
        "1" if not part else f"({' '.join(part)})" if len(part) > 1 else part[0] for part in parts
    )


def draw_axes(names: list[str], draw: Draw) -> list[str]:
    """The axes of an operand: some of the names, and now and then one of them twice."""
    axes = shuffled(names, draw)[: draw(0, 4)]
    if axes and draw(0, 5) == 0:
        axes.insert(draw(0, len(axes)), axes[draw(0, len(axes) - 1)])
    return axes


def solvable(
    axis: str, parts: list[tuple[str, ...]], sizes: dict[str, int], known: set[str]
) -> bool:
    """Whether some composite tells the size of this axis from the sizes that are known."""
    return any(
        part.count(axis) == 1
        and all(other in known and sizes[other] for other in part if other != axis)
        for part in parts
    )


def build(draw: Draw) -> Case:
    """Make a random valid pattern with shapes and the sizes that the shapes leave open."""
    lengths = shuffled([2, 3, 5, 7, 1, 0 if draw(0, 5) == 0 else 4], draw)
    sizes = dict(zip(NAMES[: draw(1, len(NAMES))], lengths, strict=False))
    dots = [(2, 3)[draw(0, 1)] for _ in range(draw(0, 2))] if draw(0, 1) else None
    terms: list[str] = []
    shapes: list[tuple[int, ...]] = []
    met: list[tuple[str, ...]] = []
    for _ in range(draw(1, 4)):
        parts = grouped(draw_axes(list(sizes), draw), draw)
        met += parts
        shape = [prod(sizes[axis] for axis in part) for part in parts]
        if dots is not None and draw(0, 2) > 0:
            # An operand has the last few of the hidden dimensions, each at full length or 1.
            hidden = [length if draw(0, 3) else 1 for length in dots[draw(0, len(dots)) :]]
            place = draw(0, len(parts))
            parts.insert(place, ("...",))
            shape[place:place] = hidden
        terms.append(written(parts))
        shapes.append(tuple(shape))

    used = list(dict.fromkeys(axis for part in met for axis in part))
    kept = shuffled(used, draw)[: draw(0, len(used))]
    fresh = {"fresh": draw(0, 3)} if draw(0, 5) == 0 else {}
    output = grouped(shuffled(kept + list(fresh), draw), draw)
    if any("..." in term for term in terms) and draw(0, 3) > 0:
        output.insert(draw(0, len(output)), ("...",))

    # What stands only inside composites is given, except where it can be solved; and now and then
    # something is given that need not be.
    bare = {part[0] for part in met if len(part) == 1}
    known = set(used)
    for axis in used:
        if axis not in bare and draw(0, 1) and solvable(axis, met, sizes, known - {axis}):
            known.remove(axis)
    given = {
        axis: sizes[axis]
        for axis in used
        if axis in known and (axis not in bare or draw(0, 5) == 0)
    }
    pattern = f"{', '.join(terms)} -> {written(output)}".strip()
    return Case(pattern, pattern, tuple(shapes), given | fresh)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Random valid patterns for Hypothesis."""
    return build(lambda low, high: draw(st.integers(low, high)))


def random_cases(count: int, seed: int) -> list[Case]:
    """The same random valid patterns at every run."""
    source = random.Random(seed)
    return [build(source.randint) for _ in range(count)]


def random_products(count: int, seed: int, room: int = 200_000) -> list[Case]:
    """Pairwise contractions of the sizes that layers have, with axes in any order.

    Such sizes make other lowerings worthwhile than the small ones of the other cases do.
    """
    source = random.Random(seed)
    products: list[Case] = []
    while len(products) < count:
        names = iter("abcdefgh")
        counts = {"batch": (0, 2), "contract": (1, 2), "left": (0, 2), "right": (0, 2)}
        roles = {
            role: [next(names) for _ in range(source.randint(*most))]
            for role, most in counts.items()
        }
        sizes = {
            axis: source.choice((1, 2, 3, 4, 8, 13, 16, 32, 64))
            for axes in roles.values()
            for axis in axes
        }
        if not 100 < prod(sizes.values()) <= room:
            continue
        first = shuffled(roles["batch"] + roles["contract"] + roles["left"], source.randint)
        second = shuffled(roles["batch"] + roles["contract"] + roles["right"], source.randint)
        output = shuffled(roles["batch"] + roles["left"] + roles["right"], source.randint)
        pattern = f"{' '.join(first)}, {' '.join(second)} -> {' '.join(output)}"
        shapes = tuple(tuple(sizes[axis] for axis in term) for term in (first, second))
        products.append(Case(f"{pattern} {shapes}", pattern, shapes, {}))
    return products
