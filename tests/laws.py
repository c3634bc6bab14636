"""What holds for every named layer, whatever it computes.

Each law takes a layer and asserts. The plain torch that a docstring promises to be equivalent is
cut out of the docstring and executed, so that it cannot rot.
"""

import copy
import io
import pickle
import re
import textwrap
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import einheads


def close(actual: Tensor, expected: Tensor) -> None:
    """Assert equal shape and dtype, and values that differ by rounding only."""
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def equivalent(layer_type: type[nn.Module]) -> Callable[..., Tensor]:
    """The function under `Equivalent:` in the docstring of a layer."""
    text = textwrap.dedent("    " + (layer_type.__doc__ or ""))
    block = text.split("Equivalent:\n")[1]
    code = block.split("```python\n")[1].split("```")[0]
    code = textwrap.dedent(code)
    assert len(code.splitlines()) <= 11, "ten lines and the signature"
    name = re.findall(r"^def (\w+)\(", code, re.MULTILINE)[-1]
    namespace: dict[str, Any] = {"torch": torch, "F": functional}
    exec(code, namespace)
    function: Callable[..., Tensor] = namespace[name]
    return function


def parameters_of(layer: nn.Module) -> dict[str, Tensor]:
    """The parameters by the names that equivalents give them: `up.weight` is `up_weight`."""
    return {name.replace(".", "_"): value for name, value in layer.named_parameters()}


def agrees(
    layer: nn.Module, reference: Callable[[Tensor], Tensor], *shape: int, rtol: float = 1e-10
) -> None:
    """Assert equal values, and equal gradients of the input and of every parameter."""
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    actual, expected = layer(x), reference(x)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol)
    weights = torch.randn_like(expected)
    leaves = [x, *layer.parameters()]
    ours = torch.autograd.grad((actual * weights).sum(), leaves)
    theirs = torch.autograd.grad((expected * weights).sum(), leaves)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol)
        assert other.abs().max() > 0


def made_by_its_repr(layer: nn.Module) -> nn.Module:
    """Assert that the repr is a call that makes such a layer, and make it."""
    said = getattr(layer, "extra_repr")()  # noqa: B009
    again = eval(f"{type(layer).__name__}({said})", {**vars(einheads), **all_names()})
    assert type(again) is type(layer)
    assert getattr(again, "extra_repr")() == said  # noqa: B009
    ours, theirs = layer.state_dict(), again.state_dict()
    assert {k: (v.shape, v.dtype) for k, v in ours.items()} == {
        k: (v.shape, v.dtype) for k, v in theirs.items()
    }
    return again  # type: ignore[no-any-return]


def all_names() -> dict[str, Any]:
    """What a repr may mention: torch, and everything public."""
    return {"torch": torch, **{name: getattr(einheads, name) for name in einheads.__all__}}


def copies_and_stores(layer: nn.Module, x: Tensor) -> None:
    """Assert that a pickle, a deep copy and a loaded state dict compute the same."""
    expected = layer(x)
    twins = [pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)]
    again = made_by_its_repr(layer).train(layer.training)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True), strict=True)
    for twin in (*twins, again):
        assert repr(twin) == repr(layer)
        torch.testing.assert_close(twin(x), expected, rtol=0, atol=0)
        for mine, other in zip(twin.parameters(), layer.parameters(), strict=True):
            assert mine is not other


def born_on_meta(make: Callable[..., nn.Module]) -> None:
    """Assert that a layer without storage becomes the layer itself, the way of FSDP."""
    layer = make(device="meta")
    assert all(value.is_meta for value in layer.parameters())
    layer.to_empty(device="cpu")
    torch.manual_seed(3)
    for module in layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    torch.manual_seed(3)
    expected = make().state_dict()
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


def moment(layer: nn.Module, seeds: int, *shape: int) -> float:
    """The mean square of the outputs for unit inputs, over fresh initial values."""
    total = 0.0
    for seed in range(seeds):
        torch.manual_seed(seed)
        for module in layer.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        with torch.no_grad():
            x = torch.randn(*shape, dtype=next(layer.parameters()).dtype)
            total += float(layer(x).square().mean())
    return total / seeds
