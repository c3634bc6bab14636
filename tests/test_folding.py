"""`fold` replaces loops over lists by stacks, computes the same, and says what it left alone."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import checks
import einheads
import laws
from checks import randn

LINEAR: Callable[[], nn.Module] = lambda: nn.Linear(5, 3).double()  # noqa: E731


def mlp() -> nn.Module:
    """A member of more than one layer."""
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()


class Residual(nn.Module):
    """A member of a class of its own, with a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(5)
        self.up = nn.Linear(5, 4)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """Norm, up, bend, down."""
        return self.down(torch.relu(self.up(self.norm(x))))  # type: ignore[no-any-return]


class Loop(nn.Module):
    """A list and a forward that is given."""

    def __init__(
        self, forward: Callable[[Any, Tensor], Any], make: Callable[[], nn.Module] = LINEAR
    ) -> None:
        super().__init__()
        self.lins = nn.ModuleList(make() for _ in range(4))
        self.other = nn.Linear(3, 2).double()
        self.unused = nn.Parameter(torch.ones(2))
        self.loop = forward

    def forward(self, x: Tensor) -> Any:
        """As given."""
        return self.loop(self, x)


def concatenated(m: Any, x: Tensor) -> Any:
    """All read the same input."""
    return torch.cat([lin(x) for lin in m.lins], -1)


def sliced(m: Any, x: Tensor) -> Any:
    """Each reads its own slice; another module reads the results."""
    return m.other(torch.stack([lin(x[:, k]) for k, lin in enumerate(m.lins)], 1))


def accumulated(m: Any, x: Tensor) -> Any:
    """A sum that grows in place, between the calls."""
    y: Any = 0
    for k, lin in enumerate(m.lins):
        y += lin(x[:, k])
    return {"sum": y, "both": (y, x)}


def backwards(m: Any, x: Tensor) -> Any:
    """In another order than that of the list."""
    return torch.stack([m.lins[k](x[:, k] * (k + 1)) for k in (2, 0, 3, 1)])


def zipped(m: Any, x: Tensor) -> Any:
    """Each reads its part of a value that is taken apart by the loop."""
    return torch.stack([lin(part) for lin, part in zip(m.lins, x.unbind(1))], 1)  # noqa: B905


def zipped_last(m: Any, x: Tensor) -> Any:
    """The same, with the list behind the value."""
    results = []
    for number, (part, lin) in enumerate(zip(x.transpose(0, 1), m.lins)):  # noqa: B905
        results.append(lin(part) + number)
    return torch.stack(results, 1)


FOLDED = {
    "zipped": (zipped, (7, 4, 5)),
    "zipped last": (zipped_last, (7, 4, 5)),
    "shared": (concatenated, (7, 5)),
    "sliced": (sliced, (7, 4, 5)),
    "accumulated": (accumulated, (7, 4, 5)),
    "backwards": (backwards, (7, 4, 5)),
}


@pytest.mark.parametrize("make", [LINEAR, mlp, Residual], ids=["linears", "mlps", "classes"])
@pytest.mark.parametrize(("forward", "shape"), FOLDED.values(), ids=FOLDED)
class TestFolded:
    """What is replaced."""

    def test_values_and_gradients(
        self, forward: Any, shape: tuple[int, ...], make: Callable[[], nn.Module]
    ) -> None:
        """The same outputs and gradients, and no member is left."""
        old = Loop(forward, make)
        x = randn(*shape).requires_grad_()
        folded = einheads.fold(old, x.detach())
        assert list(folded.replaced) == ["lins"]
        assert not folded.kept
        new = folded.module
        assert not any(isinstance(part, nn.ModuleList) for part in new.modules())
        assert any(isinstance(part, einheads.EnsembleLinear) for part in new.modules())
        results = [m(x) for m in (new, old)]
        results = [r["sum"] if isinstance(r, dict) else r for r in results]
        laws.close(*results)
        ours = checks.gradients(results[0], [x, *new.get_submodule("lins").parameters()])
        columns = zip(*(m.parameters() for m in old.lins), strict=True)
        theirs = checks.gradients(results[1], [x, *(p for column in columns for p in column)])
        laws.close(ours[0], theirs[0])
        for number, one in enumerate(ours[1:]):
            laws.close(one, torch.stack(theirs[1 + 4 * number : 5 + 4 * number]))

    def test_checkpoints(
        self, forward: Any, shape: tuple[int, ...], make: Callable[[], nn.Module]
    ) -> None:
        """The folded module loads checkpoints of the old one and its own, and can be copied."""
        x = randn(*shape)
        old, new = Loop(forward, make), einheads.fold(Loop(forward, make), x).module
        new.load_state_dict(old.state_dict(), strict=True)
        expected = old(x)
        for twin in (new, copy.deepcopy(new), pickle.loads(pickle.dumps(new))):
            twin.load_state_dict(new.state_dict(), strict=True)
            result = twin(x)
            if isinstance(result, dict):
                laws.close(result["sum"], expected["sum"])
            else:
                laws.close(result, expected)


def chained(m: Any, x: Tensor) -> Any:
    """Each reads what the one before wrote."""
    for lin in m.lins:
        x = lin(x) @ torch.ones(3, 5, dtype=x.dtype)
    return x


def half(m: Any, x: Tensor) -> Any:
    """Not all are called."""
    return m.lins[0](x) + m.lins[1](x)


def peeking(m: Any, x: Tensor) -> Any:
    """Reads a weight."""
    return concatenated(m, x) + m.lins[0].weight.sum()


def deciding(m: Any, x: Tensor) -> Any:
    """Depends on values."""
    return concatenated(m, x) if x.sum() > 0 else x


def moody(m: Any, x: Tensor) -> Any:
    """Depends on the mode."""
    return concatenated(m, x) if m.training else x


def changing(m: Any, x: Tensor) -> Any:
    """Changes the input between the calls."""
    results = []
    for k, lin in enumerate(m.lins):
        x = x.clone() if k == 0 else x
        results.append(lin(x[:, k]))
        x.mul_(2)
    return torch.stack(results)


def over_rows(m: Any, x: Tensor) -> Any:
    """A loop over a value alone, whose length is not known."""
    return torch.stack([concatenated(m, row) for row in x])


_UNTRACED = (
    "its forward cannot be traced: symbolically traced variables cannot be used as inputs to "
    "control flow"
)
KEPT = {
    "chained": (chained, (7, 5), "a member reads what another one wrote"),
    "half": (half, (7, 5), "its forward does not call every member once"),
    "peeking": (peeking, (7, 5), "its forward reads 'lins.0.weight'"),
    "deciding": (
        deciding,
        (7, 5),
        _UNTRACED,
    ),
    "over rows": (
        over_rows,
        (4, 5),
        "its forward cannot be traced: more than 1024 turns of a loop over 'x'",
    ),
    "moody": (moody, (7, 5), "its forward depends on the mode, training or evaluation"),
    "changing": (changing, (7, 4, 5), "between its calls, 'mul_' changes something in place"),
}


@pytest.mark.parametrize(("forward", "shape", "why"), KEPT.values(), ids=KEPT)
def test_kept(forward: Any, shape: tuple[int, ...], why: str) -> None:
    """What would not compute the same is kept as it is, with the reason."""
    old = Loop(forward)
    x = randn(*shape)
    expected = old(x.clone())
    folded = einheads.fold(old, x)
    assert dict(folded.kept) == {"lins": why}
    assert not folded.replaced
    assert folded.module is old
    laws.close(folded.module(x.clone()), expected)
    assert str(folded) == f"kept lins: {why}"


def test_own_inputs_need_an_example() -> None:
    """Without an example input, nobody knows whether the inputs have one shape."""
    folded = einheads.fold(Loop(sliced))
    why = "its members read different inputs; write: fold(module, x) with an x"
    assert dict(folded.kept) == {"lins": why}


def test_uneven_inputs_are_kept() -> None:
    """Inputs of different shapes cannot be stacked; the module stays as it was."""
    outer = nn.Sequential(
        Loop(lambda m, x: sum(lin(x[:, k:]).sum() for k, lin in enumerate(m.lins)))
    )
    inner, x = outer[0], randn(7, 4, 5)
    folded = einheads.fold(outer, x)
    assert folded.module is outer
    assert outer[0] is inner
    assert folded.kept["0.lins"].startswith("with the example input: stack expects each tensor")


def test_unequal_members_are_kept() -> None:
    """Members of different sizes are named."""
    model = Loop(lambda m, x: torch.cat([lin(x) for lin in m.lins], -1))
    model.lins[2] = nn.Linear(5, 4).double()
    assert einheads.fold(model).kept["lins"].startswith("modules 0 and 2 differ in arguments: ")


def test_parts_of_a_model() -> None:
    """Lists anywhere are found; several in one forward too; modes and unused parts stay."""

    class Two(Loop):
        def __init__(self) -> None:
            super().__init__(concatenated)
            self.more = nn.ModuleList(LINEAR() for _ in range(2))

        def forward(self, x: Tensor) -> Any:
            return super().forward(x) + self.more[0](x).sum() * self.more[1](x).sum()

    model = nn.ModuleDict({"a": Two(), "b": nn.Sequential(Loop(chained), Two())}).eval()
    x = randn(7, 5)
    expected = model["a"](x)
    folded = einheads.fold(model)
    assert set(folded.replaced) == {"a.lins", "a.more", "b.1.lins", "b.1.more"}
    assert set(folded.kept) == {"b.0.lins"}
    assert folded.module is model
    laws.close(model["a"](x), expected)
    assert not any(part.training for part in model.modules())
    assert "a.unused" in model.state_dict()
    assert folded.replaced["a.lins"] == (
        "4 x Linear -> EnsembleLinear(e=4, i=5, o=3, shared=True, dtype=torch.float64)"
    )
    assert str(einheads.fold(nn.Linear(2, 3))) == "no nn.ModuleList of two or more modules"
