"""Products written straight into the result: which ones, what text, and that it is right.

Only CUDA runs such programs, but their text runs anywhere, so all of it is run here on the CPU.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import einheads
import laws
from cases import CASES, Case
from checks import COPIES, operations
from einheads import operands, training
from einheads.bench.probes import CopyCounter
from einheads.candidates import Traits
from einheads.compiled import compile_source
from einheads.layout import contiguous
from einheads.lower import drafts, lower
from einheads.pattern import parse
from einheads.placing import placed
from einheads.plan import plan
from einheads.sizes import bind
from einheads.source import write
from einheads.steps import Place, Steps
from strategies import random_products

HEADS = "b w h i, h i o -> b w h o"
PAIRS = [one for one in CASES if one.pattern.split("->")[0].count(",") == 1]
CUDA = Traits(device="cuda", itemsize=8)


def places(steps: Steps) -> int:
    """How many products are written in place."""
    return sum(isinstance(step, Place) for step in steps.steps)


def run(steps: Steps, case: Case, tensors: list[Tensor], sizes: Any) -> Tensor:
    """Write steps down, and run them."""
    text = write(steps, [f"x{k}" for k in range(len(tensors))], title=case.pattern)
    function = compile_source(text, "contract", "<test>")
    return function(*tensors, *(sizes[name] for name in steps.given))


@pytest.mark.parametrize("case", PAIRS, ids=lambda case: case.name)
def test_all_lowerings_of_the_table(case: Case) -> None:
    """Every lowering of a pair, placed, has the values of the definition."""
    tensors = case.tensors()
    bound = bind(parse(case.pattern), [x.shape for x in tensors], case.sizes)
    chosen = plan(bound)
    if not chosen.contractions:
        return
    for draft in drafts(bound, chosen, traits=CUDA)[:12]:
        steps = placed(draft.steps, bound.sizes)
        case.check(run(steps, case, tensors, bound.sizes), tensors)


def test_random_products() -> None:
    """Of the sizes that layers have, many are placed, and all are right and in order."""
    found = 0
    for case in random_products(30, seed=5):
        tensors = case.tensors()
        bound = bind(parse(case.pattern), [x.shape for x in tensors])
        for draft in drafts(bound, plan(bound), traits=CUDA):
            steps = placed(draft.steps, bound.sizes)
            if places(steps):
                result = run(steps, case, tensors, bound.sizes)
                case.check(result, tensors)
                found += 1
                assert result.is_contiguous()
                assert steps.steps[-1].dims == bound.output
    assert found > 40


def test_the_text() -> None:
    """Two lines that a person would have written."""
    bound = bind(parse(HEADS), [(2, 3, 5, 7), (5, 7, 11)])
    steps = placed(lower(bound, plan(bound), traits=CUDA), bound.sizes)
    assert write(steps, ["x", "weight"], title=HEADS) == (
        "def contract(x, weight):\n"
        f'    """{HEADS}"""\n'
        "    b, w, h, _ = x.shape\n"
        "    o = weight.shape[2]\n"
        "    x = x.flatten(0, 1).transpose(0, 1)  # h (b w) i\n"
        "    y = x.new_empty(b, w, h, o)  # b w h o\n"
        "    torch.bmm(x, weight, out=y.view(b * w, h, o).transpose(0, 1))  # h (b w) o\n"
        "    return y\n"
    )


@pytest.mark.parametrize(
    ("pattern", "shapes", "why"),
    [
        ("h b i, h i o -> h b o", [(5, 3, 7), (5, 7, 11)], "it is born in order"),
        ("b i, i o -> b o", [(3, 7), (7, 11)], "there is no stack"),
        ("b h i, h i o -> b o h", [(3, 5, 7), (5, 7, 11)], "no row would lie densely"),
        ("b h i, h i o -> (b h) o 1", [(3, 5, 7), (5, 7, 11)], ""),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_where_it_does_not_pay(pattern: str, shapes: list[tuple[int, ...]], why: str) -> None:
    """Only what saves a permuted result, and what BLAS can write, is placed."""
    bound = bind(parse(pattern), shapes)
    steps = lower(bound, plan(bound), traits=CUDA)
    assert places(placed(steps, bound.sizes)) == (0 if why else 1)


class TestRun:
    """The whole way of a call, on a CPU that is called CUDA."""

    @pytest.fixture(autouse=True)
    def _cuda(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        def traits(**options: Any) -> Traits:
            return Traits(**(options | {"device": "cuda"}))

        monkeypatch.setattr(operands, "Traits", traits)
        einheads.cache_clear()
        yield
        einheads.cache_clear()

    def operands(self) -> tuple[Tensor, Tensor]:
        """An input and a weight for `HEADS`."""
        x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
        return x, torch.randn(5, 7, 11, dtype=torch.float64)

    def test_without_gradients(self) -> None:
        """The result lies in order, and nothing is copied."""
        x, weight = self.operands()
        einheads.einsum(HEADS, x, weight)
        result = einheads.einsum(HEADS, x, weight)
        assert result.is_contiguous()
        names = set(operations(lambda: einheads.einsum(HEADS, x, weight)))
        assert "aten::bmm" in names
        assert not names & COPIES
        with CopyCounter() as counter:
            assert not einheads.einsum(HEADS, x, weight).is_contiguous()  # a mode follows it
        assert counter.copies.total() == 0
        laws.close(result, torch.einsum("bwhi,hio->bwho", x, weight))

    def test_watched_operations(self) -> None:
        """Autograd's own backward, and transforms, see operations that they can follow."""
        x, weight = self.operands()
        wanted = torch.einsum("bwhi,hio->bwho", x, weight)
        weight.requires_grad_()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "pays", lambda _: False)
            result = einheads.einsum(HEADS, x, weight)
        laws.close(result, wanted)
        assert not result.is_contiguous()
        result.sum().backward()
        mapped = torch.vmap(lambda one: einheads.einsum("w h i, h i o -> w h o", one, weight))(x)
        laws.close(mapped, wanted)

    @pytest.mark.parametrize("checkpoint", [False, True])
    def test_planned_backward(
        self,
        monkeypatch: pytest.MonkeyPatch,
        checkpoint: bool,  # noqa: FBT001
    ) -> None:
        """The forward and the gradients are written in place, and can be derived again."""
        monkeypatch.setattr(training, "pays", lambda _: True)
        layer = einheads.Einsum(
            "b w h i, h i r, h r o -> b w h o",
            h=5,
            i=7,
            r=2,
            o=11,
            bias="h o",
            checkpoint=checkpoint,
            dtype=torch.float64,
        )
        x, _ = self.operands()
        x.requires_grad_()
        assert layer(x).is_contiguous()
        down, up = layer.weight_1, layer.weight_2

        def reference(x: Tensor, down: Tensor, up: Tensor, bias: Tensor) -> Tensor:
            return torch.einsum("bwhi,hir,hro->bwho", x, down, up) + bias

        leaves = (x, down, up, layer.bias)
        gradient = torch.randn(2, 3, 5, 11, dtype=torch.float64)
        found = torch.autograd.grad(layer(x), leaves, gradient, create_graph=True)
        wanted = torch.autograd.grad(reference(*leaves), leaves, gradient, create_graph=True)
        for one, other in zip(found, wanted, strict=True):
            laws.close(one, other)
        again = torch.autograd.grad(sum(one.square().sum() for one in found), leaves[:3])
        others = torch.autograd.grad(sum(one.square().sum() for one in wanted), leaves[:3])
        for one, other in zip(again, others, strict=True):
            laws.close(one, other)

    def test_compiled(self) -> None:
        """`torch.compile` sees no `out=`."""
        x, weight = self.operands()
        torch._dynamo.reset()
        operations: list[str] = []

        def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
            operations.extend(str(node.target) for node in graph.graph.nodes)
            return graph.forward

        from torch._dynamo.backends.common import aot_autograd

        compiled = torch.compile(
            lambda x: einheads.einsum(HEADS, x, weight),
            backend=aot_autograd(fw_compiler=backend),
            fullgraph=True,
        )
        with torch.no_grad():
            laws.close(compiled(x), torch.einsum("bwhi,hio->bwho", x, weight))
        assert "aten.bmm.default" in operations
        assert not any(one.endswith(".out") for one in operations)


def test_layouts_decide() -> None:
    """An axis of size one is in nobody's way."""
    bound = bind(parse(HEADS), [(1, 3, 1, 7), (1, 7, 11)])
    steps = lower(
        bound, plan(bound), [contiguous(one, bound.sizes) for one in bound.operands], CUDA
    )
    assert places(placed(steps, bound.sizes)) == 0
