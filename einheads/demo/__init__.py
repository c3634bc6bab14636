"""The demonstration: a transformer whose every projection is a pattern, trained on real text.

The text is the source code of Python's own standard library on this machine, so nothing is fetched
and nothing is made up. One trained layer, a second linear map for each head, then enters a contest
with the ways people write it without einheads. `python -m einheads demo` runs it.
"""

from __future__ import annotations

import json as json_text
import os
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

import einheads as eh
from einheads.stopwatch import with_threads

from .contest import TOLERANCE, compare, show

CHARACTERS = 4_000_000
# Found by trial on a CPU: in a minute, many small steps teach more than few large ones.
STEPS = 1200
WIDTH, HEADS, SIZE, BLOCKS = 64, 4, 16, 3
BATCH, CONTEXT = 16, 64  # windows in a step, and characters in a window
RATE = 8e-3
ROUNDS = 30
SAMPLE = 400

# Packages of others, tests, and folders that are tables of characters and of help texts, not code.
SKIPPED = {
    *("site-packages", "dist-packages"),
    *("test", "tests", "idle_test"),
    *("encodings", "pydoc_data"),
}

Tell = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Text:
    """Real text as character numbers, one part to learn from and one to be judged by."""

    files: tuple[Path, ...]
    alphabet: str  # the character of each number
    training: Tensor
    validation: Tensor

    def entropy(self) -> float:
        """The unigram entropy in nats per character: the loss of who knows only the frequencies."""
        share = torch.bincount(self.training, minlength=len(self.alphabet)) / len(self.training)
        return -float(torch.special.xlogy(share, share).sum())

    def to(self, device: torch.device) -> Text:
        """The same text on another device."""
        return replace(
            self, training=self.training.to(device), validation=self.validation.to(device)
        )


def source_files(folder: Path) -> Iterator[Path]:
    """Find the Python files below a folder, in an order that does not depend on the machine."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.is_dir():
            if path.name not in SKIPPED and not path.is_symlink():
                yield from source_files(path)
        # The build settings of this Python are a table too, and differ from machine to machine.
        elif path.suffix == ".py" and not path.name.startswith("_sysconfigdata"):
            yield path


def read_text(characters: int = CHARACTERS) -> Text:
    """Read the standard library up to a number of characters; every tenth file is for validation.

    Raises:
        FileNotFoundError: this Python came without the source code of its standard library.
    """
    parts: dict[Path, bytes] = {}
    left = characters
    for path in source_files(Path(sysconfig.get_path("stdlib"))):
        content = path.read_bytes()[:left]
        # A handful of files hold letters of other scripts, which would double the alphabet.
        if content.isascii():
            parts[path] = content
            left -= len(content)
        if not left:
            break
    contents = list(parts.values())
    if len(contents) < 10:
        raise FileNotFoundError("this Python has no source code of its standard library to read")
    validation = b"".join(contents[9::10])
    training = b"".join(content for place, content in enumerate(contents) if place % 10 != 9)
    codes = torch.frombuffer(bytearray(training + validation), dtype=torch.uint8)
    alphabet, numbers = torch.unique(codes, return_inverse=True)
    return Text(
        files=tuple(parts),
        alphabet=bytes(alphabet.tolist()).decode("ascii"),
        training=numbers[: len(training)],
        validation=numbers[len(training) :],
    )


def windows(numbers: Tensor, starts: Tensor, length: int) -> Tensor:
    """Cut pieces of one length out of a text.

    Example:
        >>> windows(torch.arange(10), torch.tensor([0, 4]), 3)
        tensor([[0, 1, 2],
                [4, 5, 6]])
    """
    places = starts[:, None] + torch.arange(length)
    return numbers[places.to(numbers.device)]


class Attention(nn.Module):
    """Causal attention in which each head maps its values by a small network of its own."""

    cosine: Tensor
    sine: Tensor

    def __init__(self) -> None:
        super().__init__()
        h, d, i = HEADS, SIZE, WIDTH
        self.query = eh.Einsum("b t i, h d i -> b h t d", h=h, d=d, i=i)
        self.key = eh.Einsum("b t i, h d i -> b h t d", h=h, d=d, i=i)
        self.value = eh.Einsum("b t i, h d i -> b t h d", bias="h d", h=h, d=d, i=i)
        # Each head through a linear map of its own: the layer of the contest.
        self.second = eh.Einsum("b t h d, h e d -> b t h e", bias="h e", h=h, e=d, d=d)
        # A block that begins as the identity learns faster.
        self.merge = eh.Einsum("b t h d, o h d -> b t o", init="zeros", o=i, h=h, d=d)
        # Positions enter as rotations of queries and keys (RoFormer, arXiv:2104.09864).
        speeds = 1000.0 ** -torch.linspace(0, 1, SIZE // 2)
        angles = torch.arange(CONTEXT)[:, None] * speeds
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        """Turn each pair of numbers by an angle that grows with the position."""
        cosine, sine = self.cosine[: x.shape[-2]], self.sine[: x.shape[-2]]
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cosine - second * sine, first * sine + second * cosine), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """`b t i -> b t o`."""
        value = self.second(functional.relu(self.value(x)))
        heads = functional.scaled_dot_product_attention(
            self.rotate(self.query(x)),
            self.rotate(self.key(x)),
            value.transpose(1, 2),  # b t h d -> b h t d
            is_causal=True,
        )
        merged: Tensor = self.merge(heads.transpose(1, 2))
        return merged


class Block(nn.Module):
    """Attention, then a feed-forward network, each added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.before_up = nn.LayerNorm(WIDTH)
        self.up = eh.Einsum("b t i, f i -> b t f", bias="f", i=WIDTH, f=4 * WIDTH)
        self.down = eh.Einsum("b t f, o f -> b t o", init="zeros", o=WIDTH, f=4 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """`b t i -> b t i`."""
        x = x + self.attention(self.before_attention(x))
        added: Tensor = self.down(functional.relu(self.up(self.before_up(x))))
        return x + added


class Transformer(nn.Module):
    """Character numbers `b t` to scores for the next character, `b t c`."""

    def __init__(self, alphabet: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(alphabet, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.before_scores = nn.LayerNorm(WIDTH)
        self.scores = eh.Einsum("b t i, c i -> b t c", init="zeros", i=WIDTH, c=alphabet)

    def forward(self, numbers: Tensor) -> Tensor:
        """`b t -> b t c`."""
        scores: Tensor = self.scores(self.before_scores(self.blocks(self.embedding(numbers))))
        return scores

    def loss(self, pieces: Tensor) -> Tensor:
        """Nats per character, each character of the pieces foretold from those before it."""
        scores = self(pieces[:, :-1])
        return functional.cross_entropy(scores.flatten(0, 1), pieces[:, 1:].flatten())


def train(
    model: Transformer, text: Text, steps: int, generator: torch.Generator, tell: Tell
) -> list[float]:
    """Train the model and give the loss of each step, in nats per character."""
    entropy = text.entropy()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.1, fused=True
    )
    lines = min(steps, 12)
    losses: list[float] = []
    tell(f"\n{'step':>6}  loss  (nats per character; the unigram entropy is {entropy:.2f}, at |)")
    with tqdm(total=steps, unit="step", disable=None) as bar:
        for step in range(steps):
            rate = RATE * min(1.0, (step + 1) / min(30, steps), 1.2 * (steps - step) / steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            starts = torch.randint(len(text.training) - CONTEXT, (BATCH,), generator=generator)
            loss = model.loss(windows(text.training, starts, CONTEXT + 1))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            bar.update()
            if step == 0 or (step + 1) * lines // steps > step * lines // steps:
                recent = statistics.fmean(losses[-max(1, steps // lines) :])
                bar.set_postfix(loss=f"{recent:.2f}")
                tell(f"{step + 1:6}  {recent:.2f}  {curve(recent, entropy)}")
    return losses


def curve(loss: float, entropy: float) -> str:
    """Draw a loss as a bar, with a mark where the entropy is.

    Example:
        >>> curve(2.0, 3.0)
        '################        |'
        >>> curve(3.5, 3.0)
        '########################|###'
    """
    length, mark = round(8 * loss), round(8 * entropy)
    return f"{'#' * min(length, mark):{mark}}|{'#' * (length - mark - 1)}"


@torch.no_grad()
def validate(model: Transformer, text: Text, count: int = 512) -> float:
    """The loss on files that the model has not seen, in nats per character."""
    starts = torch.linspace(0, len(text.validation) - CONTEXT - 1, count).long()
    parts = windows(text.validation, starts, CONTEXT + 1).split(BATCH)  # type: ignore[no-untyped-call]
    return statistics.fmean(model.loss(part).item() for part in parts)


@torch.no_grad()
def write(model: Transformer, text: Text, start: str, generator: torch.Generator) -> str:
    """Let the model go on from a start, character by character."""
    device = text.training.device
    numbers = [text.alphabet.index(character) for character in start]
    for _ in range(SAMPLE):
        scores = model(torch.tensor([numbers[-CONTEXT:]], device=device))[0, -1]
        # Somewhat below temperature one, where a small model spells better.
        likely = (scores.cpu() / 0.8).softmax(dim=0)
        numbers.append(int(torch.multinomial(likely, 1, generator=generator)))
    return "".join(text.alphabet[number] for number in numbers)


def activations(model: Transformer, layer: nn.Module, pieces: Tensor) -> Tensor:
    """What reaches a layer of the model on real text."""
    met: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: met.append(inputs[0]))
    with hook, torch.no_grad():
        model(pieces[:, :-1])
    return met[0].clone().requires_grad_()


def demonstrate(steps: int, device: torch.device, seed: int, tell: Tell) -> dict[str, Any]:
    """Do the whole demonstration, tell it line by line, and give its findings."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    text = read_text().to(device)
    entropy = text.entropy()
    model = Transformer(len(text.alphabet)).to(device)
    where = f"{device}, threads: {torch.get_num_threads()}"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tell(
        f"text: {len(text.files)} files of Python's standard library,"
        f" {len(text.training)} characters to learn from, {len(text.validation)} to be judged by\n"
        f"model: {parameters} parameters, every projection an einheads layer;"
        f" {where}, torch {torch.__version__}"
    )
    start = time.perf_counter()
    losses = train(model, text, steps, generator, tell)
    seconds = time.perf_counter() - start
    validation = validate(model, text)
    tell(
        f"\ntrained in {seconds:.0f} s; on files not seen in training the loss is {validation:.2f}"
        f" nats per character, the unigram entropy {entropy:.2f}"
    )
    sample = write(model, text, "    def ", generator)
    tell(f"\na sample, begun with '    def ':\n\n{sample}\n")

    layer = [part for part in model.modules() if isinstance(part, Attention)][-1].second
    starts = torch.randint(len(text.validation) - CONTEXT, (BATCH,), generator=generator)
    heads = activations(model, layer, windows(text.validation, starts, CONTEXT + 1))
    upstream = torch.randn(heads.shape, generator=generator).to(device)
    rounds = min(ROUNDS, 2 + steps)  # a trial of a few steps gets a few rounds
    table = compare(layer, heads, upstream, rounds)
    b, t, h, d = heads.shape
    tell(
        f'the trained layer "b t h d, h e d -> b t h e" with its bias, on what reaches it in'
        f" the model:\nb={b} t={t} h={h} d={d} e={d}, float32, {where};"
        f" medians of {rounds} rounds, ratios to einheads\n\n{show(table)}\n\n"
        f"results and gradients of all agree with the definition in float64 to {TOLERANCE:.0e}"
    )
    return {
        "files": len(text.files),
        "training_characters": len(text.training),
        "validation_characters": len(text.validation),
        "parameters": parameters,
        "unit": "nats per character",
        "unigram_entropy": entropy,
        "losses": losses,
        "validation_loss": validation,
        "training_seconds": seconds,
        "sample": sample,
        "contestants": table,
        "rounds": rounds,
        "seed": seed,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def one_thread() -> AbstractContextManager[None]:
    """One thread meanwhile, unless the environment variable `OMP_NUM_THREADS` names a number.

    One is enough for matrices this small, and it is safe: where other programs keep the cores busy,
    or a container gets less of them than it sees, threads wait for each other. A training step on
    two threads of a busy machine was measured to take 17 times as long.
    """
    return nullcontext() if "OMP_NUM_THREADS" in os.environ else with_threads(1)


def run(
    *,
    steps: int = STEPS,
    device: str | None = None,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Run the demonstration and print it.

    On a CPU it uses one thread, unless the environment variable `OMP_NUM_THREADS` names a number.

    Args:
        steps: of training; by default as many as take a CPU about a minute.
        device: a name such as "cpu" or "cuda:1"; by default "cuda" where there is one, else "cpu".
        seed: of the first weights, the batches and the sample.
        json: print the findings as one JSON object instead of the story.

    Returns:
        The exit status: 0; 1 without a text, 2 for options that cannot be met, 130 for Ctrl-C.

    Raises:
        DisagreementError: two ways to compute the same layer gave different numbers.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    # Lines go out through tqdm, which keeps them and its bar from running into each other.
    complain = partial(tqdm.write, file=sys.stderr)
    if steps < 1:
        complain(f"demo: steps must be at least 1, not {steps}")
        return 2
    try:
        torch.zeros(1, device=name).item()  # the item, since the meta device makes tensors too
    # PyTorch refuses unknown names by the one, and what it was built without by the other.
    except (RuntimeError, AssertionError) as error:
        complain(f"demo: device '{name}' cannot be used: {str(error).splitlines()[0]}")
        return 2
    try:
        with one_thread():
            findings = demonstrate(
                steps, torch.device(name), seed, (lambda _: None) if json else tqdm.write
            )
    except FileNotFoundError as error:
        complain(f"demo: {error}")
        return 1
    except KeyboardInterrupt:
        complain("demo: interrupted")
        return 130
    if json:
        tqdm.write(json_text.dumps(findings))
    return 0
