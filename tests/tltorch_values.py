"""What the layers of tltorch compute, written to `tltorch.json`, which the tests compare with.

The tests do not need tltorch, which brings 180 MB along. To make the file anew, in an environment
with einheads: `pip install tensorly==0.10.0 tensorly-torch==0.5.0`, then run this file.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch

FILE = Path(__file__).parent / "tltorch.json"
IN, OUT = (2, 3, 2), (3, 2, 2)
RANKS = {"blocktt": (1, 3, 2, 1), "cp": 4, "tucker": (2, 2, 2, 2, 3, 2)}


def values(kind: str) -> dict[str, Any]:
    """The parameters, an input, and what the layer of tltorch makes of them, with gradients."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tltorch
    torch.manual_seed(0)
    layer = tltorch.FactorizedLinear(
        IN, OUT, bias=True, factorization=kind, rank=RANKS[kind], implementation="factorized"
    ).double()
    # Short numbers, so that the file can be read.
    draw = lambda shape: (torch.randn(shape, dtype=torch.float64) * 100).round() / 100  # noqa: E731
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(draw(parameter.shape))
        if kind == "cp":
            layer.weight.weights.fill_(1)
    x, upstream = draw((3, 12)).requires_grad_(), draw((3, 12))
    y = layer(x)
    names = [name.removeprefix("weight.") for name, _ in layer.named_parameters()]
    leaves = [x, *layer.parameters()]
    gradients = torch.autograd.grad((y * upstream).sum(), leaves)
    return {
        "parameters": dict(zip(names, map(listed, layer.parameters()), strict=True)),
        "x": listed(x),
        "upstream": listed(upstream),
        "y": listed(y),
        "gradients": dict(zip(["x", *names], map(listed, gradients), strict=True)),
    }


def listed(tensor: torch.Tensor) -> Any:
    """The numbers of a tensor; those of sums lose the last digits, which are rounding."""
    return torch.round(tensor.detach(), decimals=12).tolist()


if __name__ == "__main__":
    found = {kind: values(kind) for kind in RANKS}
    told = {"tensorly": "0.10.0", "tensorly-torch": "0.5.0", **found}
    FILE.write_text(json.dumps(told, indent=None, separators=(",", ":")) + "\n")
