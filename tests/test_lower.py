"""The lowering: every way to compute a contraction is right, and the chosen ones are lean."""

from collections import Counter
from itertools import permutations, repeat
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import einheads
from checks import shapes_of
from einheads.build import Builder
from einheads.candidates import Traits
from einheads.compiled import compile_source
from einheads.layout import in_order
from einheads.lower import drafts, lower
from einheads.operands import layout_of
from einheads.pattern import parse
from einheads.plan import plan
from einheads.sizes import bind
from einheads.source import write
from einheads.steps import (
    Bmm,
    Expand,
    Linear,
    Matmul,
    Multiply,
    Permute,
    Reshape,
    Steps,
    Sum,
    flat,
)
from oracle import oracle

SIZES = {"a": 2, "b": 3, "c": 5, "d": 7, "e": 1}


class Copies(TorchDispatchMode):
    """Count the operations that copy a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in {"clone", "contiguous", "copy_", "_reshape_copy", "_reshape_alias"}:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def steps_of(pattern: str, *shapes: tuple[int, ...], **options: Any) -> Steps:
    """The lowering of a pattern for contiguous operands."""
    bound = bind(parse(pattern), shapes)
    return lower(bound, plan(bound), **options)


def kinds(steps: Steps) -> list[type]:
    """The operations, in order."""
    return [type(step) for step in steps.steps]


def stored(axes: str, order: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A random tensor with axes in one order, that lies in memory in another."""
    shape = [SIZES[axes[place]] for place in order]
    value = torch.randn(shape, generator=generator, dtype=torch.float64)
    return value.permute([order.index(place) for place in range(len(order))])


PAIRS = [
    ("a b c", "c d", "a b d"),
    ("a b c", "b c d", "d a"),
    ("a b c", "a c d", "b d a"),
    ("a b", "a c b", "c b"),
    ("b c", "a b c d", "a d"),
    ("a b c", "a b c", "b"),
    ("a b c", "c a", "b a"),
    ("a b", "c d", "d a c b"),
    ("a e b", "b e c", "a c e"),
    ("a b c", "d c", "a d"),
]


@pytest.mark.parametrize(("left", "right", "output"), PAIRS)
def test_every_draft_is_right(left: str, right: str, output: str) -> None:
    """Whatever the operands' order in memory, each candidate computes the definition."""
    generator = torch.Generator().manual_seed(0)
    pattern = f"{left}, {right} -> {output}"
    names = left.split(), right.split()
    checked = 0
    for first in list(permutations(range(len(names[0]))))[::2]:
        for second in list(permutations(range(len(names[1]))))[::2]:
            x = stored("".join(names[0]), first, generator)
            w = stored("".join(names[1]), second, generator)
            bound = bind(parse(pattern), [x.shape, w.shape])
            layouts = list(map(layout_of, bound.operands, (x, w), repeat(bound)))
            expected = oracle(pattern, x.numpy(), w.numpy())
            for draft in drafts(bound, plan(bound), layouts, Traits(itemsize=8)):
                text = write(draft.steps, ["x", "w"], title=pattern)
                result = compile_source(text, "contract", "<draft>")(x, w)
                np.testing.assert_allclose(result.numpy(), expected, rtol=1e-10, atol=1e-10)
                assert result.shape == expected.shape
                checked += 1
    assert checked >= 1


@pytest.mark.parametrize("pattern", ["a b c, d c -> a b d", "a b c, b d c -> a b d"])
def test_gradients_of_every_draft(pattern: str) -> None:
    """Each candidate has the gradients of the definition."""
    shapes = [[SIZES[name] for name in str(term).split()] for term in parse(pattern).operands]
    bound = bind(parse(pattern), shapes)
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    plain = torch.einsum(pattern.replace(" ", ""), *tensors)
    weights = torch.randn_like(plain)
    expected = torch.autograd.grad((plain * weights).sum(), tensors)
    every = drafts(bound, plan(bound), traits=Traits(itemsize=8))
    assert len(every) > 1
    for draft in every:
        run = compile_source(write(draft.steps, ["x", "w"], title=""), "contract", "<draft>")
        found = torch.autograd.grad((run(*tensors) * weights).sum(), tensors)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


def test_a_plain_linear_is_one_operation() -> None:
    """`nn.Linear`'s pattern is one `F.linear`, with the bias inside."""
    assert kinds(steps_of("b t i, o i -> b t o", (2, 3, 5), (7, 5))) == [Linear]
    fused = steps_of("b t i, o i -> b t o", (2, 3, 5), (7, 5), bias=("o",))
    assert kinds(fused) == [Linear]
    assert fused.steps[0].bias == 2  # type: ignore[union-attr]


def test_a_weight_stored_the_other_way_is_one_matmul() -> None:
    """Input axes first need no transposition either."""
    assert kinds(steps_of("b t i, i o -> b t o", (2, 3, 5), (5, 7))) == [Matmul]


def test_nothing_contracted_is_a_multiply() -> None:
    """Outer and elementwise products are no matrix products."""
    assert kinds(steps_of("a b, a b -> a b", (2, 3), (2, 3))) == [Multiply]
    assert Bmm not in kinds(steps_of("a, b -> a b", (2,), (3,)))


def test_rows_of_dot_products_are_multiplied_and_summed() -> None:
    """No left and no right axes: 1x1 matrices would be the alternative."""
    assert kinds(steps_of("a b, a b -> a", (2, 3), (2, 3))) == [Multiply, Sum]
    # Under autocast only matrix products are cast, so there it stays one.
    assert Bmm in kinds(steps_of("a b, a b -> a", (2, 3), (2, 3), traits=Traits(autocast=True)))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "pattern", ["a b, a b -> a", "a b, a b ->", "a b, b -> a", "a c, b c -> a b"]
)
def test_narrow_floats_are_added_up_by_a_matrix_product(pattern: str, device: str) -> None:
    """Products rounded to two bytes would be summed otherwise, or overflow."""
    sizes, parsed = {"a": 2, "b": 3, "c": 5}, parse(pattern)
    bound = bind(parsed, [[sizes[name] for name in term.names] for term in parsed.operands])
    half = Traits(device=device, itemsize=2)
    for draft in drafts(bound, plan(bound), traits=half):
        assert Sum not in kinds(draft.steps)
    # Integers of two bytes are summed as they are.
    whole = Traits(device=device, itemsize=2, integer=True)
    assert lower(bound, plan(bound), traits=whole).steps


def test_lonely_axes_are_summed_first() -> None:
    """An axis of one operand only is gone before anything is multiplied."""
    assert kinds(steps_of("a b, c b -> c", (2, 3), (5, 3)))[0] is Sum


def test_unit_axes_add_no_copy() -> None:
    """A `1` in the pattern costs at most a view."""
    steps = steps_of("b 1 i, o i 1 -> 1 b o", (20, 1, 50), (70, 50, 1))
    assert steps.copies == ()
    assert set(kinds(steps)) <= {Reshape, Permute, Linear, Matmul}


@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize(
    "pattern", ["a b, b c -> a c", "b i t, b o t -> i o", "b h t i, b h t o -> h i o"]
)
def test_integers_off_the_cpu_use_no_matrix_product(device: str, pattern: str) -> None:
    """Integer matrix products exist on the CPU only."""
    sizes = {"a": 2, "c": 5, "b": 16, "h": 3, "i": 61, "o": 67, "t": 131}
    shapes = shapes_of(pattern, sizes)
    used = set(kinds(steps_of(pattern, *shapes, traits=Traits(device=device, integer=True))))
    assert not used & {Bmm, Matmul, Linear}


@pytest.mark.parametrize("vector", ["right", "left"])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_vector_at_a_distance_is_copied_for_a_large_matrix(vector: str, layers: int) -> None:
    """BLAS with AVX-512 reads it again for each row; what is small is not worth a copy."""
    for rows, summed, copies in ((307, 211, True), (31, 29, False)):
        shape = (rows, summed) if layers == 1 else (layers, rows, summed)
        matrix, apart = torch.randn(shape), torch.randn(summed, 7)[:, 3]
        left = "o i" if layers == 1 else "b o i"
        pattern, tensors = f"{left}, i -> {left[:-2]}", (matrix, apart)
        if vector == "left":
            pattern, tensors = f"i, {left} -> {left[:-2]}", (apart, matrix)
        bound = bind(parse(pattern), [tensor.shape for tensor in tensors])
        layouts = list(map(layout_of, bound.operands, tensors, repeat(bound)))
        expected = oracle(pattern, *(tensor.double().numpy() for tensor in tensors))
        chosen = lower(bound, plan(bound), layouts)
        assert bool(chosen.copies) is copies
        both = [draft.steps for draft in drafts(bound, plan(bound), layouts)]
        assert {len(steps.copies) for steps in both if Bmm not in kinds(steps)} >= {0, 1}
        for steps in both:
            text = write(steps, ["x1", "x2"], title=pattern)
            result = compile_source(text, "contract", "<vector>")(*tensors)
            np.testing.assert_allclose(result.numpy(), expected, rtol=1e-3, atol=1e-3)


def test_a_missing_axis_is_looped_at_stride_zero() -> None:
    """`j k, i j k l -> i l` (pytorch#57121) loops i and copies nothing."""
    steps = steps_of("j k, i j k l -> i l", (32, 32), (64, 32, 32, 64))
    assert Expand in kinds(steps)
    assert steps.copies == ()


def test_what_is_repeated_and_copied_is_copied_in_order_before() -> None:
    """A batch of which an operand lacks some axes is gathered once, and then repeated in runs."""
    stored, axes = (("c",), ("a",), ("b",)), ("a", "e", "b", "c")
    for sizes, last, copies in (
        # The innermost axis would be read at a distance, five times over.
        ({"a": 23, "b": 11, "c": 13, "e": 5}, ("b", "c"), [("a", "b", "c"), axes]),
        # It is the one that lies innermost: runs of it are moved at once.
        ({"a": 23, "b": 11, "c": 13, "e": 5}, ("c", "b"), [("a", "e", "c", "b")]),
        # Another call would take longer than all of it.
        ({"a": 3, "b": 11, "c": 13, "e": 5}, ("b", "c"), [axes]),
    ):
        build = Builder((stored,), sizes, known={0: in_order(stored, sizes)})
        target = (("a", "e"), *((name,) for name in last))
        result = build.arrange(0, target)
        steps = Steps(build.inputs, tuple(build.steps), result, ("e",))
        assert [flat(steps.dims(number)) for number in steps.copies] == copies
        tensor = torch.randn(*(sizes[name] for name in "cab"))
        text = write(steps, ("x",), title="a copy")
        done = compile_source(text, "contract", "<copied before>")(tensor, sizes["e"])
        pattern = f"c a b, e -> (a e) {' '.join(last)}"
        ones = np.ones(sizes["e"])
        np.testing.assert_array_equal(done.numpy(), oracle(pattern, tensor.numpy(), ones))


def test_a_copy_has_to_pay_for_itself() -> None:
    """`d b e a, e c -> a b c d` loops d and b at stride zero, unless the matrices are tiny."""
    large = steps_of("d b e a, e c -> a b c d", (24, 24, 64, 48), (64, 22))
    assert large.copies == ()
    small = steps_of("d b e a, e c -> a b c d", (14, 5, 15, 2), (15, 4))
    assert small.copies != ()


FREE = [
    "b w h i, h o i -> b w h o",
    "b t i, h o i -> b t h o",
    "b t (h i), h o i -> b t (h o)",
    "j k, i j k l -> i l",
    "b t c, t s -> b s c",
    "b i, j i k, k o -> b j o",
    "b d a, d c -> a b c",
    "b h t d, b h s d -> b h t s",
    "b i, i r, r o -> b o",
    "b (k p), k p q, q k s -> b q s",
    "b i, j i -> b j",
    "b c t, o c -> b o t",
]


@pytest.mark.parametrize("pattern", FREE)
def test_what_can_be_free_is_free(pattern: str) -> None:
    """Where a lowering without copies exists, none is declared and none happens."""
    lengths = (12, 14, 16, 24, 18, 22, 24, 20, 26, 16, 12, 28, 30, 8, 32, 34, 36)
    sizes = dict(zip("bwhiotjklcsdeapqr", lengths, strict=True))
    tensors = []
    for term in parse(pattern).operands:
        shape = [
            int(np.prod([sizes[name] for name in dim]))
            for dim in [str(item).strip("()").split() for item in term.items]
        ]
        tensors.append(torch.randn(shape))
    given = {name: sizes[name] for name in ("h", "k") if f"({name} " in pattern}
    einheads.einsum(pattern, *tensors, **given)
    with Copies() as copies:
        result = einheads.einsum(pattern, *tensors, **given)
    assert einheads.explain(pattern, *tensors, **given).bytes_copied == 0
    # The result of a composite output is the one thing that may have to be laid out anew.
    assert not copies.seen, copies.seen
    expected = oracle(pattern, *(tensor.double().numpy() for tensor in tensors), **given)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-3, atol=1e-4)


def test_the_counter_sees_a_copy() -> None:
    """The count above can fail."""
    with Copies() as copies:
        torch.randn(3, 4).t().reshape(12)
    assert copies.seen


def test_a_result_is_born_in_the_layout_that_the_next_step_wants() -> None:
    """Monarch's first product is transposed, so that the second one reads it without a copy."""
    steps = steps_of("b (k p), k p q, q k s -> b (q s)", (64, 32), (4, 8, 8), (8, 4, 16))
    assert len([number for number in steps.copies if number < steps.result]) == 0
