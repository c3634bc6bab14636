"""`einheads.einsum` against the definition: values, layouts, dtypes, gradients, laws, cache."""

import itertools
import random
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import einops
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

import einheads
from cases import BY_NAME, CASES, Case, as_numpy, assert_agrees
from einheads import training
from oracle import dimensions, oracle
from strategies import cases, random_cases, random_products

DTYPES = {
    "floats": (torch.float64, torch.float32, torch.float16, torch.bfloat16),
    "complex": (torch.complex128, torch.complex64),
    "integers": (torch.int64, torch.int32, torch.int16, torch.int8),
}

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
# What is repeated many times leaves out the few cases of sixty operands, and finite differences
# those of many numbers as well.
SHORT = [case for case in CASES if len(case.shapes) < 10]
SMALL = [case for case in SHORT if case.entries <= 260]
small_case = pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)


class TestOracle:
    """The judge is judged first, by three other implementations."""

    @pytest.mark.parametrize(
        ("pattern", "letters", "shapes"),
        [
            ("i j, j k -> i k", "ij,jk->ik", [(2, 3), (3, 5)]),
            ("b w h i, h o i -> b w h o", "bwhi,hoi->bwho", [(2, 3, 5, 7), (5, 11, 7)]),
            ("a a b -> b", "aab->b", [(3, 3, 2)]),
            ("a b a, c b -> c a", "aba,cb->ca", [(3, 5, 3), (2, 5)]),
            ("i, j ->", "i,j->", [(2,), (3,)]),
            ("... i, o i ... -> ... o", "...i,oi...->...o", [(2, 1, 5), (7, 5, 3)]),
            ("a ... b -> ... a", "a...b->...a", [(2, 3, 5, 7)]),
            ("i j, j k, k l, l -> i", "ij,jk,kl,l->i", [(2, 3), (3, 5), (5, 7), (7,)]),
        ],
    )
    def test_agrees_with_numpy_and_torch(
        self, pattern: str, letters: str, shapes: list[tuple[int, ...]]
    ) -> None:
        """The definition gives what numpy.einsum and torch.einsum give."""
        arrays = [np.random.default_rng(k).standard_normal(s) for k, s in enumerate(shapes)]
        expected = oracle(pattern, *arrays)
        np.testing.assert_allclose(expected, np.einsum(letters, *arrays), rtol=1e-12)
        by_torch = torch.einsum(letters, *map(torch.from_numpy, arrays))
        np.testing.assert_allclose(expected, by_torch.numpy(), rtol=1e-12)

    def test_agrees_with_torch_on_a_summed_ellipsis(self) -> None:
        """An ellipsis that the output lacks is summed, over the broadcast size."""
        x, y = np.random.default_rng(0).standard_normal((2, 2, 3, 5))
        expected = torch.einsum("...i,...i->i", torch.from_numpy(x[:, :1]), torch.from_numpy(y))
        np.testing.assert_allclose(oracle("... i, ... i -> i", x[:, :1], y), expected, rtol=1e-12)

    @pytest.mark.parametrize(
        ("pattern", "shape", "sizes"),
        [
            ("b (h d) -> h b d", (2, 15), {"h": 3}),
            ("(a b c) d -> (d b) 1 (c a)", (30, 7), {"a": 2, "c": 5}),
            ("b c (h p) (w q) -> b (h w) (p q c)", (2, 3, 10, 21), {"p": 2, "w": 7}),
            ("1 a ... 1 -> ... a", (1, 2, 3, 5, 1), {}),
        ],
    )
    def test_agrees_with_einops_rearrange(
        self, pattern: str, shape: tuple[int, ...], sizes: dict[str, int]
    ) -> None:
        """Composites, units and dots mean what they mean in einops."""
        array = np.random.default_rng(0).standard_normal(shape)
        expected = einops.rearrange(array, pattern, **sizes)
        np.testing.assert_array_equal(oracle(pattern, array, **sizes), expected)

    def test_agrees_with_einops_on_repeats_and_sums(self) -> None:
        """An axis of the output alone repeats, an axis of the input alone is summed."""
        array = np.random.default_rng(0).standard_normal((2, 15))
        repeated = einops.repeat(array, "a (b c) -> c (a n) b", b=3, n=7)
        summed = einops.reduce(array, "a (b c) -> c", "sum", b=3)
        np.testing.assert_array_equal(oracle("a (b c) -> c (a n) b", array, b=3, n=7), repeated)
        np.testing.assert_allclose(oracle("a (b c) -> c", array, b=3), summed, rtol=1e-12)

    def test_can_tell_results_apart(self) -> None:
        """The comparison refuses a wrong value, a wrong shape, and not-a-number."""
        case = BY_NAME["matmul nn"]
        x, y = case.tensors()
        right = x @ y
        case.check(right, [x, y])
        for wrong in (right + 1e-9, right.T, right * torch.nan, right.float()):
            with pytest.raises(AssertionError):
                case.check(wrong, [x, y])

    def test_cases_have_unique_names_and_fit_into_eight_bits(self) -> None:
        """Every case can be found by name, and tells an integer overflow from a wrong value."""
        assert len(BY_NAME) == len(CASES)
        for case in CASES:
            assert np.abs(case.expected(case.tensors(torch.int8))).max(initial=0) < 128, case.name


@every_case
@pytest.mark.parametrize("kind", DTYPES)
def test_values(case: Case, kind: str) -> None:
    """Every case gives the values of the definition in the dtype of its operands."""
    for dtype in DTYPES[kind] if case in SHORT else DTYPES[kind][:1]:
        case.check_call(einheads.einsum, case.tensors(dtype))


def reverse(x: Tensor) -> Tensor:
    """The same values, with the first axis innermost in memory."""
    order = tuple(reversed(range(x.ndim)))
    return x.permute(order).contiguous().permute(order)


def rotate(x: Tensor) -> Tensor:
    """The same values, with the last axis outermost in memory."""
    return x.movedim(-1, 0).contiguous().movedim(0, -1) if x.ndim else x


def stretch(x: Tensor) -> Tensor:
    """The same values at every second place of a larger tensor, in every axis that is long."""
    around = x.new_full([2 * size if size > 1 else size for size in x.shape], 99)
    inside = around[tuple(slice(None, None, 2) for _ in x.shape)]
    return inside.copy_(x)


def window(x: Tensor) -> Tensor:
    """The same values as a window of a larger tensor, so that rows do not touch."""
    around = x.new_full([size + 3 if size > 1 else size for size in x.shape], 99)
    inside = around[tuple(slice(1, -2) if size > 1 else slice(None) for size in x.shape)]
    return inside.copy_(x)


def expand_first(x: Tensor) -> Tensor:
    """The first slice along the first axis, repeated at stride 0."""
    return x[:1].expand_as(x) if x.ndim else x


def expand_last(x: Tensor) -> Tensor:
    """The first slice along the last axis, repeated at stride 0."""
    return x[..., :1].expand_as(x) if x.ndim else x


LAYOUTS = (reverse, rotate, stretch, window, expand_first, expand_last)


@every_case
def test_layouts(case: Case) -> None:
    """However the operands lie in memory, the values are those of the definition."""
    for layout in LAYOUTS if case in SHORT else LAYOUTS[2:3]:
        case.check_call(einheads.einsum, [layout(x) for x in case.tensors()])


@pytest.mark.parametrize(
    "name",
    [
        "heads each their own",
        "attention scores",
        "three left two right",
        "vector through a tensor",
        "bmm two batches apart",
        "tccg d b e a",
        "per head token mixing",
        "low rank per head",
        "monarch",
    ],
)
def test_every_memory_order(name: str) -> None:
    """Each operand in each order of its axes in memory, the others in a random one."""
    case = BY_NAME[name]
    dice = random.Random(0)

    def stored(x: Tensor, order: tuple[int, ...]) -> Tensor:
        back = sorted(range(x.ndim), key=order.__getitem__)
        return x.permute(order).contiguous().permute(back)

    for chosen, operand in enumerate(case.tensors()):
        for order in itertools.permutations(range(operand.ndim)):
            tensors = [
                stored(x, order if k == chosen else tuple(dice.sample(range(x.ndim), x.ndim)))
                for k, x in enumerate(case.tensors())
            ]
            assert torch.equal(tensors[chosen], operand)
            case.check_call(einheads.einsum, tensors)


@pytest.mark.parametrize(
    ("pattern", "shape"), [("a b -> a b", (3, 5)), ("... -> ...", (2,)), ("->", ())]
)
def test_an_operand_is_never_the_result(pattern: str, shape: tuple[int, ...]) -> None:
    """A view of it is: what is done to the result's own shape is not done to the operand."""
    x = torch.nn.Parameter(torch.randn(shape))
    for _ in range(3):
        result = einheads.einsum(pattern, x)
        assert result is not x
        assert torch.equal(result, x)
        assert result.data_ptr() == x.data_ptr()
    with pytest.raises(RuntimeError, match="leaf variables"):
        result.requires_grad_(False)
    assert x.requires_grad
    with torch.no_grad():
        assert einheads.einsum(pattern, x).unsqueeze_(0).shape == (1, *shape)
    assert x.shape == shape


def test_lazy_conjugates_and_negatives() -> None:
    """Views that carry a conjugate or negative bit count with the values they stand for."""
    case = BY_NAME["heads each their own"]
    x, w = case.tensors(torch.complex128)
    assert x.conj().is_conj()
    case.check_call(einheads.einsum, [x.conj(), w])
    case.check_call(einheads.einsum, [x.conj(), w.conj()])
    assert x.conj().imag.is_neg()
    case.check_call(einheads.einsum, [x.conj().imag, w.real])


@every_case
def test_inputs_are_never_modified(case: Case) -> None:
    """Neither the call nor its backward writes to an operand."""
    tensors = [x.requires_grad_() for x in case.tensors()]
    before = [x.detach().clone() for x in tensors]
    versions = [x._version for x in tensors]
    result = einheads.einsum(case.pattern, *tensors, **case.sizes)
    result.backward(torch.ones_like(result))
    assert all(torch.equal(x, y) for x, y in zip(tensors, before, strict=True))
    assert versions == [x._version for x in tensors]


REPEATS = {case.name for case in CASES if "repeat" in case.name or case.sizes.keys() & {"n"}}


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if len(case.shapes) > 1 and case.name not in REPEATS],
    ids=lambda case: case.name,
)
def test_product_is_a_tensor_of_its_own(case: Case) -> None:
    """Writing to a product works and reaches no operand."""
    tensors = case.tensors()
    result = einheads.einsum(case.pattern, *tensors, **case.sizes)
    result.add_(1).mul_(99)
    assert all(torch.equal(x, y) for x, y in zip(tensors, case.tensors(), strict=True))


@pytest.fixture(params=[False, True], ids=["autograd", "planned"])
def _backward(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let autograd do every backward by itself, or have all of them planned."""
    monkeypatch.setattr(training, "pays", lambda _: request.param)
    einheads.cache_clear()
    yield
    einheads.cache_clear()


@pytest.mark.usefixtures("_backward")
class TestGradients:
    """Derivatives of every order agree with finite differences and with the definition.

    They do whether a backward is planned or not; which one is cheaper is not asked here.
    """

    @small_case
    def test_first_order(self, case: Case) -> None:
        """Backward, forward mode and batched backward agree with finite differences."""
        tensors = [x.requires_grad_() for x in case.tensors()]
        assert torch.autograd.gradcheck(
            lambda *xs: einheads.einsum(case.pattern, *xs, **case.sizes),
            tensors,
            check_forward_ad=True,
            check_batched_grad=True,
            # gradcheck would do this by an older vmap; the next test does it by the present one.
            check_batched_forward_grad=False,
            fast_mode=True,
        )

    @small_case
    def test_batched_forward_mode(self, case: Case) -> None:
        """Many directions at once give what they give one by one."""
        tensors = tuple(case.tensors())
        directions = [tuple(case.tensors(seed=seed)) for seed in (1, 2, 3)]

        def slope(*along: Tensor) -> Tensor:
            def call(*xs: Tensor) -> Tensor:
                return einheads.einsum(case.pattern, *xs, **case.sizes)

            return torch.func.jvp(call, tensors, along)[1]

        together = torch.vmap(slope)(*map(torch.stack, zip(*directions, strict=True)))
        for result, along in zip(together, directions, strict=True):
            torch.testing.assert_close(result, slope(*along))

    @small_case
    def test_second_order(self, case: Case) -> None:
        """The gradient of the gradient agrees with finite differences."""
        tensors = [x.requires_grad_() for x in case.tensors()]
        assert torch.autograd.gradgradcheck(
            lambda *xs: einheads.einsum(case.pattern, *xs, **case.sizes),
            tensors,
            fast_mode=True,
        )

    @pytest.mark.parametrize(
        "name", ["matmul nn", "batched dot", "scale rows", "diagonal weight", "low rank"]
    )
    def test_every_entry(self, name: str) -> None:
        """The whole Jacobian, forward and backward, agrees with finite differences."""
        case = BY_NAME[name]
        tensors = [x.requires_grad_() for x in case.tensors()]
        assert torch.autograd.gradcheck(
            lambda *xs: einheads.einsum(case.pattern, *xs, **case.sizes),
            tensors,
            check_forward_ad=True,
            check_backward_ad=True,
        )

    @pytest.mark.parametrize(
        "name", ["heads each their own", "dot", "batched outer", "diagonal weight", "low rank"]
    )
    def test_complex(self, name: str) -> None:
        """Gradients of complex operands are conjugated as torch does it."""
        case = BY_NAME[name]
        tensors = [x.requires_grad_() for x in case.tensors(torch.complex128)]

        def call(*xs: Tensor) -> Tensor:
            return einheads.einsum(case.pattern, *xs, **case.sizes)

        assert torch.autograd.gradcheck(call, tensors, fast_mode=True)
        assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True)

    @every_case
    def test_directions(self, case: Case) -> None:
        """A product is linear in each operand: its gradient along v is its value at v.

        The gradient of the result comes in several layouts, because a backward may depend on it.
        """
        tensors = [x.requires_grad_() for x in case.tensors()]
        directions = case.tensors(seed=1)
        # Of sixty operands, the definition judges four.
        judged = range(0, len(tensors), 1 if case in SHORT else 16)
        replaced = [[*tensors[:k], directions[k], *tensors[k + 1 :]] for k in judged]
        values = [(case.expected(operands), case.scale(operands)) for operands in replaced]
        result = einheads.einsum(case.pattern, *tensors, **case.sizes)
        for layout in (torch.clone, reverse, stretch, expand_first):
            cotangent = layout(torch.randn_like(result))
            gradients = torch.autograd.grad(result, tensors, cotangent, retain_graph=True)
            weights = as_numpy(cotangent)
            for k, (value, scale) in zip(judged, values, strict=True):
                assert gradients[k].shape == tensors[k].shape
                along = (gradients[k] * directions[k]).sum()
                largest = np.sum(scale * np.abs(weights)) + 1
                assert_agrees(along, np.sum(value * weights), largest, 64)

    @pytest.mark.parametrize(
        "name", ["heads each their own", "dot", "scale rows", "low rank", "bilinear", "monarch"]
    )
    def test_only_where_asked(self, name: str) -> None:
        """Operands that need no gradient get none, and the others the same as ever."""
        case = BY_NAME[name]
        tensors = [x.requires_grad_() for x in case.tensors()]
        result = einheads.einsum(case.pattern, *tensors, **case.sizes)
        cotangent = torch.randn_like(result)
        full = torch.autograd.grad(result, tensors, cotangent)
        for asked in itertools.product([False, True], repeat=len(tensors)):
            fresh = [x.requires_grad_(on) for x, on in zip(case.tensors(), asked, strict=True)]
            result = einheads.einsum(case.pattern, *fresh, **case.sizes)
            assert result.requires_grad == any(asked)
            if any(asked):
                result.backward(cotangent)
            for x, on, expected in zip(fresh, asked, full, strict=True):
                assert (x.grad is not None) == on
                if x.grad is not None:
                    assert_agrees(x.grad, as_numpy(expected), np.abs(as_numpy(expected)) + 1)

    def test_same_tensor_twice(self) -> None:
        """A tensor that is two operands gets the sum of both gradients."""
        x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: einheads.einsum("i j, j k -> i k", x, x), x)
        assert torch.autograd.gradcheck(lambda x: einheads.einsum("i j, i j ->", x, x), x)

    def test_inference_and_no_grad(self) -> None:
        """Without gradients the values are the same and nothing is recorded."""
        case = BY_NAME["heads each their own"]
        tensors = [x.requires_grad_() for x in case.tensors()]
        with torch.no_grad():
            result = einheads.einsum(case.pattern, *tensors)
        assert not result.requires_grad
        case.check(result, tensors)
        with torch.inference_mode():
            result = einheads.einsum(case.pattern, *tensors)
        assert result.is_inference()
        case.check(result, tensors)


def rename(case: Case, names: dict[str, str]) -> Case:
    """The same case with other names for its axes."""

    def term(text: str) -> str:
        parts = [" ".join(names.get(axis, axis) for axis in part) for part in dimensions(text)]
        return " ".join(f"({part})" if " " in part else part or "1" for part in parts)

    left, right = case.pattern.split("->")
    pattern = f"{', '.join(map(term, left.split(',')))} -> {term(right)}"
    sizes = {names[axis]: size for axis, size in case.sizes.items()}
    return Case(case.name, pattern, case.shapes, sizes)


def axes_of(case: Case) -> list[str]:
    """The names of all axes of a case."""
    parts = dimensions(case.pattern.replace("->", " ").replace(",", " "))
    return list(dict.fromkeys(axis for part in parts for axis in part if axis != "..."))


class TestLaws:
    """What must hold for every pattern."""

    @every_case
    def test_renaming_axes_changes_nothing(self, case: Case) -> None:
        """Names are only names, also when they trade places."""
        axes = axes_of(case)
        tensors = case.tensors()
        turned = rename(case, dict(zip(axes, axes[1:] + axes[:1], strict=True)))
        turned.check_call(einheads.einsum, tensors)
        numbered = rename(case, {axis: f"z{k}" for k, axis in enumerate(axes)})
        numbered.check_call(einheads.einsum, tensors)
        case.check(einheads.einsum(numbered.pattern, *tensors, **numbered.sizes), tensors)

    @pytest.mark.parametrize(
        "case", [case for case in CASES if len(case.shapes) > 1], ids=lambda case: case.name
    )
    def test_permuting_operands_changes_nothing(self, case: Case) -> None:
        """A product does not depend on the order of its factors."""
        left, right = case.pattern.split("->")
        terms, tensors = left.split(","), case.tensors()
        orders: list[list[int]] = [list(reversed(range(len(terms))))]
        if 2 < len(terms) < 10:  # each order of sixty operands is planned for a second
            orders += [random.Random(k).sample(range(len(terms)), len(terms)) for k in range(3)]
        for order in orders:
            pattern = f"{', '.join(terms[k] for k in order)} -> {right}"
            result = einheads.einsum(pattern, *(tensors[k] for k in order), **case.sizes)
            case.check(result, tensors)

    @given(cases())
    def test_any_pattern(self, case: Case) -> None:
        """Random patterns, shrunk when they fail, agree with the definition."""
        case.check_call(einheads.einsum, case.tensors())

    @pytest.mark.parametrize("seed", range(8))
    def test_many_patterns(self, seed: int) -> None:
        """Random patterns in random layouts agree with the definition, values and gradients."""
        dice = random.Random(seed)
        for case in random_cases(60, seed):
            tensors = [dice.choice(LAYOUTS[:4])(x).requires_grad_() for x in case.tensors()]
            result = einheads.einsum(case.pattern, *tensors, **case.sizes)
            case.check(result, tensors)
            directions = case.tensors(seed=1)
            cotangent = torch.randn_like(result)
            for k, gradient in enumerate(torch.autograd.grad(result, tensors, cotangent)):
                operands = [*tensors[:k], directions[k], *tensors[k + 1 :]]
                expected = np.sum(case.expected(operands) * as_numpy(cotangent))
                scale = np.sum(case.scale(operands) * np.abs(as_numpy(cotangent))) + 1
                assert_agrees((gradient * directions[k]).sum(), expected, scale, 64)

    @pytest.mark.parametrize("seed", range(4))
    def test_many_products(self, seed: int) -> None:
        """Pairwise contractions large enough for every lowering agree with the definition."""
        dice = random.Random(seed)
        for case in random_products(50, seed):
            tensors = [dice.choice(LAYOUTS[:4])(x).requires_grad_() for x in case.tensors()]
            result = einheads.einsum(case.pattern, *tensors)
            case.check(result, tensors)
            cotangent = torch.randn_like(result)
            for k, gradient in enumerate(torch.autograd.grad(result, tensors, cotangent)):
                # The gradient of a product is a product, too.
                left, right = case.pattern.split(" -> ")
                terms = left.split(", ")
                pattern = f"{right}, {terms[1 - k]} -> {terms[k]}"
                values = as_numpy(cotangent), as_numpy(tensors[1 - k])
                scale = oracle(pattern, *map(np.abs, values))
                assert_agrees(gradient, oracle(pattern, *values), scale, 64, case.name)

    @given(cases())
    def test_scaling_an_operand_scales_the_result(self, case: Case) -> None:
        """Doubling any one operand doubles the result, to the last bit."""
        tensors = case.tensors()
        once = einheads.einsum(case.pattern, *tensors, **case.sizes)
        for k in range(len(tensors)):
            doubled = [2 * x if place == k else x for place, x in enumerate(tensors)]
            assert torch.equal(2 * once, einheads.einsum(case.pattern, *doubled, **case.sizes))


class TestSizes:
    """Sizes are taken at their word."""

    @pytest.mark.parametrize(
        ("pattern", "shapes"),
        [
            ("i j, j k -> i k", [(2, 1), (3, 5)]),
            ("i j, j k -> i k", [(2, 3), (1, 5)]),
            ("b i, b i -> b i", [(1, 3), (2, 3)]),
            ("b i, b i -> b", [(2, 3), (1, 3)]),
            ("b w h i, h o i -> b w h o", [(2, 3, 1, 7), (5, 11, 7)]),
            ("... h i, h o i -> ... h o", [(2, 3, 5, 7), (1, 11, 7)]),
            ("a a -> a", [(1, 3)]),
            ("b (h i), h i -> b", [(2, 15), (1, 5)]),
            ("b i, i r, r o -> b o", [(2, 3), (3, 1), (5, 7)]),
        ],
    )
    def test_one_does_not_stretch(self, pattern: str, shapes: list[tuple[int, ...]]) -> None:
        """A named axis of size 1 against n is an error, never a broadcast."""
        with pytest.raises(einheads.SizeError):
            einheads.einsum(pattern, *(torch.randn(shape) for shape in shapes))

    def test_one_does_not_stretch_after_a_call_that_fits(self) -> None:
        """A cached program checks sizes as the first call did."""
        pattern = "b h i, h o i -> b h o"
        w = torch.randn(5, 11, 7)
        assert einheads.einsum(pattern, torch.randn(2, 5, 7), w).shape == (2, 5, 11)
        for shape in [(2, 1, 7), (2, 5, 1), (2, 3, 7)]:
            with pytest.raises(einheads.SizeError):
                einheads.einsum(pattern, torch.randn(shape), w)
        with pytest.raises(einheads.SizeError):
            einheads.einsum(pattern, torch.randn(2, 5, 7), w, o=13)

    def test_given_sizes_are_checked(self) -> None:
        """A size that contradicts a tensor is an error, and one that agrees is welcome."""
        x = torch.randn(2, 15)
        assert einheads.einsum("b (h d) -> b h d", x, h=3, d=5).shape == (2, 3, 5)
        for wrong in ({"h": 4}, {"h": 3, "d": 4}, {"h": 3, "b": 1}):
            with pytest.raises(einheads.SizeError):
                einheads.einsum("b (h d) -> b h d", x, **wrong)

    def test_given_sizes_are_part_of_the_call(self) -> None:
        """The same pattern and shape with other given sizes gives the other result."""
        x = torch.randn(2, 30, dtype=torch.float64)
        for h in (2, 3, 5, 6, 10, 15, 2, 3):
            result = einheads.einsum("b (h d) -> d b h", x, h=h)
            assert_agrees(result, oracle("b (h d) -> d b h", as_numpy(x), h=h))
        for n in (2, 3, 0, 1):
            result = einheads.einsum("b i -> n i b", x, n=n)
            assert_agrees(result, oracle("b i -> n i b", as_numpy(x), n=n))

    @pytest.mark.parametrize(
        ("pattern", "shapes"),
        [
            ("i j, j k -> i k", [(2, 0), (0, 5)]),
            ("b i j, b j k -> k b i", [(2, 3, 0), (2, 0, 5)]),
            ("b i, b i -> b", [(2, 0), (2, 0)]),
            ("i, i ->", [(0,), (0,)]),
            ("i j -> i", [(2, 0)]),
            ("b i, i r, r o -> b o", [(2, 3), (3, 0), (0, 5)]),
            ("... i, i o -> o", [(0, 3), (3, 5)]),
            ("(h d) b, d -> h b", [(0, 3), (0,)]),
        ],
    )
    @pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.int32], ids=str)
    def test_contracting_nothing_gives_zeros(
        self, pattern: str, shapes: list[tuple[int, ...]], dtype: torch.dtype
    ) -> None:
        """A sum over an axis of size 0 is 0, with the shape that the pattern says."""
        sizes = {"h": 2} if "(h d)" in pattern else {}
        tensors = [torch.ones(shape, dtype=dtype) for shape in shapes]
        result = einheads.einsum(pattern, *tensors, **sizes)
        expected = oracle(pattern, *map(as_numpy, tensors), **sizes)
        assert expected.size > 0
        assert tuple(result.shape) == expected.shape
        assert not result.any()

    def test_every_rank_of_an_ellipsis(self) -> None:
        """One pattern serves any number of leading axes, in any order of meeting them."""
        w = torch.randn(7, 5, 3, dtype=torch.float64)
        for shape in [(2, 3), (3,), (2, 4, 5, 3), (2, 2, 2, 2, 2, 2, 3), (3,), (0, 3), (2, 3)]:
            x = torch.randn(shape, dtype=torch.float64)
            result = einheads.einsum("... i, h o i -> ... h o", x, w)
            expected = oracle("... i, h o i -> ... h o", as_numpy(x), as_numpy(w))
            assert_agrees(result, expected, np.abs(expected) + 1)


@pytest.fixture
def empty_cache() -> Iterator[None]:
    """Let a test count what it compiles itself."""
    einheads.cache_clear()
    yield
    einheads.cache_clear()


@pytest.mark.usefixtures("empty_cache")
class TestCache:
    """One bounded cache of programs, which batch sizes do not fill and threads do not break."""

    PATTERNS = (
        ("b w h i, h o i -> b w h o", (7, 5, 3), (5, 11, 3)),
        ("... i, h o i -> ... h o", (7, 3), (5, 11, 3)),
        ("b t (h i), h i o -> b t (h o)", (7, 15), (5, 3, 2)),
        ("b t c, t s -> b s c", (7, 3), (7, 5)),
        ("b i, i r, r o -> b o", (7,), (7, 2), (2, 5)),
        ("b (k p), k p q, q k s -> b (q s)", (15,), (3, 5, 7), (7, 3, 2)),
        ("b i, b i -> b", (7,), None),
    )

    @staticmethod
    def call(batch: int, pattern: str, shape: tuple[int, ...], *weights: Any) -> None:
        """Call a pattern with a batch in front of its first operand, or of every one."""
        shapes = [(batch, *shape), *(weight or (batch, *shape) for weight in weights)]
        tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
        result = einheads.einsum(pattern, *tensors)
        expected = oracle(pattern, *map(as_numpy, tensors))
        assert_agrees(result, expected, np.abs(expected) + 20, 64)

    @pytest.mark.parametrize("example", PATTERNS, ids=[example[0] for example in PATTERNS])
    def test_batch_sizes_share_programs(self, example: Any) -> None:
        """Programs belong to coarse classes of sizes at most, never to single batch sizes."""
        for batch in (33, 64, 65, 128):
            self.call(batch, *example)
        before = einheads.cache_info()
        assert 1 <= before.programs <= 4
        for batch in range(34, 128, 3):
            self.call(batch, *example)
        after = einheads.cache_info()
        assert after.programs == before.programs
        assert after.compilations == before.compilations

    @pytest.mark.parametrize("example", PATTERNS, ids=[example[0] for example in PATTERNS])
    def test_programs_are_right_for_sizes_they_were_not_made_for(self, example: Any) -> None:
        """From the smallest batch to a large one and back, in either order of meeting them."""
        for batches in ((1, 300, 2, 0, 65, 1), (300, 1, 64, 2, 0)):
            einheads.cache_clear()
            for batch in batches:
                self.call(batch, *example)

    def test_same_call_compiles_nothing(self) -> None:
        """A second call of the same kind changes nothing in the cache."""
        x, w = torch.randn(2, 3), torch.randn(5, 3)
        first = einheads.einsum("b i, o i -> b o", x, w)
        before = einheads.cache_info()
        assert before.programs == before.compilations == 1
        assert torch.equal(einheads.einsum("b i, o i -> b o", x, w), first)
        assert torch.equal(einheads.einsum("b i, o i -> b o", x.clone(), w), first)
        assert einheads.cache_info() == before

    @pytest.mark.skipif(
        not torch.backends.mkldnn.is_available(), reason="there are no such tensors"
    )
    def test_tensors_of_another_kind_are_refused_after_dense_ones(self) -> None:
        """What looks like a dense tensor in the cache and is none gets our words, not torch's."""
        x = torch.randn(2, 3)
        einheads.einsum("b i -> i", x)
        with pytest.raises(TypeError, match=r"^operand 1 is not dense \(torch._mkldnn\)"):
            einheads.einsum("b i -> i", x.to_mkldnn())

    def test_clear(self) -> None:
        """Clearing empties the cache, and calls go on as before."""
        x, w = torch.randn(2, 3), torch.randn(5, 3)
        first = einheads.einsum("b i, o i -> b o", x, w)
        assert einheads.cache_info().programs == 1
        einheads.cache_clear()
        info = einheads.cache_info()
        assert (info.programs, info.signatures, info.compilations) == (0, 0, 0)
        assert torch.equal(einheads.einsum("b i, o i -> b o", x, w), first)
        assert einheads.cache_info().programs == 1

    def test_is_bounded(self) -> None:
        """More patterns and sizes than the cache holds do not make it larger than its bound."""
        bounds = einheads.cache_info()
        x = torch.arange(6.0).reshape(2, 3)
        for number in range(bounds.max_programs + 50):
            result = einheads.einsum(f"a b{number} -> b{number} a", x)
            assert torch.equal(result, x.T)
            assert einheads.cache_info().programs <= bounds.max_programs
        assert einheads.cache_info().programs > 0
        einheads.cache_clear()
        flat = torch.arange(float(bounds.max_signatures + 50))
        for length in range(1, len(flat)):
            assert einheads.einsum("a -> a", flat[:length]).shape == (length,)
        assert 0 < einheads.cache_info().signatures <= bounds.max_signatures

    def test_threads(self) -> None:
        """Eight threads that compile, call, count and clear at once all get right results."""
        failures: list[BaseException] = []
        start = threading.Barrier(8)

        def work(number: int) -> None:
            try:
                start.wait()
                dice = random.Random(number)
                for turn in range(80):
                    case = BY_NAME[dice.choice(names)]
                    # Some patterns are common to the threads and some are a thread's own.
                    own = {axis: f"{axis}_{number}" for axis in axes_of(case)}
                    case = rename(case, own) if turn % 2 else case
                    tensors = [dice.choice(LAYOUTS[:4])(x) for x in case.tensors(seed=turn)]
                    case.check_call(einheads.einsum, tensors)
                    assert einheads.cache_info().programs >= 0
                    if turn % 40 == number:
                        einheads.cache_clear()
            except BaseException as failure:  # noqa: BLE001  # a thread would swallow it
                failures.append(failure)

        names = [case.name for case in SMALL if len(case.shapes) > 1]
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures[0]

    def test_many_compilations_of_one_pattern_warn_once(self) -> None:
        """A pattern that is compiled again and again says so, a single time."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for rank in range(40):
                x = torch.arange(6.0).reshape(*[1] * rank, 6)
                for given in ({"a": 2}, {"b": 3}):
                    result = einheads.einsum("... (a b) -> b ... a", x, **given)
                    assert torch.equal(result.flatten(), torch.tensor([0.0, 3, 1, 4, 2, 5]))
        assert einheads.cache_info().compilations > 64
        assert [type(warning.message) for warning in caught] == [RuntimeWarning]


def test_half_precision_is_added_up_in_single() -> None:
    """Products that no half holds have sums that one does."""
    tiny = torch.full((1, 4096), 1e-4, dtype=torch.float16)
    found = einheads.einsum("b i, b i -> b", tiny, tiny)
    torch.testing.assert_close(found, torch.tensor([4.096e-05], dtype=torch.float16))
    left, right = torch.tensor([[300.0, 300.0]]).half(), torch.tensor([[300.0, -300.0]]).half()
    assert einheads.einsum("b i, b i -> b", left, right).tolist() == [0.0]
    assert einheads.einsum("b i, b i ->", left, right).item() == 0.0


def test_errors_of_torch_under_autocast_are_its_own() -> None:
    """Mixed dtypes are allowed there, so they are not to blame."""
    x, weight = torch.randn(3, 5, dtype=torch.bfloat16), torch.randn(7, 5, requires_grad=True)
    with torch.inference_mode():
        x = x.clone()
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(RuntimeError, match="Inference tensors"),
    ):
        einheads.einsum("b i, o i -> b o", x, weight)
