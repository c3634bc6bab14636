"""The table of patterns that the tests of values share, and how a result is compared.

Each case has a readable name, a pattern, the shapes of its operands and the sizes that shapes
cannot tell. Sizes are different primes wherever the pattern lets them, so that no swapped axis and
no forgotten sum can hide; values are random and seeded by the name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from oracle import Array, oracle


@dataclass(frozen=True)
class Case:
    """A pattern with everything that a call of it needs, except the values."""

    name: str  # the id of the test
    pattern: str
    shapes: tuple[tuple[int, ...], ...]
    sizes: dict[str, int]  # keyword arguments of the call

    def tensors(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
        """Random operands; integers are small enough that no sum of a case leaves int8."""
        generator = torch.Generator().manual_seed(crc32(self.name.encode()) + seed)
        if dtype.is_floating_point or dtype.is_complex:
            # Drawn in double precision, so that a case has the same values in every dtype.
            wide = torch.complex128 if dtype.is_complex else torch.float64
            return [
                torch.randn(shape, generator=generator, dtype=wide).to(dtype)
                for shape in self.shapes
            ]
        most = 2 if len(self.shapes) < 4 else 1
        return [
            torch.randint(-most, most + 1, shape, generator=generator, dtype=dtype)
            for shape in self.shapes
        ]

    @property
    def entries(self) -> int:
        """How many numbers the operands hold in all."""
        return sum(prod(shape) for shape in self.shapes)

    def expected(self, tensors: Sequence[Tensor]) -> Array:
        """What the definition gives for these operands."""
        return oracle(self.pattern, *map(as_numpy, tensors), **self.sizes)

    def scale(self, tensors: Sequence[Tensor]) -> Array:
        """The sum of the absolute products, to which rounding errors are proportional."""
        return oracle(self.pattern, *(np.abs(as_numpy(x)) for x in tensors), **self.sizes)

    def check(self, result: Tensor, tensors: Sequence[Tensor]) -> None:
        """Assert that a result has the dtype of its operands and the values of the definition."""
        dtype = tensors[0].dtype
        about = f"{self.pattern} in {dtype}, strides {[x.stride() for x in tensors]}"
        assert result.dtype == dtype, about
        ulps = 4 * len(tensors) + 4
        assert_agrees(result, self.expected(tensors), self.scale(tensors), ulps, about)

    def check_call(self, function: Callable[..., Tensor], tensors: Sequence[Tensor]) -> None:
        """Call a function as the case says and check what it gives."""
        self.check(function(self.pattern, *tensors, **self.sizes), tensors)


def as_numpy(tensor: Tensor) -> Array:
    """The values of a tensor in double precision; numpy has no bfloat16."""
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    array: Array = tensor.detach().to(wide).resolve_conj().resolve_neg().numpy()
    return array


def assert_agrees(
    actual: Tensor, expected: Array, scale: Any = 1.0, ulps: float = 16, about: str = ""
) -> None:
    """Assert equal shapes, and values within `ulps` roundings of the scale; integers exactly."""
    assert tuple(actual.shape) == expected.shape, about
    difference = np.abs(as_numpy(actual) - expected)
    if actual.dtype.is_floating_point or actual.dtype.is_complex:
        limits = torch.finfo(actual.dtype)
        # Long products of small numbers leave the range of half precision at the lower end.
        floor = ulps * limits.smallest_normal
        allowed = ulps * limits.eps * np.broadcast_to(scale, expected.shape) + floor
    else:
        allowed = np.zeros(expected.shape)
    excess = difference > allowed
    wrong = f"{excess.sum()} of {excess.size} differ, by {difference.max(initial=0):.3g}; {about}"
    assert not excess.any(), wrong
    assert not np.isnan(difference).any(), f"not a number; {about}"


def case(name: str, pattern: str, *shapes: tuple[int, ...], **sizes: int) -> Case:
    """Write a case as it would be called."""
    return Case(name, pattern, shapes, sizes)


def chain_of(links: int, length: int) -> Case:
    """A product of many matrices, `a0 a1, a1 a2, ... -> a0 aN`: more axes than letters."""
    pairs = [(f"axis{k}", f"axis{k + 1}") for k in range(links)]
    left = ", ".join(f"{a} {b}" for a, b in pairs)
    # Every sixth axis is longer than 1, so that the definition itself stays computable.
    size = {f"axis{k}": length if k % 6 == 0 else 1 for k in range(links + 1)}
    shapes = [(size[a], size[b]) for a, b in pairs]
    return case(f"chain of {links}", f"{left} -> axis0 axis{links}", *shapes)


def star_of(rays: int) -> Case:
    """Many vectors times one hub, where every ray has an axis of its own that survives."""
    left = ", ".join(f"hub ray_{k}" for k in range(rays))
    right = " ".join(f"ray_{k}" for k in range(rays))
    shapes = [(5, 3 if k in (2, 17) else 2 if k == 40 else 1) for k in range(rays)]
    return case(f"star of {rays}", f"{left} -> {right}", *shapes)


CASES: tuple[Case, ...] = (
    # One operand: views, sums, diagonals.
    case("identity", "a b -> a b", (2, 3)),
    case("transpose", "a b -> b a", (2, 3)),
    case("permute four", "a b c d -> c a d b", (2, 3, 5, 7)),
    case("sum one", "a b c -> a c", (2, 3, 5)),
    case("sum outer two", "a b c -> b", (2, 3, 5)),
    case("sum all", "a b c ->", (2, 3, 5)),
    case("sum and permute", "a b c d -> d b", (2, 3, 5, 7)),
    case("diagonal", "a a -> a", (3, 3)),
    case("trace", "a a ->", (3, 3)),
    case("diagonal of three", "a a a -> a", (3, 3, 3)),
    case("trace of three", "a a a ->", (3, 3, 3)),
    case("diagonal around", "a b a -> b a", (3, 5, 3)),
    case("two diagonals", "a b a b -> b a", (3, 5, 3, 5)),
    case("diagonal and sum", "a b a c -> c a", (3, 5, 3, 2)),
    case("partial traces", "a b c a b -> c", (3, 5, 2, 3, 5)),
    case("repeat", "a -> a n", (3,), n=5),
    case("repeat in front", "a b -> n b a", (2, 3), n=5),
    case("repeat a sum", "a b -> n", (2, 3), n=5),
    case("repeat twice", "a -> n a m", (3,), n=2, m=5),
    # Scalars.
    case("scalar", "->", ()),
    case("scalar repeated", "-> n", (), n=3),
    case("scalar times scalar", ", ->", (), ()),
    case("scalar times matrix", ", a b -> b a", (), (2, 3)),
    case("matrix times scalars", "a b, , -> a b", (2, 3), (), ()),
    case("scalar sums matrix", ", a b ->", (), (2, 3)),
    # Two operands: vectors.
    case("dot", "i, i ->", (7,), (7,)),
    case("dot of matrices", "i j, i j ->", (2, 3), (2, 3)),
    case("dot of matrices transposed", "i j, j i ->", (2, 3), (3, 2)),
    case("outer", "i, j -> i j", (2,), (3,)),
    case("outer swapped", "i, j -> j i", (2,), (3,)),
    case("outer of matrices", "i j, k l -> k i l j", (2, 3), (5, 7)),
    case("elementwise", "i j, i j -> i j", (2, 3), (2, 3)),
    case("elementwise transposed", "i j, j i -> j i", (2, 3), (3, 2)),
    case("scale rows", "i j, i -> i j", (2, 3), (2,)),
    case("scale columns", "i j, j -> j i", (2, 3), (3,)),
    case("batched outer", "b i, b j -> b i j", (2, 3), (2, 5)),
    case("batched outer swapped", "b i, b j -> j b i", (2, 3), (2, 5)),
    case("batched dot", "b i, b i -> b", (2, 7), (2, 7)),
    case("batched dot inner batch", "i b, b i -> b", (7, 2), (2, 7)),
    case("matrix vector", "i j, j -> i", (2, 3), (3,)),
    case("vector matrix", "i, i j -> j", (2,), (2, 3)),
    case("many matrices one vector", "b i j, j -> b i", (2, 3, 5), (5,)),
    case("one vector many matrices", "j, i b j -> b i", (5,), (3, 2, 5)),
    # Two operands: every transpose of a matrix product.
    case("matmul nn", "i j, j k -> i k", (2, 3), (3, 5)),
    case("matmul nt", "i j, k j -> i k", (2, 3), (5, 3)),
    case("matmul tn", "j i, j k -> i k", (3, 2), (3, 5)),
    case("matmul tt", "j i, k j -> i k", (3, 2), (5, 3)),
    case("matmul nn out t", "i j, j k -> k i", (2, 3), (3, 5)),
    case("matmul nt out t", "i j, k j -> k i", (2, 3), (5, 3)),
    case("matmul tn out t", "j i, j k -> k i", (3, 2), (3, 5)),
    case("matmul tt out t", "j i, k j -> k i", (3, 2), (5, 3)),
    # Two operands: batches of matrix products.
    case("bmm", "b i j, b j k -> b i k", (2, 3, 5), (2, 5, 7)),
    case("bmm batch last", "i j b, j k b -> i k b", (3, 5, 2), (5, 7, 2)),
    case("bmm batch inside", "i b j, j b k -> k b i", (3, 2, 5), (5, 2, 7)),
    case("bmm batch mixed", "b i j, j k b -> i b k", (2, 3, 5), (5, 7, 2)),
    case("bmm two batches", "a b i j, b a j k -> a b i k", (2, 3, 5, 7), (3, 2, 7, 11)),
    case("bmm two batches apart", "a i b j, j b k a -> b i k a", (2, 5, 3, 7), (7, 3, 11, 2)),
    case("two contracted", "i j k, j k l -> i l", (2, 3, 5), (3, 5, 7)),
    case("two contracted crossed", "i j k, k j l -> i l", (2, 3, 5), (5, 3, 7)),
    case("two contracted apart", "j i k, k l j -> l i", (3, 2, 5), (5, 7, 3)),
    case("three left two right", "a b j c, d j e -> a d b e c", (2, 3, 5, 7), (2, 5, 3)),
    case("attention scores", "b t h d, b s h d -> b h t s", (2, 5, 3, 7), (2, 11, 3, 7)),
    case("attention values", "b h t s, b s h d -> b t h d", (2, 3, 5, 11), (2, 11, 3, 7)),
    case("grouped queries", "b t k g d, b s k d -> b k g t s", (2, 5, 3, 2, 7), (2, 11, 3, 7)),
    # Sums in one operand beside a contraction.
    case("sum left", "i j s, j k -> i k", (2, 3, 5), (3, 7)),
    case("sum right", "i j, s j k -> i k", (2, 3), (5, 3, 7)),
    case("sum both", "s i j, j t k -> k i", (5, 2, 3), (3, 11, 7)),
    case("sum of an outer product", "i s, j t -> j i", (2, 5), (3, 7)),
    case("sum everything apart", "i, j ->", (2,), (3,)),
    case("sum beside elementwise", "i s, i -> i", (2, 5), (2,)),
    # Linear layers in their many spellings, and the question that began the library.
    case("linear", "b i, o i -> b o", (2, 3), (5, 3)),
    case("linear in two batches", "b t i, o i -> b t o", (2, 3, 5), (7, 5)),
    case("heads of one input", "b w i, h o i -> b w h o", (2, 3, 5), (7, 11, 5)),
    case("heads each their own", "b w h i, h o i -> b w h o", (2, 3, 5, 7), (5, 11, 7)),
    case("heads stored in by out", "b w h i, h i o -> b w h o", (2, 3, 5, 7), (5, 7, 11)),
    case("heads merged", "b t h d, h d m -> b t m", (2, 3, 5, 7), (5, 7, 11)),
    case("query key value", "b t i, s h i d -> s b h t d", (2, 5, 3), (3, 2, 3, 7)),
    case("per sample weights", "b t i, b i o -> b t o", (2, 3, 5), (2, 5, 7)),
    case("talking heads", "b h i j, h k -> b k i j", (2, 3, 5, 7), (3, 11)),
    # Lowerings that have a better answer than permute, fold and bmm.
    case("vector through a tensor", "j k, i j k l -> i l", (3, 5), (2, 3, 5, 7)),
    case("tccg d b e a", "d b e a, e c -> a b c d", (2, 3, 5, 7), (5, 11)),
    case("tccg d e c a", "d e c a, b e -> a b c d", (2, 5, 3, 7), (11, 5)),
    case("tccg b d a", "b d a, d c -> a b c", (3, 5, 2), (5, 7)),
    case("tccg e c b f a", "e c b f a, f d -> a b c d e", (2, 3, 5, 7, 2), (7, 3)),
    case("tccg f d", "f d, e c b f a -> a b c d e", (7, 3), (2, 3, 5, 7, 2)),
    case("token mixing", "b t c, t s -> b s c", (2, 5, 3), (5, 7)),
    case("token mixing per channel", "b t c, c t s -> b s c", (2, 5, 3), (3, 5, 7)),
    case("middle of four", "b h i w, h o i -> b h o w", (2, 3, 5, 7), (3, 11, 5)),
    case("tiny kept axes", "a c, a b c -> c b", (2, 7), (2, 3, 7)),
    # Ellipsis: where it stands, what is under it, what becomes of it.
    case("dots in front", "... i, o i -> ... o", (2, 3, 5), (7, 5)),
    case("dots empty", "... i, o i -> ... o", (5,), (7, 5)),
    case("dots of four", "... i, h o i -> ... h o", (2, 3, 2, 3, 5), (2, 7, 5)),
    case("dots in the middle", "b ... i, i o -> b ... o", (2, 3, 7, 5), (5, 11)),
    case("dots at the end", "i ..., i o -> o ...", (5, 2, 3), (5, 7)),
    case("dots moved to the end", "... i, o i -> o ...", (2, 3, 5), (7, 5)),
    case("dots moved inside", "... a b -> a ... b", (2, 3, 5, 7)),
    case("dots of a weight", "b i, ... i o -> ... b o", (2, 3), (5, 7, 3, 11)),
    case("dots in both", "... i j, ... j k -> ... i k", (2, 3, 5, 7), (2, 3, 7, 11)),
    case("dots broadcast", "... i j, ... j k -> ... i k", (2, 1, 5, 7), (3, 7, 11)),
    case("dots broadcast both ways", "... i, ... i -> ...", (2, 1, 5), (1, 3, 5)),
    case("dots broadcast elementwise", "... i, ... i -> i ...", (2, 1, 3, 5), (7, 1, 5)),
    case("dots broadcast outer", "... i, ... j -> ... i j", (2, 1, 5), (3, 7)),
    case("dots at two places", "... i, i ... -> ...", (2, 3, 5), (5, 3)),
    case("dots of three", "... i, ... i, ... -> ...", (2, 1, 5), (3, 5), (2, 1)),
    case("dots all alone", "..., ... -> ...", (2, 3), (5, 1, 3)),
    case("dots summed", "... i, i o -> o", (2, 3, 5), (5, 7)),
    case("dots summed in one", "... i -> i", (2, 3, 5)),
    case("dots summed over broadcast", "... i, ... i -> i", (2, 1, 5), (3, 5)),
    case("dots summed with diagonal", "... a a -> a", (2, 3, 5, 5)),
    case("dots all of size one", "... i, ... i o -> ... o", (1, 3), (1, 1, 3, 5)),
    case("dots kept by one of two", "... h i, h i o -> ... h o", (2, 3, 5, 7), (5, 7, 11)),
    case("dots and composite", "... (h i), h o i -> ... (h o)", (2, 3, 35), (5, 11, 7)),
    case("dots and a diagonal", "... a a, a ... -> ... a", (2, 3, 3), (3, 5, 1)),
    case("dots with nothing under them", "a ... b, b ... -> ... a", (2, 3), (3,)),
    # Composite axes: on an input, a weight, the output.
    case("composite input", "b t (h d), h d o -> b t h o", (2, 3, 35), (5, 7, 11)),
    case("composite given", "b (h d) -> h b d", (2, 15), h=5),
    case("composite given other", "b (h d) -> b d h", (2, 15), d=5),
    case("composite given both", "(h d) b -> b d h", (15, 2), h=3, d=5),
    case("composite weight", "b h d, (h d) o -> b o", (2, 3, 5), (15, 7)),
    case("composite weight out", "b i, i (h d) -> b h d", (2, 3), (3, 35), h=5),
    case("composite output", "b h i, h i o -> b (h o)", (2, 3, 5), (3, 5, 7)),
    case("composite output swapped", "b h i, h i o -> (o b) h", (2, 3, 5), (3, 5, 7)),
    case("composite everywhere", "b (h i), (h i) (g o) -> (g b) o", (2, 15), (15, 14), g=7, i=5),
    case("composite of three", "(a b c) i, i -> c a b", (30, 7), (7,), a=2, b=3),
    case("composite solved late", "(a b) i, (b c) i, c -> a b", (6, 5), (21, 5), (7,)),
    case("composite equal in both", "(a b) i, (a b) i -> a b", (6, 5), (6, 5), a=2),
    case("composite regrouped", "(a b) c -> a (b c)", (6, 5), a=2),
    case("composite reversed", "(a b) -> (b a)", (6,), a=2),
    case("composite summed", "b (h d) -> b h", (2, 15), h=3),
    case("composite diagonal", "(h d) h -> d h", (15, 3)),
    case("composite of one", "(a) b, b (c) -> (a) (c)", (2, 3), (3, 5)),
    case("composite with unit size", "b (h i), h i o -> b (h o)", (2, 5), (1, 5, 7)),
    case("composite with a repeat", "b i -> b (n i)", (2, 3), n=5),
    case("patches", "b c (h p) (w q), c p q d -> b (h w) d", (2, 3, 10, 21), (3, 2, 3, 7)),
    case("per head token mixing", "b t (h d), h t s -> b s (h d)", (2, 5, 21), (3, 5, 11)),
    # Unit axes on both sides.
    case("unit left", "a 1 b -> b a", (2, 1, 3)),
    case("unit right", "a b -> b 1 a", (2, 3)),
    case("unit both", "1 a, a 1 b -> 1 b 1", (1, 3), (3, 1, 5)),
    case("units only", "1 1 -> 1", (1, 1)),
    case("units of a scalar", "-> 1 1", ()),
    case("units in a product", "b 1 i, i o 1 -> b o 1", (2, 1, 3), (3, 5, 1)),
    case("units for broadcasting", "b t c, 1 c -> b t c", (2, 3, 5), (1, 5)),
    case("unit and dots", "... 1 i, i o -> ... o 1", (2, 3, 1, 5), (5, 7)),
    # Diagonals beside contractions.
    case("diagonal weight", "b i, i i -> b i", (2, 3), (3, 3)),
    case("diagonal batch", "b b i, i o -> b o", (2, 2, 3), (3, 5)),
    case("diagonal contracted", "i i, i j -> j", (3, 3), (3, 5)),
    case("diagonal contracted three", "i i i b, j i -> b j", (3, 3, 3, 2), (5, 3)),
    case("diagonal in both", "b i b, i b i -> b i", (2, 3, 2), (3, 2, 3)),
    case("diagonal times matrix", "a a b, c b -> c a", (3, 3, 2), (5, 2)),
    case("trace times vector", "a a, i -> i", (3, 3), (5,)),
    case("trace of a product", "i j, j i ->", (2, 3), (3, 2)),
    # Axes that only the output has.
    case("repeat a product", "i j, j k -> i n k", (2, 3), (3, 5), n=7),
    case("repeat a dot", "i, i -> n", (3,), (3,), n=5),
    case("repeat beside dots", "... i, i o -> ... n o", (2, 3), (3, 5), n=7),
    case("repeat in a composite", "... i, i o -> ... (o n)", (2, 3), (3, 5), n=7),
    # Sizes 0 and 1.
    case("nothing contracted away", "i j, j k -> i k", (2, 0), (0, 5)),
    case("nothing in the batch", "b i j, b j k -> b i k", (0, 3, 5), (0, 5, 7)),
    case("no rows", "i j, j k -> i k", (0, 3), (3, 5)),
    case("no columns", "b i, h o i -> b h o", (2, 3), (5, 0, 3)),
    case("no dot", "i, i ->", (0,), (0,)),
    case("sum of nothing", "a b -> a", (2, 0)),
    case("nothing elementwise", "a b, b -> b a", (0, 3), (3,)),
    case("nothing repeated", "a -> a n", (3,), n=0),
    case("nothing under dots", "... i, i o -> ... o", (0, 2, 3), (3, 5)),
    case("nothing in three", "b i, i r, r o -> b o", (2, 3), (3, 0), (0, 5)),
    case("nothing in a composite", "b (h i), h i o -> b (h o)", (0, 15), (3, 5, 7)),
    case("ones everywhere", "b i, h o i -> b h o", (1, 1), (1, 1, 1)),
    case("one in the batch", "b i j, b j k -> b i k", (1, 3, 5), (1, 5, 7)),
    case("one contracted", "i j, j k -> i k", (2, 1), (1, 5)),
    case("one row", "i j, j k -> i k", (1, 3), (3, 5)),
    case("one column", "i j, j k -> k i", (2, 3), (3, 1)),
    # Three and more operands.
    case("low rank", "b i, i r, r o -> b o", (2, 5), (5, 3), (3, 7)),
    case("low rank per head", "b h i, h i r, h r o -> b h o", (2, 3, 5), (3, 5, 2), (3, 2, 7)),
    case("monarch", "b (k p), k p q, q k s -> b (q s)", (2, 15), (3, 5, 7), (7, 3, 2)),
    case(
        "block tensor train",
        "... (k p), k p q r, q k r s -> ... (q s)",
        (2, 15),
        (3, 5, 7, 2),
        (7, 3, 2, 5),
    ),
    case(
        "tensor train",
        "... (i1 i2 i3), i1 o1 r1, r1 i2 o2 r2, r2 i3 o3 -> ... (o1 o2 o3)",
        (3, 30),
        (2, 3, 2),
        (2, 3, 2, 3),
        (3, 5, 2),
    ),
    case(
        "canonical polyadic",
        "... (i1 i2), i1 r, i2 r, o1 r, o2 r -> ... (o1 o2)",
        (7, 6),
        (2, 5),
        (3, 5),
        (3, 5),
        (2, 5),
    ),
    case(
        "tucker",
        "... (i1 i2), i1 p, i2 q, p q s t, o1 s, o2 t -> ... (o1 o2)",
        (5, 6),
        (2, 3),
        (3, 2),
        (3, 2, 2, 3),
        (5, 2),
        (2, 3),
    ),
    case(
        "tensor ring",
        "... (i1 i2), p i1 q, q i2 s, s o1 t, t o2 p -> ... (o1 o2)",
        (5, 6),
        (2, 2, 3),
        (3, 3, 2),
        (2, 5, 3),
        (3, 2, 2),
    ),
    case("batch ensemble", "e b i, e i, i o, e o -> e b o", (2, 3, 5), (2, 5), (5, 7), (2, 7)),
    case("kronecker", "... (i1 i2), i1 o1, i2 o2 -> ... (o1 o2)", (7, 6), (2, 5), (3, 2)),
    case("bilinear", "b i, b j, o i j -> b o", (2, 3), (2, 5), (7, 3, 5)),
    case(
        "low rank bilinear",
        "b i, b j, i r, j r, r o -> b o",
        (2, 3),
        (2, 5),
        (3, 7),
        (5, 7),
        (7, 2),
    ),
    case("biaffine", "b h i, i l j, b d j -> b l h d", (2, 3, 5), (5, 7, 2), (2, 11, 2)),
    case(
        "outer product mean",
        "b s i c, b s j d, c d z -> b i j z",
        (2, 3, 2, 5),
        (2, 3, 3, 2),
        (5, 2, 7),
    ),
    case("hyper linear", "b t i, b z, z i o -> b t o", (2, 3, 5), (2, 7), (7, 5, 2)),
    case("gated experts", "b t i, e i o, b t e -> b t o", (2, 3, 5), (7, 5, 2), (2, 3, 7)),
    case("batch in three", "b i, b i, b i -> b i", (2, 3), (2, 3), (2, 3)),
    case("contract in three", "b i, b i, b i -> b", (2, 3), (2, 3), (2, 3)),
    case("one axis in three", "i, i, i ->", (7,), (7,), (7,)),
    case("outer of three", "i, j, k -> k i j", (2,), (3,), (5,)),
    case("triangle", "i j, j k, k i ->", (2, 3), (3, 5), (5, 2)),
    case("disconnected pairs", "i j, k l, j i, l k ->", (2, 3), (5, 7), (3, 2), (7, 5)),
    case("three with a diagonal", "b i i, i o, o o -> b o", (2, 3, 3), (3, 5), (5, 5)),
    case("three with a sum", "b i s, i r, r o t -> b o", (2, 3, 5), (3, 2), (2, 7, 3)),
    case("three with a repeat", "b i, i r, r o -> n o b", (2, 3), (3, 5), (5, 7), n=2),
    case("three with units", "b 1 i, i r 1, 1 r o -> o 1 b", (2, 1, 3), (3, 5, 1), (1, 5, 7)),
    case(
        "six in a row",
        "a b, b c, c d, d e, e f, f g -> a g",
        (2, 3),
        (3, 5),
        (5, 2),
        (2, 3),
        (3, 5),
        (5, 7),
    ),
    # Many axes, and names of every kind.
    chain_of(29, 2),
    chain_of(60, 3),
    star_of(60),
    case(
        "many axes in one operand",
        " ".join(f"x{k}" for k in range(20))
        + " -> "
        + " ".join(f"x{k}" for k in reversed(range(20))),
        tuple(3 if k == 4 else 5 if k == 11 else 2 if k == 18 else 1 for k in range(20)),
    ),
    case("long names", "batch head_in, head_out head_in -> head_out batch", (2, 3), (5, 3)),
    case("digits and underscores", "b_1 x2, x2 y_3z -> b_1 y_3z", (2, 3), (3, 5)),
    case("capitals differ", "a A, A b -> b a", (2, 3), (3, 5)),
    case("unicode names", "größe 時間, 時間 η -> η größe", (2, 3), (3, 5)),
    case("unicode composite", "größe (η 時間) -> 時間 größe η", (2, 15), η=3),
    case("names of a program", "torch x0, x0 shape -> shape torch", (2, 3), (3, 5)),
    case("names of a call", "tensors (sizes out), sizes -> out tensors", (2, 15), (3,), out=5),
    case("keywords of python", "if for, for lambda -> lambda if", (2, 3), (3, 5)),
)
"""Every case; names are unique."""

NAMES = [example.name for example in CASES]
BY_NAME = {example.name: example for example in CASES}
