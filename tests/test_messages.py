"""The full text of every message that the core of the library can raise.

The messages stand in `messages.txt`, as they are printed. The last tests compare them with the
`raise` statements of the package, so that none is forgotten.
"""

import ast
import pickle
import traceback
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

import einheads
from einheads import EinheadsError, Einsum, PatternError, SizeError, einsum
from einheads.calibrated import own_rates
from einheads.rates import cpu_kind

X = torch.randn(2, 3)  # b i
W = torch.randn(5, 3)  # o i
LINEAR = "b i, o i -> b o"
HEADS = "b h i, h o i -> b h o"

PACKAGE = Path(einheads.__file__).parent
ERRORS = {error.__name__: error for error in (EinheadsError, PatternError, SizeError, TypeError)}


def layer(**options: Any) -> Einsum:
    """A layer of heads with a matrix each, and whatever is wrong with it."""
    return Einsum(HEADS, **({"h": 2, "i": 3, "o": 5} | options))


def bilinear() -> Einsum:
    """A layer with two inputs."""
    return Einsum("b i, b j, o i j -> b o", inputs=2, i=3, j=3, o=5)


def nested() -> torch.Tensor:
    """A tensor of ragged rows; torch warns that it is a prototype."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([X, X])


def quantized() -> torch.Tensor:
    """A tensor of small integers with a scale; torch warns that it will go."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(X, 0.1, 0, torch.qint8)


def complex_half(x: torch.Tensor) -> torch.Tensor:
    """The same numbers as complex ones of half precision; torch warns that it can do little."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return x.to(torch.complex32)


def under_autocast(*operands: torch.Tensor) -> torch.Tensor:
    """A linear with whatever is wrong with its operands."""
    with torch.autocast("cpu", torch.bfloat16):
        return einsum(LINEAR, *operands)


def with_bias(*shape: int) -> torch.Tensor:
    """A layer whose bias somebody has replaced."""
    made = Einsum(LINEAR, i=3, o=5, bias="o")
    made.bias = torch.nn.Parameter(torch.zeros(shape))
    result: torch.Tensor = made(X)
    return result


def on_a_cpu(told: str) -> None:
    """A process that is told what its CPU is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EINHEADS_CPU", told)
        # The answer is kept for the whole process: asked anew, and not kept.
        cpu_kind.__wrapped__()


def with_rates(name: str, text: str | None = None) -> None:
    """A process that is told a file of rates, which holds this text or is not there."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        if text is not None:
            Path(name).write_text(text, encoding="utf-8")
        patch.setenv("EINHEADS_RATES", name)
        own_rates.__wrapped__()


# What the calls in `messages.txt` may use.
NAMES = {
    "X": X,
    "W": W,
    "LINEAR": LINEAR,
    "HEADS": HEADS,
    "np": np,
    "torch": torch,
    "einheads": einheads,
    "einsum": einsum,
    "Einsum": Einsum,
    "layer": layer,
    "bilinear": bilinear,
    "nested": nested,
    "quantized": quantized,
    "complex_half": complex_half,
    "under_autocast": under_autocast,
    "with_bias": with_bias,
    "on_a_cpu": on_a_cpu,
    "with_rates": with_rates,
}


@dataclass(frozen=True)
class Message:
    """A mistake, and what the library says about it."""

    call: str
    error: type[Exception]
    text: str

    def provoke(self) -> Exception:
        """Make the mistake and catch the error."""
        with pytest.raises(self.error) as caught:
            eval(self.call, dict(NAMES))
        return caught.value


def read() -> Iterator[Message]:
    """The messages of `messages.txt`."""
    text = Path(__file__).with_name("messages.txt").read_text(encoding="utf-8")
    for part in text.split("\n>>> ")[1:]:
        call, said = part.split("\n", 1)
        name, message = said.split("\n\n", 1)[0].rstrip("\n").split(": ", 1)
        yield Message(call, ERRORS[name], message)


MESSAGES = tuple(read())


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: ascii(message.call))
class TestMessages:
    """Each mistake gets its class and its words."""

    def test_text(self, message: Message) -> None:
        """The message is this one, to the letter."""
        error = message.provoke()
        assert type(error) is message.error
        assert str(error) == message.text

    def test_spans(self, message: Message) -> None:
        """Whatever an error points at is in the pattern, or just behind it."""
        error = message.provoke()
        if isinstance(error, EinheadsError) and error.spans:
            assert error.text is not None
            assert all(0 <= start <= end <= len(error.text) for start, end in error.spans)
            assert "^" in str(error).splitlines()[2]

    def test_pickle(self, message: Message) -> None:
        """The message survives the way from a worker process."""
        error = message.provoke()
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)


# What uses the core: the messages of these are tested beside what they do.
USERS = (
    "__main__.py",
    "demo",
    "convert.py",
    "shard.py",
    "bench",
    "folding.py",
    "roles.py",
    "tuned.py",
    "tuning.py",
    "layers/",
)
# Of the layers, what all of them have in common belongs to the core.
CORE = ("layers/base.py", "layers/declare.py", "layers/options.py")


def statements(text: str) -> Iterator[range]:
    """The lines of every statement that raises one of our errors, or a TypeError."""
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
            continue
        if ast.unparse(node.exc.func) in ERRORS:
            yield range(node.lineno, (node.end_lineno or node.lineno) + 1)


def unmet(messages: Iterable[Message]) -> list[str]:
    """The places in the package that raise an error which no message of these comes from."""
    met = set()
    for message in messages:
        frames = traceback.extract_tb(message.provoke().__traceback__)
        met |= {(frame.filename, frame.lineno) for frame in frames}
    places = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith(USERS) and name not in CORE:
            continue
        places += [
            f"{name}:{lines.start}"
            for lines in statements(path.read_text(encoding="utf-8"))
            if not any((str(path), line) in met for line in lines)
        ]
    return places


class TestTable:
    """The table itself."""

    def test_every_statement_is_met(self) -> None:
        """No message of the core is without a test of its text."""
        assert unmet(MESSAGES) == []

    def test_a_missing_message_is_noticed(self) -> None:
        """Without the messages about layers, their statements are reported, and no others."""
        places = unmet(one for one in MESSAGES if one.call.startswith("einsum("))
        files = {place.split(":")[0] for place in places}
        assert "layers/declare.py" in files
        assert not files & {"errors.py", "pattern.py", "sizes.py", "given.py", "program.py"}

    def test_calls_are_different(self) -> None:
        """A call stands once; the second of two could never be looked at alone."""
        calls = [message.call for message in MESSAGES]
        assert len(set(calls)) == len(calls)
