"""EinMix against the layer of that name in einops: constructor, parameters, outputs, refusals."""

import pickle
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from einops import EinopsError
from einops.layers.torch import EinMix as Theirs
from einops.tests import parse_backends_to_test, test_layers
from torch import nn

import einheads
import laws
from einheads import EinheadsError, EinMix

# pattern, weight, bias, sizes, shape of an input
CASES: dict[str, tuple[str, str, str | None, dict[str, int], tuple[int, ...]]] = {
    "linear": ("t b i -> t b o", "i o", "o", {"i": 7, "o": 5}, (2, 3, 7)),
    "linear, out first": ("t b i -> t b o", "o i", "o", {"i": 7, "o": 5}, (2, 3, 7)),
    "without a bias": ("t b i -> t b o", "i o", None, {"i": 7, "o": 5}, (2, 3, 7)),
    "another axis": ("h w c -> k w c", "h k", "k", {"h": 7, "k": 5}, (7, 2, 3)),
    "no spaces around the arrow": ("h w c->k w c", "h k", "k", {"h": 7, "k": 5}, (7, 2, 3)),
    "scale": ("t b c -> t b c", "c", "c", {"c": 5}, (2, 3, 5)),
    "per head": (
        "t b (h i) -> t b (h o)", "h i o", "h o", {"h": 5, "i": 7, "o": 3}, (2, 3, 35),
    ),
    "bias in another order": (
        "t b (h i) -> t b (h o)", "h i o", "o h", {"h": 5, "i": 7, "o": 3}, (2, 3, 35),
    ),
    "bias of the heads alone": (
        "t b (h i) -> t b (h o)", "h i o", "h", {"h": 5, "i": 7, "o": 3}, (2, 3, 35),
    ),
    "patches": (
        "b c (y p) (x q) -> b (y x) d", "c p q d", "d",
        {"c": 3, "p": 2, "q": 5, "d": 7}, (2, 3, 6, 10),
    ),
    "split by given sizes": (
        "(b n) i -> b n o", "i o", "o", {"n": 3, "i": 5, "o": 7}, (6, 5),
    ),
    "joined": ("b i -> (b o)", "i o", "o", {"i": 5, "o": 7}, (3, 5)),
    "an axis in front": ("b t c -> n b t o", "n c o", "n o", {"n": 3, "c": 5, "o": 7}, (2, 11, 5)),
    "bias of an axis of the input": (
        "b t c -> b t o", "c o", "t o", {"c": 5, "o": 7, "t": 3}, (2, 3, 5),
    ),
    "reversed": (
        "a b c d e -> e d c b a", "d a b", "a b c d e",
        {"a": 2, "b": 3, "c": 5, "d": 7, "e": 4}, (2, 3, 5, 7, 4),
    ),
    "an axis summed over the input": ("b t c -> b o", "c o", "o", {"c": 5, "o": 7}, (2, 3, 5)),
    "everything summed": ("b c -> ", "b c", None, {"b": 3, "c": 5}, (3, 5)),
    "a number": ("... -> ...", "", None, {}, (2, 3)),
    "a number with a bias": ("... -> ...", "", "", {}, (2, 3)),
    "ellipsis": ("... i -> ... o", "i o", "o", {"i": 5, "o": 7}, (2, 3, 5)),
    "ellipsis inside": ("b a ... -> b c ...", "b a c", None, {"a": 2, "b": 3, "c": 5}, (3, 2, 7)),
    "ellipsis and groups": (
        "b ... (a c) -> b ... (a d)", "c d", "a d", {"a": 2, "c": 3, "d": 5}, (7, 11, 2, 6),
    ),
    "ellipsis in a group": (
        "(b a) ... -> b c (...)", "b a c", None, {"a": 2, "b": 3, "c": 5}, (6, 7, 11),
    ),
    "ellipsis in a group with axes": (
        "a ... (b c) -> a (... d b)", "c d b", "d b", {"b": 2, "c": 3, "d": 5}, (7, 11, 13, 6),
    ),
    "two groups, one with the ellipsis": (
        "a ... (b c) -> (a d) (... b)", "c d b", None, {"b": 2, "c": 3, "d": 5}, (7, 11, 13, 6),
    ),
    "ellipsis of nothing": ("... i -> (...) o", "i o", "o", {"i": 5, "o": 7}, (5,)),
    "unit axes": ("b 1 c -> b () o 1", "c o", "o", {"c": 5, "o": 7}, (3, 1, 5)),
    "names that are options of ours": (
        "b inputs names -> b inputs init", "names init", "init",
        {"names": 5, "init": 7}, (2, 3, 5),
    ),
    "size one": ("b i -> b o", "i o", "o", {"i": 1, "o": 1}, (3, 1)),
}  # fmt: skip

every_case = pytest.mark.parametrize("name", CASES)
pytestmark = pytest.mark.filterwarnings("ignore:EinMix. weight has no dimensions")


@contextmanager
def deprecated() -> Iterator[None]:
    """Einops tests with a tracer that torch calls deprecated, and that warns of checks of sizes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        yield


def both(name: str) -> tuple[EinMix, Theirs]:
    """The same layer twice, made after the same seed."""
    pattern, weight, bias, sizes, _ = CASES[name]
    torch.manual_seed(3)
    ours = EinMix(pattern, weight, bias, **sizes)
    torch.manual_seed(3)
    return ours, Theirs(pattern, weight, bias, **sizes)


class TestDropIn:
    """Whatever einops' layer does, on every pattern of the table."""

    @every_case
    def test_same_parameters_after_the_same_seed(self, name: str) -> None:
        """Names, order, shapes and values."""
        ours, theirs = both(name)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for key, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[key], value), key

    @every_case
    def test_same_outputs_and_gradients(self, name: str) -> None:
        """A state dict is loaded across, strictly; then everything is equal."""
        ours, theirs = (layer.double() for layer in both(name))
        for value in theirs.parameters():
            nn.init.normal_(value)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        x = torch.randn(CASES[name][-1], dtype=torch.float64, requires_grad=True)
        actual, expected = ours(x), theirs(x)
        laws.close(actual, expected)
        weights = torch.randn_like(expected)
        one = torch.autograd.grad((actual * weights).sum(), [x, *ours.parameters()])
        other = torch.autograd.grad((expected * weights).sum(), [x, *theirs.parameters()])
        for mine, their in zip(one, other, strict=True):
            laws.close(mine, their)
        nn.init.ones_(ours.weight)
        theirs.load_state_dict(ours.state_dict(), strict=True)
        laws.close(theirs(x), ours(x))

    @every_case
    def test_repr_pickle_and_copies(self, name: str) -> None:
        """The repr is that of einops, and a call that makes the layer."""
        ours, theirs = both(name)
        assert repr(ours) == repr(theirs)
        laws.copies_and_stores(ours, torch.randn(CASES[name][-1]))

    @every_case
    def test_meta_and_reset(self, name: str) -> None:
        """What einops lacks: parameters can be made without storage, and drawn again."""
        pattern, weight, bias, sizes, _ = CASES[name]
        laws.born_on_meta(lambda **options: EinMix(pattern, weight, bias, **sizes, **options))

    def test_positional_and_keyword_arguments(self) -> None:
        """As in einops."""
        first = EinMix("b i -> b o", "i o", "o", i=3, o=5)
        second = EinMix(pattern="b i -> b o", weight_shape="i o", bias_shape="o", i=3, o=5)
        assert repr(first) == repr(second)
        assert EinMix("b i -> b o", "i o", i=3, o=5, dtype=torch.float64).weight.dtype is (
            torch.float64
        )

    def test_in_a_network(self) -> None:
        """Inside nn.Sequential a checkpoint of einops loads, and a pickled network computes."""

        def network(kind: Any) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(20, 24),
                nn.ReLU(),
                kind("b c1 -> (b c2)", weight_shape="c1 c2", bias_shape="c2", c1=24, c2=21),
                kind("(b c2) -> b c3", weight_shape="c2 c3", bias_shape="c3", c2=21, c3=15),
                nn.Linear(15, 7),
            )

        ours, theirs = network(EinMix), network(Theirs)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        x = torch.randn(4, 20)
        torch.testing.assert_close(ours(x), theirs(x))
        assert torch.equal(pickle.loads(pickle.dumps(ours))(x), ours(x))

    def test_random_patterns(self) -> None:
        """Forty patterns by chance: any order of axes, any groups, any bias."""
        dice = random.Random(0)
        for _ in range(40):
            sizes = dict(zip("abcdef", dice.sample([2, 3, 4, 5, 6, 7], 6), strict=True))
            before = dice.sample("abcd", dice.randint(1, 4))
            weight = dice.sample("abcdef", dice.randint(1, 4))
            weight = [axis for axis in weight if axis in before or axis in "ef"]
            new = [axis for axis in weight if axis not in before]
            after = new + [axis for axis in before if dice.random() < 0.6]
            dice.shuffle(after)
            if not set(weight) & {*before, *after} or not weight:
                weight = before[:1]
            bias = [axis for axis in after if dice.random() < 0.5]
            dice.shuffle(bias)
            left, right = (self.grouped(axes, dice) for axes in (before, after))
            used = {axis: size for axis, size in sizes.items() if axis in {*before, *weight}}
            arguments = f"{left} -> {right}", " ".join(weight), " ".join(bias)
            ours, theirs = (kind(*arguments, **used).double() for kind in (EinMix, Theirs))
            ours.load_state_dict(theirs.state_dict(), strict=True)
            parts = einheads.layers.einmix._groups(left)
            shape = [torch.tensor([sizes[axis] for axis in part]).prod() for part in parts]
            x = torch.randn(*map(int, shape), dtype=torch.float64)
            laws.close(ours(x), theirs(x))

    def grouped(self, axes: list[str], dice: random.Random) -> str:
        """Parentheses around some neighbors."""
        words: list[str] = []
        place = 0
        while place < len(axes):
            count = dice.choice([1, 1, 2])
            group = axes[place : place + count]
            words.append(group[0] if len(group) == 1 else f"({' '.join(group)})")
            place += count
        return " ".join(words)


class TestShipped:
    """The tests that einops ships in its wheel, with our layer in the place of theirs."""

    @pytest.fixture
    def shipped(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
        """The file of einops' tests; it reads from the environment what to test."""
        monkeypatch.setenv("EINOPS_TEST_BACKENDS", "numpy,torch")
        parse_backends_to_test.cache_clear()
        monkeypatch.setattr("einops.layers.torch.EinMix", EinMix)
        yield test_layers
        parse_backends_to_test.cache_clear()

    def test_in_a_model(self, shipped: ModuleType) -> None:
        """A model with two of them: its state dict is pickled and loaded, the model is traced."""
        kinds = {type(part) for part in shipped.create_torch_model().modules()}
        assert EinMix in kinds
        assert Theirs not in kinds
        with deprecated():
            shipped.test_torch_layer()

    def test_in_a_scripted_model(self, shipped: ModuleType) -> None:
        """The model is compiled by `torch.jit.script`."""
        with deprecated():
            shipped.test_torch_layers_scripting()

    def test_restrictions(self, shipped: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        """What einops refuses is refused."""
        refused = []

        def make(*arguments: Any, **options: Any) -> EinMix:
            with pytest.raises(EinheadsError) as caught:
                EinMix(*arguments, **options)
            refused.append(caught.value)
            raise EinopsError from caught.value

        monkeypatch.setattr("einops.layers._einmix._EinmixDebugger", make)
        shipped.test_einmix_restrictions()
        assert len(refused) == 4


class TestBeyond:
    """What einops' layer cannot do."""

    def test_more_axes_than_letters(self) -> None:
        """Thirty axes."""
        names = [f"axis{number}" for number in range(29)]
        pattern = f"{' '.join(names)} i -> {' '.join(names)} o"
        layer = EinMix(pattern, "i o", i=3, o=5)
        assert layer(torch.randn(*[1] * 29, 3)).shape == (*[1] * 29, 5)

    def test_a_size_of_one_does_not_stretch(self) -> None:
        """The original computes something; here it is an error in the name of the axis."""
        _, theirs = both("per head")
        ours, theirs = EinMix("b i -> b o", "i o", i=5, o=7), Theirs("b i -> b o", "i o", i=5, o=7)
        assert theirs(torch.randn(3, 1)).shape == (3, 7)
        with pytest.raises(einheads.SizeError, match="'i'"):
            ours(torch.randn(3, 1))

    def test_roles_and_scale(self) -> None:
        """Each head is a matrix; outputs have unit scale, as those of einops."""
        layer = EinMix("b (h i) -> b (h o)", "h i o", h=3, i=7, o=5)
        assert layer.roles["weight"] == {"h": "batch", "i": "in", "o": "out"}
        assert layer.matrices().shape == (3, 5, 7)
        assert laws.moment(layer, 100, 20, 21) == pytest.approx(1, abs=0.1)

    def test_compiles_without_a_break(self) -> None:
        """Groups, an ellipsis in a group, and biases with unit axes."""
        names = ["per head", "patches", "ellipsis in a group with axes"]
        layers = [both(name)[0] for name in names]
        inputs = [torch.randn(CASES[name][-1]) for name in names]

        def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
            return [layer(x) for layer, x in zip(layers, inputs, strict=True)]

        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        for actual, expected in zip(compiled(*inputs), run(*inputs), strict=True):
            torch.testing.assert_close(actual, expected)

    def test_equivalent_of_the_docstring(self) -> None:
        """The plain torch of the docstring, for the layer of its example."""
        layer = EinMix("t b (h c) -> t b (h o)", "h c o", "h o", h=8, c=16, o=32).double()
        plain = laws.equivalent(EinMix)
        laws.agrees(layer, lambda x: plain(x, **laws.parameters_of(layer)), 2, 3, 128)


class TestRefusals:
    """What einops refuses is refused, with what to write instead."""

    @pytest.mark.parametrize(
        ("arguments", "sizes", "words"),
        [
            (("a b -> b a", "a b"), {"a": 2}, "needs the size of 'b'"),
            (("a b -> b a", "z a b"), {"a": 2, "b": 3, "z": 5}, "'z' is only in the weight"),
            (("a -> a o", "a"), {"a": 2}, "'o' is in neither the input nor the weight"),
            (("a -> a o", "a"), {"a": 2, "o": 3}, "'o' is in neither the input nor the weight"),
            (("(...) a -> ... a", "a"), {"a": 2}, "..."),
            (("... a -> a ...", "a", "a"), {"a": 2}, "in front of '...' in the output"),
            (("... a -> a", "a"), {"a": 2}, "'...'"),
            (("a -> ... a", "a"), {"a": 2}, "the output has '...', but no operand has"),
            (("2 a -> a", "a"), {"a": 2}, "2"),
            (("a b -> a b", "(a b)"), {"a": 2, "b": 3}, "one after the other"),
            (("a b -> a b", "... a"), {"a": 2}, "one after the other"),
            (("a b -> a b", "a", "z"), {"a": 2}, "'z'"),
            (("a b -> a b", "a", "b"), {"a": 2}, "needs the size of 'b'"),
            (("a b -> a b", "a"), {"a": 2, "z": 3}, "'z'"),
            (("a b", "a"), {"a": 2}, "no '->'"),
        ],
        ids=lambda value: str(value)[:60],
    )
    def test_messages(self, arguments: tuple[str, ...], sizes: dict[str, int], words: str) -> None:
        """Both refuse; ours names the axis."""
        with pytest.raises(Exception):  # noqa: B017, PT011  einops has errors of all kinds
            Theirs(*arguments, **sizes)
        with pytest.raises(einheads.EinheadsError) as caught:
            EinMix(*arguments, **sizes)
        assert words in str(caught.value)

    def test_types(self) -> None:
        """Texts are texts, and a call takes one input."""
        with pytest.raises(TypeError, match="weight_shape is a text, not"):
            EinMix("a -> a", ("a",), a=2)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
            EinMix("a -> a", "a", a=2)(torch.ones(2), torch.ones(2))
