"""Conversions keep what a module computes and what it is, and refuse what they cannot keep."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from einops.layers.torch import EinMix
from torch import Tensor, nn

import einheads
import laws
from checks import randn
from einheads import (
    EinheadsError,
    Einsum,
    EnsembleLinear,
    GroupedLinear,
    HeadLinear,
    Linear,
    ToHeads,
)
from einheads.convert import compare, prove

DOUBLE: dict[str, Any] = {"dtype": torch.float64}


def linears(bias: bool = True, **options: Any) -> nn.ModuleList:  # noqa: FBT001, FBT002
    """Three equal linears."""
    return nn.ModuleList(nn.Linear(5, 7, bias, **{**DOUBLE, **options}) for _ in range(3))


class TestLinears:
    """`from_linears` and `to_linears`."""

    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("bias", [False, True])
    def test_there_and_back(self, *, shared: bool, bias: bool) -> None:
        """The layer computes what the loop computes, and gives the same linears back."""
        every = linears(bias)
        layer = einheads.from_linears(every, shared=shared)
        assert type(layer) is (ToHeads if shared else HeadLinear)
        x = randn(2, 4, 5) if shared else randn(2, 4, 3, 5)
        loop = torch.stack([f(x if shared else x[..., k, :]) for k, f in enumerate(every)], -2)
        laws.close(layer(x), loop)
        back = einheads.to_linears(layer)
        assert str(back) == str(every)
        for (name, one), (other, two) in zip(
            back.named_parameters(), every.named_parameters(), strict=True
        ):
            assert name == other
            assert torch.equal(one, two)
            assert one.data_ptr() != two.data_ptr()

    @pytest.mark.parametrize(
        "layer",
        [
            GroupedLinear(g=3, i=5, o=7, **DOUBLE),
            EnsembleLinear(e=3, i=5, o=7, **DOUBLE),
            EnsembleLinear(e=3, i=5, o=7, shared=True, bias=False, **DOUBLE),
        ],
        ids=repr,
    )
    def test_others_to_linears(self, layer: Any) -> None:
        """Groups and members are separate linears too."""
        for k, linear in enumerate(einheads.to_linears(layer)):
            assert torch.equal(linear.weight, layer.weight[k])
            assert (linear.bias is None) is (layer.bias is None)
            if layer.bias is not None:
                assert torch.equal(linear.bias, layer.bias[k])

    def test_what_is_kept(self) -> None:
        """The dtype, `requires_grad` and the mode stay, in both directions."""
        every = linears(dtype=torch.bfloat16).eval()
        for linear in every:
            linear.weight.requires_grad_(False)  # type: ignore[union-attr,operator]
        layer = einheads.from_linears(every)
        for module in (layer, einheads.to_linears(layer)):
            assert not any(part.training for part in module.modules())
            for name, parameter in module.named_parameters():
                assert parameter.dtype == torch.bfloat16
                assert parameter.requires_grad is name.endswith("bias")

    def test_proof_leaves_no_trace(self) -> None:
        """The random numbers and the modes of the caller are untouched."""
        every = linears().train()
        state = torch.get_rng_state()
        einheads.from_linears(every)
        assert torch.equal(state, torch.get_rng_state())
        assert all(module.training for module in every.modules())

    def test_state_dict_of_the_list(self) -> None:
        """A model with the layer in place of the list loads checkpoints of both."""
        old, new = nn.Module(), nn.Module()
        old.lins = linears()
        new.lins = HeadLinear(h=3, i=5, o=7, **DOUBLE)
        new = copy.deepcopy(new)  # the hook survives
        assert str(new.load_state_dict(old.state_dict())) == "<All keys matched successfully>"
        x = randn(4, 3, 5)
        loop = torch.stack([f(x[:, k]) for k, f in enumerate(old.lins)], 1)
        laws.close(new.lins(x), loop)
        stacked = new.state_dict()
        assert set(stacked) == {"lins.weight", "lins.bias"}
        new.load_state_dict(stacked, strict=True)
        partial = {name: value for name, value in old.state_dict().items() if "2" not in name}
        with pytest.raises(RuntimeError, match="Missing key"):
            new.load_state_dict(partial)
        uneven = old.state_dict() | {"lins.1.weight": torch.ones(7, 6)}
        with pytest.raises(EinheadsError, match=r"^'lins\.\*\.weight' have different shapes"):
            new.load_state_dict(uneven)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: HeadLinear(h=3, i=5, o=7, **DOUBLE),
            lambda: ToHeads(h=3, i=5, o=7, **DOUBLE),
            lambda: GroupedLinear(g=3, i=5, o=7, **DOUBLE),
            lambda: EnsembleLinear(e=3, i=5, o=7, **DOUBLE),
            lambda: einheads.from_linears(linears()),
            lambda: einheads.stack(list(linears())),
        ],
        ids=["HeadLinear", "ToHeads", "GroupedLinear", "EnsembleLinear", "converted", "stacked"],
    )
    def test_every_stack_loads_the_list(self, make: Callable[[], Einsum]) -> None:
        """Whatever stands for a list of linears takes its checkpoint, at the top and inside."""
        every, layer = linears(), make()
        for module, state in (
            (layer, every.state_dict()),
            (nn.ModuleDict({"lins": make()}), nn.ModuleDict({"lins": every}).state_dict()),
        ):
            module.load_state_dict(state, strict=True)
            weight, bias = (value for _, value in module.named_parameters())
            for k, linear in enumerate(every):
                assert torch.equal(weight[k], linear.weight)
                assert torch.equal(bias[k], linear.bias)


class TestOthers:
    """EinMix, convolutions, bilinear forms, attention."""

    @pytest.mark.parametrize(
        ("pattern", "weight", "bias", "sizes", "shape"),
        [
            ("t b i -> t b o", "i o", "o", {"i": 3, "o": 5}, (2, 7, 3)),
            ("... i -> ... o", "o i", None, {"i": 3, "o": 5}, (2, 7, 3)),
            ("t b (h i) -> b (h o) t", "h i o", "h o", {"h": 2, "i": 3, "o": 5}, (7, 11, 6)),
            ("t b (h i) -> b (h o) t", "h i o", "o", {"h": 2, "i": 3, "o": 5}, (7, 11, 6)),
            ("t b c -> b c", "c", "c", {"c": 3}, (2, 7, 3)),
            ("b (y p) c -> b y q", "p c q", "q", {"p": 2, "c": 3, "q": 5}, (7, 6, 3)),
        ],
    )
    def test_einmix(
        self,
        pattern: str,
        weight: str,
        bias: str | None,
        sizes: dict[str, int],
        shape: tuple[int, ...],
    ) -> None:
        """The layer computes what einops computes, with the same parameters."""
        mix = EinMix(pattern, weight_shape=weight, bias_shape=bias, **sizes).double()
        layer = einheads.from_einmix(mix)
        x = randn(*shape)
        laws.close(layer(x), mix(x))
        assert torch.equal(layer.weight, mix.weight)

    @pytest.mark.parametrize(
        "conv",
        [
            nn.Conv1d(6, 15, 1, groups=3),
            nn.Conv2d(6, 5, 1, bias=False),
            nn.Conv3d(4, 6, 1, groups=2, padding="same"),
        ],
        ids=repr,
    )
    def test_conv(self, conv: Any) -> None:
        """A window of one is a linear along the channels, with and without a batch."""
        conv = conv.double()
        layer = einheads.from_conv(conv)
        x = randn(2, conv.in_channels, *(11, 7, 3)[: len(conv.kernel_size)])
        laws.close(layer(x), conv(x))
        laws.close(layer(x[0]), conv(x[0]))

    @pytest.mark.parametrize("bias", [False, True])
    def test_bilinear(self, *, bias: bool) -> None:
        """The same form."""
        bilinear = nn.Bilinear(3, 5, 7, bias, **DOUBLE)
        x, z = randn(4, 3), randn(4, 5)
        laws.close(einheads.from_bilinear(bilinear)(x, z), bilinear(x, z))

    @pytest.mark.parametrize(
        "options",
        [{}, {"bias": False}, {"batch_first": True}, {"kdim": 5, "vdim": 5}, {"dropout": 0.5}],
        ids=str,
    )
    def test_attention(self, options: dict[str, Any]) -> None:
        """The same attention, batch first, to itself and to a context."""
        theirs = nn.MultiheadAttention(6, 2, **DOUBLE, **options)
        for name, parameter in theirs.named_parameters():
            if "bias" in name:
                nn.init.normal_(parameter)
        theirs.eval()
        layer = einheads.from_multihead_attention(theirs)
        assert not layer.training
        assert layer.dropout == options.get("dropout", 0.0)
        x, z = randn(3, 4, 6), randn(3, 7, options.get("kdim", 6))

        def attend(x: Tensor, z: Tensor) -> Tensor:
            if not theirs.batch_first:
                x, z = x.transpose(0, 1), z.transpose(0, 1)
            y: Tensor = theirs(x, z, z)[0]
            return y if theirs.batch_first else y.transpose(0, 1)

        laws.close(layer(x, z), attend(x, z))


def test_refusals() -> None:
    """What cannot be converted is refused with the reason."""
    cases: list[tuple[Callable[[], object], str]] = [
        (
            lambda: einheads.from_linears([nn.Linear(2, 3), nn.ReLU()]),
            "module 1 is a ReLU, not nn.Linear",
        ),
        (
            lambda: einheads.from_linears([nn.Linear(2, 3), nn.Linear(2, 4)]),
            (
                "modules 0 and 1 differ in arguments: in_features=2, out_features=3, bias=True and "
                "in_features=2, out_features=4, bias=True"
            ),
        ),
        (lambda: einheads.from_linears([]), "no modules to stack"),
        (
            lambda: einheads.to_linears(Linear(2, 3)),
            "a Linear does not consist of separate linears",
        ),
        (lambda: einheads.from_einmix(nn.ReLU()), "a ReLU is no EinMix"),
        (lambda: einheads.from_conv(nn.ReLU()), "a ReLU is no convolution"),
        (
            lambda: einheads.from_conv(nn.Conv2d(2, 3, (1, 3))),
            "the convolution has kernel_size=(1, 3), so it mixes or moves positions",
        ),
        (
            lambda: einheads.from_conv(nn.Conv1d(2, 3, 1, stride=2)),
            "the convolution has stride=(2,), so it mixes or moves positions",
        ),
        (
            lambda: einheads.from_conv(nn.Conv1d(2, 3, 1, padding=1)),
            "the convolution has padding=(1,), so it mixes or moves positions",
        ),
        (
            lambda: einheads.from_bilinear(nn.ReLU()),  # type: ignore[arg-type]
            "a ReLU is no nn.Bilinear",
        ),
        (
            lambda: einheads.from_multihead_attention(nn.MultiheadAttention(4, 2, kdim=3)),
            "the attention has what Attention has not: kdim and vdim differ",
        ),
        (
            lambda: einheads.from_multihead_attention(
                nn.MultiheadAttention(4, 2, add_bias_kv=True)
            ),
            "the attention has what Attention has not: add_bias_kv=True",
        ),
        (
            lambda: einheads.from_multihead_attention(
                nn.MultiheadAttention(4, 2, add_zero_attn=True)
            ),
            "the attention has what Attention has not: add_zero_attn=True",
        ),
    ]
    for call, sentence in cases:
        with pytest.raises(EinheadsError) as caught:
            call()
        assert caught.value.sentence == sentence
        assert caught.value.notes


CONVERSIONS: dict[str, tuple[Callable[..., Any], Callable[[Any], Any]]] = {
    "from_linears": (
        lambda **o: nn.ModuleList(nn.Linear(5, 7, **o) for _ in range(3)),
        einheads.from_linears,
    ),
    "from_linears, shared": (
        lambda **o: nn.ModuleList(nn.Linear(5, 7, **o) for _ in range(3)),
        lambda every: einheads.from_linears(every, shared=True),
    ),
    "to_linears": (lambda **o: HeadLinear(h=3, i=5, o=7, **o), einheads.to_linears),
    "from_einmix": (
        lambda **o: EinMix("b (h i) -> b h o", "h i o", "h o", h=3, i=5, o=7).to(**o),
        einheads.from_einmix,
    ),
    "from_multihead_attention": (
        lambda **o: nn.MultiheadAttention(6, 2, **o),
        einheads.from_multihead_attention,
    ),
    "from_conv": (lambda **o: nn.Conv2d(6, 9, 1, groups=3, **o), einheads.from_conv),
    "from_bilinear": (lambda **o: nn.Bilinear(3, 5, 7, **o), einheads.from_bilinear),
}


@pytest.mark.parametrize(("make", "convert"), CONVERSIONS.values(), ids=CONVERSIONS)
class TestEveryConversion:
    """What all of them keep, and how all of them prove themselves."""

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
    @pytest.mark.parametrize("training", [False, True])
    def test_what_is_kept(
        self, make: Any, convert: Any, dtype: torch.dtype, *, training: bool
    ) -> None:
        """Dtype, device, `requires_grad` and mode; the source stays as it was, to the last bit."""
        source = make(dtype=dtype).train(training)
        for name, parameter in source.named_parameters():
            parameter.requires_grad_("bias" in name)
            parameter.grad = torch.zeros_like(parameter) if "bias" in name else None
        before = {name: value.clone() for name, value in source.state_dict().items()}
        result = convert(source)
        assert {part.training for part in result.modules()} == {training}
        for name, parameter in result.named_parameters():
            assert (parameter.dtype, parameter.device.type) == (dtype, "cpu")
            assert parameter.requires_grad is ("bias" in name)
            assert parameter.grad is None
        numbers = torch.cat([value.flatten() for value in result.parameters()])
        assert torch.equal(
            numbers.sort().values, torch.cat([v.flatten() for v in before.values()]).sort().values
        )
        assert {part.training for part in source.modules()} == {training}
        for name, value in source.named_parameters():
            assert value.dtype == dtype
            assert torch.equal(value, before[name])

    def test_without_storage(self, make: Any, convert: Any) -> None:
        """On the meta device there is nothing to compare, and the result is there too."""
        result = convert(make(device="meta"))
        assert {value.device.type for value in result.parameters()} == {"meta"}

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
    def test_a_mistake_is_found(
        self, make: Any, convert: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One number that differs a little is an error that says by how much."""
        source = make(dtype=dtype)
        for parameter in source.parameters():
            nn.init.normal_(parameter)

        def spoiled(ours: nn.Module, *arguments: Any, **options: Any) -> None:
            weight = next(value for value in ours.parameters() if value.ndim > 1)
            with torch.no_grad():
                weight.view(-1)[3] *= 1 + 4 * torch.finfo(dtype).eps
            prove(ours, *arguments, **options)

        monkeypatch.setattr("einheads.convert.prove", spoiled)
        with pytest.raises(EinheadsError, match=r"changed the output by up to \d\S+, for values"):
            convert(source)


def test_a_wrong_conversion_is_an_error() -> None:
    """The comparison at the end of every conversion names the difference."""
    with pytest.raises(EinheadsError, match=r"^the conversion changed the output by up to 0\.5, "):
        compare(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]))
    with pytest.raises(EinheadsError, match=r"^the conversion changed the shape"):
        compare(torch.ones(2), torch.ones(3))
    with pytest.raises(EinheadsError, match=r"up to nan"):
        compare(torch.tensor([float("nan")]), torch.ones(1))
    compare(torch.tensor([1.0]), torch.tensor([1.0 + 1e-6]))

    class Odd(nn.Bilinear):
        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            return 2 * super().forward(x, z)

    with pytest.raises(EinheadsError, match=r"^the conversion changed the output"):
        einheads.from_bilinear(Odd(2, 3, 4))


class TestAxesAreSaved:
    """The names of the axes lie beside the weights, where equal sizes would hide a mistake."""

    @pytest.mark.parametrize("stored", [False, True])
    def test_swapped_axes_are_noticed(self, *, stored: bool, tmp_path: Path) -> None:
        """A square weight with its axes in another order is refused, through a file too."""
        saved = nn.Sequential(Einsum("b h i, h i o -> b h o", h=2, i=3, o=3, bias="h o"))
        layer = nn.Sequential(Einsum("b h i, h o i -> b h o", h=2, i=3, o=3, bias="h o"))
        state = saved.state_dict()
        if stored:
            torch.save(state, tmp_path / "state.pt")
            state = torch.load(tmp_path / "state.pt", weights_only=True)
        assert set(state) == {"0.weight", "0.bias"}
        with pytest.raises(RuntimeError, match=r"'0\.weight' was saved with the axes 'h i o', but"):
            layer.load_state_dict(state)
        saved.load_state_dict(state)

    def test_what_is_no_mistake(self) -> None:
        """Other names, and dictionaries without names, load as ever."""
        layer = Einsum("b h i, h o i -> b h o", h=2, i=3, o=3)
        other = Einsum("b g x, g y x -> b g y", g=2, x=3, y=3)
        for state in (other.state_dict(), dict(other.state_dict())):
            layer.load_state_dict(state, strict=True)
            assert torch.equal(layer.weight, other.weight)
        swapped = Einsum("b h i, h i o -> b h o", h=2, i=3, o=3)
        layer.load_state_dict(dict(swapped.state_dict()))  # tensors alone tell no axes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: einheads.from_linears(nn.Linear(3, 5)), "the linears are a Linear; write: a list"),
        (lambda: einheads.ensemble(nn.Sequential(), 3), "the factory is a Sequential; write: a fu"),
        (lambda: einheads.stack([nn.Linear, nn.Linear]), "is no module; write: modules, such as"),
        (lambda: einheads.fold(nn.Linear), "fold takes a module, not"),
        (lambda: einheads.fold(None), "fold takes a module, not None; write: fold"),
    ],
)
def test_what_is_no_model(call: Callable[[], object], message: str) -> None:
    """A wrong type is told in words, with what to write instead."""
    with pytest.raises(TypeError, match=message):
        call()
