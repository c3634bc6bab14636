"""Products that are added up along some of the summed axes, so that no operand is copied.

Where summed axes lie apart in an operand, to fold them would copy it. A product for each index of
one of them reads both operands as they lie. Their sum is made afterwards, or, where nobody follows
what is done, as each product is made.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import einheads
from cases import as_numpy
from checks import COPIES, bound_for, operations, shapes_of
from einheads.bench.probes import CopyCounter
from einheads.candidates import Candidate, Traits
from einheads.choices import Choice, fits, from_data, to_data
from einheads.compiled import compile_source
from einheads.costs import Costs
from einheads.devices import AVX2, AVX512, CUDA
from einheads.lower import drafts, lower
from einheads.operands import Declaration
from einheads.pattern import parse
from einheads.plan import plan
from einheads.price import price
from einheads.program import prepare
from einheads.sizes import bind
from einheads.source import write
from einheads.steps import (
    Accumulate,
    Bmm,
    Expand,
    Linear,
    Matmul,
    Multiply,
    Reshape,
    Steps,
    Sum,
    elements,
    in_turns,
)
from einheads.unplanned import undone
from einheads.ways import ways
from oracle import oracle

# The gradient of a weight that meets channels before time, and the same for each of some heads.
CHANNELS = "b i t, b o t -> i o"
HEADS = "b h t i, b h t o -> h i o"
PATTERNS = [
    CHANNELS,
    HEADS,
    "c a d, d c b -> a b",
    "b a, c b a -> c",
    "h b a, b h a -> h",
    "b t i j, t o b -> j o i",
    "b s t i, b s o t -> o i",
    "h b t i, t h b o -> i h o",
]
TURNS = Traits(itemsize=8, turns=True)
SIZES = dict(zip("abcdhijopst", (3, 5, 2, 4, 2, 3, 2, 7, 3, 2, 5), strict=True))


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    einheads.cache_clear()
    yield
    einheads.cache_clear()


def adds(steps: Steps) -> bool:
    """Whether products are there all at once and then added up."""
    kinds = [type(step) for step in steps.steps]
    made = [place for place, kind in enumerate(kinds) if kind in {Bmm, Matmul}]
    return bool(made) and Sum in kinds[made[0] :]


def in_one(steps: Steps) -> bool:
    """Whether torch has one operation that adds them up as they are made."""
    return any(isinstance(step, Accumulate) and len(step.dims) == 2 for step in steps.steps)


def in_a_loop(steps: Steps) -> bool:
    """Whether Python goes around instead, since each of them is a stack."""
    return any(isinstance(step, Accumulate) and len(step.dims) == 3 for step in steps.steps)


def stored(shape: tuple[int, ...], draw: random.Random) -> Tensor:
    """A random tensor with its outer axes in any order in memory, sometimes with gaps."""
    order = list(range(len(shape)))
    if draw.random() < 0.7:
        outer = order[:-1]
        draw.shuffle(outer)
        order[:-1] = outer
    back = sorted(range(len(shape)), key=order.__getitem__)
    gap = draw.choice((0, 0, 3))
    one = torch.randn([*(shape[place] for place in order[:-1]), shape[-1] + gap])
    one = one.double()[..., gap:]
    if draw.random() < 0.2:
        one = one[:1].expand(one.shape)
    return one.permute(back)


def run(steps: Steps, *tensors: Tensor, sizes: Mapping[str, int] = SIZES) -> Tensor:
    """What the text of some steps computes."""
    text = write(steps, ["x", "y"], title="")
    extra = [sizes[name] for name in steps.given]
    result: Tensor = compile_source(text, "contract", "<added>")(*tensors, *extra)
    return result


def whole(*shape: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Small whole numbers, of which every product and sum is exact."""
    drawn = [torch.randint(-9, 9, shape, generator=generator).to(dtype) for _ in range(2)]
    return torch.complex(drawn[0].real, drawn[1].real) if dtype.is_complex else drawn[0]


def gradients_agree(call: Callable[..., Tensor], pattern: str, tensors: Sequence[Tensor]) -> None:
    """Assert that a call has the value and both derivatives that `torch.einsum` has."""
    found = []
    for one in (call, partial(torch.einsum, pattern.replace(" ", ""))):
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        value = one(*leaves)
        firsts = torch.autograd.grad(value.square().sum(), leaves, create_graph=True)
        total = sum((first.square().sum() for first in firsts), torch.zeros(()))
        found.append((value, *firsts, *torch.autograd.grad(total, leaves)))
    torch.testing.assert_close(*found)


def every(pattern: str, tensors: Sequence[Tensor], traits: Traits) -> list[Steps]:
    """All candidates for these tensors."""
    bound, layouts = bound_for(pattern, tensors)
    return [draft.steps for draft in drafts(bound, plan(bound), layouts, traits)]


class TestValues:
    """Every such way computes what the pattern says, and copies what it says."""

    @pytest.mark.parametrize("pattern", PATTERNS)
    @pytest.mark.parametrize("turns", [False, True], ids=["at once", "in turns"])
    def test_every_way(self, pattern: str, turns: bool) -> None:  # noqa: FBT001
        """Operands in any order of axes, sliced and expanded; gradients where followed."""
        draw = random.Random(5)
        found = 0
        for number in range(20):
            # Of some, one axis or two have size one.
            ones = draw.sample(list(SIZES), 3) if number > 14 else []
            sizes = {**SIZES, **dict.fromkeys(ones, 1)}
            tensors = [stored(shape, draw) for shape in shapes_of(pattern, sizes)]
            wanted = oracle(pattern, *map(as_numpy, tensors))
            for steps in every(pattern, tensors, TURNS):
                if not (any(map(in_turns, steps.steps)) if turns else adds(steps)):
                    continue
                found += 1
                with CopyCounter() as counter:
                    result = run(steps, *tensors)
                np.testing.assert_allclose(as_numpy(result), wanted, rtol=1e-9, atol=1e-9)
                if not ones and not any(isinstance(step, Matmul) for step in steps.steps):
                    assert counter.copies.total() == len(steps.copies)
                if not turns:
                    gradients_agree(partial(run, steps), pattern, tensors)
        assert found

    def test_all_kinds_are_tried(self) -> None:
        """Of two summed axes and no batch, or with one; more axes than that leave others over."""
        for pattern, one, loop in ((CHANNELS, True, False), (HEADS, False, True)):
            tensors = [torch.randn(shape).double() for shape in shapes_of(pattern, SIZES)]
            found = every(pattern, tensors, TURNS)
            assert any(map(adds, found))
            assert any(map(in_one, found)) is one
            assert any(map(in_a_loop, found)) is loop
            followed = every(pattern, tensors, Traits(itemsize=8))
            assert any(map(adds, followed))
            assert not any(in_turns(step) for steps in followed for step in steps.steps)

    @pytest.mark.parametrize("pattern", [CHANNELS, HEADS])
    @pytest.mark.parametrize(
        "dtype", [torch.float32, torch.complex64, torch.int8, torch.int32, torch.int64]
    )
    def test_dtypes(self, pattern: str, dtype: torch.dtype) -> None:
        """Integers wrap around as those of torch do, in their own width."""
        generator = torch.Generator().manual_seed(0)
        tensors = [
            whole(*shape, dtype=dtype, generator=generator) for shape in shapes_of(pattern, SIZES)
        ]
        if dtype.is_complex:
            tensors[0] = tensors[0].conj()
        integer = not (dtype.is_floating_point or dtype.is_complex)
        traits = Traits(itemsize=tensors[0].element_size(), integer=integer, turns=True)
        wanted = torch.einsum(pattern.replace(" ", ""), *tensors)
        kinds = set()
        for steps in every(pattern, tensors, traits):
            result = run(steps, *tensors)
            assert result.dtype == dtype
            assert torch.equal(result, wanted)
            kinds |= {kind for kind in (adds, in_one, in_a_loop) if kind(steps)}
        assert len(kinds) == 2

    @pytest.mark.parametrize("traits", [replace(TURNS, itemsize=2), replace(TURNS, autocast=True)])
    @pytest.mark.parametrize("pattern", [CHANNELS, HEADS])
    def test_narrow_numbers_are_summed_wider(self, pattern: str, traits: Traits) -> None:
        """Each product would be rounded before they are added up."""
        found = every(pattern, list(map(torch.randn, shapes_of(pattern, SIZES))), traits)
        assert found
        assert not any(adds(one) or in_one(one) or in_a_loop(one) for one in found)

    @pytest.mark.parametrize("pattern", [CHANNELS, HEADS])
    @pytest.mark.parametrize("axis", ["b", "t", "i"])
    def test_empty_axes(self, pattern: str, axis: str) -> None:
        """The sum of nothing is zero."""
        tensors = [torch.randn(shape) for shape in shapes_of(pattern, {**SIZES, axis: 0})]
        wanted = torch.einsum(pattern.replace(" ", ""), *tensors)
        found = every(pattern, tensors, replace(TURNS, itemsize=4))
        assert any(map(adds, found))
        for steps in found:
            torch.testing.assert_close(run(steps, *tensors), wanted)
        torch.testing.assert_close(einheads.einsum(pattern, *tensors), wanted)

    @pytest.mark.parametrize(
        "pattern", ["(p b) t i, p b o t -> o i", "b (h t) i, b h o t -> h i o"]
    )
    def test_composites(self, pattern: str) -> None:
        """Axes that are folded already are taken apart where that is a view."""
        sizes = {"p": 2, "b": 5, "h": 3, "t": 7, "i": 4, "o": 6}
        terms = pattern.replace("(", "").replace(")", "").split(" -> ")[0].split(", ")
        tensors = [torch.randn([sizes[axis] for axis in term.split()]).double() for term in terms]
        place = 0 if pattern.startswith("(") else 1
        tensors[0] = tensors[0].flatten(place, place + 1)
        wanted = oracle(pattern, *map(as_numpy, tensors))
        found = every(pattern, tensors, TURNS)
        assert any(map(adds, found))
        for steps in found:
            result = run(steps, *tensors, sizes=sizes)
            np.testing.assert_allclose(as_numpy(result), wanted, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("pattern", [CHANNELS, HEADS])
    def test_other_sizes_of_the_class(self, pattern: str) -> None:
        """The text of each of them is right for more products, or fewer."""
        shapes = shapes_of(pattern, {**SIZES, "b": 4})
        tensors = [torch.randn(shape).double() for shape in shapes]
        for steps in every(pattern, tensors, TURNS):
            for count in (4, 5, 7):
                others = [torch.randn(count, *shape[1:]).double() for shape in shapes]
                wanted = oracle(pattern, *map(as_numpy, others))
                np.testing.assert_allclose(
                    as_numpy(run(steps, *others)), wanted, rtol=1e-9, atol=1e-9
                )

    def test_what_is_read_again_keeps_its_name(self) -> None:
        """A value that a later step reads as well is still a tensor then."""
        dims, i = (("b",), ("i",)), (("i",),)
        made = Multiply(0, 1, i, each=True), Sum(0, (0,), i), Multiply(2, 3, i)
        x, y = torch.randn(2, 3, 5, dtype=torch.float64)
        result = run(Steps((dims, dims), made, 4), x, y)
        torch.testing.assert_close(result, (x * y).sum(0) * x.sum(0))


class TestChoice:
    """It is chosen where it costs less than a copy."""

    def operands(self, pattern: str) -> list[Tensor]:
        """Large enough that a copy counts, and of primes."""
        sizes = dict(zip("bhtio", (7, 5, 131, 61, 67), strict=True))
        return [torch.randn(shape) for shape in shapes_of(pattern, sizes)]

    @pytest.mark.parametrize("pattern", [CHANNELS, HEADS])
    def test_nothing_is_copied(self, pattern: str) -> None:
        """Neither where somebody follows what is done, nor where nobody does."""
        tensors = self.operands(pattern)
        lowered = prepare(Declaration(pattern), (), tensors).lowered
        assert adds(lowered.program.steps)
        assert not lowered.program.steps.copies
        assert not lowered.unwatched.steps.copies
        wanted = oracle(pattern, *map(as_numpy, tensors))
        for leaves in (tensors, [one.clone().requires_grad_() for one in tensors]):
            made: list[Tensor] = []
            names = operations(
                lambda leaves=leaves, made=made: made.append(einheads.einsum(pattern, *leaves))
            )  # type: ignore[misc]
            assert not set(names) & COPIES
            np.testing.assert_allclose(as_numpy(made[0]), wanted, rtol=1e-3, atol=1e-3)

    def test_large_results_are_added_as_they_are_made(self) -> None:
        """All products at once would take more memory than copies of the operands."""
        tensors = [torch.randn(7, 311, 131), torch.randn(7, 313, 131)]
        lowered = prepare(Declaration(CHANNELS), (), tensors).lowered
        assert not adds(lowered.program.steps)
        assert in_one(lowered.unwatched.steps)
        names = operations(lambda: einheads.einsum(CHANNELS, *tensors))
        assert "aten::addbmm" in names
        torch.testing.assert_close(
            einheads.einsum(CHANNELS, *tensors),
            torch.einsum("bit,bot->io", *tensors),
            rtol=1e-4,
            atol=1e-4,
        )

    def test_what_folds_is_folded(self) -> None:
        """There is one product where both operands fold what is summed."""
        for pattern in ("b t i, b t o -> i o", "h b t i, h b t o -> h i o"):
            steps = every(pattern, self.operands(pattern), TURNS)
            assert not any(adds(one) or in_one(one) or in_a_loop(one) for one in steps)

    def test_what_they_read_like(self) -> None:
        """As one would write them by hand."""
        sizes = dict(zip("bhtio", (32, 8, 64, 64, 64), strict=True))
        told = einheads.explain(HEADS, **sizes)
        assert told.source.splitlines()[-3:] == [
            "    x1 = x1.mT  # b h i t",
            "    y = torch.matmul(x1, x2)  # b h i o",
            "    return y.sum(0)  # h i o",
        ]
        assert told.unfollowed is not None
        assert told.unfollowed.text is not None
        assert told.unfollowed.text.splitlines()[-6:] == [
            "    x1 = x1.mT  # b h i t",
            "    x1, x2 = x1.unbind(), x2.unbind()",
            "    y = torch.bmm(x1[0], x2[0])  # h i o",
            "    for x1_, x2_ in zip(x1[1:], x2[1:]):",
            "        y.baddbmm_(x1_, x2_)  # h i o",
            "    return y",
        ]
        told = einheads.explain(CHANNELS, b=7, i=311, o=313, t=131)
        assert told.unfollowed is not None
        assert told.unfollowed.text is not None
        assert told.unfollowed.text.splitlines()[-2:] == [
            "    x2 = x2.mT  # b t o",
            "    return torch.addbmm(x1.new_zeros(()), x1, x2, beta=0)  # i o",
        ]

    def test_bias(self) -> None:
        """It is added to the sum, once."""
        for pattern, bias in ((CHANNELS, "o"), (HEADS, "h o"), (HEADS, "i o")):
            tensors = self.operands(pattern)
            sizes = {"h": 5, "i": 61, "o": 67}
            added = torch.randn([sizes[axis] for axis in bias.split()])
            lowered = prepare(Declaration(pattern, bias), (), [*tensors, added]).lowered
            shape = [
                sizes[axis] if axis in bias.split() else 1
                for axis in pattern.split("-> ")[1].split()
            ]
            wanted = torch.einsum(pattern.replace(" ", ""), *tensors) + added.view(shape)
            for program in (lowered.program, lowered.unwatched):
                assert not program.steps.copies
                torch.testing.assert_close(program(*tensors, added), wanted, rtol=1e-4, atol=1e-4)

    def test_several_operands(self) -> None:
        """An inner result is born as the next contraction wants it, sums of products as well."""
        pattern = "b i t, b o t, o p -> i p"
        tensors = [*self.operands(CHANNELS), torch.randn(67, 3)]
        assert adds(prepare(Declaration(pattern), (), tensors).lowered.program.steps)
        leaves = [one.double().requires_grad_() for one in tensors]
        assert adds(prepare(Declaration(pattern), (), leaves).lowered.program.steps)
        gradients_agree(partial(einheads.einsum, pattern), pattern, leaves)

    def test_a_device_that_was_not_measured(self) -> None:
        """Elsewhere an operand is copied, as before."""
        bound = bind(parse(CHANNELS), shapes_of(CHANNELS, SIZES))
        for draft in drafts(bound, plan(bound), traits=Traits(device="cuda")):
            assert not adds(draft.steps)

    def test_transforms(self) -> None:
        """What is followed are plain operations."""
        x, y = (one.double() for one in self.operands(CHANNELS))

        def call(x: Tensor, y: Tensor) -> Tensor:
            return einheads.einsum(CHANNELS, x, y)

        wanted = torch.einsum("bit,bot->io", x, y)
        _, moved = torch.func.jvp(call, (x, y), (x, torch.zeros_like(y)))
        torch.testing.assert_close(moved, wanted)
        twice = torch.func.vmap(call)(torch.stack([x, 2 * x]), torch.stack([y, y]))
        torch.testing.assert_close(twice, torch.stack([wanted, 2 * wanted]))
        torch._dynamo.reset()
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, y), wanted)


class TestWrittenDown:
    """A choice of this kind goes into a file and comes back, and is refused where it is none."""

    @pytest.mark.parametrize("called", ["aten::addbmm", "aten::sum"])
    def test_what_was_measured_is_used(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, called: str
    ) -> None:
        """Here, and where the file is read."""
        tensors = [torch.randn(3, 31, 2), torch.randn(3, 37, 2)]

        def fastest(calls: list[Callable[[], object]], _: object) -> int:
            names = [operations(call) for call in calls]
            return next((place for place, one in enumerate(names) if called in one), 0)

        monkeypatch.setattr("einheads.tuning.fastest", fastest)
        einheads.tune(CHANNELS, *tensors, progress=False)
        einheads.save_tuned(tmp_path / "tuned.json")
        for _ in range(2):
            assert called in operations(lambda: einheads.einsum(CHANNELS, *tensors))
            torch.testing.assert_close(
                einheads.einsum(CHANNELS, *tensors), torch.einsum("bit,bot->io", *tensors)
            )
            einheads.cache_clear()
            einheads.load_tuned(tmp_path / "tuned.json")

    def test_there_and_back(self) -> None:
        """Each of them, and one from before there were any."""
        for pattern in (CHANNELS, HEADS):
            tensors = [torch.randn(shape).double() for shape in shapes_of(pattern, SIZES)]
            bound, layouts = bound_for(pattern, tensors)
            found = [
                draft
                for draft in drafts(bound, plan(bound), layouts, TURNS)
                if adds(draft.steps) or in_one(draft.steps) or in_a_loop(draft.steps)
            ]
            assert len(found) >= 4
            for draft in found:
                data = json.loads(json.dumps(to_data(Choice(draft.ways))))
                assert from_data(data) == Choice(draft.ways)
                assert fits(plan(bound), draft.ways, TURNS)
                assert lower(bound, plan(bound), layouts, TURNS, chosen=draft.ways) == draft.steps

    def test_what_does_not_fit(self) -> None:
        """Axes that are summed twice, or not at all, or in turns that nobody takes."""
        bound = bind(parse(CHANNELS), shapes_of(CHANNELS, SIZES))
        way = Candidate(("b",), ("i",), ("o",), ("t",), swapped=False, added=("b",))
        right = [
            way,
            way._replace(each=True),
            Candidate((), ("i",), ("o",), ("b", "t"), swapped=False),
        ]
        assert all(fits(plan(bound), [one], TURNS) for one in right)
        assert not fits(plan(bound), [way._replace(each=True)], Traits())
        wrong = [
            way._replace(added=()),
            way._replace(added=("t",)),
            way._replace(added=("b", "t"), contract=()),
            way._replace(batch=(), added=()),
            way._replace(contract=("b", "t")),
            way._replace(batch=("b", "t"), contract=(), added=("b", "t"), each=True),
        ]
        assert not any(fits(plan(bound), [one], TURNS) for one in wrong)
        heads = bind(parse(HEADS), shapes_of(HEADS, SIZES))
        loop = Candidate(("b", "h"), ("i",), ("o",), ("t",), swapped=False, each=True, added=("b",))
        assert fits(plan(heads), [loop], TURNS)
        # The first axis of the batch has its turns, and that one is not summed here.
        assert not fits(plan(heads), [loop._replace(batch=("h", "b"))], TURNS)
        # Rounded before they are summed, cast, or none at all.
        for traits in (Traits(itemsize=2), Traits(autocast=True)):
            assert fits(plan(bound), [right[2]], traits)
            assert not fits(plan(bound), [way], traits)
        each = way._replace(each=True)
        none = bind(parse(CHANNELS), shapes_of(CHANNELS, {**SIZES, "b": 0}))
        assert fits(plan(none), [way], TURNS)
        assert not fits(plan(none), [each], TURNS)
        assert not fits(plan(bound), [way], Traits(device="cuda", integer=True))
        data = json.loads(json.dumps(to_data(Choice((way,)))))
        data["ways"][0]["added"] = "b"
        with pytest.raises(ValueError, match="added"):
            from_data(data)


class TestPrices:
    """What the search takes such a way to cost, and what it comes to."""

    @pytest.mark.parametrize("pattern", [CHANNELS, HEADS, "b a, b c a -> c"])
    def test_the_search_is_close(self, pattern: str) -> None:
        """Within the call of a matmul, which is not asked for in the search but may be written."""
        sizes = {axis: 3 * size for axis, size in SIZES.items()}
        bound = bind(parse(pattern), shapes_of(pattern, sizes))
        (step,) = plan(bound).contractions
        found = drafts(bound, plan(bound), traits=replace(TURNS, itemsize=4))
        layouts = found[0].layouts
        traits = replace(TURNS, itemsize=4)
        priced = ways(step, layouts[0], layouts[1], bound.sizes, traits, bound.output, every=True)
        rough = {way: cost for cost, way in priced}
        checked = 0
        for draft in found:
            (way,) = draft.ways
            if isinstance(way, Candidate) and way.added:
                exact = price(draft.steps, layouts, bound.sizes)
                assert abs(rough[way] - exact) <= AVX512.matmul_call
                checked += 1
        assert checked

    def test_turns_write_one_result(self) -> None:
        """It stays in a cache where all products would not; rows that vectors do not fill wait."""
        costs = Costs(AVX512, {}, 4)

        def product(columns: int, turns: int) -> float:
            return costs.product(
                64, 512, columns, 8, left=True, right=False, stacked=True, turns=turns
            )

        assert product(64, 64) < product(64, 1)
        assert product(64, 64) == product(64, 32)
        before = product(24, 64)
        costs = Costs(replace(AVX512, added_row=0.0), {}, 4)
        assert before - product(24, 64) == pytest.approx(64 * 512 * AVX512.added_row)
        assert AVX2.added_row == CUDA.added_row == 0.0

    @pytest.mark.parametrize("pattern", [CHANNELS, HEADS])
    def test_what_autograd_copies(self, pattern: str) -> None:
        """The gradient of a sum is the same along what was summed; to fold it copies it."""
        tensors = [torch.randn(shape).requires_grad_() for shape in shapes_of(pattern, SIZES)]
        bound, layouts = bound_for(pattern, tensors)
        checked = set()
        for draft in drafts(bound, plan(bound), layouts):
            if not adds(draft.steps):
                continue
            value = run(draft.steps, *tensors)
            with CopyCounter() as counter:
                torch.autograd.grad(value, tensors, torch.randn_like(value))
            back = undone(draft.steps, layouts, [True, True], bound.sizes)
            kinds = [type(step) for step in back.steps]
            # Copies that bring a gradient into the layout of its parameter come later.
            fold = back.steps[kinds.index(Expand) + 1]
            told = isinstance(fold, Reshape) and fold.copies
            assert told == bool(counter.copies.total())
            checked.add(told)
        assert checked == {pattern == HEADS}

    def test_memory_is_bounded(self) -> None:
        """No way that is followed holds much more than copies of the operands would."""
        bound = bind(parse(CHANNELS), [(61, 307, 31), (61, 311, 31)])
        held = 61 * 31 * (307 + 311)
        for draft in drafts(bound, plan(bound)):
            if not any(isinstance(step, (Bmm, Matmul, Linear)) for step in draft.steps.steps):
                continue
            largest = max(
                elements(step.dims, bound.sizes)
                for step in draft.steps.steps
                if isinstance(step, (Bmm, Matmul, Linear))
            )
            assert largest <= held
