"""Token mixing, feed-forward networks and blocks, against stacks of torch's own layers."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import einheads
import laws
from einheads import FeedForward, MLPMixer, SwiGLU, TokenMixer, TransformerBlock

DOUBLE: dict[str, Any] = {"dtype": torch.float64}
LEADING = pytest.mark.parametrize("leading", [(), (2,), (2, 3)], ids=str)


def looped(layer: TokenMixer, x: Tensor) -> Tensor:
    """F.linear along the tokens, for each group of features."""
    groups = x.unflatten(-1, (layer.h, -1)).unbind(-2)
    mixed = [
        functional.linear(group.transpose(-1, -2), weight, bias).transpose(-1, -2)
        for group, weight, bias in zip(groups, layer.weight, layer.bias.T, strict=True)
    ]
    return torch.cat(mixed, -1)


def two_linears(layer: FeedForward, x: Tensor, head: int | None = None) -> Tensor:
    """nn.Linear, gelu, nn.Linear with the weights of one head, or of all there is."""
    for linear in (layer.up, layer.down):
        whole = linear.weight, linear.bias
        weight, bias = whole if head is None else (whole[0][head], whole[1][head])
        copied = nn.Linear(weight.shape[1], weight.shape[0], **DOUBLE)
        x = torch.func.functional_call(copied, {"weight": weight, "bias": bias}, (x,))
        x = functional.gelu(x) if linear is layer.up else x
    return x


def gated(layer: SwiGLU, x: Tensor, head: int | None = None) -> Tensor:
    """Three F.linear with the weights of one head, or of all there is."""
    pick = (lambda value: value) if head is None else (lambda value: value[head])
    (gate, value), down = pick(layer.up.weight), pick(layer.down.weight)
    biases = (None, None), None
    if layer.bias:
        biases = pick(layer.up.bias), pick(layer.down.bias)
    gate = functional.silu(functional.linear(x, gate, biases[0][0]))
    return functional.linear(gate * functional.linear(x, value, biases[0][1]), down, biases[1])


class TestTokenMixer:
    """A linear along the tokens."""

    @LEADING
    def test_agrees_with_linear(self, leading: tuple[int, ...]) -> None:
        """One matrix for all features, and the plain torch of the docstring."""
        layer = TokenMixer(t=7, s=11, **DOUBLE)
        plain = laws.equivalent(TokenMixer)
        laws.agrees(
            layer,
            lambda x: functional.linear(x.mT, layer.weight, layer.bias).mT,
            *(*leading, 7, 3),
        )
        laws.agrees(layer, lambda x: plain(x, **laws.parameters_of(layer)), *leading, 7, 3)

    @LEADING
    def test_with_heads(self, leading: tuple[int, ...]) -> None:
        """One matrix for each group of features."""
        layer = TokenMixer(t=7, s=11, h=3, **DOUBLE)
        assert layer.weight.shape == (3, 11, 7)
        laws.agrees(layer, lambda x: looped(layer, x), *leading, 7, 15)

    @pytest.mark.parametrize("h", [None, 3])
    def test_laws(self, h: int | None) -> None:
        """Repr, copies, meta and the initial scale."""
        laws.copies_and_stores(TokenMixer(t=7, s=11, h=h), torch.randn(2, 7, 15))
        laws.born_on_meta(lambda **options: TokenMixer(t=7, h=h, **options))
        assert TokenMixer(t=7, h=h).sizes["s"] == 7
        theirs = laws.moment(nn.Linear(7, 50), 200, 20, 7)
        assert laws.moment(TokenMixer(t=7, s=11, h=h), 150, 5, 7, 15) / theirs == pytest.approx(
            1, abs=0.1
        )
        unit = TokenMixer(t=7, s=11, h=h, init="lecun")
        assert laws.moment(unit, 150, 5, 7, 15) == pytest.approx(1, abs=0.1)

    def test_tokens_of_another_number(self) -> None:
        """The message names the axis."""
        with pytest.raises(einheads.SizeError, match="'t'"):
            TokenMixer(t=7)(torch.randn(2, 8, 3))


class TestFeedForward:
    """Two linears with a bend between them."""

    @LEADING
    def test_agrees_with_linears(self, leading: tuple[int, ...]) -> None:
        """Values and gradients, and the plain torch of the docstring."""
        layer = FeedForward(i=5, m=11, o=7, **DOUBLE)
        plain = laws.equivalent(FeedForward)
        laws.agrees(layer, lambda x: two_linears(layer, x), *leading, 5)
        laws.agrees(layer, lambda x: plain(x, **laws.parameters_of(layer)), *leading, 5)

    @LEADING
    def test_per_head(self, leading: tuple[int, ...]) -> None:
        """Each head its own network on its own input."""
        layer = FeedForward(i=5, m=11, o=7, h=3, **DOUBLE)
        laws.agrees(
            layer,
            lambda x: torch.stack([two_linears(layer, x[..., h, :], h) for h in range(3)], -2),
            *(*leading, 3, 5),
        )

    @LEADING
    def test_heads_that_share_their_input(self, leading: tuple[int, ...]) -> None:
        """Each head its own network on one input; the outputs lie side by side."""
        layer = FeedForward(i=5, m=11, o=7, h=3, shared=True, **DOUBLE)
        laws.agrees(
            layer,
            lambda x: torch.cat([two_linears(layer, x, h) for h in range(3)], -1),
            *(*leading, 5),
        )

    @pytest.mark.parametrize("name", ["gelu", "relu", "sigmoid", "silu", "tanh"])
    def test_activations(self, name: str) -> None:
        """The bends by name are those of torch."""
        theirs = {"gelu": nn.GELU, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "silu": nn.SiLU}
        layer = FeedForward(i=5, m=11, activation=name, **DOUBLE)
        x = torch.randn(3, 5, **DOUBLE)
        bend = theirs.get(name, nn.Tanh)()
        laws.close(layer(x), layer.down(bend(layer.up(x))))

    def test_a_function_as_activation(self) -> None:
        """Any function will do, and the repr names it."""
        layer = FeedForward(i=5, m=11, activation=torch.sin, **DOUBLE)
        x = torch.randn(3, 5, **DOUBLE)
        laws.close(layer(x), layer.down(layer.up(x).sin()))
        assert "sin" in layer.extra_repr()

    @pytest.mark.parametrize(
        ("activation", "error", "words"),
        [
            ("gelo", einheads.EinheadsError, "did you mean 'gelu'"),
            ("zz", einheads.EinheadsError, "write: a function, or one of gelu, relu"),
            (3, TypeError, "activation is a name or a function, not"),
        ],
    )
    def test_no_activation(self, activation: Any, error: type[Exception], words: str) -> None:
        """What is unknown is refused when the network is made."""
        for kind in (FeedForward, SwiGLU):
            with pytest.raises(error, match=words):
                kind(i=5, m=11, activation=activation)

    def test_dropout_is_for_training(self) -> None:
        """In training some features in the middle are dropped; otherwise none is."""
        layer = FeedForward(i=5, m=11, dropout=0.5, **DOUBLE)
        x = torch.randn(3, 5, **DOUBLE)
        assert not torch.equal(layer(x), layer(x))
        laws.close(layer.eval()(x), two_linears(layer, x))
        for make in (FeedForward, SwiGLU):
            with pytest.raises(einheads.EinheadsError, match="dropout=2 is no share"):
                make(i=5, m=11, dropout=2)

    def test_errors(self) -> None:
        """Sizes are named by the axes of the user."""
        with pytest.raises(einheads.SizeError, match="'i'"):
            FeedForward(i=5, m=11)(torch.randn(3, 6))
        with pytest.raises(einheads.SizeError, match="'h'"):
            FeedForward(i=5, m=11, h=3)(torch.randn(2, 5))
        with pytest.raises(einheads.SizeError, match="given for 'm'"):
            FeedForward(i=5, m=-1)
        with pytest.raises(einheads.SizeError, match=r"write: h=\.\.\."):
            FeedForward(i=5, m=11, shared=True)


class TestSwiGLU:
    """A gate times a value."""

    @LEADING
    @pytest.mark.parametrize("bias", [False, True])
    def test_agrees_with_linears(self, leading: tuple[int, ...], *, bias: bool) -> None:
        """Values and gradients, the gate first."""
        layer = SwiGLU(i=5, m=11, o=7, bias=bias, **DOUBLE)
        laws.agrees(layer, lambda x: gated(layer, x), *leading, 5)

    @LEADING
    @pytest.mark.parametrize("bias", [False, True])
    def test_per_head(self, leading: tuple[int, ...], *, bias: bool) -> None:
        """Each head its own network."""
        layer = SwiGLU(i=5, m=11, o=7, h=3, bias=bias, **DOUBLE)
        laws.agrees(
            layer,
            lambda x: torch.stack([gated(layer, x[..., h, :], h) for h in range(3)], -2),
            *(*leading, 3, 5),
        )

    def test_equivalent_and_dropout(self) -> None:
        """The plain torch of the docstring gives the same; dropout is for training."""
        layer = SwiGLU(i=5, m=11, **DOUBLE)
        plain = laws.equivalent(SwiGLU)
        laws.agrees(layer, lambda x: plain(x, **laws.parameters_of(layer)), 3, 5)
        noisy = SwiGLU(i=5, m=11, dropout=0.5)
        x = torch.randn(3, 5)
        assert not torch.equal(noisy(x), noisy(x))
        assert torch.equal(noisy.eval()(x), noisy(x))


class TestMLPMixer:
    """Tokens, then features."""

    @LEADING
    def test_agrees_with_torch(self, leading: tuple[int, ...]) -> None:
        """Norms, linears and transpositions of torch give the same values and gradients."""
        layer = MLPMixer(t=7, c=6, s=11, m=13, **DOUBLE)
        plain = laws.equivalent(MLPMixer)

        def reference(x: Tensor) -> Tensor:
            given = laws.parameters_of(layer)
            for name in ("up", "down"):
                for kind in ("weight", "bias"):
                    assert f"features_{name}_{kind}" in given
            return plain(x, **given)

        laws.agrees(layer, reference, *leading, 7, 6)

    def test_with_heads(self) -> None:
        """Groups of features have a first network each."""
        layer = MLPMixer(t=7, c=6, s=11, m=13, h=3, **DOUBLE)

        def reference(x: Tensor) -> Tensor:
            y = functional.gelu(looped(layer.tokens_up, layer.tokens_norm(x)))
            x = x + looped(layer.tokens_down, y)
            return x + two_linears(layer.features, layer.features_norm(x))

        laws.agrees(layer, reference, 2, 7, 6)

    def test_dropout_is_for_training(self) -> None:
        """Tokens in the middle are dropped, and features in the middle as well."""
        layer = MLPMixer(t=7, c=6, s=11, m=13, dropout=0.5, **DOUBLE)
        x = torch.randn(2, 7, 6, **DOUBLE)
        for silent in (layer.features.down, layer.tokens_down):
            before = copy.deepcopy(layer.state_dict())
            nn.init.zeros_(silent.weight)
            assert not torch.equal(layer(x), layer(x))
            layer.load_state_dict(before)
        layer.eval()
        assert torch.equal(layer(x), layer(x))

    def test_heads_divide_the_features(self) -> None:
        """The message has the axes."""
        with pytest.raises(einheads.SizeError, match="c=6 features cannot be divided among h=4"):
            MLPMixer(t=7, c=6, s=11, m=13, h=4)


class TestTransformerBlock:
    """A block that is usable as it is."""

    @pytest.mark.parametrize("bias", [True, False])
    def test_agrees_with_torch(self, *, bias: bool) -> None:
        """nn.TransformerEncoderLayer with its norms first gives the same, masked and not."""
        theirs = nn.TransformerEncoderLayer(
            12, 3, 20, 0.0, "gelu", batch_first=True, norm_first=True, bias=bias, **DOUBLE
        )
        for value in theirs.parameters():
            nn.init.normal_(value, 0.1, 0.4)
        ours = TransformerBlock(i=12, h=3, m=20, bias=bias, **DOUBLE)
        taken = dict(theirs.named_parameters())
        state = {}
        kinds = ("weight", "bias") if bias else ("weight",)
        for kind in kinds:
            heads = taken[f"self_attn.in_proj_{kind}"].unflatten(0, (3, 3, 4))
            for place, name in enumerate(("query", "key", "value")):
                state[f"attention.{name}.{kind}"] = heads[place]
            merged = taken[f"self_attn.out_proj.{kind}"]
            merged = merged.unflatten(1, (3, 4)) if kind == "weight" else merged
            state[f"attention.output.{kind}"] = merged
            state[f"network.up.{kind}"] = taken[f"linear1.{kind}"]
            state[f"network.down.{kind}"] = taken[f"linear2.{kind}"]
        for name, norm in (("attention_norm", "norm1"), ("network_norm", "norm2")):
            for kind in kinds:
                state[f"{name}.{kind}"] = taken[f"{norm}.{kind}"]
        if not bias:
            # In torch, the option takes the bias of the norms away as well.
            for name in ("attention_norm", "network_norm"):
                state[f"{name}.bias"] = torch.zeros(12, **DOUBLE)
        ours.load_state_dict(state, strict=True)
        x = torch.randn(2, 7, 12, **DOUBLE, requires_grad=True)
        hidden = torch.rand(7, 7).triu(1) > 0.4
        for mine, other in ((None, None), (~hidden, hidden)):
            actual, expected = ours(x, mask=mine), theirs(x, src_mask=other)
            laws.close(actual, expected)
            (one,) = torch.autograd.grad(actual.pow(3).sum(), x)
            (two,) = torch.autograd.grad(expected.pow(3).sum(), x)
            laws.close(one, two)

    MAKERS = pytest.mark.parametrize(
        "options",
        [
            {},
            {"m": 20, "k": 1, "d": 10, "causal": True, "rotary": True},
            {"m": 20, "gated": True, "norm": "rms", "bias": False, "causal": True},
            {"m": 21, "per_head": True, "activation": "relu"},
        ],
        ids=["plain", "rotary", "gated", "per head"],
    )

    @MAKERS
    def test_is_made_of_its_parts(self, options: dict[str, Any]) -> None:
        """Norm, attention, sum; norm, network, sum."""
        layer = TransformerBlock(i=12, h=3, **options, **DOUBLE)
        plain = laws.equivalent(TransformerBlock)
        laws.close(layer(x := torch.randn(2, 7, 12, **DOUBLE)), plain(layer, x))
        norm = nn.RMSNorm if options.get("norm") == "rms" else nn.LayerNorm
        assert type(layer.attention_norm) is type(layer.network_norm) is norm
        assert type(layer.network) is (SwiGLU if options.get("gated") else FeedForward)

    @MAKERS
    def test_laws(self, options: dict[str, Any]) -> None:
        """Repr, copies, state dict and meta."""
        layer = TransformerBlock(i=12, h=3, dropout=0.1, init="lecun", **options).eval()
        laws.copies_and_stores(layer, torch.randn(2, 7, 12))
        laws.born_on_meta(lambda **more: TransformerBlock(i=12, h=3, **options, **more))

    def test_second_linear_per_head(self) -> None:
        """The heads of the network stay apart: each output depends on its own middle alone."""
        layer = TransformerBlock(i=12, h=3, m=21, per_head=True, **DOUBLE)
        network, x = layer.network, torch.randn(5, 12, **DOUBLE)
        parts = [
            functional.linear(
                functional.gelu(functional.linear(x, network.up.weight[h], network.up.bias[h])),
                network.down.weight[h],
                network.down.bias[h],
            )
            for h in range(3)
        ]
        laws.close(network(x), torch.cat(parts, -1))
        whole = TransformerBlock(i=12, h=3, m=21).network
        assert network.down.weight.numel() * 3 == whole.down.weight.numel()

    @torch.no_grad()
    def test_decodes(self) -> None:
        """Token by token gives what all at once gives."""
        layer = TransformerBlock(i=12, h=3, k=1, causal=True, rotary=True, gated=True, **DOUBLE)
        x, cache = torch.randn(2, 7, 12, **DOUBLE), layer.attention.cache(2, s=7)
        parts = [layer(part, cache=cache) for part in x.split([3, 1, 1, 2], 1)]
        laws.close(torch.cat(parts, 1), layer(x))
        shifted = layer(x, positions=torch.arange(7) + 9)
        laws.close(shifted, layer(x))

    def test_dropout_is_for_training(self) -> None:
        """What is added is dropped in part."""
        layer = TransformerBlock(i=12, h=3, dropout=0.5, **DOUBLE)
        x = torch.randn(2, 7, 12, **DOUBLE)
        assert (layer(x) == x).double().mean() == pytest.approx(0.25, abs=0.1)
        layer.eval()
        assert torch.equal(layer(x), layer(x))

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"norm": "batch"}, "norm='batch' is none that is known"),
            ({"gated": True, "per_head": True}, "either gated or has a second linear per head"),
            ({"m": 20, "per_head": True}, "i=12 and m=20 features cannot both be divided"),
            ({"k": 2}, "h=3 heads of queries cannot be divided among k=2"),
            ({"dropout": -1}, "dropout=-1 is no share"),
        ],
    )
    def test_refusals(self, options: dict[str, Any], words: str) -> None:
        """What does not go together is refused when the block is made."""
        with pytest.raises(einheads.EinheadsError, match=words):
            TransformerBlock(i=12, h=3, **options)


class TestAll:
    """What holds for each of them."""

    MAKERS = (
        (lambda **o: FeedForward(i=5, m=11, o=7, h=3, **o), (2, 3, 5)),
        (lambda **o: FeedForward(i=5, m=11, o=7, h=3, shared=True, **o), (2, 5)),
        (lambda **o: SwiGLU(i=5, m=11, o=7, h=3, bias=True, **o), (2, 3, 5)),
        (lambda **o: SwiGLU(i=5, m=11, **o), (2, 5)),
        (lambda **o: MLPMixer(t=7, c=6, s=11, m=13, h=3, **o), (2, 7, 6)),
    )

    @pytest.mark.parametrize(("make", "shape"), MAKERS, ids=map(str, range(len(MAKERS))))
    def test_laws(self, make: Callable[..., nn.Module], shape: tuple[int, ...]) -> None:
        """Repr, copies, state dict and meta."""
        layer = make(dropout=0.1, init="lecun", activation="tanh").eval()
        laws.copies_and_stores(layer, torch.randn(shape))
        laws.born_on_meta(make)
        for part in layer.modules():
            if isinstance(part, einheads.Einsum):
                assert part.init == "lecun"

    def test_compiles_without_a_break(self) -> None:
        """A mixer and a block with everything in it, in one graph, forward and backward."""
        mixer = MLPMixer(t=7, c=6, s=11, m=13, h=3, **DOUBLE)
        block = TransformerBlock(i=6, h=3, m=12, causal=True, per_head=True, **DOUBLE)
        gate = SwiGLU(i=6, m=11, **DOUBLE)
        x = torch.randn(2, 7, 6, **DOUBLE)

        def run(x: Tensor) -> Tensor:
            return gate(block(mixer(x)))

        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        leaves = [value for layer in (mixer, block, gate) for value in layer.parameters()]
        actual, expected = compiled(x), run(x)
        laws.close(actual, expected)
        ours = torch.autograd.grad(actual.square().sum(), leaves)
        theirs = torch.autograd.grad(expected.square().sum(), leaves)
        for one, other in zip(ours, theirs, strict=True):
            laws.close(one, other)

    @pytest.mark.parametrize(
        ("call", "text"),
        [
            (
                lambda: MLPMixer(t=7, c=6, s=11, m=13)(torch.ones(2, 8, 6)),
                (
                    "axis 't' has two sizes: 8 (x, dimension 2) and 7 (the layer)\n"
                    "    ... t c\n"
                    "        ^\n"
                    "    give an x of the shape '... t c' with t=7, c=6"
                ),
            ),
            (
                lambda: TransformerBlock(i=6, h=3)(torch.ones(2, 7, 5)),
                (
                    "axis 'i' has two sizes: 5 (x, dimension 3) and 6 (the layer)\n"
                    "    ... t i\n"
                    "          ^\n"
                    "    give an x of the shape '... t i' with i=6"
                ),
            ),
            (
                lambda: TransformerBlock(i=6, h=3)(torch.ones(6)),
                (
                    "x has 1 dimension, shape (6,), but '... t i' names at least 2 axes\n"
                    "    ... t i\n"
                    "    give an x of the shape '... t i' with i=6"
                ),
            ),
            (
                lambda: einheads.Rotary()(torch.ones(6)),
                (
                    "x has 1 dimension, shape (6,), but '... t d' names at least 2 axes\n"
                    "    ... t d\n"
                    "    give an x of the shape '... t d'"
                ),
            ),
        ],
        ids=["tokens", "features", "no tokens", "rotation"],
    )
    def test_wrong_sizes(self, call: Callable[[], Tensor], text: str) -> None:
        """The norm in front of everything does not know the axes; the block does."""
        with pytest.raises(einheads.SizeError) as caught:
            call()
        assert str(caught.value) == text

    def test_no_tensor(self) -> None:
        """What else may come."""
        with pytest.raises(TypeError, match=r"^x is a list, not a tensor; give an x of the shape"):
            TransformerBlock(i=6, h=3)([1.0])  # type: ignore[arg-type]
