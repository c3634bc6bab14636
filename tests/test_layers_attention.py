"""Attention against a loop over queries, nn.MultiheadAttention and rotations as complex numbers."""

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import einheads
import laws
from einheads import Attention, KeyValueCache, Rotary, TalkingHeads

DOUBLE: dict[str, Any] = {"dtype": torch.float64}
# i, h, d, t, s, c, o: all different.
IN, H, D, T, S, C, OUT = 15, 6, 4, 7, 11, 13, 10


def naive(
    layer: Attention,
    x: Tensor,
    context: Tensor | None = None,
    *,
    allowed: Callable[[int, int], bool] = lambda t, s: True,
    added: Tensor | None = None,
    turn: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """One batch element, one head and one query after the other, in plain Python."""
    if x.ndim > 2:
        contexts = [None] * len(x) if context is None else list(context)
        options: dict[str, Any] = {"allowed": allowed, "added": added, "turn": turn}
        pairs = zip(x, contexts, strict=True)
        return torch.stack([naive(layer, one, other, **options) for one, other in pairs])
    source = x if context is None else context
    total = torch.zeros(len(x), layer.o, **DOUBLE)
    for h in range(layer.h):
        k = h * layer.k // layer.h

        def project(part: nn.Module, head: int, z: Tensor) -> Tensor:
            bias = part.bias[head] if part.bias is not None else 0
            return z @ part.weight[head].T + bias

        query = turn(project(layer.query, h, x))
        key = turn(project(layer.key, k, source))
        value = project(layer.value, k, source)
        rows = []
        for t in range(len(x)):
            seen = [s for s in range(len(source)) if allowed(t, s)]
            scores = torch.stack([(query[t] * key[s]).sum() for s in seen]) / layer.d**0.5
            if added is not None:
                scores = scores + torch.stack([added[h, t, s] for s in seen])
            powers = (scores - scores.max()).exp()
            rows.append((powers / powers.sum()) @ torch.stack([value[s] for s in seen]))
        total = total + torch.stack(rows) @ layer.output.weight[:, h].T
    return total if layer.output.bias is None else total + layer.output.bias


class TestValues:
    """Values and gradients are those of the definition."""

    @pytest.mark.parametrize("k", [6, 3, 2, 1])
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("leading", [(), (2,), (2, 3)], ids=str)
    def test_agrees_with_a_loop(self, k: int, *, bias: bool, leading: tuple[int, ...]) -> None:
        """Multi-head, grouped and multi-query, with any leading axes."""
        layer = Attention(i=IN, h=H, d=D, k=k, o=OUT, bias=bias, **DOUBLE)
        if bias and leading == (2,):
            # A bias of the keys shifts all scores of a query alike: its gradient is only noise.
            x = torch.randn(2, T, IN, **DOUBLE)
            laws.close(layer(x), naive(layer, x))
            layer.key.bias.requires_grad_(False)
            leaves = [value for value in layer.parameters() if value.requires_grad]
            ours = torch.autograd.grad(layer(x).square().sum(), leaves)
            theirs = torch.autograd.grad(naive(layer, x).square().sum(), leaves)
            for one, other in zip(ours, theirs, strict=True):
                laws.close(one, other)
        elif bias:
            x = torch.randn(*leading, T, IN, **DOUBLE)
            laws.close(layer(x), naive(layer, x))
        else:
            laws.agrees(layer, lambda x: naive(layer, x), *leading, T, IN)

    @pytest.mark.parametrize("k", [6, 2])
    def test_cross_attention(self, k: int) -> None:
        """Keys and values come from the context, whose features and length differ."""
        layer = Attention(i=IN, c=C, h=H, d=D, k=k, **DOUBLE)
        x = torch.randn(2, T, IN, **DOUBLE)
        context = torch.randn(2, S, C, **DOUBLE, requires_grad=True)
        expected = naive(layer, x, context)
        laws.close(layer(x, context), expected)
        weights = torch.randn_like(expected)
        (ours,) = torch.autograd.grad((layer(x, context) * weights).sum(), [context])
        (theirs,) = torch.autograd.grad((expected * weights).sum(), [context])
        laws.close(ours, theirs)

    @pytest.mark.parametrize("k", [6, 2])
    def test_causal(self, k: int) -> None:
        """A position sees itself and what was before."""
        layer = Attention(i=IN, h=H, d=D, k=k, causal=True, **DOUBLE)
        x = torch.randn(2, T, IN, **DOUBLE)
        laws.close(layer(x), naive(layer, x, allowed=lambda t, s: s <= t))
        changed = x.clone()
        changed[:, 4:] += 1
        laws.close(layer(changed)[:, :4], layer(x)[:, :4])

    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("talking", [False, True])
    def test_boolean_mask(self, *, causal: bool, talking: bool) -> None:
        """True is where a query may look; causality holds beside it."""
        layer = Attention(i=IN, h=H, d=D, k=2, causal=causal, talking=talking, **DOUBLE)
        if layer.before is not None and layer.after is not None:
            for mix in (layer.before, layer.after):
                mix.load_state_dict({"weight": torch.eye(H)})
        x = torch.randn(2, T, IN, **DOUBLE)
        mask = torch.rand(T, T) < 0.6
        mask |= torch.eye(T, dtype=torch.bool)

        def allowed(t: int, s: int) -> bool:
            return bool(mask[t, s]) and (s <= t or not causal)

        laws.close(layer(x, mask=mask), naive(layer, x, allowed=allowed))

    @pytest.mark.parametrize("causal", [False, True])
    def test_numbers_as_a_mask(self, *, causal: bool) -> None:
        """Numbers are added to the scores, for each head its own if they are given so."""
        layer = Attention(i=IN, h=H, d=D, causal=causal, **DOUBLE)
        x, added = torch.randn(2, T, IN, **DOUBLE), torch.randn(H, T, T, **DOUBLE)
        expected = naive(layer, x, added=added, allowed=lambda t, s: s <= t or not causal)
        laws.close(layer(x, mask=added), expected)

    def test_padding(self) -> None:
        """A mask of the keys alone hides the same keys from every head and query."""
        layer = Attention(i=IN, h=H, d=D, **DOUBLE)
        x = torch.randn(2, T, IN, **DOUBLE)
        kept = torch.ones(2, T, dtype=torch.bool)
        kept[0, 4:] = False
        y = layer(x, mask=kept[:, None, None, :])
        laws.close(y[0], naive(layer, x[0], allowed=lambda t, s: s < 4))
        laws.close(y[1], naive(layer, x[1]))

    def test_scale(self) -> None:
        """The scores may have another scale than the root of the features."""
        layer = Attention(i=IN, h=H, d=D, scale=0.3, **DOUBLE)
        sharper = Attention(i=IN, h=H, d=D, **DOUBLE)
        sharper.load_state_dict(layer.state_dict())
        with torch.no_grad():
            for value in sharper.query.parameters():
                value.mul_(0.3 * D**0.5)
        x = torch.randn(2, T, IN, **DOUBLE)
        laws.close(layer(x), sharper(x))

    def test_agrees_with_multihead_attention(self) -> None:
        """The weights of nn.MultiheadAttention, cut into heads, give its values and gradients."""
        theirs = nn.MultiheadAttention(IN * 2, H, batch_first=True, **DOUBLE)
        nn.init.normal_(theirs.in_proj_bias)
        nn.init.normal_(theirs.out_proj.bias)
        ours = Attention(i=IN * 2, h=H, **DOUBLE)
        weights = theirs.in_proj_weight.unflatten(0, (3, H, -1))
        biases = theirs.in_proj_bias.unflatten(0, (3, H, -1))
        state = {
            f"{name}.{kind}": values[place]
            for place, name in enumerate(("query", "key", "value"))
            for kind, values in (("weight", weights), ("bias", biases))
        }
        state["output.weight"] = theirs.out_proj.weight.unflatten(1, (H, -1))
        state["output.bias"] = theirs.out_proj.bias
        ours.load_state_dict(state, strict=True)
        x = torch.randn(2, T, IN * 2, **DOUBLE, requires_grad=True)
        actual, expected = ours(x), theirs(x, x, x, need_weights=False)[0]
        laws.close(actual, expected)
        for one, other in zip(
            torch.autograd.grad(actual.square().sum(), x),
            torch.autograd.grad(expected.square().sum(), x),
            strict=True,
        ):
            laws.close(one, other)

    def test_equivalent_of_the_docstring(self) -> None:
        """The plain torch of the docstring gives the same."""
        layer = Attention(i=IN, h=H, d=D, **DOUBLE)
        plain, x = laws.equivalent(Attention), torch.randn(2, T, IN, **DOUBLE)
        laws.close(layer(x), plain(x, **laws.parameters_of(layer)))

    def test_dropout_is_for_training(self) -> None:
        """Weights are dropped in training only, and their expectation is kept."""
        layer = Attention(i=IN, h=H, d=D, dropout=0.5, **DOUBLE)
        x = torch.randn(1, T, IN, **DOUBLE)
        with torch.no_grad():
            noisy = torch.stack([layer(x) for _ in range(1000)])
            quiet = layer.eval()(x)
        laws.close(quiet, naive(layer, x))
        assert noisy.std(0).min() > 0
        error = (noisy.mean(0) - quiet).abs() / noisy.std(0)
        assert error.max() < 5 / 1000**0.5


class TestRotary:
    """Turned pairs of features."""

    @pytest.mark.parametrize("shape", [(7, 4), (2, 7, 6), (2, 3, 7, 10)], ids=str)
    def test_agrees_with_complex_numbers(self, shape: tuple[int, ...]) -> None:
        """A pair is a complex number, a rotation its product with another."""
        x = torch.randn(shape, **DOUBLE)
        plain = laws.equivalent(Rotary)
        laws.close(Rotary()(x), plain(x))
        laws.close(Rotary(base=77.0)(x), plain(x, base=77.0))

    def test_neighbors_as_pairs(self) -> None:
        """The other order of features is a permutation of the first one."""
        x = torch.randn(2, 7, 10, **DOUBLE)
        halves = torch.cat([x[..., 0::2], x[..., 1::2]], -1)
        turned = Rotary()(halves)
        expected = torch.stack(turned.chunk(2, -1), -1).flatten(-2)
        laws.close(Rotary(interleaved=True)(x), expected)

    def test_part(self) -> None:
        """What is beyond the part stays as it is."""
        x = torch.randn(2, 7, 10, **DOUBLE)
        turned = Rotary(part=6)(x)
        laws.close(turned[..., :6], Rotary()(x[..., :6]))
        assert torch.equal(turned[..., 6:], x[..., 6:])

    def test_positions(self) -> None:
        """Given positions replace those counted from zero."""
        x = torch.randn(2, 7, 10, **DOUBLE)
        far = torch.cat([torch.zeros(2, 5, 10, **DOUBLE), x], 1)
        laws.close(Rotary()(x, torch.arange(5, 12)), Rotary()(far)[:, 5:])

    def test_low_precision_keeps_far_positions_apart(self) -> None:
        """Angles are computed in single precision, whatever the features are."""
        x = torch.ones(2, 8, dtype=torch.bfloat16)
        turned = Rotary()(x, torch.tensor([4096, 4097]))
        exact = Rotary()(x.double(), torch.tensor([4096, 4097]))
        assert turned.dtype == torch.bfloat16
        torch.testing.assert_close(turned.double(), exact, rtol=0.02, atol=0.02)

    def test_attention_depends_on_distance_alone(self) -> None:
        """Moving all positions changes nothing; without them, order changes nothing."""
        layer = Attention(i=IN, h=H, d=D, k=2, rotary=True, **DOUBLE)
        x = torch.randn(2, T, IN, **DOUBLE)
        expected = naive(layer, x, turn=Rotary())
        laws.close(layer(x), expected)
        positions = torch.arange(T)
        laws.close(layer(x, positions=positions + 100), expected)
        each = torch.stack([positions, positions + 5])
        laws.close(layer(x, positions=each), expected)
        backwards = layer(x.flip(1)).flip(1)
        assert (backwards - expected).abs().max() > 1e-3
        laws.close(layer(x.flip(1), positions=positions.flip(0)).flip(1), expected)

    def test_odd_features(self) -> None:
        """A feature without a partner is an error in the name of the axis."""
        with pytest.raises(einheads.SizeError, match="d=5 features have no 5 that could be turned"):
            Rotary()(torch.randn(3, 5))
        with pytest.raises(einheads.SizeError, match="d=4 features have no 6"):
            Rotary(part=6)(torch.randn(3, 4))
        with pytest.raises(einheads.SizeError, match="part=3 features cannot be turned in pairs"):
            Rotary(part=3)

    def test_repr(self) -> None:
        """It is the call."""
        assert repr(Rotary()) == "Rotary()"
        assert repr(Rotary(base=5e5, part=4, interleaved=True)) == (
            "Rotary(base=500000.0, part=4, interleaved=True)"
        )


class TestDecoding:
    """Token by token gives what all at once gives."""

    @pytest.mark.parametrize("k", [6, 2, 1])
    @pytest.mark.parametrize("talking", [False, True])
    @pytest.mark.parametrize("pieces", [[1] * 7, [4, 1, 2], [7], [3, 4]], ids=str)
    @torch.no_grad()
    def test_pieces(self, k: int, pieces: list[int], *, talking: bool) -> None:
        """Pieces of any length, the first of them a prompt."""
        layer = Attention(i=IN, h=H, d=D, k=k, causal=True, rotary=True, talking=talking, **DOUBLE)
        x = torch.randn(2, T, IN, **DOUBLE)
        cache = layer.cache(2, s=T + 2)
        parts = [layer(part, cache=cache) for part in x.split(pieces, 1)]
        laws.close(torch.cat(parts, 1), layer(x))
        assert cache.length == T
        assert (cache.key.shape, cache.key.dtype) == ((2, k, T + 2, D), torch.float64)

    @torch.no_grad()
    def test_starts_again(self) -> None:
        """A cache of length zero is as good as new, and may be cut back to any length."""
        layer = Attention(i=IN, h=H, d=D, causal=True, rotary=True, **DOUBLE)
        x = torch.randn(2, T, IN, **DOUBLE)
        cache = layer.cache(2, s=T)
        layer(torch.randn(2, T, IN, **DOUBLE), cache=cache)
        cache.length = 0
        laws.close(layer(x, cache=cache), layer(x))
        cache.length = 4
        laws.close(layer(x[:, 4:], cache=cache), layer(x)[:, 4:])

    @torch.no_grad()
    def test_without_a_batch(self) -> None:
        """No leading axis, no leading size."""
        layer = Attention(i=IN, h=H, d=D, causal=True, **DOUBLE)
        x, cache = torch.randn(T, IN, **DOUBLE), layer.cache(s=T)
        laws.close(torch.cat([layer(one, cache=cache) for one in x.split(1)]), layer(x))

    @torch.no_grad()
    def test_compiles(self) -> None:
        """Steps run as graphs without a break, and give the same."""
        layer = Attention(i=IN, h=H, d=D, k=2, causal=True, rotary=True, **DOUBLE)
        x, cache = torch.randn(2, T, IN, **DOUBLE), layer.cache(2, s=T)
        step = torch.compile(layer, fullgraph=True, backend="aot_eager")
        parts = [step(part, cache=cache) for part in x.split(1, 1)]
        laws.close(torch.cat(parts, 1), layer(x))

    def test_refusals(self) -> None:
        """No room, another batch, gradients: each with what to write."""
        layer = Attention(i=IN, h=H, d=D, causal=True)
        cache = layer.cache(2, s=3)
        assert isinstance(cache, KeyValueCache)
        with torch.no_grad():
            with pytest.raises(einheads.SizeError, match="room for s=3 positions, but 4 are"):
                layer(torch.randn(2, 4, IN), cache=cache)
            with pytest.raises(einheads.SizeError, match=r"made for keys .* = \(2, 6, 1, 4\), not"):
                layer(torch.randn(5, 1, IN), cache=cache)
        with pytest.raises(einheads.EinheadsError, match="no gradient can flow"):
            layer(torch.randn(2, 1, IN), cache=cache)
        assert cache.length == 0
        with pytest.raises(einheads.EinheadsError, match="a context are not cached"):
            layer(torch.randn(2, 1, IN), torch.randn(2, 1, IN), cache=cache)


class TestTalkingHeads:
    """Heads mixed with each other."""

    @pytest.mark.parametrize("leading", [(), (2,), (2, 3)], ids=str)
    def test_agrees_with_einsum_and_docstring(self, leading: tuple[int, ...]) -> None:
        """Values and gradients, more heads out than in."""
        layer = TalkingHeads(h=3, k=5, **DOUBLE)
        laws.agrees(
            layer,
            lambda x: torch.einsum("...hts,kh->...kts", x, layer.weight),
            *(*leading, 3, 7, 11),
        )
        plain = laws.equivalent(TalkingHeads)
        laws.agrees(layer, lambda x: plain(x, **laws.parameters_of(layer)), *leading, 3, 7, 11)

    def test_laws(self) -> None:
        """Repr, copies, meta and the initial scale."""
        laws.copies_and_stores(TalkingHeads(h=3, k=5, bias=True), torch.randn(2, 3, 7, 11))
        laws.born_on_meta(lambda **options: TalkingHeads(h=3, **options))
        unit = TalkingHeads(h=7, k=30, init="lecun")
        assert laws.moment(unit, 60, 5, 7, 3, 2) == pytest.approx(1, abs=0.1)
        third = TalkingHeads(h=7, k=30)
        assert laws.moment(third, 60, 5, 7, 3, 2) == pytest.approx(1 / 3, abs=0.033)

    def test_in_attention(self) -> None:
        """The definition, written out: mixed scores, softmax, mixed weights."""
        layer = Attention(i=IN, h=H, d=D, talking=True, **DOUBLE)
        x = torch.randn(2, T, IN, **DOUBLE)
        query, key, value = layer.query(x), layer.key(x), layer.value(x)
        scores = torch.einsum("bhtd,bhsd->bhts", query, key) / 2
        scores = torch.einsum("bhts,kh->bkts", scores, layer.before.weight)
        weights = torch.einsum("bkts,hk->bhts", scores.softmax(-1), layer.after.weight)
        expected = torch.einsum("bhts,bhsd,ohd->bto", weights, value, layer.output.weight)
        laws.close(layer(x), expected + layer.output.bias)


class TestModule:
    """What an attention is as a module."""

    MAKERS: ClassVar[dict[str, Callable[..., Attention]]] = {
        "multi-head": lambda **options: Attention(i=12, h=6, **options),
        "grouped": lambda **options: Attention(
            i=IN, h=H, d=D, k=2, c=IN, o=OUT, bias=False, **options
        ),
        "rotary": lambda **options: Attention(
            i=12, h=6, causal=True, rotary=Rotary(part=2), **options
        ),
        "talking": lambda **options: Attention(i=12, h=6, k=1, talking=True, scale=0.5, **options),
    }

    @pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
    def test_copies_and_stores(self, make: Callable[..., Attention]) -> None:
        """Repr, pickle, deepcopy, state dict and meta make the same again."""
        layer = make(dropout=0.1, init="lecun").eval()
        laws.copies_and_stores(layer, torch.randn(2, T, layer.i))
        laws.born_on_meta(make)

    def test_parameters(self) -> None:
        """Every projection is a weight with heads, out before in."""
        layer = Attention(i=IN, h=H, d=D, k=2, c=C, o=OUT)
        assert {name: tuple(value.shape) for name, value in layer.named_parameters()} == {
            "query.weight": (H, D, IN),
            "query.bias": (H, D),
            "key.weight": (2, D, C),
            "key.bias": (2, D),
            "value.weight": (2, D, C),
            "value.bias": (2, D),
            "output.weight": (OUT, H, D),
            "output.bias": (OUT,),
        }
        assert all(isinstance(part, einheads.Einsum) for part in layer.children())
        assert layer.output.roles["weight"] == {"o": "out", "h": "in", "d": "in"}

    def test_compiles_without_a_break(self) -> None:
        """Values and gradients of all kinds in one graph."""
        layers = [self.MAKERS[name](**DOUBLE) for name in ("grouped", "rotary")]
        inputs = [torch.randn(2, T, layer.i, **DOUBLE) for layer in layers]
        mask = torch.randn(T, T, **DOUBLE)

        def run(first: Tensor, second: Tensor) -> list[Tensor]:
            return [layers[0](first), layers[1](second, mask=mask)]

        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        actual, expected = compiled(*inputs), run(*inputs)
        leaves = [value for layer in layers for value in layer.parameters()]
        ours = torch.autograd.grad(sum(y.square().sum() for y in actual), leaves)
        theirs = torch.autograd.grad(sum(y.square().sum() for y in expected), leaves)
        for one, other in zip((*actual, *ours), (*expected, *theirs), strict=True):
            laws.close(one, other)

    def test_each_projection_starts_as_a_linear(self) -> None:
        """Queries, keys, values and outputs have the scale of an nn.Linear."""
        layer = Attention(i=60, h=5, d=10, k=1)
        for part in (layer.query, layer.key, layer.value):
            assert laws.moment(part, 60, 3, 60) == pytest.approx(1 / 3, abs=0.033)
        assert laws.moment(layer.output, 60, 5, 3, 10) == pytest.approx(1 / 3, abs=0.033)

    def test_without_the_option_of_torch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where torch cannot share keys among queries, they are repeated."""
        layer = Attention(i=IN, h=H, d=D, k=2, **DOUBLE)
        x = torch.randn(2, T, IN, **DOUBLE)
        expected = layer(x)
        monkeypatch.setattr("einheads.layers.attention._SHARES_KEYS", False)
        laws.close(copy.deepcopy(layer)(x), expected)


class TestErrors:
    """Sizes that do not fit are named by the axes of the user."""

    @pytest.mark.parametrize(
        ("sizes", "words"),
        [
            ({"i": 15, "h": 6}, "i=15 features cannot be divided among h=6 heads"),
            ({"i": 15, "h": 0}, "i=15 features cannot be divided among h=0 heads"),
            ({"i": 12, "h": 6, "k": 4}, "h=6 heads of queries cannot be divided among k=4"),
            ({"i": 15, "h": 3, "rotary": True}, "d=5 features have no 5 that could be turned"),
            ({"i": 12, "h": 6, "dropout": 1.5}, "dropout=1.5 is no share"),
            ({"i": 12, "h": 6, "o": -1}, "size -1, which is given for 'o'"),
        ],
    )
    def test_impossible_sizes(self, sizes: dict[str, Any], words: str) -> None:
        """What could not be called cannot be made."""
        with pytest.raises(einheads.EinheadsError, match=words):
            Attention(**sizes)

    def test_inputs(self) -> None:
        """The input, the context and the mask, each by its axes."""
        layer = Attention(i=IN, c=C, h=H, d=D)
        x, context = torch.randn(2, T, IN), torch.randn(2, S, C)
        with pytest.raises(einheads.SizeError, match="'i'"):
            layer(torch.randn(2, T, IN + 1), context)
        with pytest.raises(einheads.SizeError, match="'c'"):
            layer(x, torch.randn(2, S, C + 1))
        for shape in ((T, T), (3, 1, 1, S), (2, 2, H, T, S)):
            with pytest.raises(einheads.SizeError, match=r"'... h t s' = \(2, 6, 7, 11\)"):
                layer(x, context, mask=torch.zeros(shape))
        layer(x, context, mask=torch.zeros(T, S))
        with pytest.raises(TypeError, match=r"added to the scores, not torch.int64; write: mask.b"):
            layer(x, context, mask=torch.ones(T, S, dtype=torch.int64))
        narrow = torch.zeros(T, S, dtype=torch.float16)
        torch.testing.assert_close(layer(x, context, mask=narrow), layer(x, context))

    def test_causal_context(self) -> None:
        """A context has no order in common with the input."""
        with pytest.raises(einheads.EinheadsError, match="a context are not causal"):
            Attention(i=12, h=6, causal=True)(torch.randn(2, T, 12), torch.randn(2, S, 12))
