"""Programs for known shapes and strides: what they compute, what they leave out, when they run."""

import inspect
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import einheads
from cases import Case
from einheads.call import _BRIEF
from einheads.operands import Declaration
from einheads.program import Program, cache, prepare
from strategies import random_cases

HEADS = "b w h i, h o i -> b w h o"


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Begin with an empty cache."""
    einheads.cache_clear()


class Counted(TorchDispatchMode):
    """Counts views, and all other operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.views = 0
        self.others: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.is_view or "view" in function.name():
            self.views += 1
        else:
            self.others[function.name()] += 1
        return function(*args, **(kwargs or {}))


def program_of(case: Case, tensors: Sequence[Tensor]) -> tuple[Program, tuple[int, ...]]:
    """The program that a call runs, and the sizes that it takes."""
    prepared = prepare(Declaration(case.pattern), tuple(case.sizes.items()), tensors)
    return prepared.lowered.unwatched, prepared.extra


def shuffled(tensor: Tensor, source: random.Random) -> Tensor:
    """The same numbers in another order of memory, behind others; perhaps some are repeated."""
    order = list(range(tensor.dim()))
    source.shuffle(order)
    back = sorted(range(tensor.dim()), key=order.__getitem__)
    moved = torch.cat([tensor.new_zeros(3), tensor.permute(order).flatten()])[3:]
    moved = moved.view([tensor.shape[place] for place in order]).permute(back)
    if moved.dim() and moved.shape[0] and source.random() < 0.2:
        moved = moved[:1].expand(moved.shape)
    return moved


def recent(pattern: str) -> Callable[..., Tensor] | None:
    """What the next call like the last one runs, if a guard finds it."""
    for (declaration, _, _), calls in cache.recent.calls.items():
        if declaration == pattern:
            return calls[0][2]
    return None


def by_strides(pattern: str) -> bool:
    """Whether that is a program for known strides."""
    run = recent(pattern)
    assert run is not None
    return "as_strided" in inspect.getsource(run)


CASES = random_cases(250, seed=11)


class TestValues:
    """The same as the program, from fewer views."""

    @pytest.mark.parametrize("number", range(len(CASES)))
    def test_random_patterns(self, number: int) -> None:
        """Of any order of memory, for other numbers of the same strides, and at other offsets."""
        case, source = CASES[number], random.Random(number)
        first = [shuffled(one, source) for one in case.tensors()]
        program, extra = program_of(case, first)
        run = program.by_strides(first, extra)
        if run is None:
            assert program.exact is None  # there is nothing to save
            return
        for offset in (0, 5):
            others = [
                torch.randn(offset + one.untyped_storage().nbytes() // 8, dtype=one.dtype)
                .double()
                .as_strided(one.shape, one.stride(), offset)
                for one in first
            ]
            with Counted() as ours:
                result = run(*others)
            with Counted() as theirs:
                expected = program.run(*others, *extra)
            case.check(result, others)
            assert result.stride() == expected.stride()
            assert ours.others == theirs.others
            assert ours.views <= theirs.views

    def test_enough_are_tried(self) -> None:
        """Of the random patterns a good part have views to save."""
        found = 0
        for case in CASES:
            tensors = case.tensors()
            program, extra = program_of(case, tensors)
            found += program.by_strides(tensors, extra) is not None
        assert found > len(CASES) / 4

    @pytest.mark.parametrize(
        "dtype",
        [torch.float16, torch.bfloat16, torch.float32, torch.complex64, torch.int64, torch.int8],
    )
    def test_dtypes(self, dtype: torch.dtype) -> None:
        """Integers are summed as wide as ever; a conjugate is one."""
        case = Case("heads", HEADS, ((3, 5, 2, 7), (2, 11, 7)), {})
        tensors = case.tensors(dtype)
        if dtype.is_complex:
            tensors[1] = tensors[1].conj()
        for _ in range(3):
            case.check(einheads.einsum(HEADS, *tensors), tensors)

    def test_sizes_by_name(self) -> None:
        """A size that no shape tells is part of the shapes."""
        pattern = "(b w) h i, h i o -> (o b) h w"
        for b in (2, 3, 2, 3, 2, 3):
            case = Case("named", pattern, ((6, 5, 7), (5, 7, 11)), {"b": b})
            tensors = case.tensors()
            case.check(einheads.einsum(pattern, *tensors, b=b), tensors)

    def test_names_do_not_collide(self) -> None:
        """Axes may have the names of the arguments."""
        pattern = "size1 stride1 h i, h size2 i -> size1 stride1 h size2"
        case = Case("names", pattern, ((3, 5, 2, 7), (2, 11, 7)), {})
        for seed in range(4):
            tensors = case.tensors(seed=seed)
            case.check(einheads.einsum(pattern, *tensors), tensors)
        run = recent(pattern)
        assert run is not None
        names = list(inspect.signature(run).parameters)
        assert len(names) == len(set(names))

    def test_the_text(self) -> None:
        """It reads like the program, with shapes and strides for views."""
        tensors = torch.randn(5, 7, 8, 61), torch.randn(8, 67, 61)
        for _ in range(2):
            einheads.einsum(HEADS, *tensors)
        run = recent(HEADS)
        assert run is not None
        assert inspect.getsource(run) == (
            "def contract(x1, x2, size1, stride1, size2, stride2):\n"
            f'    """{HEADS}"""\n'
            "    x1 = x1.as_strided(size1, stride1)  # h (b w) i\n"
            "    x2 = x2.mT  # h i o\n"
            "    y = torch.bmm(x1, x2)  # h (b w) o\n"
            "    return y.as_strided(size2, stride2)  # b w h o\n"
        )
        assert inspect.signature(run).parameters["size2"].default == (5, 7, 8, 67)


def odd(shape: Sequence[int], draw: random.Random) -> Tensor:
    """A tensor whose strides tell little of an order: repeated, tied, or those of single rows."""
    strides = [
        draw.choice((0, 1, 1, 2, 3, 7)) if size > 1 else draw.randint(0, 9) for size in shape
    ]
    reach = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return torch.randn(max(reach, 1), dtype=torch.float64).as_strided(shape, strides)


class TestStrangeStrides:
    """Torch may lay a product out otherwise than foreseen, so that what should be a view copies."""

    @pytest.mark.parametrize("seed", range(8))
    def test_elementwise(self, seed: int) -> None:
        """Products of axes of size one, repeated ones, and equal strides."""
        draw = random.Random(seed)
        names = list("abcde")
        for _ in range(60):
            sizes = {name: draw.choice((1, 1, 2, 3, 5)) for name in names}
            terms = [draw.sample(names, draw.randint(1, 3)) for _ in range(2)]
            axes = list(dict.fromkeys(name for term in terms for name in term))
            draw.shuffle(axes)
            fold = (
                f"({' '.join(axes)})"
                if draw.random() < 0.5
                else f"{axes[0]} ({' '.join(axes[1:])})"
            )
            output = fold.replace(" ()", "")
            pattern = f"{', '.join(map(' '.join, terms))} -> {output}"
            tensors = [odd([sizes[name] for name in term], draw) for term in terms]
            case = Case(pattern, pattern, tuple(one.shape for one in tensors), {})
            for _ in range(3):
                case.check(einheads.einsum(pattern, *tensors), tensors)

    def test_with_a_bias(self) -> None:
        """A bias may turn a sum into another order of memory."""
        layer = einheads.Einsum("a b, b c -> (c a b)", a=3, b=1, c=2, bias="a").requires_grad_(
            False
        )
        torch.nn.init.normal_(layer.bias)
        x = torch.randn(3, 1)
        first = layer(x)
        for _ in range(3):
            torch.testing.assert_close(layer(x), first, rtol=0, atol=0)

    @pytest.mark.parametrize(
        ("pattern", "tensors"),
        [
            ("b c d, d -> (d b c)", (torch.randn(1, 4).T[:, None].expand(4, 3, 1), torch.ones(1))),
            (
                "b t k, b t k -> (b t k)",
                (torch.randn(7).unfold(0, 3, 1).expand(4, 5, 3), torch.randn(4, 3, 5).mT),
            ),
        ],
    )
    def test_windows(self, pattern: str, tensors: tuple[Tensor, Tensor]) -> None:
        """Tensors that lie over themselves."""
        first = einheads.einsum(pattern, *tensors)
        for _ in range(3):
            torch.testing.assert_close(einheads.einsum(pattern, *tensors), first, rtol=0, atol=0)


class TestCalls:
    """When they run: again and again, on small plain tensors, without gradients."""

    def test_the_third_call(self) -> None:
        """The second one finds out; all shapes share one code."""
        codes = set()
        for batch in (4, 5):
            for _ in range(3):
                x, w = torch.randn(batch, 5, 2, 7), torch.randn(2, 11, 7)
                result = einheads.einsum(HEADS, x, w)
                torch.testing.assert_close(result, torch.einsum("bwhi,hoi->bwho", x, w))
            assert by_strides(HEADS)
            run: Any = recent(HEADS)
            codes.add(run.__code__)
        assert len(codes) == 1

    def test_gradients_want_the_program(self) -> None:
        """The views that autograd follows are undone faster one by one."""
        x, w = torch.randn(3, 5, 2, 7), torch.randn(2, 11, 7, requires_grad=True)
        for _ in range(3):
            einheads.einsum(HEADS, x, w).sum().backward()
        assert not by_strides(HEADS)
        with torch.no_grad():
            for _ in range(3):
                einheads.einsum(HEADS, x, w)
        assert [by_strides(HEADS) for _ in cache.recent.calls] == [False, False]
        run = cache.recent.calls[HEADS, (), False][0][2]
        assert "as_strided" in inspect.getsource(run)

    def test_grad_modes_share_nothing(self) -> None:
        """What was found without gradients does not run where they are wanted."""
        for pattern, x, w in (
            (HEADS, torch.randn(3, 5, 2, 7), torch.randn(2, 11, 7)),
            ("b t h d, b s h d -> b h t s", torch.randn(5, 1, 7, 61), torch.randn(5, 307, 7, 61)),
        ):
            x.requires_grad_()
            with torch.no_grad():
                for _ in range(3):
                    einheads.einsum(pattern, x, w)
            for _ in range(3):
                einheads.einsum(pattern, x.detach(), w)
            result = einheads.einsum(pattern, x, w)
            assert "AsStrided" not in type(result.grad_fn).__name__
            result.sum().backward()
            assert x.grad is not None

    def test_large_copies_are_not_made_for_it(self) -> None:
        """Nor is what only copies, if it copies much."""
        pattern = "(a b) c d -> d (c b) a"
        for rows, wanted in ((24, True), (24_000, False)):
            for _ in range(3):
                einheads.einsum(pattern, torch.randn(rows, 5, 11), a=4)
            assert by_strides(pattern) == wanted

    def test_large_products_are_not_run_for_it(self) -> None:
        """What takes long is not run once more, to save what nobody would notice."""
        size = int(_BRIEF ** (1 / 3)) + 1
        x, w = torch.randn(size, 1, 1, size), torch.randn(1, size, size)
        runs = []
        for _ in range(3):
            with Counted() as counted:
                einheads.einsum(HEADS, x, w)
            runs.append(counted.others.total())
            einheads.einsum(HEADS, x, w)
        assert len(set(runs)) == 1
        assert not by_strides(HEADS)

    def test_a_plain_linear_has_nothing_to_save(self) -> None:
        """It stays what it is."""
        pattern = "b i, o i -> b o"
        for _ in range(3):
            einheads.einsum(pattern, torch.randn(3, 5), torch.randn(7, 5))
        assert not by_strides(pattern)

    def test_products_in_turns_stay(self) -> None:
        """Those that are written into one result take its views one by one."""
        pattern = "b t h d, b s h d -> b h t s"
        for _ in range(3):
            q, k = torch.randn(5, 1, 7, 61), torch.randn(5, 307, 7, 61)
            result = einheads.einsum(pattern, q, k)
            torch.testing.assert_close(result, torch.einsum("bthd,bshd->bhts", q, k))
        assert not by_strides(pattern)

    def test_results_can_be_written_into(self) -> None:
        """The result is a tensor like any other: in place, viewed, and let go of its operands."""
        x, w = torch.randn(3, 5, 2, 7), torch.randn(2, 11, 7)
        for _ in range(4):
            result = einheads.einsum(HEADS, x, w)
            expected = result.clone()
            assert torch.equal(result.view(3, 5, 2, 11).add_(1), expected + 1)
            assert torch.equal(result[..., 0], expected[..., 0] + 1)

    def test_views_stay_views(self) -> None:
        """A pattern that only moves axes gives a view of its input, as the first time."""
        x = torch.randn(6, 5, 7)
        for number in range(4):
            result = einheads.einsum("(a b) c d -> d c b a", x, a=2)
            assert result.data_ptr() == x.data_ptr()
            result[0, 0, 0, 0] = number
            assert x[0, 0, 0] == number
