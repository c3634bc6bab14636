"""What PyTorch may do with a product of einheads: compile, export, autocast, transform, fake, save.

Every promise is kept for the layer and for the function, with one and several inputs and weights,
with dots and with composites. The judge is the definition, or torch.einsum where the promise is to
behave as it does.
"""

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import lookup_backend
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call

import einheads
from cases import as_numpy, assert_agrees
from einheads.call import apply
from oracle import Array, oracle


@dataclass(frozen=True)
class Promise:
    """A product that has to keep every promise, as a layer and as a function."""

    name: str
    pattern: str
    letters: str  # the same for torch.einsum, on operands whose composites are unfolded
    shapes: tuple[tuple[int | None, ...], ...]  # of the inputs; None is the free batch
    sizes: dict[str, int] = field(default_factory=dict)  # of the axes of the weights
    bias: str | None = None

    def layer(self, **options: Any) -> einheads.Einsum:
        """The product as a layer."""
        settings = {"dtype": torch.float64, "bias": self.bias} | options
        return einheads.Einsum(self.pattern, inputs=len(self.shapes), **settings, **self.sizes)

    def inputs(self, batch: int = 2, **options: Any) -> list[Tensor]:
        """Random inputs of a batch."""
        shapes = [[batch if size is None else size for size in shape] for shape in self.shapes]
        return [torch.randn(shape, **({"dtype": torch.float64} | options)) for shape in shapes]

    def expected(self, inputs: Sequence[Tensor], module: nn.Module) -> Array:
        """What the definition gives for these inputs and the parameters of a module."""
        weights = weights_of(module)
        value = oracle(self.pattern, *map(as_numpy, (*inputs, *weights)))
        bias = dict(module.named_parameters()).get("bias")
        if bias is None:
            return value
        output = self.pattern.split("->")[1]
        ones = np.ones_like(value)
        return value + oracle(f"{self.bias}, {output} -> {output}", as_numpy(bias), ones)

    def check(self, result: Tensor, inputs: Sequence[Tensor], module: nn.Module) -> None:
        """Assert that a result has the values of the definition."""
        expected = self.expected(inputs, module)
        assert result.dtype == inputs[0].dtype
        assert_agrees(result, expected, np.abs(expected) + 10, 64)


def weights_of(module: nn.Module) -> list[Tensor]:
    """The weights of a module in the order of its pattern, without the bias."""
    return [weight for name, weight in module.named_parameters() if name != "bias"]


class Function(nn.Module):
    """A call of `einsum` with weights of its own, so that both can be given to the same tools."""

    def __init__(self, promise: Promise, **options: Any) -> None:
        super().__init__()
        layer = promise.layer(**({"bias": None} | options))
        self.pattern = promise.pattern
        self.weights = nn.ParameterList(weights_of(layer))

    def forward(self, *inputs: Tensor) -> Tensor:
        """The product of the inputs and the weights."""
        return einheads.einsum(self.pattern, *inputs, *self.weights)


PROMISES = (
    Promise("linear", "b i, o i -> b o", "bi,oi->bo", ((None, 3),), {"i": 3, "o": 5}, "o"),
    Promise(
        "heads each their own",
        "b w h i, h o i -> b w h o",
        "bwhi,hoi->bwho",
        ((None, 3, 5, 7),),
        {"h": 5, "o": 11, "i": 7},
        "h o",
    ),
    Promise(
        "heads of one input",
        "... i, h o i -> ... h o",
        "bti,hoi->btho",
        ((None, 3, 5),),
        {"h": 7, "o": 2, "i": 5},
        "h",
    ),
    Promise(
        "composite",
        "b t (h i), h i o -> b t (h o)",
        "bthi,hio->btho",
        ((None, 3, 35),),
        {"h": 5, "i": 7, "o": 11},
        "h o",
    ),
    Promise(
        "token mixing",
        "b t c, t s -> b s c",
        "btc,ts->bsc",
        ((None, 5, 3),),
        {"t": 5, "s": 7},
        "s",
    ),
    Promise("scale", "... h d, h d -> ... h d", "bhd,hd->bhd", ((None, 3, 5),), {"h": 3, "d": 5}),
    Promise(
        "low rank",
        "... i, i r, r o -> ... o",
        "bti,ir,ro->bto",
        ((None, 3, 5),),
        {"i": 5, "r": 2, "o": 7},
        "o",
    ),
    Promise(
        "monarch",
        "b (k p), k p q, q k s -> b (q s)",
        "bkp,kpq,qks->bqs",
        ((None, 15),),
        {"k": 3, "p": 5, "q": 7, "s": 2},
        "q s",
    ),
    Promise(
        "kronecker",
        "... (x y), x u, y v -> ... (u v)",
        "btxy,xu,yv->btuv",
        ((None, 2, 15),),
        {"x": 3, "y": 5, "u": 7, "v": 2},
    ),
    Promise(
        "batch ensemble",
        "e b i, e i, i o, e o -> e b o",
        "ebi,ei,io,eo->ebo",
        ((3, None, 5),),
        {"e": 3, "i": 5, "o": 7},
        "e o",
    ),
    Promise(
        "bilinear",
        "b i, b j, o i j -> b o",
        "bi,bj,oij->bo",
        ((None, 3), (None, 5)),
        {"o": 7, "i": 3, "j": 5},
        "o",
    ),
    Promise(
        "low rank bilinear",
        "... i, ... j, i r, j r, r o -> ... o",
        "bti,btj,ir,jr,ro->bto",
        ((None, 3, 5), (None, 3, 7)),
        {"i": 5, "j": 7, "r": 2, "o": 11},
        "o",
    ),
    Promise(
        "gated experts",
        "b t i, b t e, e i o -> b t o",
        "bti,bte,eio->bto",
        ((None, 3, 5), (None, 3, 7)),
        {"e": 7, "i": 5, "o": 2},
    ),
)

STYLES: tuple[Callable[[Promise], nn.Module], ...] = (Promise.layer, Function)

every_promise = pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
every_style = pytest.mark.parametrize("style", STYLES, ids=["layer", "function"])


def gradients(
    module: nn.Module, inputs: Sequence[Tensor], call: Callable[..., Any]
) -> list[Tensor]:
    """The result, and the gradients of a weighted sum of it by all inputs and parameters."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    result = call(*leaves)
    loss = (result * torch.linspace(-1, 1, result.numel()).to(result).view_as(result)).sum()
    return [result.detach(), *torch.autograd.grad(loss, [*leaves, *module.parameters()])]


def assert_same(first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    """Assert that two lists of tensors agree in dtype and, up to rounding, in value."""
    for x, y in zip(first, second, strict=True):
        torch.testing.assert_close(x, y)


class Counting:
    """A backend for torch.compile that counts its graphs; by default it traces the backward too."""

    def __init__(self, name: str = "aot_eager") -> None:
        self.graphs = 0
        self.backend = lookup_backend(name)

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        """Compile one more graph."""
        self.graphs += 1
        return self.backend(graph, inputs)


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    """Let no compiled graph of one test serve another."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_dynamo")
class TestCompile:
    """`torch.compile(fullgraph=True)` needs at most two graphs for all batch sizes."""

    @every_promise
    @every_style
    def test_two_graphs_serve_training(
        self, style: Callable[[Promise], nn.Module], promise: Promise
    ) -> None:
        """Forward and backward are right at eight batch sizes, one graph fixed and one free."""
        module, backend = style(promise), Counting()
        compiled = torch.compile(module, fullgraph=True, backend=backend)
        for batch in range(2, 10):
            inputs = promise.inputs(batch)
            value, *slopes = gradients(module, inputs, compiled)
            promise.check(value, inputs, module)
            assert_same(slopes, gradients(module, inputs, module)[1:])
        assert 1 <= backend.graphs <= 2

    @every_promise
    @every_style
    def test_two_graphs_serve_inference(
        self, style: Callable[[Promise], nn.Module], promise: Promise
    ) -> None:
        """Batch sizes alone cause one graph for the first and one for all others."""
        module, backend = style(promise), Counting("eager")
        compiled = torch.compile(module, fullgraph=True, backend=backend)
        for batch in (2, 3, 5, 4, 9, 31, 2):
            inputs = promise.inputs(batch)
            with torch.no_grad():
                promise.check(compiled(*inputs), inputs, module)
        assert 1 <= backend.graphs <= 2

    def test_inside_a_larger_model(self) -> None:
        """Layers of several kinds in one model make one graph, at two batch sizes two."""

        class Model(nn.Module):
            """Heads, each through a second linear, merged."""

            def __init__(self) -> None:
                super().__init__()
                double = {"dtype": torch.float64}
                self.heads = einheads.Einsum("b t i, h o i -> b t h o", h=3, o=5, i=7, **double)
                self.second = einheads.Einsum(
                    "... h i, h o i -> ... h o", h=3, o=2, i=5, bias="h o", **double
                )
                self.merge = einheads.Einsum("... (h d), d h m -> ... m", h=3, d=2, m=7, **double)

            def forward(self, x: Tensor) -> Tensor:
                """Mix tokens between the layers, too."""
                x = self.second(self.heads(x)).relu()
                score = einheads.einsum("b t h d, b s h d -> b h t s", x, x).softmax(-1)
                x = einheads.einsum("b h t s, b s h d -> b t (h d)", score, x)
                return self.merge(x)

        model, backend = Model(), Counting()
        compiled = torch.compile(model, fullgraph=True, backend=backend)
        for batch in range(2, 6):
            x = torch.randn(batch, 11, 7, dtype=torch.float64)
            assert_same([compiled(x)], [model(x)])
        assert backend.graphs <= 2

    def test_a_stride_is_free_where_no_size_is(self) -> None:
        """A slice of rows of any length: its shape never changes, its strides do."""
        layer = einheads.Einsum("b i, o i -> b o", i=7, o=5)
        compiled = torch.compile(
            lambda x: layer(x[:, -1]), fullgraph=True, backend="aot_eager", dynamic=True
        )
        for length in (3, 4, 6):
            x = torch.randn(2, length, 7)
            torch.testing.assert_close(compiled(x), layer(x[:, -1]))

    def test_eager_calls_before_and_after(self) -> None:
        """A program that ran before it is traced is traced all the same, and runs afterwards."""
        promise = PROMISES[7]
        module = promise.layer()
        inputs = promise.inputs(3)
        promise.check(module(*inputs), inputs, module)
        compiled = torch.compile(module, fullgraph=True, backend=Counting())
        promise.check(compiled(*inputs), inputs, module)
        promise.check(module(*inputs), inputs, module)


class TestSymbolicTrace:
    """`torch.fx.symbolic_trace` sees a call as one function, with whatever shapes."""

    def test_a_layer_is_one_call_with_its_parameters(self) -> None:
        """The graph module shares them, takes other sizes, and has the gradients of the layer."""
        layer = einheads.Einsum("b h i, h o i -> b h o", h=3, i=5, o=7, bias="h o").double()
        traced = torch.fx.symbolic_trace(torch.nn.Sequential(layer, torch.nn.Tanh()))
        (call,) = traced.graph.find_nodes(op="call_function", target=apply)
        nodes = [node for node in call.args if isinstance(node, torch.fx.Node)]
        names = [node.target for node in nodes if node.op == "get_attr"]
        assert names == ["0.weight", "0.bias"]
        for size in (2, 11):
            x = torch.randn(size, 3, 5, dtype=torch.float64, requires_grad=True)
            found, expected = traced(x), layer(x).tanh()
            torch.testing.assert_close(found, expected)
            into = [x, *layer.parameters()]
            for one, other in zip(
                torch.autograd.grad(found.sum(), into),
                torch.autograd.grad(expected.sum(), into),
                strict=True,
            ):
                torch.testing.assert_close(one, other)

    def test_a_function_takes_sizes_and_several_operands(self) -> None:
        """The graph keeps the pattern and the given sizes; mistakes are told when it runs."""
        traced = torch.fx.symbolic_trace(
            lambda x, y: einheads.einsum("b (h i), h i o -> b o h", x, y, h=2)
        )
        x, y = torch.randn(5, 6), torch.randn(2, 3, 4)
        torch.testing.assert_close(traced(x, y), torch.einsum("bhi,hio->boh", x.view(5, 2, 3), y))
        with pytest.raises(einheads.SizeError, match="h=2, i=4 would make it 8"):
            traced(x, torch.randn(2, 4, 4))


class TestExport:
    """`torch.export` with a free batch gives a program for every batch."""

    @every_promise
    @every_style
    @pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
    def test_runs_at_other_sizes(
        self, style: Callable[[Promise], nn.Module], promise: Promise, *, strict: bool
    ) -> None:
        """The exported program is right at sizes that it has not seen."""
        module, example = style(promise), tuple(promise.inputs(4))
        shapes = torch.export.ShapesCollection()
        batch = torch.export.Dim("batch")
        for x, shape in zip(example, promise.shapes, strict=True):
            shapes[x] = {shape.index(None): batch}
        program = torch.export.export(module, example, dynamic_shapes=shapes, strict=strict)
        for size in (2, 3, 4, 31):
            inputs = promise.inputs(size)
            promise.check(program.module()(*inputs), inputs, module)


def unfolded(promise: Promise, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Reshape operands as the letters of torch.einsum have them, composites unfolded."""
    terms = promise.letters.split("->")[0].split(",")
    known: dict[str, int] = dict(promise.sizes)
    return [
        x.unflatten(-1, [known[letter] for letter in term[x.ndim - 1 :]])
        if len(term) > x.ndim
        else x
        for x, term in zip(tensors, terms, strict=True)
    ]


class TestAutocast:
    """Under autocast, dtypes of results and gradients are those of torch.einsum."""

    @every_promise
    @every_style
    def test_like_torch_einsum(self, style: Callable[..., nn.Module], promise: Promise) -> None:
        """Result and gradients have torch.einsum's dtypes, and values to the precision of those."""
        module = style(promise, dtype=torch.float32, bias=None)
        inputs = promise.inputs(dtype=torch.float32)
        leaves = [x.clone().requires_grad_() for x in (*inputs, *weights_of(module))]
        with torch.autocast("cpu", torch.bfloat16):
            result = module(*inputs)
            reference = torch.einsum(promise.letters, *unfolded(promise, leaves))
        assert result.dtype == reference.dtype
        expected = promise.expected(inputs, module)
        assert np.abs(as_numpy(result) - expected).max() < 0.03 * (1 + np.abs(expected).max())
        ours = torch.autograd.grad(result.float().square().sum(), list(module.parameters()))
        theirs = torch.autograd.grad(reference.float().square().sum(), leaves[len(inputs) :])
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.dtype == other.dtype == torch.float32
            torch.testing.assert_close(mine, other, rtol=0.1, atol=0.1 * other.abs().max().item())

    @pytest.mark.parametrize(
        ("pattern", "letters", "shapes"),
        [
            ("i, i ->", "i,i->", [(7,), (7,)]),
            ("b i, b i -> b", "bi,bi->b", [(2, 7), (2, 7)]),
            ("b i, b i -> b i", "bi,bi->bi", [(2, 7), (2, 7)]),
            ("i, j -> i j", "i,j->ij", [(3,), (7,)]),
            ("i j, j -> i", "ij,j->i", [(3, 7), (7,)]),
            ("i j -> j i", "ij->ji", [(3, 7)]),
            ("i j -> j", "ij->j", [(3, 7)]),
            ("b t h d, b s h d -> b h t s", "bthd,bshd->bhts", [(2, 3, 5, 7), (2, 11, 5, 7)]),
        ],
    )
    def test_special_shapes_like_torch_einsum(
        self, pattern: str, letters: str, shapes: list[tuple[int, ...]]
    ) -> None:
        """Products that need no matrix product have torch.einsum's dtype as well."""
        tensors = [torch.randn(shape, requires_grad=True) for shape in shapes]
        with torch.autocast("cpu", torch.bfloat16):
            result = einheads.einsum(pattern, *tensors)
            reference = torch.einsum(letters, *tensors)
        assert result.dtype == reference.dtype
        torch.testing.assert_close(result, reference, rtol=0.02, atol=0.1)
        for gradient in torch.autograd.grad(result.float().sum(), tensors):
            assert gradient.dtype == torch.float32

    def test_linear_with_bias_like_linear(self) -> None:
        """A plain linear with its bias gives the dtype that nn.Linear gives."""
        layer = einheads.Einsum("b i, o i -> b o", i=7, o=5, bias="o")
        linear = nn.Linear(7, 5)
        linear.load_state_dict(layer.state_dict())
        x = torch.randn(3, 7)
        with torch.autocast("cpu", torch.bfloat16):
            result, expected = layer(x), linear(x)
        assert result.dtype == expected.dtype
        torch.testing.assert_close(result, expected, rtol=0.02, atol=0.02)


class TestTransforms:
    """torch.func works on layers and on the function."""

    @every_promise
    @every_style
    def test_functional_call(self, style: Callable[[Promise], nn.Module], promise: Promise) -> None:
        """Other parameters can be passed for one call, and the layer keeps its own."""
        module, other, inputs = style(promise), style(promise), promise.inputs()
        result = functional_call(module, dict(other.named_parameters()), tuple(inputs))
        promise.check(result, inputs, other)
        promise.check(module(*inputs), inputs, module)

    @every_promise
    @every_style
    def test_vmap_over_inputs(
        self, style: Callable[[Promise], nn.Module], promise: Promise
    ) -> None:
        """A new axis of the inputs is mapped over, wherever it stands."""
        module = style(promise)
        samples = [promise.inputs() for _ in range(3)]
        for place in (0, 1, -1):
            stacked = [torch.stack(list(x), place) for x in zip(*samples, strict=True)]
            result = torch.vmap(module, in_dims=place, out_dims=place)(*stacked)
            for k, inputs in enumerate(samples):
                promise.check(result.select(place, k), inputs, module)

    @every_promise
    @every_style
    def test_vmap_over_weights(
        self, style: Callable[[Promise], nn.Module], promise: Promise
    ) -> None:
        """A stack of parameters is an ensemble, on shared or on own inputs."""
        members = [style(promise) for _ in range(3)]
        parameters, buffers = torch.func.stack_module_state(members)

        def call(state: dict[str, Tensor], *inputs: Tensor) -> Tensor:
            result: Tensor = functional_call(members[0], state, inputs)
            return result

        state = parameters | buffers
        shared = promise.inputs()
        nobody = [None] * len(shared)
        result = torch.vmap(call, in_dims=(0, *nobody))(state, *shared)
        samples = [promise.inputs() for _ in members]
        own = torch.vmap(call)(state, *(torch.stack(list(x)) for x in zip(*samples, strict=True)))
        for k, member in enumerate(members):
            promise.check(result[k], shared, member)
            promise.check(own[k], samples[k], member)

    @every_promise
    @every_style
    def test_grad_and_grad_per_sample(
        self, style: Callable[[Promise], nn.Module], promise: Promise
    ) -> None:
        """`grad` gives what backward gives, and under vmap it gives it for each sample."""
        module = style(promise)
        state = {name: x.detach() for name, x in module.named_parameters()}

        def loss(state: dict[str, Tensor], *inputs: Tensor) -> Tensor:
            result: Tensor = functional_call(module, state, inputs)
            return result.square().sum()

        samples = [promise.inputs() for _ in range(3)]
        per_sample = torch.vmap(torch.func.grad(loss), in_dims=(None, *[0] * len(samples[0])))(
            state, *(torch.stack(list(x)) for x in zip(*samples, strict=True))
        )
        for k, inputs in enumerate(samples):
            value = module(*inputs).square().sum()
            expected = torch.autograd.grad(value, list(module.parameters()))
            one = torch.func.grad(loss)(state, *inputs)
            assert_same(list(one.values()), list(expected))
            assert_same([x[k] for x in per_sample.values()], list(expected))

    @every_promise
    def test_jvp(self, promise: Promise) -> None:
        """The derivative along a direction is the sum of the products with one factor replaced."""
        layer = promise.layer(bias=None)
        primals = [*promise.inputs(), *(w.detach() for w in weights_of(layer))]
        tangents = [torch.randn_like(x) for x in primals]

        def call(*operands: Tensor) -> Tensor:
            return einheads.einsum(promise.pattern, *operands)

        value, slope = torch.func.jvp(call, tuple(primals), tuple(tangents))
        expected = sum(
            oracle(promise.pattern, *map(as_numpy, [*primals[:k], v, *primals[k + 1 :]]))
            for k, v in enumerate(tangents)
        )
        assert_agrees(value, oracle(promise.pattern, *map(as_numpy, primals)), 10, 64)
        assert_agrees(slope, np.asarray(expected), 100, 64)

    @every_promise
    def test_jvp_of_a_layer(self, promise: Promise) -> None:
        """Forward mode through a layer with its bias agrees with reverse mode."""
        layer, inputs = promise.layer(), promise.inputs()
        state = {name: x.detach() for name, x in layer.named_parameters()}
        directions = {name: torch.randn_like(x) for name, x in state.items()}

        def call(state: dict[str, Tensor]) -> Tensor:
            result: Tensor = functional_call(layer, state, tuple(inputs))
            return result

        value, slope = torch.func.jvp(call, (state,), (directions,))
        promise.check(value, inputs, layer)
        cotangent = torch.randn_like(value)
        pulled = torch.func.vjp(call, state)[1](cotangent)[0]
        backward = sum((pulled[name] * directions[name]).sum() for name in state)
        torch.testing.assert_close((slope * cotangent).sum(), backward)

    @pytest.mark.parametrize("name", ["linear", "composite", "low rank", "bilinear"])
    def test_jacobians_and_hessian(self, name: str) -> None:
        """Jacobians agree both ways, and the Hessian of a linear map squared is known."""
        promise = next(promise for promise in PROMISES if promise.name == name)
        layer = promise.layer(bias=None)
        first, *others = promise.inputs()

        def call(x: Tensor) -> Tensor:
            result: Tensor = layer(x, *others)
            return result

        reverse = torch.func.jacrev(call)(first)
        assert_same([reverse], [torch.func.jacfwd(call)(first)])
        flat = reverse.reshape(-1, first.numel())
        hessian = torch.func.hessian(lambda x: call(x).square().sum())(first)
        assert_same([hessian.reshape(first.numel(), -1)], [2 * flat.T @ flat])


@every_promise
@every_style
def test_double_backward(style: Callable[[Promise], nn.Module], promise: Promise) -> None:
    """First and second derivatives by inputs and parameters agree with finite differences."""
    module = style(promise)
    names = [name for name, _ in module.named_parameters()]
    inputs = [x.requires_grad_() for x in promise.inputs()]
    parameters = [x.detach().requires_grad_() for x in module.parameters()]

    def call(*leaves: Tensor) -> Tensor:
        state = dict(zip(names, leaves[len(inputs) :], strict=True))
        result: Tensor = functional_call(module, state, leaves[: len(inputs)])
        return result

    assert torch.autograd.gradcheck(call, [*inputs, *parameters], fast_mode=True)
    assert torch.autograd.gradgradcheck(call, [*inputs, *parameters], fast_mode=True)


class TestWithoutData:
    """Shapes and dtypes are right where there are no values."""

    @every_promise
    @every_style
    def test_meta_device(self, style: Callable[..., nn.Module], promise: Promise) -> None:
        """On the meta device, forward and backward give tensors of the right shape."""
        module = style(promise, device="meta")
        inputs = promise.inputs(3, device="meta")
        result = module(*inputs)
        assert result.device.type == "meta"
        assert result.dtype == torch.float64
        real = style(promise)
        assert result.shape == real(*promise.inputs(3)).shape
        for x, y in zip(
            gradients(module, inputs, module)[1:], [*inputs, *real.parameters()], strict=True
        ):
            assert x.device.type == "meta"
            assert x.shape == y.shape

    @every_promise
    @every_style
    def test_fake_tensors(self, style: Callable[[Promise], nn.Module], promise: Promise) -> None:
        """Fake tensors go through, and real ones of the same pattern afterwards."""
        einheads.cache_clear()
        with FakeTensorMode():
            module, inputs = style(promise), promise.inputs(3)
            result = module(*inputs)
            assert isinstance(result, FakeTensor)
            assert result.dtype == torch.float64
            shape = result.shape
            for x, y in zip(
                gradients(module, inputs, module)[1:], [*inputs, *module.parameters()], strict=True
            ):
                assert isinstance(x, FakeTensor)
                assert x.shape == y.shape
        real, values = style(promise), promise.inputs(3)
        result = real(*values)
        assert result.shape == shape
        promise.check(result, values, real)

    @every_promise
    def test_meta_then_empty_then_reset(self, promise: Promise) -> None:
        """A layer built without memory starts as one built at once, from the same seed."""
        late = promise.layer(device="meta")
        assert all(x.is_meta for x in late.parameters())
        late.to_empty(device="cpu")
        torch.manual_seed(3)
        late.reset_parameters()
        torch.manual_seed(3)
        early = promise.layer()
        assert dict(late.named_parameters()).keys() == dict(early.named_parameters()).keys()
        for x, y in zip(late.parameters(), early.parameters(), strict=True):
            assert torch.equal(x, y)
            assert x.requires_grad
        inputs = promise.inputs()
        promise.check(late(*inputs), inputs, early)


class TestSaving:
    """A layer can be saved, loaded and copied, and takes no compiled function along."""

    @every_promise
    def test_state_dict_loads_weights_only(self, promise: Promise) -> None:
        """The state dict holds the parameters and nothing else, and loads strictly."""
        layer, other, inputs = promise.layer(), promise.layer(), promise.inputs()
        layer(*inputs)
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        assert list(state) == [name for name, _ in layer.named_parameters()]
        assert all(type(x) is Tensor for x in state.values())
        other.load_state_dict(state, strict=True)
        promise.check(other(*inputs), inputs, layer)

    @every_promise
    @pytest.mark.parametrize("called", [False, True], ids=["new", "called"])
    @pytest.mark.parametrize(
        "duplicate",
        [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
        ids=["deepcopy", "pickle"],
    )
    def test_copies(
        self,
        promise: Promise,
        duplicate: Callable[[einheads.Einsum], einheads.Einsum],
        *,
        called: bool,
    ) -> None:
        """A copy gives the same results, has parameters of its own, and is declared alike."""
        layer, inputs = promise.layer(), promise.inputs()
        if called:
            layer(*inputs)
        twin = duplicate(layer)
        assert type(twin) is einheads.Einsum
        assert repr(twin) == repr(layer)
        assert twin.roles == layer.roles
        promise.check(twin(*inputs), inputs, layer)
        with torch.no_grad():
            for x in twin.parameters():
                x.mul_(3)
        promise.check(layer(*inputs), inputs, layer)
        promise.check(twin(*inputs), inputs, twin)

    @every_promise
    def test_whole_module_through_torch_save(self, promise: Promise) -> None:
        """`torch.save` of a module that was called, and compiled, works as for any module."""
        model = nn.Sequential(promise.layer()) if len(promise.shapes) == 1 else promise.layer()
        inputs = promise.inputs()
        model(*inputs)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        assert_same([loaded(*inputs)], [model(*inputs)])


@pytest.mark.parametrize("before", ["import torch", "import torch._dynamo"])
def test_the_compiler_is_imported_only_where_it_is_used(before: str) -> None:
    """A call does not pay for the compiler, which knows the library whenever it comes."""
    code = f"""
{before}
import sys, torch, einheads
x, weight = torch.randn(3, 4), torch.randn(5, 4)

def call(x):
    return einheads.einsum("b i, o i -> b o", x, weight) + 1

wanted = call(x)
print("torch._dynamo" in sys.modules)
compiled = torch.compile(call, fullgraph=True, backend="eager")
torch.testing.assert_close(compiled(x), wanted)
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.split() == [str(before != "import torch"), "True"]
