"""From shapes and given sizes to the size of every axis. The words are in `messages.txt`."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases import Case
from einheads.errors import SizeError
from einheads.given import MOST, checked
from einheads.pattern import parse
from einheads.sizes import Bound, bind
from strategies import cases


def bound(text: str, *shapes: tuple[int, ...], **sizes: int) -> Bound:
    """Bind a pattern as text."""
    return bind(parse(text), shapes, sizes)


def sizes(text: str, *shapes: tuple[int, ...], **given_sizes: int) -> Mapping[str, int]:
    """The size of every axis."""
    return bound(text, *shapes, **given_sizes).sizes


class TestNames:
    """Named axes have the size of their dimension."""

    def test_order_of_appearance(self) -> None:
        """Sizes come in the order of the pattern, whatever was given first."""
        found = sizes("b w h i, h o i -> n b w h o", (2, 3, 5, 7), (5, 11, 7), o=11, n=13)
        assert list(found.items()) == [("b", 2), ("w", 3), ("h", 5), ("i", 7), ("o", 11), ("n", 13)]

    def test_dimensions(self) -> None:
        """Each dimension of an operand is a tuple of axes; `1` is an empty one."""
        one = bound("b 1 (h d), , d -> (b h) 1", (2, 1, 15), (), (5,))
        assert one.operands == ((("b",), (), ("h", "d")), (), (("d",),))
        assert one.output == (("b", "h"), ())

    @pytest.mark.parametrize(("one", "other"), [(1, 3), (3, 1), (0, 1), (0, 3)])
    def test_sizes_agree_exactly(self, one: int, other: int) -> None:
        """A size 1 does not stretch along a named axis, in one operand or in two."""
        with pytest.raises(SizeError, match="axis 'i' has two sizes"):
            bound("b i, o i -> b o", (2, one), (5, other))
        with pytest.raises(SizeError, match="axis 'i' has two sizes"):
            bound("i i -> i", (one, other))

    def test_labels(self) -> None:
        """A layer calls its operands by name."""
        with pytest.raises(SizeError, match=r"3 \(x, dimension 2\) and 7 \(weight, dimension 1\)"):
            bind(parse("b i, i -> b"), [(2, 3), (7,)], {}, ["x", "weight"])


class TestGiven:
    """Sizes that the caller gives."""

    def test_needed_is_what_no_shape_tells(self) -> None:
        """A size that is only checked need not be given again; one that tells something must."""
        assert bound("b i -> b i n", (2, 3), i=3, n=5).needed == ("n",)
        assert bound("(h d) -> h d", (15,), h=3).needed == ("h",)
        assert bound("(h d), h -> h d", (15,), (3,), h=3).needed == ()

    def test_integers_of_numpy(self) -> None:
        """They come out as integers of Python, which is what a cache and a source can keep."""
        found = sizes("a -> a n", (2,), n=np.int64(3))
        assert found == {"a": 2, "n": 3}
        assert type(found["n"]) is int

    def test_symbolic_integers_stay(self) -> None:
        """The integer of a tracer has a node and an index; looking at its value would fix it."""

        class Symbol:
            node = None

            def __index__(self) -> int:
                raise AssertionError("the value was looked at")

        given_sizes: dict[str, Any] = {"n": Symbol()}
        assert checked(parse("a -> a n"), given_sizes) == given_sizes

    @pytest.mark.parametrize("size", [True, np.True_, 3.0, "3", None, [3], np.ones(1), 3j])
    def test_other_types(self, size: object) -> None:
        """What is no integer is a wrong type, however close."""
        with pytest.raises(TypeError, match="the size of axis 'n' is"):
            checked(parse("a -> a n"), {"n": size})

    @pytest.mark.parametrize("size", [-1, MOST, 2**200])
    def test_no_tensor_has_it(self, size: int) -> None:
        """Negative sizes, and those whose bytes cannot be counted."""
        with pytest.raises(SizeError, match="no tensor has an axis of size"):
            checked(parse("a -> a n"), {"n": size})

    @pytest.mark.parametrize("size", [0, 1, MOST - 1])
    def test_extremes(self, size: int) -> None:
        """Zero is a size like others."""
        assert checked(parse("a -> a n"), {"n": size}) == {"n": size}

    def test_result_too_large(self) -> None:
        """Two possible sizes can make an impossible result; a zero beside them cannot."""
        with pytest.raises(SizeError, match="more than any tensor"):
            bound("a -> a n m", (1,), n=2**30, m=2**30)
        assert sizes("a -> a n m", (0,), n=2**30, m=2**30)["a"] == 0


class TestDots:
    """The axes under `...`."""

    def test_aligned_at_the_right(self) -> None:
        """Operands have the last few of the hidden axes; a size 1 broadcasts and is no axis."""
        one = bound("... i, ..., i ... -> ...", (2, 3, 5, 7), (5,), (7, 3, 1))
        assert one.operands == (
            (("...1",), ("...2",), ("...3",), ("i",)),
            (("...3",),),
            (("i",), ("...2",), ()),
        )
        assert one.output == (("...1",), ("...2",), ("...3",))
        assert one.sizes == {"...1": 2, "...2": 3, "...3": 5, "i": 7}

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
    def test_ones_in_any_operand(self, order: tuple[int, ...]) -> None:
        """The size is found wherever it stands."""
        shapes = [(1, 3), (2, 1), (1, 1)]
        assert sizes("..., ..., ... -> ...", *(shapes[k] for k in order)) == {"...1": 2, "...2": 3}

    def test_all_ones(self) -> None:
        """Where all agree on size one, nothing broadcasts, and the axis stays."""
        one = bound("..., ... -> ...", (1,), (1,))
        assert one.operands == ((("...1",),), (("...1",),))
        assert one.sizes == {"...1": 1}

    def test_zero(self) -> None:
        """A size 1 broadcasts along nothing at all."""
        assert sizes("..., ... -> ...", (0,), (1,)) == {"...1": 0}

    @pytest.mark.parametrize("term", ["... a b", "a ... b", "a b ..."])
    def test_anywhere(self, term: str) -> None:
        """The dots stand for what the names leave, wherever they stand."""
        one = bound(f"{term} -> ...", (2, 3, 5, 7))
        assert sorted(one.sizes) == ["...1", "...2", "a", "b"]
        assert [one.sizes[dim[0]] for dim in one.operands[0]] == [2, 3, 5, 7]

    def test_nothing_under_them(self) -> None:
        """No axis at all is any number, too."""
        one = bound("... i -> ...", (3,))
        assert one.operands == ((("i",),),)
        assert one.output == ()

    def test_the_largest_is_named(self) -> None:
        """A clash names the operand that has the size, not one that broadcasts."""
        with pytest.raises(SizeError, match=r"2 \(operand 1, .*\) and 5 \(operand 3"):
            bound("..., ..., ... -> ...", (2,), (1,), (5,))


class TestComposites:
    """Dimensions made of several axes."""

    @pytest.mark.parametrize(
        ("text", "shapes", "given_sizes", "found"),
        [
            ("(h d) -> h d", [(15,)], {"h": 3}, {"h": 3, "d": 5}),
            ("(h d) -> h d", [(15,)], {"h": 3, "d": 5}, {"h": 3, "d": 5}),
            ("(h d), h -> d", [(15,), (3,)], {}, {"h": 3, "d": 5}),
            ("(h 1 d), (1) h -> d", [(15,), (1, 3)], {}, {"h": 3, "d": 5}),
            ("(a b) (b c), c -> a", [(15, 35), (7,)], {}, {"a": 3, "b": 5, "c": 7}),
            ("(a a), (a b) -> b", [(9,), (15,)], {"b": 5}, {"a": 3, "b": 5}),
            ("(a a b), (a c) -> b", [(18,), (15,)], {"c": 5}, {"a": 3, "b": 2, "c": 5}),
            ("(z a), (a b) -> b", [(0,), (15,)], {"z": 0, "b": 5}, {"z": 0, "a": 3, "b": 5}),
            ("(z a), z -> a", [(0,), (7,)], {}, {"z": 7, "a": 0}),
        ],
        ids=["one", "none", "operand", "units", "chain", "square", "cube", "zero", "empty"],
    )
    def test_solved(
        self,
        text: str,
        shapes: list[tuple[int, ...]],
        given_sizes: dict[str, int],
        found: dict[str, int],
    ) -> None:
        """One unknown factor follows from the others, and may come from another composite."""
        assert sizes(text, *shapes, **given_sizes) == found

    @pytest.mark.parametrize(
        ("text", "shapes", "given_sizes", "message"),
        [
            ("(h d) -> h d", [(15,)], {}, "more than one factor is unknown"),
            ("(h d) -> h d", [(15,)], {"h": 4}, "no multiple of h=4"),
            ("(h d) -> h d", [(15,)], {"h": 0}, "no multiple of h=0"),
            ("(h d) -> h d", [(0,)], {"h": 0}, "whatever 'd' is"),
            ("(h d) -> h d", [(15,)], {"h": 3, "d": 4}, "would make it 12"),
            ("(h h) -> h", [(9,)], {}, "more than once"),
            ("(a b) (b c) (c a) -> a", [(6, 10, 15)], {}, "more than one factor is unknown"),
            ("(1) -> ", [(2,)], {}, "stands for size 1"),
        ],
    )
    def test_refused(
        self,
        text: str,
        shapes: list[tuple[int, ...]],
        given_sizes: dict[str, int],
        message: str,
    ) -> None:
        """What has no solution, or more than one."""
        with pytest.raises(SizeError, match=message):
            sizes(text, *shapes, **given_sizes)


class TestLaws:
    """What holds for every pattern."""

    @given(cases())
    def test_sizes_make_the_shapes(self, case: Case) -> None:
        """Every dimension has the product of its axes, or 1 where it broadcasts."""
        one = bind(parse(case.pattern), case.shapes, case.sizes)
        for dims, shape in zip(one.operands, case.shapes, strict=True):
            assert tuple(prod(one.sizes[name] for name in dim) for dim in dims) == shape
        assert case.sizes.items() <= one.sizes.items()
        assert {name for dim in one.output for name in dim} <= one.sizes.keys()

    @given(cases())
    def test_sizes_that_are_known_may_be_given(self, case: Case) -> None:
        """What is found can be given, and then the same is found."""
        pattern = parse(case.pattern)
        found = bind(pattern, case.shapes, case.sizes).sizes
        named = {name: size for name, size in found.items() if not name.startswith("...")}
        again = bind(pattern, case.shapes, named)
        assert again.sizes == found
        assert set(again.needed) <= set(named)

    @given(cases(), st.data())
    def test_a_wrong_rank_is_refused(self, case: Case, data: st.DataObject) -> None:
        """An operand without dots has exactly as many dimensions as items."""
        pattern = parse(case.pattern)
        number = data.draw(st.integers(0, len(case.shapes) - 1))
        shapes = list(case.shapes)
        shapes[number] = (*shapes[number], 1)
        if pattern.operands[number].dots is None:
            with pytest.raises(SizeError, match=f"operand {number + 1} has "):
                bind(pattern, shapes, case.sizes)
