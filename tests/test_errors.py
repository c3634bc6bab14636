"""The errors and their words."""

import copy
import pickle

import pytest

from einheads.errors import (
    EinheadsError,
    PatternError,
    SizeError,
    appearance,
    carets,
    count,
    kind,
    listed,
    nearest,
)


class TestErrors:
    """What an error prints, and what it is."""

    def test_one_line_for_each_part(self) -> None:
        """The sentence stands alone; pattern, carets and notes are indented below it."""
        error = SizeError("too long", "a b -> c", [(0, 1), (2, 3)], ["so far: a=2", "write: c"])
        assert str(error).splitlines() == [
            "too long",
            "    a b -> c",
            "    ^ ^",
            "    so far: a=2",
            "    write: c",
        ]

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (EinheadsError("wrong"), "wrong"),
            (EinheadsError("wrong", notes=["write: right"]), "wrong\n    write: right"),
            (EinheadsError("wrong", "a -> a"), "wrong\n    a -> a"),
        ],
        ids=["sentence", "sentence and note", "sentence and pattern"],
    )
    def test_parts_may_be_left_out(self, error: EinheadsError, text: str) -> None:
        """Nothing is printed for a part that is not there."""
        assert str(error) == text

    @pytest.mark.parametrize("error", [EinheadsError, PatternError, SizeError])
    def test_one_tree_under_value_error(self, error: type[EinheadsError]) -> None:
        """One `except` clause catches them all, and so does that for wrong values."""
        assert issubclass(error, EinheadsError)
        assert issubclass(error, ValueError)
        assert not issubclass(PatternError, SizeError)

    @pytest.mark.parametrize("error", [EinheadsError, PatternError, SizeError])
    def test_copies_keep_every_part(self, error: type[EinheadsError]) -> None:
        """Pickle and copy call the class again, with all that it was called with."""
        one = error("wrong", "a -> b", iter([(0, 1)]), iter(["write: right"]))
        for other in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one), copy.copy(one)):
            assert type(other) is error
            assert (other.sentence, other.text) == ("wrong", "a -> b")
            assert (other.spans, other.notes) == (((0, 1),), ("write: right",))
            assert str(other) == str(one)


class TestCarets:
    """Carets stand under the characters they mean."""

    @pytest.mark.parametrize(
        ("text", "start", "marked"),
        [
            ("a b", 2, "  ^"),
            ("a\nb", 2, "  ^"),
            ("a\tb", 2, "  ^"),
            ("a\x1b\x00b", 3, "   ^"),
            ("批 b", 2, "   ^"),
            ("批 b", 0, "^^"),
            ("e\u0301 b", 3, "  ^"),
        ],
        ids=["plain", "line", "tab", "control", "after wide", "wide", "mark"],
    )
    def test_column(self, text: str, start: int, marked: str) -> None:
        """Line breaks take a column, wide characters two, combining marks none."""
        shown = str(EinheadsError("wrong", text, [(start, start + 1)])).splitlines()
        assert len(shown) == 3
        assert shown[1].isprintable()
        assert shown[2] == f"    {marked}"

    def test_no_spans(self) -> None:
        """Nothing to point at is no caret."""
        assert carets([]) == ""

    def test_overlap(self) -> None:
        """Two spans may share a place, and come in any order."""
        assert carets([(3, 5), (0, 1), (4, 6)]) == "^  ^^^"

    def test_behind_the_text(self) -> None:
        """An empty span at the end of the text gets its caret behind it."""
        assert carets([(2, 2)], "ab") == "  ^"


class TestWords:
    """The words that messages share."""

    def test_plural(self) -> None:
        """One of a thing, and any other number of them."""
        assert [count(number, "axis") for number in range(3)] == ["0 axes", "1 axis", "2 axes"]
        assert count(2, "operand") == "2 operands"

    def test_list(self) -> None:
        """Commas, and one word before the last."""
        assert listed("ab") == "a and b"
        assert listed("abc") == "a, b and c"

    def test_kind_is_one_line(self) -> None:
        """A value that could be long or take lines to print is called by its type."""
        assert kind([1] * 1000) == "a list"
        assert kind("two\nlines") == "'two\\nlines'"
        assert kind(EinheadsError) == "a type"
        assert kind(object()) == "an object"

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("chanels", "channels"),
            ("chnanels", "channels"),
            ("CHANNELS", "channels"),
            ("\u0441hannels", "channels"),
            ("b", "B"),
            ("q", None),
            ("time", None),
        ],
    )
    def test_nearest(self, name: str, meant: str | None) -> None:
        """Letters left out or swapped, capitals, and letters of another alphabet are mistakes."""
        assert nearest(name, iter(["channels", "heads", "B"])) == meant

    def test_lookalikes(self) -> None:
        """Cyrillic letters look like Latin ones where they do, and stay themselves elsewhere."""
        assert appearance("\u0430\u0435\u043e\u0440\u0441\u0443\u0445") == "aeopcyx"
        assert appearance("\u0436\u00fc\u03bb") == "\u0436\u00fc\u03bb"
