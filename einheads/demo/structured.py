"""An example: a dense layer, `Monarch` and `BlockTensorTrain` with the same number of parameters.

Three networks foretell the next character of real text from the characters before it. They differ
in the two layers of each block alone, which have equally many parameters, and for these layers that
means equally many operations: what is saved by structure is spent on width. The text is that of the
demonstration. `python -m einheads.demo.structured` runs it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

import einheads as eh

from . import Text, one_thread, read_text, windows

# Characters that are read, features of each, and what they are together.
CONTEXT, SIZE = 16, 16
WIDTH = CONTEXT * SIZE
BLOCKS = 2
BATCH = 256
STEPS = 1200
# The best of 4e-3, 8e-3, 16e-3 and 32e-3, for each kind by itself.
RATES = {"dense": 8e-3, "Monarch": 16e-3, "BlockTensorTrain": 16e-3}

# The two layers of a block, up and down. Each has 24576 parameters and takes 49152 operations.
KINDS: dict[str, Callable[[], tuple[eh.Einsum, eh.Einsum]]] = {
    "dense": lambda: (eh.Linear(256, 96, bias=False), eh.Linear(96, 256, bias=False)),
    "Monarch": lambda: (
        eh.Monarch(k=16, p=16, q=32, s=32, bias=False),  # 256 -> 1024
        eh.Monarch(k=32, p=32, q=16, s=16, bias=False),
    ),
    "BlockTensorTrain": lambda: (
        eh.BlockTensorTrain(k=16, p=16, q=24, s=16, r=2, bias=False),  # 256 -> 384
        eh.BlockTensorTrain(k=24, p=16, q=16, s=16, r=2, bias=False),
    ),
}


class Network(nn.Module):
    """The characters `n t` of a window to scores `n c` for the one that follows."""

    def __init__(self, kind: str, alphabet: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(alphabet, SIZE)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(BLOCKS))
        pairs = [KINDS[kind]() for _ in range(BLOCKS)]
        self.up = nn.ModuleList(up for up, _ in pairs)
        self.down = nn.ModuleList(down for _, down in pairs)
        self.before_scores = nn.LayerNorm(WIDTH)
        self.scores = eh.Linear(WIDTH, alphabet)

    def forward(self, numbers: Tensor) -> Tensor:
        """`n t -> n c`."""
        x = self.embedding(numbers).flatten(-2)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(functional.gelu(up(norm(x))))
        scores: Tensor = self.scores(self.before_scores(x))
        return scores


@dataclass(frozen=True, slots=True)
class Trained:
    """What became of one network.

    Attributes:
        kind: a key of `KINDS`.
        hidden: how many features there are in the middle of a block.
        parameters: numbers in the layers of all blocks.
        flops: operations of these layers for one window.
        losses: of each step, in nats per character.
        validation: the loss on files that were not seen in training.
        milliseconds: the median of a step.
    """

    kind: str
    hidden: int
    parameters: int
    flops: int
    losses: list[float]
    validation: float
    milliseconds: float


def train(kind: str, text: Text, steps: int = STEPS, seed: int = 0) -> Trained:
    """Train one network and judge it; the windows are the same for every kind."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Network(kind, len(text.alphabet))
    optimizer = torch.optim.AdamW(eh.param_groups(model, lr=RATES[kind], weight_decay=0.01))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps + 1
    )
    losses, times = [], []
    for _ in tqdm(range(steps), desc=kind, unit="step", leave=False, disable=None):
        start = time.perf_counter()
        loss = loss_of(model, text.training, BATCH, generator)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        times.append(time.perf_counter() - start)
    judge = torch.Generator().manual_seed(1)
    with torch.no_grad():
        validation = statistics.fmean(
            loss_of(model, text.validation, 1024, judge).item() for _ in range(16)
        )
    hidden, parameters, flops = cost(kind)
    milliseconds = 1000 * statistics.median(times)
    return Trained(kind, hidden, parameters, flops, losses, validation, milliseconds)


def cost(kind: str) -> tuple[int, int, int]:
    """The features in the middle of a block; parameters, and operations for a window, of all."""
    up, down = KINDS[kind]()
    hidden: int = up(torch.zeros(1, WIDTH)).shape[-1]
    parameters = sum(one.numel() for layer in (up, down) for one in layer.parameters())
    flops = sum(
        2 * layer.explain((1, size)).multiply_adds for layer, size in ((up, WIDTH), (down, hidden))
    )
    return hidden, BLOCKS * parameters, BLOCKS * flops


def table(found: Sequence[Trained]) -> str:
    """What became of the networks, the runs of each kind together, as a table in Markdown."""
    lines = [
        "| layer | width inside | parameters | FLOPs | loss | ms a step |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind in KINDS:
        runs = [one for one in found if one.kind == kind]
        losses = [one.validation for one in runs]
        loss = f"{statistics.fmean(losses):.3f}"
        if len(runs) > 1:
            loss += f" ({min(losses):.3f} to {max(losses):.3f})"
        times = statistics.median(one.milliseconds for one in runs)
        one = runs[0]
        lines.append(
            f"| {kind} | {one.hidden} | {one.parameters} | {one.flops} | {loss} | {times:.1f} |"
        )
    return "\n".join(lines)


def run(steps: int = STEPS, seeds: int = 1) -> list[Trained]:
    """Train all networks and print the table; on one thread, unless torch was told otherwise.

    Args:
        steps: of training, for each network.
        seeds: how often each kind is trained, from other first weights on other windows.
    """
    with one_thread():
        text = read_text()
        tqdm.write(
            f"text: {len(text.files)} files of Python's standard library, "
            f"{len(text.training)} characters to learn from; the unigram entropy is "
            f"{text.entropy():.3f} nats per character"
        )
        found = [train(kind, text, steps, seed) for kind in KINDS for seed in range(seeds)]
    tqdm.write(
        f"loss on files not seen in training, {steps} steps, "
        f"{seeds} {'run' if seeds == 1 else 'runs'} of each; torch {torch.__version__}, CPU\n\n"
        + table(found)
    )
    return found


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"a positive number is wanted, not {text}")
    return number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m einheads.demo.structured",
        description="train networks of dense and of structured layers with equal budgets",
    )
    parser.add_argument("--steps", type=_positive, metavar="N", default=STEPS)
    parser.add_argument("--seeds", type=_positive, metavar="N", default=1)
    options = parser.parse_args(argv)
    try:
        run(options.steps, options.seeds)
    except FileNotFoundError as error:
        tqdm.write(f"structured: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        tqdm.write("structured: interrupted", file=sys.stderr)
        return 130
    return 0


def loss_of(model: nn.Module, numbers: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Nats per character, for windows at places by chance."""
    starts = torch.randint(len(numbers) - CONTEXT, (count,), generator=generator)
    pieces = windows(numbers, starts, CONTEXT + 1)
    return functional.cross_entropy(model(pieces[:, :-1]), pieces[:, -1])


if __name__ == "__main__":
    sys.exit(main())
