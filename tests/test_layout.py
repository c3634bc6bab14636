"""How values lie in memory: what folds, against torch's own views."""

import itertools

import pytest
import torch

from einheads.layout import combined, contiguous, layout

SIZES = {"a": 2, "b": 3, "c": 5, "d": 1}


def views(value: torch.Tensor, start: int, stop: int) -> bool:
    """Whether torch folds these dimensions without a copy."""
    shape = [*value.shape[:start], -1, *value.shape[stop:]]
    try:
        value.view(shape)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("order", list(itertools.permutations("abcd")))
def test_folds_exactly_where_torch_views(order: tuple[str, ...]) -> None:
    """Every permutation of a contiguous tensor, and slices of it, fold as torch folds them."""
    stored = torch.zeros([SIZES[name] for name in "abcd"])
    for value in (stored, stored.expand(2, 3, 5, 1)[:, ::1], torch.zeros(4, 3, 5, 1)[::2]):
        turned = value.permute(["abcd".index(name) for name in order])
        known = layout(tuple((name,) for name in order), turned.stride(), SIZES)
        for start, stop in itertools.combinations(range(5), 2):
            assert known.folds(order[start:stop]) == views(turned, start, stop)


def test_an_expanded_axis_joins_only_expanded_ones() -> None:
    """Two axes at stride zero fold into one; a real one and one at stride zero do not."""
    value = torch.zeros(5).expand(2, 3, 5)
    known = layout((("a",), ("b",), ("c",)), value.stride(), SIZES)
    assert known.folds(("a", "b"))
    assert not known.folds(("b", "c"))


def test_a_composite_is_joined_inside() -> None:
    """One dimension of two axes folds, however the tensor is strided."""
    value = torch.zeros(6, 5)[:, ::2]
    sizes = {"a": 2, "b": 3, "c": 3}
    assert layout((("a", "b"), ("c",)), value.stride(), sizes).folds(("a", "b"))


def test_a_diagonal_steps_along_both() -> None:
    """The stride of a repeated axis is the sum of its strides."""
    known = layout((("a",), ("a",), ("b",)), (6, 3, 1), {"a": 2, "b": 3})
    assert known.order == ("a", "b")
    assert not known.folds(("a", "b"))


@pytest.mark.parametrize("first", list(itertools.permutations("abc")))
@pytest.mark.parametrize("second", ["abc", "cba", "b", "ca", ""])
def test_elementwise_results_lie_as_torch_lays_them(first: tuple[str, ...], second: str) -> None:
    """The order of a product in memory is the one that torch gives it."""
    axes = "abc"

    def stored(names: tuple[str, ...]) -> torch.Tensor:
        value = torch.zeros([SIZES[name] for name in names])
        held = [name for name in axes if name in names]
        value = value.permute([names.index(name) for name in held])
        return value[tuple(slice(None) if name in names else None for name in axes)]

    left, right = stored(first), stored(tuple(second))
    dims = tuple((name,) for name in axes)
    sides = [contiguous(tuple((name,) for name in names), SIZES) for names in (first, second)]
    found = combined(dims, *sides, SIZES)
    product = left * right
    assert found == layout(dims, product.stride(), SIZES)


@pytest.mark.parametrize("expanded", ["a", "b", "c", "ab", "bc", "abc"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_expanded_axes_do_not_tell_where_they_lie(expanded: str, order: tuple[int, ...]) -> None:
    """Torch asks the other operand about an axis of stride zero, and so does the layout."""
    dims = tuple((name,) for name in "abc")
    left = torch.zeros([1 if name in expanded else SIZES[name] for name in "abc"])
    left = left.expand([SIZES[name] for name in "abc"])
    right = torch.zeros([SIZES["abc"[place]] for place in order])
    right = right.permute([order.index(place) for place in range(3)])
    sides = [layout(dims, one.stride(), SIZES) for one in (left, right)]
    assert sides[0].expanded == set(expanded)
    for first, second in ((0, 1), (1, 0)):
        product = (left, right)[first] * (left, right)[second]
        found = combined(dims, sides[first], sides[second], SIZES)
        assert found == layout(dims, product.stride(), SIZES)
