"""What may be declared as a layer. The words are in `messages.txt`."""

import inspect

import pytest

import einheads
from einheads.errors import EinheadsError, PatternError, SizeError
from einheads.layers.declare import RESERVED, Declared, declare

HEADS = {"h": 2, "i": 3, "o": 5}


def heads(**options: object) -> Declared:
    """A declaration of heads with a matrix each."""
    return declare("b w h i, h o i -> b w h o", 1, HEADS, **options)  # type: ignore[arg-type]


class TestDeclared:
    """A declaration is plain data."""

    def test_one_weight(self) -> None:
        """Shapes follow the pattern, in its order."""
        one = heads()
        assert str(one.pattern) == "b w h i, h o i -> b w h o"
        assert (one.inputs, one.names, one.bias) == (1, ("weight",), None)
        assert one.shapes == ((2, 5, 3),)
        assert [str(term) for term in one.weights] == ["h o i"]
        assert one.sizes == HEADS
        assert one.input_names == ("x",)

    def test_several_inputs_and_weights(self) -> None:
        """Inputs come first and are numbered, as are the weights."""
        sizes = {"i": 2, "j": 3, "r": 5, "o": 7}
        one = declare("b i, b j, i j r, r o -> b o", 2, sizes)
        assert one.input_names == ("x1", "x2")
        assert one.names == ("weight_1", "weight_2")
        assert one.shapes == ((2, 3, 5), (5, 7))

    def test_no_weight(self) -> None:
        """A layer may only move axes; it has nothing to learn."""
        one = declare("b (h d) -> h b d", 1, {"h": 2})
        assert (one.names, one.shapes, one.given) == ((), (), (("h", 2),))

    def test_given_is_what_no_weight_tells(self) -> None:
        """Only those sizes are passed with a call."""
        sizes = {"h": 2, "d": 3, "o": 5, "n": 7, "t": 11}
        one = declare("b t (h d), (h d) o -> b t o n", 1, sizes)
        assert one.shapes == ((6, 5),)
        assert dict(one.given) == {"h": 2, "d": 3, "n": 7, "t": 11}

    def test_unit_and_composite_of_a_weight(self) -> None:
        """Weights have composites and units as operands do."""
        assert declare("b i, (h o) 1 i -> b h o", 1, HEADS).shapes == ((10, 1, 3),)

    def test_sizes_are_copied(self) -> None:
        """Changing the dictionary afterwards changes no declaration."""
        sizes = dict(HEADS)
        one = declare("b h i, h o i -> b h o", 1, sizes)
        sizes["h"] = 99
        assert one.sizes == HEADS


class TestOptions:
    """What the options mean, and what they cannot mean."""

    def test_reserved_are_the_parameters(self) -> None:
        """The list of the options is that of the signature."""
        parameters = inspect.signature(einheads.Einsum).parameters.values()
        keywords = {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}
        assert set(RESERVED) == keywords

    @pytest.mark.parametrize("name", RESERVED)
    def test_reserved_names_no_axis(self, name: str) -> None:
        """An axis could never be given a size under the name of an option."""
        with pytest.raises(PatternError, match=f"'{name}' is an option"):
            declare(f"b {name}, o {name} -> b o", 1, {"o": 5})

    @pytest.mark.parametrize(
        ("bias", "axes"),
        [
            (None, None),
            (False, None),
            (True, ("h", "o")),
            ("h o", ("h", "o")),
            (" o\th ", ("o", "h")),
            ("o", ("o",)),
            ("", ()),
        ],
    )
    def test_bias(self, bias: object, axes: tuple[str, ...] | None) -> None:
        """The axes of the bias, in the order in which it is stored."""
        assert heads(bias=bias).bias == axes

    def test_bias_along_an_axis_of_the_input(self) -> None:
        """Any axis of the output will do, if its size is given."""
        sizes = {**HEADS, "w": 7}
        assert declare("b w h i, h o i -> b w h o", 1, sizes, bias="w o").bias == ("w", "o")
        with pytest.raises(SizeError, match="needs the size of 'w'"):
            heads(bias="w o")

    @pytest.mark.parametrize("summed", ["t", " t ", "t i", "i t"])
    def test_summed(self, summed: str) -> None:
        """An axis that vanishes has to be named; one that vanishes anyway may be."""
        assert declare("b t i, o i -> b o", 1, {"i": 3, "o": 5}, summed=summed).shapes == ((5, 3),)

    def test_summed_dots(self) -> None:
        """So have the axes under dots."""
        sizes = {"i": 3, "o": 5}
        with pytest.raises(PatternError, match=r"summed='\.\.\.'"):
            declare("... i, o i -> o", 1, sizes)
        assert declare("... i, o i -> o", 1, sizes, summed="...").shapes == ((5, 3),)

    def test_diagonal(self) -> None:
        """A repeated axis of a weight is allowed only on purpose; of an input, always."""
        with pytest.raises(PatternError, match="only its diagonal"):
            declare("b i, i i -> b i", 1, {"i": 3})
        assert declare("b i, i i -> b i", 1, {"i": 3}, diagonal=True).shapes == ((3, 3),)
        assert declare("i i, o i -> o i", 1, {"i": 3, "o": 5}).shapes == ((5, 3),)

    @pytest.mark.parametrize("names", [("up",), ["up"], ("größe",), ("x1",), ("print",), ("h",)])
    def test_names(self, names: list[str] | tuple[str, ...]) -> None:
        """Any identifier that nothing else has."""
        assert heads(names=names).names == tuple(names)

    def test_names_are_normalized(self) -> None:
        """As Python does with attributes, so that `layer.fi` is found."""
        assert heads(names=("\ufb01",)).names == ("fi",)

    @pytest.mark.parametrize("name", ["", "a b", "1a", "a.b", "in", "_", "_parameters", "__dict__"])
    def test_names_that_are_no_attributes(self, name: str) -> None:
        """What cannot be an attribute and a variable, or is private to the module."""
        with pytest.raises(PatternError, match="cannot name a weight"):
            heads(names=(name,))

    @pytest.mark.parametrize(
        "name", [*RESERVED, "torch", "F", "training", "declared", "forward", "pattern", "x"]
    )
    def test_names_that_are_taken(self, name: str) -> None:
        """What the source or the module already uses, also where only the module knows."""
        with pytest.raises(PatternError, match="it is taken"):
            einheads.Einsum("b i, o i -> b o", i=3, o=5, names=(name,))


class TestStrictness:
    """Mistakes that a call could not show."""

    @pytest.mark.parametrize(
        ("text", "meant"),
        [
            ("b channels, out chanels -> b out", "channels"),
            ("b chanels, out channels -> b out", "channels"),
            ("b Channels, out channels -> b out", "channels"),
            ("b channels, out channels -> b uot", "out"),
            ("b channels, uot channels -> b out", "out"),
            ("batch channels, out channels -> bacth out", "batch"),
        ],
    )
    def test_misspelled_axis(self, text: str, meant: str) -> None:
        """Wherever the mistake is, the axis that was meant is proposed."""
        with pytest.raises(EinheadsError) as caught:
            declare(text, 1, {"channels": 3, "out": 5})
        assert f"did you mean '{meant}'?" in caught.value.notes

    @pytest.mark.parametrize(
        "sizes", [{}, {"h": 8}, {"h": 8, "i": 64, "o": 64}, {"bwhi": 3}, {"b": 1}]
    )
    def test_no_spaces(self, sizes: dict[str, int]) -> None:
        """The spelling of `torch.einsum` is answered with ours, whatever is complained of first."""
        with pytest.raises(PatternError) as caught:
            declare("bwhi,hoi->bwho", 1, sizes)
        assert caught.value.notes == (
            "axes are separated by spaces; did you mean 'b w h i, h o i -> b w h o'?",
        )

    def test_single_words_are_axes(self) -> None:
        """A pattern of single words is one of vectors, if the words are given sizes."""
        assert declare("ab,ab->ab", 1, {"ab": 3}).shapes == ((3,),)

    def test_axis_of_one_operand(self) -> None:
        """Two weights that share no axis with anything else are refused as well."""
        with pytest.raises(PatternError, match="'r' is only in the weight 'i r'"):
            declare("b i, i r, i o -> b o", 1, {"i": 2, "r": 3, "o": 5})
        assert declare("b i, i r, r o -> b o", 1, {"i": 2, "r": 3, "o": 5}).names
