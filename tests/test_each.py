"""Stacks that are multiplied one after the other, because no stride covers the whole batch.

That every such way gives the values and gradients of the definition is shown in `test_ways.py`,
with all others; here is when it is chosen, what runs then, and who gets something else instead.
"""

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import einheads
from cases import as_numpy
from einheads import training
from einheads.bench.probes import CopyCounter
from einheads.candidates import Candidate, Traits
from einheads.choices import Choice, fits, from_data, to_data
from einheads.layout import layout
from einheads.lower import drafts
from einheads.operands import Declaration
from einheads.pattern import parse
from einheads.plan import plan
from einheads.program import cache, prepare
from einheads.sizes import bind
from einheads.steps import Bmm
from oracle import oracle

SCORES = "b t h d, b s h d -> b h t s"
VALUES = "b h t s, b s h d -> b t h d"


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    einheads.cache_clear()
    yield
    einheads.cache_clear()


def decode(b: int = 5, s: int = 307, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A query for one token, and the keys of all tokens before it, as a cache holds them."""
    return torch.randn(b, 1, 7, 61, dtype=dtype), torch.randn(b, s, 7, 61, dtype=dtype)


def one_by_one(pattern: str, *tensors: Tensor) -> bool:
    """Whether a call of these tensors multiplies one stack after the other."""
    steps = prepare(Declaration(pattern), (), tensors).lowered.program.steps
    return any(isinstance(step, Bmm) and step.each for step in steps.steps)


def check(pattern: str, *tensors: Tensor) -> Tensor:
    """Call it, and compare with the definition."""
    result = einheads.einsum(pattern, *tensors)
    wanted = oracle(pattern, *map(as_numpy, tensors))
    np.testing.assert_allclose(as_numpy(result), wanted, rtol=1e-9, atol=1e-9)
    return result


class TestChoice:
    """It is chosen where the copy of an operand costs more than some calls."""

    def test_decoding(self) -> None:
        """Keys and values are read where they lie, and copied by nobody."""
        q, k = decode()
        p = torch.rand(5, 7, 1, 307, dtype=torch.float64)
        for pattern, *operands in ((SCORES, q, k), (VALUES, p, k)):
            assert one_by_one(pattern, *operands)
            check(pattern, *operands)
            with CopyCounter() as counter:
                einheads.einsum(pattern, *operands)
            assert counter.copies.total() == 0

    def test_what_it_reads_like(self) -> None:
        """Its text is a line, and its explanation says for what there is a product each."""
        told = einheads.explain(SCORES, *decode())
        assert "torch.stack(list(map(torch.bmm, x1.unbind(), x2.unbind())))" in told.source
        assert "bmm x1, x2 over d for each b, stacked" in str(told)
        assert told.bytes_copied == 0
        assert told.steps[-1].each == ("b",)
        assert told.steps[-1].multiply_adds == 5 * 7 * 307 * 61

    @pytest.mark.parametrize(
        ("q", "k"),
        [
            # One stride covers batch and heads.
            (torch.randn(5, 7, 1, 61).transpose(1, 2), torch.randn(5, 7, 307, 61).transpose(1, 2)),
            # So many calls take longer than a copy.
            (torch.randn(65, 1, 2, 3), torch.randn(65, 5, 2, 3)),
            (torch.randn(1, 1, 7, 61), torch.randn(1, 307, 7, 61)),
            (torch.randn(0, 1, 7, 61), torch.randn(0, 307, 7, 61)),
        ],
        ids=["heads first", "long batch of small stacks", "one", "none"],
    )
    def test_where_it_is_not(self, q: Tensor, k: Tensor) -> None:
        """Where nothing would be copied, or hardly anything, it does not pay."""
        assert not one_by_one(SCORES, q, k)
        torch.testing.assert_close(
            einheads.einsum(SCORES, q, k), torch.einsum("bthd,bshd->bhts", q, k)
        )

    def test_only_where_calls_are_cheap(self) -> None:
        """On CUDA each call is a launch, and who traces wants the same calls for all sizes."""
        q, k = decode()
        bound = bind(parse(SCORES), [q.shape, k.shape])
        layouts = [
            layout(dims, one.stride(), bound.sizes)
            for dims, one in zip(bound.operands, (q, k), strict=True)
        ]
        for traits, some in (
            (Traits(itemsize=8), True),
            (Traits(itemsize=8, traced=True), False),
            (Traits(device="cuda", itemsize=8), False),
        ):
            every = drafts(bound, plan(bound), layouts, traits)
            assert any(getattr(way, "each", False) for one in every for way in one.ways) is some

    def test_other_sizes_of_the_class(self) -> None:
        """One program serves all batches of a class, however many products that takes."""
        for b in (4, 5, 7):
            check(SCORES, *decode(b))
        assert einheads.cache_info().programs == 1


class TestGradients:
    """Whoever undoes it gets the gradients of the definition."""

    @pytest.mark.parametrize("planned", [False, True])
    def test_once_and_twice(self, monkeypatch: pytest.MonkeyPatch, planned: bool) -> None:  # noqa: FBT001
        """By autograd, and by a planned backward."""
        monkeypatch.setattr(training, "pays", lambda _: planned)
        leaves = [one.requires_grad_() for one in decode()]
        assert one_by_one(SCORES, *leaves)
        weights = torch.randn(5, 7, 1, 307, dtype=torch.float64)
        every = []
        for result in (einheads.einsum(SCORES, *leaves), torch.einsum("bthd,bshd->bhts", *leaves)):
            first = torch.autograd.grad((result * weights).sum(), leaves, create_graph=True)
            again = torch.autograd.grad(sum(one.square().sum() for one in first), leaves)
            every.append((*first, *again))
        for one, other in zip(*every, strict=True):
            torch.testing.assert_close(one, other)

    def test_transforms(self) -> None:
        """Under vmap, jvp and grad of `torch.func` too."""
        q, k = decode()
        assert one_by_one(SCORES, q, k)

        def call(q: Tensor, k: Tensor) -> Tensor:
            return einheads.einsum(SCORES, q, k)

        many = torch.randn(3, *q.shape, dtype=torch.float64)
        mapped = torch.func.vmap(call, in_dims=(0, None))(many, k)
        torch.testing.assert_close(mapped, torch.stack([call(one, k) for one in many]))
        _, tangent = torch.func.jvp(call, (q, k), (k[:, :1], k))
        torch.testing.assert_close(tangent, call(k[:, :1], k) + call(q, k))
        slope = torch.func.grad(lambda q: call(q, k).sum())(q)
        torch.testing.assert_close(slope, k.sum(1, keepdim=True))

    def test_autocast(self) -> None:
        """Products are cast, as ever."""
        q, k = decode(dtype=torch.float32)
        with torch.autocast("cpu"):
            result = einheads.einsum(SCORES, q, k)
        assert result.dtype == torch.bfloat16
        wanted = torch.einsum("bthd,bshd->bhts", q.bfloat16(), k.bfloat16())
        torch.testing.assert_close(result, wanted, atol=0.5, rtol=0.05)

    def test_integers(self) -> None:
        """They have matrix products on a CPU."""
        q, k = (one.mul(3).round().long() for one in decode())
        check(SCORES, q, k)


class TestTracing:
    """A trace has to be right for other batches, so it has one product for all of them."""

    @pytest.mark.parametrize("before", [False, True])
    def test_compile(self, before: bool) -> None:  # noqa: FBT001
        """With free sizes, and whoever called before."""
        q, k = decode()
        if before:
            einheads.einsum(SCORES, q, k)
        torch.compiler.reset()
        compiled = torch.compile(
            lambda q, k: einheads.einsum(SCORES, q, k),
            fullgraph=True,
            dynamic=True,
            backend="eager",
        )
        for b in (5, 3):
            operands = decode(b)
            torch.testing.assert_close(
                compiled(*operands), torch.einsum("bthd,bshd->bhts", *operands)
            )
        # What a trace has found is not what a call runs.
        assert one_by_one(SCORES, q, k)
        with torch.profiler.profile() as profile:
            einheads.einsum(SCORES, q, k)
        assert sum(event.name == "aten::bmm" for event in profile.events()) == 5

    def test_export(self) -> None:
        """The batch of an exported program is free."""

        class Scores(torch.nn.Module):
            def forward(self, q: Tensor, k: Tensor) -> Tensor:
                return einheads.einsum(SCORES, q, k)

        batch = torch.export.Dim("batch")
        program = torch.export.export(
            Scores(), decode(), dynamic_shapes={"q": {0: batch}, "k": {0: batch}}
        )
        assert "unbind" not in str(program.graph)
        operands = decode(11)
        torch.testing.assert_close(
            program.module()(*operands), torch.einsum("bthd,bshd->bhts", *operands)
        )

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
        torch.testing.assert_close(traced(q, k), torch.einsum("bthd,bshd->bhts", q, k))

    def test_symbolic_proxies(self) -> None:
        """`make_fx` with symbols for sizes notes down one product."""
        q, k = decode()
        graph = make_fx(lambda q, k: einheads.einsum(SCORES, q, k), tracing_mode="symbolic")(q, k)
        assert "unbind" not in graph.code
        torch.testing.assert_close(graph(q, k), torch.einsum("bthd,bshd->bhts", q, k))


class TestTuned:
    """What was measured may say so."""

    def test_a_file_keeps_it(self, tmp_path: Path) -> None:
        """It comes back from JSON; a file from before there was such a thing is read as well."""
        way = Candidate(("b", "h"), ("t",), ("s",), ("d",), swapped=False, each=True)
        data = json.loads(json.dumps(to_data(Choice((way,), {}))))
        assert from_data(data) == Choice((way,), {})
        del data["ways"][0]["each"]
        assert from_data(data) == Choice((replace(way, each=False),), {})
        data["ways"][0]["each"] = "yes"
        with pytest.raises(ValueError, match="each"):
            from_data(data)

    def test_it_is_left_aside_where_it_cannot_be(self) -> None:
        """A trace takes its own choice instead; a batch of one axis has no stack left."""
        bound = bind(parse(SCORES), [one.shape for one in decode()])
        way = Candidate(("b", "h"), ("t",), ("s",), ("d",), swapped=False, each=True)
        assert fits(plan(bound), [way], Traits())
        assert not fits(plan(bound), [way], Traits(traced=True))
        single = bind(parse("h t d, s h d -> h t s"), [(7, 1, 61), (307, 7, 61)])
        way = Candidate(("h",), ("t",), ("s",), ("d",), swapped=False, each=True)
        assert not fits(plan(single), [way], Traits())

    def test_tuning_tries_it(self) -> None:
        """Among what `tune` measures; the winner is used, and a trace does without."""
        q, k = decode()
        einheads.tune(SCORES, q, k, progress=False)
        (choice,) = cache.choices.values()
        assert choice.ways is not None
        check(SCORES, q, k)
        graph = make_fx(lambda q, k: einheads.einsum(SCORES, q, k), tracing_mode="symbolic")(q, k)
        assert "unbind" not in graph.code
