"""Ensembles against loops over their members, and stacks of whole models."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import checks
import einheads
import laws
from checks import randn
from einheads import BatchEnsemble, EinheadsError, EnsembleLinear, SizeError

DOUBLE: dict[str, Any] = {"dtype": torch.float64}


def members(layer: Any, x: Tensor) -> Tensor:
    """A loop over the members of an `EnsembleLinear` or a `BatchEnsemble`."""
    results = []
    for k in range(layer.sizes["e"]):
        weight = layer.weight
        weight = weight * torch.outer(layer.s[k], layer.r[k]) if weight.ndim == 2 else weight[k]
        bias = None if layer.bias is None else layer.bias[k]
        results.append(functional.linear(x if layer.shared else x[k], weight, bias))
    return torch.stack(results)


KINDS: dict[str, Callable[..., Any]] = {"full": EnsembleLinear, "batch": BatchEnsemble}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@kinds
class TestLayers:
    """`EnsembleLinear` and `BatchEnsemble`."""

    @pytest.mark.parametrize("leading", [(), (4,), (2, 7)], ids=str)
    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("bias", [False, True])
    def test_members(
        self, kind: Callable[..., Any], leading: tuple[int, ...], *, shared: bool, bias: bool
    ) -> None:
        """Every member is its own `F.linear`, on its own input or on the shared one."""
        layer = kind(e=3, i=5, o=2, shared=shared, bias=bias, **DOUBLE)
        x = randn(*([] if shared else [3]), *leading, 5)
        checks.agrees(layer, lambda x: members(layer, x), x)

    def test_equivalent(self, kind: Callable[..., Any]) -> None:
        """The plain torch of the docstring gives the same values and gradients."""
        layer = kind(e=3, i=5, o=2, **DOUBLE)
        checks.agrees(layer, checks.equivalent(layer), randn(3, 7, 5))

    @pytest.mark.parametrize("shared", [False, True])
    def test_compiled_and_stored(self, kind: Callable[..., Any], *, shared: bool) -> None:
        """One graph; pickles, copies, state dicts, the repr and the meta device."""
        layer = kind(e=3, i=5, o=2, shared=shared, **DOUBLE)
        x = randn(7, 5) if shared else randn(3, 7, 5)
        checks.compiles(layer, x)
        laws.copies_and_stores(layer, x)
        laws.born_on_meta(lambda **options: kind(e=3, i=5, o=2, shared=shared, **options))

    @pytest.mark.parametrize("init", ["default", "linear", "lecun"])
    def test_scale(self, kind: Callable[..., Any], init: str) -> None:
        """Every member starts with the scale of its own `nn.Linear`."""
        options = {} if init == "default" else {"init": init}
        layer = kind(e=4, i=41, o=23, **options)
        wanted = 1.0 if init == "lecun" else 1 / 3 + 1 / (3 * 41)
        assert 0.9 < laws.moment(layer, 100, 4, 16, 41) / wanted < 1.1

    def test_wrong_members(self, kind: Callable[..., Any]) -> None:
        """An input for another number of members is an error that names the axis."""
        with pytest.raises(SizeError, match="axis 'e' has two sizes: 4"):
            kind(e=3, i=5, o=2, **DOUBLE)(randn(4, 7, 5))


def test_members_start_as_separate_linears() -> None:
    """Every matrix fills the bound of its own `nn.Linear`, and differs from the others."""
    layer = EnsembleLinear(e=5, i=100, o=100)
    largest = layer.weight.abs().amax((1, 2))
    assert (largest <= 0.1).all()
    assert (largest > 0.099).all()
    assert not torch.equal(layer.weight[0], layer.weight[1])


def test_batch_ensemble_starts_with_signs() -> None:
    """The scales are random signs, the matrix that of an `nn.Linear`, the bias zero."""
    layer = BatchEnsemble(e=50, i=16, o=32)
    for scale in (layer.r, layer.s):
        assert set(scale.unique().tolist()) == {-1.0, 1.0}
        assert abs(float(scale.detach().mean())) < 0.2
    assert 0.24 < float(layer.weight.detach().abs().max()) <= 0.25
    assert not layer.bias.any()


def test_roles() -> None:
    """Members are a batch of matrices when the input has them, and outputs when it is shared."""
    assert EnsembleLinear(e=2, i=3, o=5).roles["weight"] == {"e": "batch", "o": "out", "i": "in"}
    shared = EnsembleLinear(e=2, i=3, o=5, shared=True)
    assert shared.roles["weight"] == {"e": "out", "o": "out", "i": "in"}


def mlp() -> nn.Module:
    """A model of every kind of part that can be stacked."""
    return nn.Sequential(
        nn.LayerNorm(5),
        nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Dropout(0.0)),
        nn.Linear(7, 6, bias=False),
        nn.LayerNorm(6, elementwise_affine=False),
        nn.LayerNorm(6, bias=False),
        nn.GLU(),
        nn.Softmax(dim=-1),
    ).double()


class Inner(nn.Module):
    """A model of the user's own, whose parts are registered in another order than they are used."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Linear(7, 5)
        self.up = nn.Linear(5, 7)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Two linears, a bend that is a function, and the input again."""
        return x + 0.5 * self.drop(self.down(functional.gelu(self.up(x)))).tanh()


class Outer(nn.Module):
    """A model with a model in it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(5)
        self.inners = nn.ModuleList([Inner()])
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(5, 3, bias=False))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """In the order of their names."""
        return self.head(self.inners[0](self.norm(x)) - x)  # type: ignore[no-any-return]


class Strange(nn.Module):
    """A model that does as it is told."""

    def __init__(self, told: Callable[[Any, Tensor], Any], **options: Any) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 5)
        self.told = told
        for name, value in options.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        """As told."""
        return self.told(self, x)


CONTROL = "symbolically traced variables cannot be used as inputs to control flow"
_ARGUMENTS = (
    "modules 0 and 1 differ in arguments: in_features=2, out_features=3, bias=True "
    "and in_features=2, out_features=4, bias=True"
)
_DTYPES = (
    "modules 0 and 1 differ in bias: ((3,), torch.float32, 'cpu', 'trained') and "
    "((3,), torch.float64, 'cpu', 'trained')"
)


class TestStack:
    """`ensemble` and `stack`."""

    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("leading", [(), (4,), (2, 7)], ids=str)
    def test_values_and_gradients(self, leading: tuple[int, ...], *, shared: bool) -> None:
        """A stack computes what its members compute, and learns what they learn."""
        models = [mlp() for _ in range(3)]
        for model in models:
            for parameter in model.parameters():
                nn.init.normal_(parameter)
        stacked = einheads.stack(models, shared=shared)
        x = randn(*([] if shared else [3]), *leading, 5).requires_grad_()
        actual = stacked(x)
        expected = torch.stack([model(x if shared else x[k]) for k, model in enumerate(models)])
        laws.close(actual, expected)
        grads = checks.gradients(actual, [x, *stacked.parameters()])
        columns = zip(*(model.parameters() for model in models), strict=True)
        leaves = [x, *(parameter for column in columns for parameter in column)]
        theirs = checks.gradients(expected, leaves)
        laws.close(grads[0], theirs[0])
        for number, grad in enumerate(grads[1:]):
            laws.close(grad, torch.stack(theirs[1 + 3 * number : 4 + 3 * number]))

    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("leading", [(), (4,)], ids=str)
    def test_models_of_ones_own(self, leading: tuple[int, ...], *, shared: bool) -> None:
        """A class with a forward is stacked too, and what holds for all of them holds for it."""
        models = [Outer() for _ in range(3)]
        for model in models:
            for parameter in model.parameters():
                nn.init.normal_(parameter)
        stacked = einheads.stack(models, shared=shared)
        x = randn(*([] if shared else [3]), *leading, 5)
        expected = torch.stack([model(x if shared else x[k]) for k, model in enumerate(models)])
        laws.close(stacked(x), expected)
        leaves = list(stacked.parameters())
        columns = zip(*(model.parameters() for model in models), strict=True)
        theirs = checks.gradients(expected, [one for column in columns for one in column])
        for number, one in enumerate(checks.gradients(stacked(x), leaves)):
            laws.close(one, torch.stack(theirs[3 * number : 3 * number + 3]))
        assert list(stacked.state_dict()) == list(models[0].state_dict())
        assert "EnsembleLinear(e=3, i=5, o=7" in repr(stacked)
        twin = copy.deepcopy(stacked)
        twin.load_state_dict(stacked.state_dict(), strict=True)
        laws.close(twin(x), expected)

    @pytest.mark.parametrize(
        ("told", "options", "why"),
        [
            (lambda m, x: m.two(m.one(x)).flatten(), {}, "a Strange that calls 'flatten'"),
            (lambda m, x: m.one(x), {}, "a Strange that does not use 'two.weight'"),
            (
                lambda m, x: m.two(m.one(m.one(x))),
                {},
                "a Strange that calls 'one' otherwise than once",
            ),
            (
                lambda m, x: (m.one(x), m.two(x)),
                {},
                "a Strange that returns more than one value",
            ),
            (
                lambda m, x: m.two(m.one(x) if m.training else x),
                {},
                "a Strange whose forward depends on its mode or its attributes",
            ),
            (
                lambda m, x: m.two(m.one(x)) if x.sum() > 0 else x,
                {},
                "a Strange whose forward cannot be traced (" + CONTROL + ")",
            ),
            (
                lambda m, x: m.two(m.one(x)),
                {"table": nn.Parameter(torch.ones(5))},
                "a Strange",
            ),
        ],
        ids=["reshape", "unused", "twice", "several", "mode", "control", "parameter"],
    )
    def test_models_that_cannot_be_stacked(self, told: Any, options: Any, why: str) -> None:
        """Each with the reason."""
        models = [Strange(told, **{k: copy.deepcopy(v) for k, v in options.items()}) for _ in "12"]
        with pytest.raises(EinheadsError) as caught:
            einheads.stack(models)
        assert caught.value.sentence == f"{why} cannot be stacked"
        assert all(part.training for model in models for part in model.modules())

    def test_attributes_that_differ(self) -> None:
        """Numbers that are no parameters have to be the same in all members."""
        told: Any = lambda m, x: m.two(m.one(x) * m.scale)  # noqa: E731
        same = [Strange(told, scale=2.0) for _ in range(2)]
        x = torch.randn(2, 4, 5)
        expected = torch.stack([model(one) for model, one in zip(same, x, strict=True)])
        torch.testing.assert_close(einheads.stack(same)(x), expected)
        with pytest.raises(EinheadsError, match="depends on its mode or its attributes"):
            einheads.stack([Strange(told, scale=2.0), Strange(told, scale=3.0)])

    def test_ensemble(self) -> None:
        """`ensemble` builds the members itself; each starts as the factory makes it."""
        torch.manual_seed(5)
        models = [mlp() for _ in range(2)]
        torch.manual_seed(5)
        stacked = einheads.ensemble(mlp, 2, shared=True)
        x = randn(4, 5)
        laws.close(stacked(x), torch.stack([model(x) for model in models]))
        checks.compiles(stacked, x)
        checks.compiles(einheads.ensemble(Outer, 2), randn(2, 4, 5))

    def test_what_is_kept(self) -> None:
        """The dtype, the mode and `requires_grad` of each parameter are those of the members."""
        models = [nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).half().eval()
                  for _ in range(2)]  # fmt: skip
        for model in models:
            model[0].weight.requires_grad_(False)
        stacked = einheads.stack(models)
        told = {name: (value.dtype, value.requires_grad) for name, value in
                stacked.named_parameters()}  # fmt: skip
        assert told == {
            "0.weight": (torch.float16, False),
            "0.bias": (torch.float16, True),
            "2.weight": (torch.float16, True),
            "2.bias": (torch.float16, True),
        }
        assert not any(module.training for module in stacked.modules())
        models[0][0].bias.data.zero_()
        assert stacked[0].bias[0].any()  # values are copied

    def test_refusals(self) -> None:
        """What cannot be stacked is named, with the place and the difference."""
        shared = nn.Linear(2, 3)
        cases = [
            (
                lambda: einheads.stack([nn.Linear(2, 3), nn.Linear(2, 4)]),
                _ARGUMENTS,
            ),
            (
                lambda: einheads.stack([nn.Linear(2, 3), nn.Linear(2, 3).double()]),
                _DTYPES,
            ),
            (
                lambda: einheads.stack([nn.Sequential(nn.ReLU()), nn.Sequential(nn.Tanh())]),
                "modules 0 and 1 differ at '0' in type: ReLU and Tanh",
            ),
            (
                lambda: einheads.stack([nn.Sequential(nn.Flatten())]),
                "a Flatten at '0' cannot be stacked",
            ),
            (
                lambda: einheads.stack([nn.Softmax(dim=1)]),
                "a Softmax cannot be stacked",
            ),
            (
                lambda: einheads.ensemble(lambda: shared, 2),
                (
                    "two of the modules are the same, or share parameters, so they would not stay "
                    "equal"
                ),
            ),
            (
                lambda: einheads.stack([nn.ReLU()], shared=True),
                "no module has parameters, so there is nothing to stack",
            ),
            (lambda: einheads.stack([]), "no modules to stack"),
            (lambda: einheads.ensemble(mlp, 0), "an ensemble of 0"),
        ]
        for call, sentence in cases:
            with pytest.raises(EinheadsError) as caught:
                call()
            assert caught.value.sentence == sentence
            assert caught.value.notes[0].startswith("write: ")
