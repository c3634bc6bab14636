"""The suites, as data."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from .cases import Case, Suite, case
from .tccg import tccg

_HEADS = "b w h i, h o i -> b w h o"


def _heads(*sizes: tuple[int, ...], bias: str = "") -> tuple[Case, ...]:
    return tuple(
        case(
            _HEADS,
            " ".join(f"{axis}={size}" for axis, size in zip("bwhio", one, strict=True)),
            weights=1,
            bias=bias,
        )
        for one in sizes
    )


HEADS = _heads(
    (1, 1, 8, 64, 64),
    (2, 2, 64, 16, 16),
    (4, 16, 8, 64, 64),
    (32, 64, 8, 64, 64),
    (8, 512, 12, 64, 64),
    (64, 16, 4, 512, 512),
    # Odd sizes, decoding one token, one head, many small heads, wide to narrow and back.
    (3, 7, 5, 33, 17),
    (1, 3, 3, 7, 5),
    (16, 1, 16, 64, 64),
    (7, 33, 1, 48, 96),
    (5, 13, 96, 24, 24),
    (4, 128, 6, 128, 16),
    (4, 128, 6, 16, 128),
)


def random_cases(count: int = 100, seed: int = 0, limit: float = 60e6) -> tuple[Case, ...]:
    """Random pairwise contractions.

    Each has 0 to 2 batch, 1 or 2 contracted, 0 to 2 left and 1 or 2 right axes, all in random
    order, with sizes from 4 to 64 drawn evenly on a logarithmic scale.

    Args:
        count: how many.
        seed: the same seed gives the same cases.
        limit: the most multiply-adds of a case; sizes are drawn again until they fit.
    """
    draw = random.Random(seed)  # noqa: S311 - a benchmark keeps no secrets
    return tuple(_random_case(f"random {number}", draw, limit) for number in range(count))


def _random_case(name: str, draw: random.Random, limit: float) -> Case:
    letters = iter("abcdefgh")
    roles = [
        [next(letters) for _ in range(draw.randint(*bounds))]
        for bounds in ((0, 2), (1, 2), (0, 2), (1, 2))
    ]
    batch, contract, left, right = roles
    operands = [batch + contract + left, batch + contract + right, batch + left + right]
    for axes in operands:
        draw.shuffle(axes)
    while True:
        sizes = {
            axis: round(math.exp(draw.uniform(math.log(4), math.log(64))))
            for axis in (*batch, *contract, *left, *right)
        }
        if math.prod(sizes.values()) <= limit:
            break
    first, second, output = (" ".join(axes) for axes in operands)
    return Case(name, f"{first}, {second} -> {output}", sizes)


def _attention() -> tuple[Case, ...]:
    both = {
        "scores": "b t h d, b s h d -> b h t s",
        "values": "b h t s, b s h d -> b t h d",
        "scores, heads first": "b h t d, b h s d -> b h t s",
        "values, heads first": "b h t s, b h s d -> b h t d",
    }
    grouped = {
        "grouped scores": "b t g q d, b s g d -> b g q t s",
        "grouped values": "b g q t s, b s g d -> b t g q d",
    }
    sizes = ("b=2 t=16 s=16 h=4 d=32", "b=4 t=128 s=128 h=8 d=64", "b=8 t=1 s=512 h=8 d=64")
    wide = (
        "b=2 t=16 s=16 g=2 q=2 d=32",
        "b=4 t=128 s=128 g=2 q=4 d=64",
        "b=8 t=1 s=512 g=2 q=4 d=64",
    )
    return tuple(
        case(pattern, words, name=f"{name}, {words}")
        for table, choices in ((both, sizes), (grouped, wide))
        for name, pattern in table.items()
        for words in choices
    )


KNOWN_SLOW = (
    case("i j, i j k l -> k l", "i=64 j=32 k=32 l=64", name="pytorch#57121 ij,ijkl->kl"),
    case("k l, i j k l -> i j", "i=64 j=32 k=32 l=64", name="pytorch#57121 kl,ijkl->ij"),
    case("j k, i j k l -> i l", "i=64 j=32 k=32 l=64", name="pytorch#57121 jk,ijkl->il"),
    case("i l, i j k l -> j k", "i=64 j=32 k=32 l=64", name="pytorch#57121 il,ijkl->jk"),
    case(
        "p q r s t u i j k, n q s u i j k -> n p q r s t u",
        "n=32 p=16 q=2 r=16 s=2 t=16 u=2 i=2 j=2 k=2",
        name="pytorch#32591 multiply and sum",
    ),
    case("n c, n c -> n", "n=1048576 c=2", name="pytorch#101249 n=1048576 c=2"),
    case("n c, n c -> n", "n=65536 c=32", name="pytorch#101249 n=65536 c=32"),
    case("a c, a b c -> c b", "a=2 b=2 c=2000", name="pytorch#10661 ac,abc->cb"),
    case("b n i, n i o -> b n o", "b=64 n=32 i=64 o=64", name="pytorch#110858 stacked weights"),
    case("b n i, n i o -> b n o", "b=8 n=512 i=16 o=16", name="pytorch#110858 many of them"),
)


def _factorized() -> tuple[Case, ...]:
    # The name, the pattern, the number of weights, small sizes, medium sizes.
    table = (
        ("low rank", "b i, i r, r o -> b o", 2, "b=4 i=64 r=8 o=64", "b=256 i=512 r=64 o=512"),
        (
            "low rank by head",
            "b w h i, h i r, h r o -> b w h o",
            2,
            "b=8 w=8 h=4 i=16 r=4 o=16",
            "b=8 w=64 h=8 i=64 r=16 o=64",
        ),
        (
            "Monarch",
            "b k p, k p q, q k s -> b q s",
            2,
            "b=8 k=8 p=8 q=8 s=8",
            "b=128 k=16 p=32 q=16 s=32",
        ),
        (
            "block tensor train",
            "b k p, k p q r, q k r s -> b q s",
            2,
            "b=8 k=8 p=8 q=8 r=2 s=8",
            "b=128 k=16 p=32 q=16 r=2 s=32",
        ),
        (
            "tensor train",
            "b i j k, i p r, r j q s, s k t -> b p q t",
            3,
            "b=8 i=4 j=4 k=4 p=4 q=4 t=4 r=4 s=4",
            "b=128 i=8 j=8 k=8 p=8 q=8 t=8 r=8 s=8",
        ),
        (
            "CP",
            "b i j, i r, j r, p r, q r -> b p q",
            4,
            "b=8 i=8 j=8 p=8 q=8 r=8",
            "b=128 i=16 j=32 p=16 q=32 r=32",
        ),
        (
            "Tucker",
            "b i j, i m, j n, m n s t, p s, q t -> b p q",
            5,
            "b=8 i=8 j=8 p=8 q=8 m=4 n=4 s=4 t=4",
            "b=128 i=16 j=32 p=16 q=32 m=8 n=8 s=8 t=8",
        ),
        ("bilinear", "b i, b j, o i j -> b o", 1, "b=8 i=16 j=16 o=16", "b=128 i=64 j=64 o=64"),
        (
            "low-rank bilinear",
            "b i, i r, b j, j r, r o -> b o",
            0,
            "b=8 i=32 j=32 r=8 o=32",
            "b=256 i=256 j=256 r=64 o=256",
        ),
    )
    return tuple(
        case(pattern, sizes, name=f"{name}, {label}", weights=weights)
        for name, pattern, weights, small, medium in table
        for label, sizes in (("small", small), ("medium", medium))
    )


_TRAINING = (
    *_heads(
        (1, 1, 8, 64, 64),
        (2, 2, 64, 16, 16),
        (4, 16, 8, 64, 64),
        (32, 64, 8, 64, 64),
        (8, 512, 12, 64, 64),
        bias="h o",
    ),
    case("b i, o i -> b o", "b=4 i=64 o=64", name="linear, small", weights=1, bias="o"),
    case("b i, o i -> b o", "b=256 i=512 o=512", name="linear, medium", weights=1, bias="o"),
    case(
        "b t i, h o i -> b t h o",
        "b=2 t=16 i=64 h=4 o=16",
        name="one input, h linears, small",
        weights=1,
        bias="h o",
    ),
    case(
        "b t i, h o i -> b t h o",
        "b=8 t=64 i=256 h=8 o=32",
        name="one input, h linears, medium",
        weights=1,
        bias="h o",
    ),
    case(
        "b t c, t s -> b s c", "b=4 t=16 s=16 c=32", name="token mixing, small", weights=1, bias="s"
    ),
    case(
        "b t c, t s -> b s c",
        "b=16 t=64 s=256 c=128",
        name="token mixing, medium",
        weights=1,
        bias="s",
    ),
)

_OVERHEAD = (
    case("b i, o i -> b o", "b=2 i=8 o=8", name="linear", weights=1),
    *_heads((1, 2, 4, 8, 8)),
    case("b t i, h o i -> b t h o", "b=1 t=2 i=8 h=2 o=4", name="one input, h linears", weights=1),
    case("b t h d, b s h d -> b h t s", "b=1 t=4 s=4 h=2 d=8", name="attention scores"),
    case("b i, i r, r o -> b o", "b=2 i=8 r=2 o=8", name="low rank", weights=2),
    case("b i, b i -> b", "b=4 i=8", name="dot products"),
)


def _chain(count: int) -> Case:
    """So many matrices in a row, no two of the same shape."""
    draw = random.Random(count)  # noqa: S311 - a benchmark keeps no secrets
    sizes = {f"a{place}": draw.randint(2, 9) for place in range(count + 1)}
    terms = ", ".join(f"a{place} a{place + 1}" for place in range(count))
    return Case(f"chain of {count}", f"{terms} -> a0 a{count}", sizes)


def suites() -> dict[str, Suite]:
    """All suites by name."""
    attention, factorized = _attention(), _factorized()
    drawn, chemistry = random_cases(), tccg()
    chains = tuple(map(_chain, (10, 100)))
    every = (
        Suite(
            "heads",
            "each head its own linear",
            "forward",
            HEADS,
        ),
        Suite(
            "tccg",
            "the tensor contractions of quantum chemistry",
            "forward",
            chemistry,
        ),
        Suite(
            "tccg-full",
            "the same in full size, up to 140 thousand million multiply-adds",
            "forward",
            tccg(math.inf),
            optional=True,
        ),
        Suite(
            "random",
            "random pairwise contractions",
            "forward",
            drawn,
        ),
        Suite("attention", "scores and values", "forward", attention),
        Suite(
            "known-slow",
            "slow cases reported to PyTorch",
            "forward",
            KNOWN_SLOW,
        ),
        Suite(
            "factorized",
            "three and more operands",
            "forward",
            factorized,
        ),
        Suite(
            "training",
            "forward and backward to input, weight and bias",
            "training",
            _TRAINING,
        ),
        Suite(
            "overhead",
            "what a call costs beside its torch operations",
            "overhead",
            _OVERHEAD,
        ),
        Suite(
            "planning",
            "what the first call of a pattern takes above the second",
            "planning",
            (*HEADS[:4], *attention, *KNOWN_SLOW, *factorized, *drawn, *chemistry, *chains),
        ),
        Suite(
            "start",
            "what a new Python takes",
            "start",
            (replace(HEADS[2], name="explain b w h i, h o i -> b w h o"),),
        ),
        Suite(
            "memory",
            "the most memory a forward or a backward holds",
            "memory",
            (*HEADS[:4], *attention[:6], *factorized, *drawn[:10]),
        ),
        Suite(
            "copies",
            "copies that really run, against those that are declared",
            "copies",
            (*HEADS, *attention, *KNOWN_SLOW, *factorized, *drawn, *chemistry),
        ),
    )
    return {suite.name: suite for suite in every}
