"""Products that are made one after the other, into one result.

Stacks are, because no stride covers the whole batch; elementwise products are, because all at once
they would fill the memory with what is summed at once. That happens where nobody follows what is
done: neither autograd, nor a transform, nor a compiler. Here is when it is chosen, what runs then,
and who gets something else instead.
"""

import json
import random
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)
from torch.utils.flop_counter import FlopCounterMode

import einheads
from cases import as_numpy
from checks import COPIES, bound_for, operations
from einheads import training
from einheads.bench.probes import CopyCounter
from einheads.call import apply
from einheads.candidates import Candidate, Elementwise, Traits
from einheads.choices import Choice, fits, from_data, to_data
from einheads.compiled import compile_source
from einheads.lower import drafts
from einheads.operands import Declaration
from einheads.pattern import parse
from einheads.plan import plan
from einheads.program import cache, prepare
from einheads.sizes import bind
from einheads.source import write
from einheads.steps import Steps, in_turns
from oracle import oracle

SCORES = "b t h d, b s h d -> b h t s"
VALUES = "b h t s, b s h d -> b t h d"
LETTERS = "bthd,bshd->bhts"


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    einheads.cache_clear()
    yield
    einheads.cache_clear()


def decode(b: int = 5, s: int = 307, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A query for one token, and the keys of all tokens before it, as a cache holds them."""
    return torch.randn(b, 1, 7, 61).to(dtype), torch.randn(b, s, 7, 61).to(dtype)


def turns(steps: Steps) -> bool:
    """Whether products are made one after the other."""
    return any(map(in_turns, steps.steps))


def one_by_one(pattern: str, *tensors: Tensor) -> bool:
    """Whether a call of these tensors does so, if nobody follows it."""
    lowered = prepare(Declaration(pattern), (), tensors).lowered
    assert not turns(lowered.program.steps)  # which anybody may follow
    return turns(lowered.unwatched.steps)


def products(call: Callable[[], object]) -> int:
    """How many products run."""
    return operations(call).count("aten::bmm")


def every_draft(*tensors: Tensor, pattern: str = SCORES, traits: Traits | None = None) -> list[Any]:
    """All candidates for these tensors."""
    bound, layouts = bound_for(pattern, tensors)
    return drafts(bound, plan(bound), layouts, traits or Traits(itemsize=8, turns=True))


class TestValues:
    """Every way to do it computes what the pattern says."""

    @pytest.mark.parametrize(
        "pattern",
        [
            SCORES,
            VALUES,
            "b t g q d, b s g d -> b g q t s",
            "a b c i, c a b i j -> j b a c",
            "b h i, h b i o -> b h o",
            "p b h i, h p b i o -> p (b h) o",
            "b t a c, a c -> b t c",
            "a b, d b c a -> d c a",
            "i a, a i -> a",
            "i, i b -> b",
            "b a, b c -> c a",
        ],
    )
    def test_every_way(self, pattern: str) -> None:
        """Of operands in any order of axes, and expanded ones."""
        draw = random.Random(3)
        sizes = dict(zip("abcdghijopqst", (2, 3, 5, 4, 2, 3, 5, 3, 7, 2, 3, 5, 4), strict=True))
        found = 0
        for number in range(6):
            tensors = []
            for term in pattern.split(" -> ", maxsplit=1)[0].split(", "):
                shape = [sizes[axis] for axis in term.split()]
                order = list(range(len(shape)))
                if number:
                    draw.shuffle(order)
                back = sorted(range(len(shape)), key=order.__getitem__)
                one = torch.randn([shape[place] for place in order], dtype=torch.float64)
                one = one.permute(back)
                if number and draw.random() < 0.2:
                    one = one[:1].expand(shape)
                tensors.append(one)
            wanted = oracle(pattern, *map(as_numpy, tensors))
            for draft in every_draft(*tensors, pattern=pattern):
                if not turns(draft.steps):
                    continue
                found += 1
                text = write(draft.steps, ["x", "y"], title=pattern)
                with CopyCounter() as counter:
                    result = compile_source(text, "contract", "<way>")(*tensors)
                np.testing.assert_allclose(as_numpy(result), wanted, rtol=1e-9, atol=1e-9)
                assert counter.copies.total() == len(draft.steps.copies)
        assert found

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.complex64])
    def test_dtypes(self, dtype: torch.dtype) -> None:
        """Integers and complex numbers have such products on a CPU as well."""
        q, k = (one.mul(3).round().to(dtype) for one in decode())
        assert one_by_one(SCORES, q, k)
        result = einheads.einsum(SCORES, q, k)
        assert result.dtype == dtype
        torch.testing.assert_close(result, torch.einsum(LETTERS, q, k))

    @pytest.mark.parametrize(
        "pattern",
        [
            "b t (h d), b s (h d) -> b h t s",
            "b t (h d), b s (h d) -> b (h t) s",
            "b t (h d), b s (h d) -> (b h) t s",
            "b t (h d), b (s h d) -> b h t s",
            "... t (h d), ... s (h d) -> ... h t s",
        ],
    )
    def test_composites(self, pattern: str) -> None:
        """Sizes that no shape tells are passed to whatever runs."""
        q, k = decode()
        folded = [q.flatten(2), k.flatten(2) if "(s h" not in pattern else k.flatten(1)]
        given = {"h": 7}
        lowered = prepare(Declaration(pattern), tuple(given.items()), folded).lowered
        assert turns(lowered.unwatched.steps)
        result = einheads.einsum(pattern, *folded, **given)
        torch.testing.assert_close(result.reshape(5, 7, 1, 307), torch.einsum(LETTERS, q, k))
        leaves = [one.clone().requires_grad_() for one in folded]
        watched = einheads.einsum(pattern, *leaves, **given)
        torch.testing.assert_close(watched, result)

    @pytest.mark.parametrize("bias", ["h", "b h", "s", "t s"])
    def test_bias(self, bias: str) -> None:
        """It is added to the whole result."""
        q, k = decode()
        sizes = {"b": 5, "h": 7, "t": 1, "s": 307}
        added = torch.randn([sizes[axis] for axis in bias.split()], dtype=torch.float64)
        declaration = Declaration(SCORES, bias)
        lowered = prepare(declaration, (), (q, k, added)).lowered
        assert turns(lowered.unwatched.steps)
        assert not turns(lowered.program.steps)
        shape = [sizes[axis] if axis in bias.split() else 1 for axis in "bhts"]
        wanted = torch.einsum(LETTERS, q, k) + added.view(shape)
        torch.testing.assert_close(apply(declaration, (), q, k, added), wanted)

    def test_flops_are_counted(self) -> None:
        """Whoever counts operations follows them, and sees one product."""
        q, k = decode()
        einheads.einsum(SCORES, q, k)
        with FlopCounterMode(display=False) as counter:
            einheads.einsum(SCORES, q, k)
        assert counter.get_total_flops() == 2 * 5 * 7 * 307 * 61
        assert set(counter.get_flop_counts()["Global"]) == {torch.ops.aten.bmm}

    def test_names_cannot_clash(self) -> None:
        """Axes and operands may be called like what goes through the stacks."""
        q, k = decode()
        pattern = "x1_ zip y_ y, x1_ x2_ y_ y -> x1_ y_ zip x2_"
        assert one_by_one(pattern, q, k)
        torch.testing.assert_close(einheads.einsum(pattern, q, k), torch.einsum(LETTERS, q, k))


DEPTHWISE = "b t k c, k c -> b t c"


class TestSums:
    """Elementwise products that are summed: each is added to the result as soon as it is made."""

    def operands(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """A window at every place, and a weight for each channel."""
        return torch.randn(11, 131, 3, 257).to(dtype), torch.randn(3, 257).to(dtype)

    def test_nothing_larger_than_the_result_is_made(self) -> None:
        """A window of three takes one multiply and two multiply-adds, and no sum."""
        x, w = self.operands()
        assert one_by_one(DEPTHWISE, x, w)
        result = einheads.einsum(DEPTHWISE, x, w)
        wanted = oracle(DEPTHWISE, as_numpy(x), as_numpy(w))
        np.testing.assert_allclose(as_numpy(result), wanted, rtol=1e-9, atol=1e-9)
        made = operations(lambda: einheads.einsum(DEPTHWISE, x, w))
        assert [made.count(f"aten::{name}") for name in ("mul", "addcmul_", "sum")] == [1, 2, 0]
        assert not set(made) & COPIES

    def test_what_it_reads_like(self) -> None:
        """What runs where nobody follows it is told beside what anybody may follow."""
        told = einheads.explain(DEPTHWISE, *self.operands())
        assert "sum(2)" in told.source
        assert told.unfollowed is not None
        assert told.unfollowed.text is not None
        assert told.unfollowed.text.splitlines()[-6:] == [
            "    x2 = x2.reshape(k, 1, 1, c)  # k 1 1 c",
            "    x1, x2 = x1.unbind(), x2.unbind()",
            "    y = x1[0] * x2[0]  # b t c",
            "    for x1_, x2_ in zip(x1[1:], x2[1:]):",
            "        y.addcmul_(x1_, x2_)  # b t c",
            "    return y",
        ]

    def test_a_small_operand_is_copied(self) -> None:
        """Where it would be read at a distance again and again."""
        pattern = "a b, d b c a -> d c a"
        w, x = torch.randn(67, 7).double(), torch.randn(31, 7, 37, 67).double()
        assert one_by_one(pattern, w, x)
        made = operations(lambda: einheads.einsum(pattern, w, x))
        assert made.count("aten::addcmul_") == 6
        assert made.count("aten::clone") == 1
        np.testing.assert_allclose(
            as_numpy(einheads.einsum(pattern, w, x)),
            oracle(pattern, as_numpy(w), as_numpy(x)),
            rtol=1e-9,
            atol=1e-9,
        )

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
    def test_narrow_numbers_are_summed_wider(self, dtype: torch.dtype) -> None:
        """They would be rounded at every turn."""
        x, w = (one.mul(3).round().to(dtype) for one in self.operands())
        assert not one_by_one(DEPTHWISE, x, w)
        result = einheads.einsum(DEPTHWISE, x, w)
        torch.testing.assert_close(result, torch.einsum("btkc,kc->btc", x, w))

    def test_complex_numbers(self) -> None:
        """A conjugate is one."""
        x, w = (torch.view_as_complex(torch.randn(*one.shape, 2)) for one in self.operands())
        for weight in (w, w.conj()):
            result = einheads.einsum(DEPTHWISE, x, weight)
            torch.testing.assert_close(result, torch.einsum("btkc,kc->btc", x, weight))

    def test_gradients_follow_a_sum(self) -> None:
        """Autograd cannot follow what is written into."""
        leaves = [one.requires_grad_() for one in self.operands()]
        made = operations(lambda: einheads.einsum(DEPTHWISE, *leaves))
        assert "aten::addcmul_" not in made
        every = [
            torch.autograd.grad(result.square().sum(), leaves)
            for result in (
                einheads.einsum(DEPTHWISE, *leaves),
                torch.einsum("btkc,kc->btc", *leaves),
            )
        ]
        for one, other in zip(*every, strict=True):
            torch.testing.assert_close(one, other)

    def test_operands_are_left_alone(self) -> None:
        """The result is a tensor of its own, if one operand is all ones too."""
        x, _ = self.operands()
        before = x.clone()
        for _ in range(4):
            einheads.einsum(DEPTHWISE, x, torch.ones(3, 257).double()).add_(1)
        assert torch.equal(x, before)

    @pytest.mark.parametrize("k", [1, 2, 64])
    def test_how_many(self, k: int) -> None:
        """One product needs no sum, and too many would take too many calls."""
        x, w = torch.randn(11, 31, k, 257).double(), torch.randn(k, 257).double()
        assert one_by_one(DEPTHWISE, x, w) == (k == 2)
        torch.testing.assert_close(
            einheads.einsum(DEPTHWISE, x, w), torch.einsum("btkc,kc->btc", x, w)
        )

    def test_a_choice_can_be_written_down(self) -> None:
        """And is refused where it computes something else, or where others follow."""
        x, w = self.operands()
        found = [one for one in every_draft(x, w, pattern=DEPTHWISE) if turns(one.steps)]
        bound, _ = bound_for(DEPTHWISE, (x, w))
        for draft in found:
            choice = Choice(turns=draft.ways)
            again = from_data(json.loads(json.dumps(to_data(choice))))
            assert again == choice
            assert again.turns is not None
            assert fits(plan(bound), again.turns, Traits(turns=True))
            assert not fits(plan(bound), again.turns, Traits())
            (way,) = again.turns
            if isinstance(way, Elementwise):
                wrong = way._replace(order=way.order[::-1])
                assert not fits(plan(bound), [wrong], Traits(turns=True))
        assert found


class TestChoice:
    """It is chosen where the copy of an operand costs more than some calls."""

    def test_decoding(self) -> None:
        """Keys and values are read where they lie, and copied by nobody."""
        q, k = decode()
        p = torch.rand(5, 7, 1, 307, dtype=torch.float64)
        for pattern, *operands in ((SCORES, q, k), (VALUES, p, k)):
            assert one_by_one(pattern, *operands)
            result = einheads.einsum(pattern, *operands)
            wanted = oracle(pattern, *map(as_numpy, operands))
            np.testing.assert_allclose(as_numpy(result), wanted, rtol=1e-9, atol=1e-9)
            names = set(operations(partial(einheads.einsum, pattern, *operands)))
            assert "aten::bmm" in names
            assert not names & COPIES

    def test_what_it_reads_like(self) -> None:
        """Explanations show what anybody may follow, and tell what is done where nobody does."""
        told = einheads.explain(SCORES, *decode())
        assert "unbind" not in told.source
        assert told.unfollowed is not None
        assert told.unfollowed.text is not None
        assert told.unfollowed.text.splitlines()[-4:] == [
            "    y = x1.new_empty(b, h, t, s)  # b h t s",
            "    for x1_, x2_, y_ in zip(x1.unbind(), x2.unbind(), y.unbind()):",
            "        torch.bmm(x1_, x2_, out=y_)  # h t s",
            "    return y",
        ]
        assert "without gradients: each bmm b h t d x b h d s, one after the other" in str(told)
        assert told.to_dict()["unfollowed"] == told.unfollowed.text
        assert einheads.explain("b i, o i -> b o", b=2).unfollowed is None

    @pytest.mark.parametrize(
        ("q", "k"),
        [
            # One stride covers batch and heads.
            (torch.randn(5, 7, 1, 61).transpose(1, 2), torch.randn(5, 7, 307, 61).transpose(1, 2)),
            # So many calls take longer than a copy.
            (torch.randn(60, 1, 2, 3), torch.randn(60, 5, 2, 3)),
            (torch.randn(64, 1, 64, 61), torch.randn(64, 307, 64, 61)),
            (torch.randn(1, 1, 7, 61), torch.randn(1, 307, 7, 61)),
            (torch.randn(0, 1, 7, 61), torch.randn(0, 307, 7, 61)),
        ],
        ids=["heads first", "small stacks", "too many", "one", "none"],
    )
    def test_where_it_is_not(self, q: Tensor, k: Tensor) -> None:
        """Where nothing would be copied, or hardly anything, it does not pay."""
        assert not one_by_one(SCORES, q, k)
        torch.testing.assert_close(einheads.einsum(SCORES, q, k), torch.einsum(LETTERS, q, k))

    def test_only_where_nobody_follows(self) -> None:
        """Candidates have it if it is asked for, which CUDA, autocast and inner values never do."""
        q, k = decode()
        assert any(turns(one.steps) for one in every_draft(q, k))
        assert not any(turns(one.steps) for one in every_draft(q, k, traits=Traits(itemsize=8)))
        with torch.autocast("cpu"):
            assert not one_by_one(SCORES, q.float(), k.float())
        assert not one_by_one("b t h d, b s h d, d -> b h t s", q, k, torch.randn(61).double())

    def test_other_sizes_of_the_class(self) -> None:
        """One program serves all batches of a class, however many products that takes."""
        for b in (4, 5, 7):
            q, k = decode(b)
            torch.testing.assert_close(einheads.einsum(SCORES, q, k), torch.einsum(LETTERS, q, k))
            assert products(lambda q=q, k=k: einheads.einsum(SCORES, q, k)) == b
        assert einheads.cache_info().programs == 2


class TestFollowed:
    """Whoever follows what is done sees one product, and may undo it or repeat it for others."""

    @pytest.mark.parametrize("planned", [False, True])
    def test_gradients(self, monkeypatch: pytest.MonkeyPatch, planned: bool) -> None:  # noqa: FBT001
        """By autograd, and by a planned backward, which multiplies in turns itself."""
        monkeypatch.setattr(training, "pays", lambda _: planned)
        leaves = [one.requires_grad_() for one in decode()]
        assert one_by_one(SCORES, *leaves)
        weights = torch.randn(5, 7, 1, 307, dtype=torch.float64)
        assert products(lambda: einheads.einsum(SCORES, *leaves)) == (5 if planned else 1)
        every = []
        for result in (einheads.einsum(SCORES, *leaves), torch.einsum(LETTERS, *leaves)):
            plain = torch.autograd.grad((result * weights).sum(), leaves, retain_graph=True)
            first = torch.autograd.grad((result * weights).sum(), leaves, create_graph=True)
            again = torch.autograd.grad(sum(one.square().sum() for one in first), leaves)
            every.append((*plain, *first, *again))
        for one, other in zip(*every, strict=True):
            torch.testing.assert_close(one, other)

    def test_before_and_after(self) -> None:
        """A call with gradients and one without share nothing, in any order."""
        q, k = decode()
        learned = q.clone().requires_grad_()
        for one, count in ((q, 5), (learned, 1), (q, 5)):
            assert products(lambda one=one: einheads.einsum(SCORES, one, k)) == count
        with torch.no_grad():
            assert products(lambda: einheads.einsum(SCORES, learned, k)) == 5

    def test_transforms(self) -> None:
        """Under vmap, jvp and grad of `torch.func`."""
        q, k = decode()

        def call(q: Tensor, k: Tensor) -> Tensor:
            return einheads.einsum(SCORES, q, k)

        many = torch.randn(3, *q.shape, dtype=torch.float64)
        mapped = torch.func.vmap(call, in_dims=(0, None))(many, k)
        torch.testing.assert_close(mapped, torch.stack([call(one, k) for one in many]))
        _, tangent = torch.func.jvp(call, (q, k), (k[:, :1], k))
        torch.testing.assert_close(tangent, call(k[:, :1], k) + call(q, k))
        slope = torch.func.grad(lambda q: call(q, k).sum())(q)
        torch.testing.assert_close(slope, k.sum(1, keepdim=True))

    @pytest.mark.parametrize("before", [False, True])
    @pytest.mark.parametrize("dynamic", [False, True])
    @pytest.mark.parametrize("wrapped", ["plain", "vmap", "grad"])
    def test_compile(self, wrapped: str, *, dynamic: bool, before: bool) -> None:
        """One graph for all batches, with one product, whoever called before."""

        def call(q: Tensor, k: Tensor) -> Tensor:
            if wrapped == "vmap":
                scores = torch.vmap(lambda q, k: einheads.einsum(SCORES, q, k), in_dims=1)
                return scores(q.unsqueeze(1), k.unsqueeze(1))[0]
            if wrapped == "grad":
                return torch.func.grad(lambda q: einheads.einsum(SCORES, q, k).sum())(q)
            return einheads.einsum(SCORES, q, k)

        if before:
            einheads.einsum(SCORES, *decode())
        torch.compiler.reset()
        counter = CompileCounter()
        compiled = torch.compile(call, fullgraph=True, dynamic=dynamic, backend=counter)
        for b in (5, 6) if dynamic else (5,):
            q, k = decode(b)
            torch.testing.assert_close(compiled(q, k), call(q, k))
        assert counter.frame_count == 1
        # What a trace has found is not what a call runs.
        q, k = decode()
        assert products(lambda: einheads.einsum(SCORES, q, k)) == 5

    @pytest.mark.parametrize("before", [False, True])
    @pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
    # Torch itself has no notes of what a transform does before it is dispatched.
    @pytest.mark.parametrize(("mapped", "early"), [(False, False), (True, False), (False, True)])
    def test_proxies(self, mode: str, *, mapped: bool, early: bool, before: bool) -> None:
        """`make_fx` notes down one product."""
        q, k = decode()
        if before:
            einheads.einsum(SCORES, q, k)

        def call(q: Tensor, k: Tensor) -> Tensor:
            if mapped:
                return torch.vmap(lambda q: einheads.einsum(SCORES, q, k))(q.unsqueeze(0))[0]
            return einheads.einsum(SCORES, q, k)

        graph = make_fx(call, tracing_mode=mode, pre_dispatch=early)(q, k)
        assert "unbind" not in graph.code
        b = 4 if mode == "symbolic" else 5
        q, k = decode(b)
        torch.testing.assert_close(graph(q, k), torch.einsum(LETTERS, q, k))

    @pytest.mark.parametrize("before", [False, True])
    def test_export(self, before: bool) -> None:  # noqa: FBT001
        """The batch of an exported program is free."""

        class Scores(torch.nn.Module):
            def forward(self, q: Tensor, k: Tensor) -> Tensor:
                return einheads.einsum(SCORES, q, k)

        if before:
            einheads.einsum(SCORES, *decode())
        batch = torch.export.Dim("batch")
        program = torch.export.export(
            Scores(), decode(), dynamic_shapes={"q": {0: batch}, "k": {0: batch}}
        )
        assert "unbind" not in str(program.graph)
        q, k = decode(11)
        torch.testing.assert_close(program.module()(q, k), torch.einsum(LETTERS, q, k))

    @pytest.mark.parametrize("before", [False, True])
    def test_jit_trace(self, before: bool) -> None:  # noqa: FBT001
        """So is that of a recorded one, as far as it ever was."""
        q, k = decode()
        if before:
            einheads.einsum(SCORES, q, k)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            traced: Any = torch.jit.trace(lambda q, k: einheads.einsum(SCORES, q, k), (q, k))
        assert "unbind" not in str(traced.graph)
        torch.testing.assert_close(traced(q, k), torch.einsum(LETTERS, q, k))

    @pytest.mark.parametrize("checkpoint", [False, True])
    def test_who_follows_a_backward(
        self,
        monkeypatch: pytest.MonkeyPatch,
        checkpoint: bool,  # noqa: FBT001
    ) -> None:
        """A transform of the gradients sees operations that it knows, in a planned backward too."""
        monkeypatch.setattr(training, "pays", lambda _: True)
        q, k = (one.requires_grad_() for one in decode())
        declaration = Declaration(SCORES, checkpoint=checkpoint)
        result = apply(declaration, (), q, k)
        plain = torch.einsum(LETTERS, q, k)

        def pulled(result: Tensor, g: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(result, (q, k), g, retain_graph=True)

        many = torch.randn(3, *result.shape, dtype=torch.float64)
        # That of the query is made in turns, that of the keys is an outer product.
        assert products(lambda: pulled(result, many[0])) == 5 + 1
        for found, wanted in zip(
            torch.vmap(lambda g: pulled(result, g))(many),
            torch.vmap(lambda g: pulled(plain, g))(many),
            strict=True,
        ):
            torch.testing.assert_close(found, wanted)
        _, found = torch.func.jvp(lambda g: pulled(result, g), (many[0],), (many[1],))
        for one, other in zip(found, pulled(plain, many[1]), strict=True):
            torch.testing.assert_close(one, other)

        class Tagged(Tensor):
            pass

        tagged = many[0].as_subclass(Tagged)
        assert products(lambda: pulled(result, tagged)) == 2

    def test_activations_may_be_saved(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Selective checkpoints save what operations make, which nobody may write into."""
        monkeypatch.setattr(training, "pays", lambda _: True)
        q, k = (one.requires_grad_() for one in decode())
        policies = partial(
            create_selective_checkpoint_contexts, lambda *_, **__: CheckpointPolicy.MUST_SAVE
        )
        result = checkpoint(
            lambda q, k: einheads.einsum(SCORES, q, k).sin(),
            q,
            k,
            use_reentrant=False,
            context_fn=policies,
        )
        found = torch.autograd.grad(result.sum(), (q, k))
        wanted = torch.autograd.grad(torch.einsum(LETTERS, q, k).sin().sum(), (q, k))
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)

    def test_tensors_of_another_type(self) -> None:
        """A class of tensors sees the operations that it may know how to follow."""

        class Tagged(Tensor):
            pass

        q, k = decode()
        einheads.einsum(SCORES, q, k)
        tagged = q.as_subclass(Tagged)
        assert products(lambda: einheads.einsum(SCORES, tagged, k)) == 1


class TestTuned:
    """What was measured may say so."""

    def test_a_file_keeps_it(self) -> None:
        """It comes back from JSON; a file from before there was such a thing is read as well."""
        way = Candidate(("b", "h"), ("t",), ("s",), ("d",), swapped=False, each=True)
        plain = way._replace(each=False)
        data = json.loads(json.dumps(to_data(Choice((plain,), {}, (way,)))))
        assert from_data(data) == Choice((plain,), {}, (way,))
        del data["ways"][0]["each"]
        del data["turns"]
        assert from_data(data) == Choice((plain,), {})
        data["ways"][0]["each"] = "yes"
        with pytest.raises(ValueError, match="each"):
            from_data(data)
        for wrong in ({}, "ab", 0, False):
            with pytest.raises(ValueError, match=f"{wrong}"):
                from_data({"ways": None, "turns": wrong, "planned": {}})

    def test_it_is_left_aside_where_it_cannot_be(self) -> None:
        """Whoever follows takes another choice; a batch of one axis has no stack left."""
        bound = bind(parse(SCORES), [one.shape for one in decode()])
        way = Candidate(("b", "h"), ("t",), ("s",), ("d",), swapped=False, each=True)
        assert fits(plan(bound), [way], Traits(turns=True))
        assert not fits(plan(bound), [way], Traits())
        single = bind(parse("h t d, s h d -> h t s"), [(7, 1, 61), (307, 7, 61)])
        way = Candidate(("h",), ("t",), ("s",), ("d",), swapped=False, each=True)
        assert not fits(plan(single), [way], Traits(turns=True))

    @pytest.mark.parametrize("winner", ["each", "other"])
    def test_the_winner_is_used(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, winner: str
    ) -> None:
        """It is among what is tried; whoever follows what is done gets the best of the others."""
        q, k = decode()
        seen: list[int] = []

        def fastest(calls: list[Callable[[], object]], _: object) -> int:
            counts = [products(call) for call in calls]
            seen.append(counts.count(5))
            return counts.index(5) if 5 in counts and winner == "each" else counts.index(1)

        monkeypatch.setattr("einheads.tuning.fastest", fastest)
        einheads.tune(SCORES, q, k, progress=False)
        assert seen[0] > 0
        assert len(seen) == (2 if winner == "each" else 1)
        einheads.save_tuned(tmp_path / "tuned.json")
        einheads.cache_clear()
        assert einheads.load_tuned(tmp_path / "tuned.json") == 1
        (choice,) = cache.choices.values()
        assert choice.ways is not None
        assert (choice.turns is not None) is (winner == "each")
        assert one_by_one(SCORES, q, k) is (winner == "each")
        assert products(lambda: einheads.einsum(SCORES, q, k)) == (5 if winner == "each" else 1)
        torch.testing.assert_close(einheads.einsum(SCORES, q, k), torch.einsum(LETTERS, q, k))
        assert einheads.explain(SCORES, q, k).measured
