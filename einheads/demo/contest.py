"""The contest of the demonstration: a linear map for each head, in all the ways people compute it.

It takes a trained layer and what reaches it, checks every way against the definition in float64,
and only then times them. It knows nothing of models and texts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

TOLERANCE = 1e-5  # relative to the largest true value; float32 sums of this length stay below 1e-6


class DisagreementError(RuntimeError):
    """Two ways to compute the same layer gave different numbers."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to compute a linear map for each head."""

    name: str
    forward: Callable[[Tensor], Tensor]
    weights: Sequence[Tensor]  # one for all heads, or one for each
    biases: Sequence[Tensor]

    def step(self, heads: Tensor, upstream: Tensor) -> tuple[Tensor, ...]:
        """Forward and backward: the gradients for the input, the weights and the biases."""
        leaves = (heads, *self.weights, *self.biases)
        return torch.autograd.grad(self.forward(heads), leaves, upstream)


def contestants(layer: nn.Module) -> list[Contestant]:
    """The ways to compute the layer `"b t h d, h e d -> b t h e"` with its bias `"h e"`."""
    parameters = dict(layer.named_parameters())
    weight, bias = parameters["weight"], parameters["bias"]
    linears = [nn.Linear(weight.shape[2], weight.shape[1]).to(weight.device) for _ in weight]
    for linear, own_weight, own_bias in zip(linears, weight, bias, strict=True):
        linear.load_state_dict({"weight": own_weight, "bias": own_bias})

    mapped = torch.func.vmap(functional.linear, in_dims=(-2, 0, 0), out_dims=-2)

    def loop(heads: Tensor) -> Tensor:
        pairs = zip(linears, heads.unbind(-2), strict=True)
        return torch.stack([linear(head) for linear, head in pairs], dim=-2)

    def matmul(heads: Tensor) -> Tensor:
        return torch.matmul(weight, heads.unsqueeze(-1)).squeeze(-1) + bias

    def vmap(heads: Tensor) -> Tensor:
        result: Tensor = mapped(heads, weight, bias)
        return result

    def einsum(heads: Tensor) -> Tensor:
        return torch.einsum("bthd,hed->bthe", heads, weight) + bias

    apart = [linear.weight for linear in linears], [linear.bias for linear in linears]
    return [
        Contestant("loop over nn.Linear", loop, *apart),
        Contestant("matmul + unsqueeze", matmul, [weight], [bias]),
        Contestant("torch.func.vmap", vmap, [weight], [bias]),
        Contestant("torch.einsum", einsum, [weight], [bias]),
        Contestant("einheads", layer, [weight], [bias]),
    ]


def definition(layer: nn.Module) -> Contestant:
    """The layer as a plain sum of products, in float64 on the CPU: what is true."""
    parameters = dict(layer.named_parameters())
    weight, bias = (
        parameters[name].detach().cpu().double().requires_grad_() for name in ("weight", "bias")
    )
    return Contestant(
        "definition", lambda y: (weight * y.unsqueeze(-2)).sum(-1) + bias, [weight], [bias]
    )


def check(
    truth: Contestant, others: Sequence[Contestant], heads: Tensor, upstream: Tensor
) -> dict[str, float]:
    """Compare result and gradients of all contestants with the truth.

    Args:
        truth: computes in float64 on the CPU.
        others: who is compared with it.
        heads: the input, `b t h d`.
        upstream: the gradient for the result, `b t h e`.

    Returns:
        The largest difference of each contestant, relative to the largest true value.

    Raises:
        DisagreementError: one of them is above the tolerance, no number, or of another shape.
    """

    def values(contestant: Contestant, heads: Tensor, upstream: Tensor) -> dict[str, Tensor]:
        result = contestant.forward(heads).detach()
        if result.shape != upstream.shape:
            shapes = f"{tuple(result.shape)}, not {tuple(upstream.shape)}"
            raise DisagreementError(f"{contestant.name}: the result has the shape {shapes}")
        gradients = contestant.step(heads, upstream)
        many = 1 + len(contestant.weights)
        return {
            "result": result,
            "gradient for the input": gradients[0],
            # Flat, so that one weight for all heads and one for each are the same numbers.
            "gradient for the weight": torch.cat([part.flatten() for part in gradients[1:many]]),
            "gradient for the bias": torch.cat([part.flatten() for part in gradients[many:]]),
        }

    true = values(truth, heads.detach().cpu().double().requires_grad_(), upstream.cpu().double())
    differences: dict[str, float] = {}
    for contestant in others:
        for name, value in values(contestant, heads, upstream).items():
            largest = (value.cpu().double() - true[name]).abs().max() / true[name].abs().max()
            if not largest <= TOLERANCE:  # so written, a difference that is no number fails too
                raise DisagreementError(
                    f"{contestant.name}: the {name} is off by {largest:.1e} of its scale;"
                    f" {TOLERANCE:.0e} is allowed"
                )
            differences[contestant.name] = max(differences.get(contestant.name, 0), float(largest))
    return differences


def race(
    tasks: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Time tasks in turn, round after round, so that whatever else the machine does meets them all.

    Args:
        tasks: what to run, by name.
        rounds: how often the turn goes round.
        device: where the tasks run; its queue is emptied before the clock is read.

    Returns:
        Seconds a call, one number a round.
    """

    def clock() -> float:
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()
        return time.perf_counter()

    def seconds(task: Callable[[], object], calls: int) -> float:
        start = clock()
        for _ in range(calls):
            task()
        return (clock() - start) / calls

    for task in tasks.values():
        task()  # the first call plans and compiles
    # As many calls as make the clock's own time and the caches' first misses small.
    calls = {name: 1 + int(0.002 / seconds(task, 1)) for name, task in tasks.items()}
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in tqdm(range(rounds), unit="round", leave=False, disable=None):
        for name, task in tasks.items():
            found[name].append(seconds(task, calls[name]))
    return found


def compare(
    layer: nn.Module, heads: Tensor, upstream: Tensor, rounds: int
) -> dict[str, dict[str, float]]:
    """Check all ways to compute a layer against each other, then time them.

    Returns:
        For each contestant its largest difference, the medians of its seconds for a forward and for
        a training step, and the medians of the ratios to einheads in each round.
    """
    others = contestants(layer)
    differences = check(definition(layer), others, heads, upstream)
    table = {name: {"difference": difference} for name, difference in differences.items()}
    with torch.no_grad():
        forward = race({c.name: partial(c.forward, heads) for c in others}, rounds, heads.device)
    step = race({c.name: partial(c.step, heads, upstream) for c in others}, rounds, heads.device)
    for part, found in (("forward", forward), ("step", step)):
        for name, seconds in found.items():
            pairs = zip(seconds, found["einheads"], strict=True)
            table[name][part] = statistics.median(seconds)
            table[name][f"{part}_ratio"] = statistics.median(own / base for own, base in pairs)
    return table


def show(table: Mapping[str, Mapping[str, float]]) -> str:
    """Write the table of times.

    Example:
        >>> row = {"forward": 2e-4, "forward_ratio": 1, "step": 0.0123, "step_ratio": 1.5}
        >>> print(show({"torch.einsum": {**row, "difference": 3e-7}}))
                                  forward          training step     largest
                                us   ratio          us     ratio  difference
        torch.einsum         200.0    1.00     12300.0      1.50     3.0e-07
    """
    lines = [
        f"{'':18}{'forward':>15}{'training step':>23}{'largest':>12}",
        f"{'':18}{'us':>8}{'ratio':>8}{'us':>12}{'ratio':>10}{'difference':>12}",
    ]
    for name, row in table.items():
        lines.append(
            f"{name:18}{1e6 * row['forward']:8.1f}{row['forward_ratio']:8.2f}"
            f"{1e6 * row['step']:12.1f}{row['step_ratio']:10.2f}{row['difference']:12.1e}"
        )
    return "\n".join(lines)
