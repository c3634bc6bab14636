"""The layers of tltorch, whose parameters lie in another order, against ours.

What they compute was written down once by `tltorch_values.py`, so that the tests do not need them.
"""

import json
from pathlib import Path
from typing import Any

import torch

from einheads import CP, TensorTrain, Tucker
from einheads.layers.factorized import Factorized


def of_tltorch(kind: str) -> dict[str, Any]:
    """What tltorch computed, as tensors."""

    def tensors(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: tensors(one) for name, one in value.items()}
        return torch.tensor(value, dtype=torch.float64)

    return tensors(json.loads((Path(__file__).parent / "tltorch.json").read_text())[kind])  # type: ignore[no-any-return]


def agrees(kind: str, layer: Factorized, places: dict[str, tuple[str, str]]) -> None:
    """Assert equal outputs, and equal gradients of the input and all parameters.

    Args:
        kind: the name of the factorization there.
        layer: ours.
        places: for each parameter of ours, the one of theirs, and how its axes are moved.
    """
    told = of_tltorch(kind)
    ours = dict(layer.named_parameters())
    assert set(ours) == set(places)
    with torch.no_grad():
        for name, (other, moved) in places.items():
            value = torch.einsum(moved, told["parameters"][other])
            ours[name].copy_(value.reshape(ours[name].shape))
    x = told["x"].requires_grad_()
    y = layer(x)
    torch.testing.assert_close(y, told["y"], rtol=1e-10, atol=1e-10)
    found = torch.autograd.grad((y * told["upstream"]).sum(), [x, *layer.parameters()])
    for name, one in zip(("x", *ours), found, strict=True):
        other, moved = places.get(name, ("x", "ni->ni"))
        expected = torch.einsum(moved, told["gradients"][other]).reshape(one.shape)
        torch.testing.assert_close(one, expected, rtol=1e-10, atol=1e-10)
        assert expected.abs().max() > 0


def test_tensor_train() -> None:
    """There called a blocked tensor train; its cores are `r0 o i r1`."""
    layer = TensorTrain(i=(2, 3, 2), o=(3, 2, 2), r=(3, 2), dtype=torch.float64)
    places = {
        "weight_1": ("factors.factor_0", "aoir->ori"),
        "weight_2": ("factors.factor_1", "roit->otir"),
        "weight_3": ("factors.factor_2", "roit->oir"),
        "bias": ("bias", "o->o"),
    }
    agrees("blocktt", layer, places)


def test_tucker() -> None:
    """There the factors of the output stand first, and all of them are `size rank`."""
    layer = Tucker(i=(2, 3, 2), o=(3, 2, 2), r=(2, 3, 2), s=2, dtype=torch.float64)
    ins = {f"weight_{k + 1}": (f"factors.factor_{3 + k}", "ir->ri") for k in range(3)}
    outs = {f"weight_{k + 5}": (f"factors.factor_{k}", "os->os") for k in range(3)}
    core = {"weight_4": ("core", "abcuvw->abcuvw"), "bias": ("bias", "o->o")}
    agrees("tucker", layer, ins | core | outs)


def test_cp() -> None:
    """There every term of the sum has a weight beside its vectors, which is one here."""
    layer = CP(i=(2, 3, 2), o=(3, 2, 2), r=4, dtype=torch.float64)
    ins = {f"weight_{k + 1}": (f"factors.factor_{3 + k}", "ir->ri") for k in range(3)}
    outs = {f"weight_{k + 4}": (f"factors.factor_{k}", "or->or") for k in range(3)}
    agrees("cp", layer, {**ins, **outs, "bias": ("bias", "o->o")})
