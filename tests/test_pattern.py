"""The pattern language: text in, `Pattern` out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases import Case
from einheads.errors import PatternError
from einheads.pattern import Axis, Dots, Group, Pattern, Unit, parse, spaced
from strategies import cases

SPACES = st.sampled_from(["", " ", "  ", "\t", "\n"])
PIECES = ["a", "bc", "x_1", "größe", "1", "...", "(", ")", ",", "->", " ", "\t", "2", "é", ".", "-"]


def plain(pattern: Pattern) -> tuple[tuple[str, ...], ...]:
    """A pattern without the places of its items."""
    return tuple(tuple(map(str, term.items)) for term in pattern.terms)


def stretched(text: str, draw: st.DataObject) -> str:
    """The same pattern with other white space, wherever that means nothing."""
    tokens = text.replace("(", "( ").replace(")", " )").replace(",", " ,").split()
    glue = [draw.draw(SPACES) for _ in range(len(tokens) + 1)]
    words = [glue[0]]
    for token, before, space in zip(tokens, ["", *tokens], glue[1:], strict=False):
        # Two names next to each other need something between them.
        names = token.isidentifier() or token == "1", before.isidentifier() or before == "1"
        words += [" " if all(names) else "", token, space]
    return "".join(words)


def attempt(text: str) -> Pattern | PatternError:
    """Read a text that may be no pattern."""
    try:
        return parse(text)
    except PatternError as error:
        return error


class TestReading:
    """What a text means."""

    def test_terms_and_items(self) -> None:
        """Every kind of item, in operands and output."""
        pattern = parse("b ... (h d) 1, , (h 1) -> ... () b")
        assert plain(pattern) == (("b", "...", "(h d)", "1"), (), ("(h 1)",), ("...", "1", "b"))
        kinds = [[type(item) for item in term.items] for term in pattern.terms]
        assert kinds == [[Axis, Dots, Group, Unit], [], [Group], [Dots, Unit, Axis]]

    @pytest.mark.parametrize(
        "text",
        [
            "b w h i,h o i->b w h o",
            "\tb w h i ,\n h o i\n->\nb w h o ",
            "  b  w  h  i , h  o  i  ->  b  w  h  o  ",
        ],
    )
    def test_white_space_means_nothing(self, text: str) -> None:
        """Tabs, line breaks and missing spaces around ',' and '->' change nothing."""
        assert plain(parse(text)) == plain(parse("b w h i, h o i -> b w h o"))
        assert str(parse(text)) == "b w h i, h o i -> b w h o"
        assert parse(text).text == text

    @pytest.mark.parametrize(
        ("text", "operands"), [("->", 1), (",->", 2), ("a,->", 2), (",a->", 2), (",,->", 3)]
    )
    def test_scalars(self, text: str, operands: int) -> None:
        """An operand without axes is a scalar, and every comma begins another operand."""
        assert len(parse(text).operands) == operands
        assert parse(text).output.items == ()

    @pytest.mark.parametrize("name", ["in", "None", "torch", "x1", "_", "größe", "批", "кол", "कि"])
    def test_any_identifier_is_a_name(self, name: str) -> None:
        """Keywords of Python and names in any alphabet are axes like others."""
        assert parse(f"{name} i -> {name}").names == (name, "i")

    @pytest.mark.parametrize("written", ["gro\u0308ße", "gr\u00f6ße", "\uff47röße"])
    def test_names_are_normalized(self, written: str) -> None:
        """A name is the same however its letters are composed, as for keyword arguments."""
        assert parse(f"{written} -> größe").names == ("gr\u00f6ße",)

    def test_more_axes_than_letters(self) -> None:
        """No alphabet limits the number of axes or the length of their names."""
        names = [f"axis_{number}_{'x' * number}" for number in range(100)]
        assert parse(f"{' '.join(names)} -> {' '.join(names[::-1])}").names == tuple(names)

    def test_names_in_order_of_appearance(self) -> None:
        """Every name once, inside parentheses too."""
        pattern = parse("b (h d) b, d k -> k (n h)")
        assert pattern.names == ("b", "h", "d", "k", "n")
        assert pattern.operands[0].names == ("b", "h", "d", "b")

    def test_digits_of_another_width(self) -> None:
        """A full-width 1 is a 1."""
        assert str(parse("b \uff11 -> b")) == "b 1 -> b"

    @given(cases(), st.data())
    def test_print_and_parse_are_inverse(self, case: Case, data: st.DataObject) -> None:
        """What is printed is read as the same pattern, and printed as the same text."""
        pattern = parse(stretched(case.pattern, data))
        assert plain(parse(str(pattern))) == plain(pattern)
        assert str(parse(str(pattern))) == str(pattern)
        assert str(pattern).split() == case.pattern.split()


class TestSpans:
    """Everything knows where it was read."""

    def test_places(self) -> None:
        """An axis is found wherever it stands, and nowhere else."""
        pattern = parse("b (h i), h o i -> h")
        assert pattern.places("h") == [(3, 4), (9, 10), (18, 19)]
        assert pattern.operands[0].places("i") == [(5, 6)]
        assert pattern.places("z") == []

    @pytest.mark.parametrize(
        ("text", "spans"),
        [
            ("a b, c -> d", [(0, 3), (5, 6), (10, 11)]),
            ("  a  ,  b  ->  (c d)  ", [(2, 3), (8, 9), (15, 20)]),
            ("->", [(0, 0), (2, 2)]),
            ("a, -> ", [(0, 1), (2, 2), (5, 5)]),
        ],
    )
    def test_terms(self, text: str, spans: list[tuple[int, int]]) -> None:
        """A term spans its items; an empty one is the place where it begins."""
        assert [term.span for term in parse(text).terms] == spans

    @given(cases(), st.data())
    def test_every_span_shows_its_item(self, case: Case, data: st.DataObject) -> None:
        """The text at the place of an item or term is that item or term."""
        text = stretched(case.pattern, data)
        pattern = parse(text)
        for term in pattern.terms:
            for axis in term.axes:
                assert text[slice(*axis.span)] == axis.name
            for one in (term, *term.items):
                shown = text[slice(*one.span)]
                assert shown == shown.strip()
                assert str(parse(f"{shown} ->").operands[0]) == str(one)


class TestRefusals:
    """What is no pattern. The words are in `messages.txt`."""

    @given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
    def test_nearly_patterns(self, text: str) -> None:
        """Any text is read or refused with a place, and what is read can be printed."""
        outcome = attempt(text)
        if isinstance(outcome, PatternError):
            assert outcome.spans or not text.strip()
            assert outcome.notes
        else:
            assert plain(parse(str(outcome))) == plain(outcome)

    @given(st.text(max_size=20))
    def test_any_text(self, text: str) -> None:
        """No text ends in another error, and each message can be printed anywhere."""
        outcome = attempt(f"a {text} -> a")
        assert isinstance(outcome, Pattern) or str(outcome).replace("\n", "").isprintable()

    @pytest.mark.parametrize("character", [c for c in map(chr, range(128)) if not c.isalnum()])
    def test_ascii_has_no_secrets(self, character: str) -> None:
        """Of all that is not a letter, only the written grammar has a meaning."""
        text = f"a{character}b -> a"
        if character.isspace() or character in ",_":
            assert len(parse(text).names) == (1 if character == "_" else 2) + (character == "_")
        else:
            with pytest.raises(PatternError):
                parse(text)

    def test_thousands_of_digits(self) -> None:
        """Python refuses to make an integer of so many digits; the message does not need one."""
        with pytest.raises(PatternError, match="the only size"):
            parse(f"b {'7' * 5000} -> b")


class TestSpaced:
    """The spelling with spaces of a pattern written for `torch.einsum`."""

    @pytest.mark.parametrize(
        ("text", "spelling"),
        [
            ("bwhi,hoi->bwho", "b w h i, h o i -> b w h o"),
            ("...i,oi->...o", "... i, o i -> ... o"),
            ("ij->ji", "i j -> j i"),
            ("ij,j->i", "i j, j -> i"),
            ("ij->", "i j -> "),
            ("i,i->i", None),
            ("b i, o i -> b o", None),
            ("time channels -> time", None),
            ("(ab) -> ab", None),
            ("1, ab -> ab", None),
            ("in, out -> other", None),
            ("heads -> sheds", None),
        ],
    )
    def test_looks_like_torch(self, text: str, spelling: str | None) -> None:
        """Single words whose letters would be a pattern; anything else is left alone."""
        assert spaced(parse(text)) == spelling

    def test_spelling_is_a_pattern(self) -> None:
        """What is proposed can be read."""
        assert str(parse(spaced(parse("bhqd,bhkd->bhqk")) or "")) == "b h q d, b h k d -> b h q k"
