"""Guards: what they see, what has to be asked besides, and that calls found by them are right."""

import gc
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import einheads
from einheads import call
from einheads.guards import MAX_CALLS, guard
from oracle import oracle

PATTERN = "b h i, h o i -> b o h"


class Seen(TorchDispatchMode):
    """A mode that sees all operations and changes none."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return function(*args, **(kwargs or {}))


class Own(Tensor):
    """A subclass, which torch may treat in its own way."""


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Begin with an empty cache."""
    einheads.cache_clear()


def operands(*, needs: bool = False) -> tuple[Tensor, Tensor]:
    """An input and a weight, which may need a gradient."""
    return torch.randn(5, 3, 7), torch.randn(3, 11, 7, requires_grad=needs)


def right(result: Tensor, pattern: str, *tensors: Tensor, **sizes: int) -> None:
    """Assert that a result is the sum of products."""
    expected = oracle(pattern, *(one.detach().double().numpy() for one in tensors), **sizes)
    error = 0.2 if result.dtype == torch.bfloat16 else 1e-4
    np.testing.assert_allclose(result.detach().double().numpy(), expected, rtol=error, atol=error)


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every call that no guard lets pass."""
    count: list[int] = []
    honest = call._looked_up

    def counted(*given: Any) -> Any:
        count.append(1)
        return honest(*given)

    monkeypatch.setattr(call, "_looked_up", counted)
    return count


def warm(*tensors: Tensor, pattern: str = PATTERN, **sizes: int) -> None:
    """Call often enough that the next call like it is guarded."""
    for _ in range(2):
        einheads.einsum(pattern, *tensors, **sizes)


class TestGuard:
    """The check of torch sees whatever decides what runs."""

    def test_values_do_not_matter(self) -> None:
        """Other numbers in the same form pass."""
        like = guard(operands())
        assert like is not None
        assert like(*operands())

    @pytest.mark.parametrize(
        "other",
        [
            lambda x: x[:4],
            lambda x: x[..., None],
            lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
            lambda x: x[:1].expand(5, 3, 7),
            lambda x: x.double(),
            lambda x: x.clone().requires_grad_(),
            lambda x: nn.Parameter(x, requires_grad=False),
            lambda x: x.as_subclass(Own),
            lambda x: x.to("meta"),
            lambda x: x.to_sparse(),
            lambda x: x.numpy(),
            lambda x: x.tolist(),
            lambda _: None,
        ],
        ids=[
            "shape",
            "rank",
            "strides",
            "expanded",
            "dtype",
            "gradient",
            "parameter",
            "subclass",
            "device",
            "sparse",
            "array",
            "list",
            "none",
        ],
    )
    def test_other_tensors_do_not_pass(self, other: Callable[[Tensor], Any]) -> None:
        """Neither as the first nor as the last."""
        x, weight = operands()
        for like, tensors in (
            (guard([x, weight]), (other(x), weight)),
            (guard([weight, x]), (weight, other(x))),
        ):
            assert like is not None
            assert not like(*tensors)

    def test_conjugates_do_not_pass(self) -> None:
        """A complex tensor that is only marked as a conjugate is another kind."""
        x = torch.randn(3, dtype=torch.complex64)
        like = guard([x])
        assert like is not None
        assert like(x.clone())
        assert not like(x.conj())

    @pytest.mark.parametrize(
        "state", [Seen, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
    )
    def test_other_states_do_not_pass(
        self, state: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        """Nor do the same tensors where somebody follows or changes the operations."""
        tensors = operands()
        like = guard(tensors)
        assert like is not None
        with state():
            assert not like(*tensors)
        assert like(*tensors)

    @pytest.mark.parametrize(
        "follow",
        [
            lambda f, x: torch.vmap(f)(x),
            lambda f, x: torch.func.grad(lambda one: f(one).sum())(x),
            lambda f, x: torch.func.jvp(f, (x,), (x,)),
            lambda f, x: torch.jit.trace(f, (x,), check_trace=False),
            lambda f, x: make_fx(f, pre_dispatch=True)(x),
        ],
        ids=["vmap", "grad", "jvp", "trace", "pre-dispatch"],
    )
    @pytest.mark.filterwarnings("ignore:.torch.jit.trace. is deprecated")
    def test_tracers_do_not_pass(self, follow: Callable[..., Any]) -> None:
        """Nor even tensors from outside, inside of a transform or under a tracer."""
        tensors = operands()
        like = guard(tensors)
        assert like is not None
        seen = []

        def function(x: Tensor) -> Tensor:
            seen.append(like(*tensors))
            return 2 * x

        follow(function, torch.randn(3))
        assert seen
        assert not any(seen)

    def test_the_wrong_number(self) -> None:
        """Too few or too many are a `TypeError`, which the caller waits for."""
        x, weight = operands()
        like = guard([x, weight])
        assert like is not None
        for tensors in ((), (x,), (x, weight, weight)):
            with pytest.raises(TypeError):
                like(*tensors)
        assert guard([]) is None

    def test_tensors_are_not_held(self) -> None:
        """A guard keeps no memory alive."""
        x = torch.randn(3)
        like, alive = guard([x]), weakref.ref(x)
        assert like is not None
        del x
        gc.collect()
        assert alive() is None


class TestCalls:
    """What is found by a guard is what would be looked up."""

    @pytest.mark.parametrize("needs", [False, True])
    def test_no_look_up_is_needed(self, looked_up: list[int], *, needs: bool) -> None:
        """The third call is guarded, with gradients and without."""
        warm(*operands(needs=needs))
        assert len(looked_up) == 2
        for _ in range(3):
            x, weight = operands(needs=needs)
            result = einheads.einsum(PATTERN, x, weight)
            right(result, PATTERN, x, weight)
            if needs:
                cotangent = torch.randn_like(result)
                result.backward(cotangent)
                assert weight.grad is not None
                right(weight.grad, "b h i, b o h -> h o i", x, cotangent)
        assert len(looked_up) == 2

    def test_planned_gradients_need_none_either(self, looked_up: list[int]) -> None:
        """Where the planned backward pays, it is what the guard finds."""
        pattern = "b h i, h i o -> b o h"
        for _ in range(4):
            x = torch.randn(31, 8, 64, requires_grad=True)
            weight = torch.randn(8, 64, 67, requires_grad=True)
            result = einheads.einsum(pattern, x, weight)
            assert type(result.grad_fn).__name__ == "_ContractBackward"
            cotangent = torch.randn_like(result)
            result.backward(cotangent)
            assert x.grad is not None
            right(x.grad, "h i o, b o h -> b h i", weight, cotangent)
        assert len(looked_up) == 2

    def test_layers_need_none(self, looked_up: list[int]) -> None:
        """A layer is found by a guard of its inputs and its parameters."""
        layer = einheads.Einsum("b h i, h o i -> b h o", h=3, i=7, o=11, bias="h o")
        for _ in range(4):
            x = torch.randn(5, 3, 7)
            expected = oracle(
                "b h i, h o i -> b h o",
                x.double().numpy(),
                layer.weight.detach().double().numpy(),
            )
            np.testing.assert_allclose(
                layer(x).detach().double().numpy(),
                expected + layer.bias.detach().double().numpy(),
                rtol=1e-4,
                atol=1e-4,
            )
        assert len(looked_up) == 2

    @pytest.mark.parametrize(
        "state",
        [
            torch.no_grad,
            torch.inference_mode,
            Seen,
            lambda: torch.autocast("cpu", torch.bfloat16),
            forward_ad.dual_level,
        ],
        ids=["no_grad", "inference", "mode", "autocast", "dual level"],
    )
    @pytest.mark.parametrize("needs", [False, True])
    def test_other_states_are_looked_up(
        self, looked_up: list[int], *, state: Callable[[], AbstractContextManager[Any]], needs: bool
    ) -> None:
        """A guarded call is no longer found in another state of torch, and is right there."""
        x, weight = operands(needs=needs)
        warm(x, weight)
        with state():
            result = einheads.einsum(PATTERN, x, weight)
        assert len(looked_up) == 3
        right(result, PATTERN, x, weight)
        einheads.einsum(PATTERN, x, weight)
        assert len(looked_up) == 3

    def test_fake_tensors_stay_fake(self, looked_up: list[int]) -> None:
        """Under `FakeTensorMode` even real tensors give fake results."""
        x, weight = operands()
        warm(x, weight)
        with FakeTensorMode(allow_non_fake_inputs=True):
            result = einheads.einsum(PATTERN, x, weight)
        assert type(result).__name__ == "FakeTensor"
        assert len(looked_up) == 3

    def test_traces_hold_the_operations(self) -> None:
        """`make_fx` writes down what a guarded call would have run."""
        x, weight = operands()
        warm(x, weight)
        graph = make_fx(lambda one: einheads.einsum(PATTERN, one, weight))(x)
        other = torch.randn_like(x)
        right(graph(other), PATTERN, other, weight)
        assert any(node.op == "call_function" for node in graph.graph.nodes)

    def test_transforms_are_right(self) -> None:
        """Under `torch.func`, after plain calls of the same shapes."""
        x, weight = operands(needs=True)
        warm(x, weight)
        tangent = torch.randn_like(x)
        _, along = torch.func.jvp(
            lambda one: einheads.einsum(PATTERN, one, weight), (x,), (tangent,)
        )
        right(along, PATTERN, tangent, weight)
        many = torch.randn(2, *x.shape)
        mapped = torch.vmap(lambda one: einheads.einsum(PATTERN, one, weight))(many)
        for one, result in zip(many, mapped, strict=True):
            right(result, PATTERN, one, weight)

    def test_types_take_turns(self, looked_up: list[int]) -> None:
        """A parameter and a tensor of the same signature are both found, each by its guard."""
        x, weight = operands(needs=True)
        parameter = nn.Parameter(weight.detach())
        for _ in range(3):
            for one in (weight, parameter):
                right(einheads.einsum(PATTERN, x, one), PATTERN, x, one)
        before = len(looked_up)
        for one in (weight, parameter):
            einheads.einsum(PATTERN, x, one)
        assert len(looked_up) == before

    @pytest.mark.parametrize("kinds", [2, MAX_CALLS, MAX_CALLS + 1, 3 * MAX_CALLS])
    def test_shapes_take_turns(self, looked_up: list[int], kinds: int) -> None:
        """Few shapes are all guarded; of many, the guards stay few, and all results are right."""
        weight = torch.randn(3, 11, 7)
        inputs = [torch.randn(2 + kind, 3, 7) for kind in range(kinds)]
        for _ in range(40):
            for x in inputs:
                result = einheads.einsum(PATTERN, x, weight)
                assert result.shape == (len(x), 11, 3)
        for x in inputs:
            right(einheads.einsum(PATTERN, x, weight), PATTERN, x, weight)
        ((_, kept),) = call.cache.recent.calls.items()
        assert len(kept) == min(kinds, MAX_CALLS)
        if kinds <= MAX_CALLS:
            assert len(looked_up) == 2 * kinds

    def test_another_phase_is_guarded_in_time(self, looked_up: list[int]) -> None:
        """Shapes that no longer come make room for those that do."""
        weight = torch.randn(3, 11, 7)
        for batch in range(2, 2 + 2 * MAX_CALLS):
            warm(torch.randn(batch, 3, 7), weight)
        late = torch.randn(53, 3, 7)
        for _ in range(20):
            einheads.einsum(PATTERN, late, weight)
        before = len(looked_up)
        einheads.einsum(PATTERN, late, weight)
        assert len(looked_up) == before

    def test_sizes_by_name(self, looked_up: list[int]) -> None:
        """Sizes are part of what is found; True is refused though it is equal to 1."""
        x = torch.randn(5, 6)
        for _ in range(3):
            for n in (1, 2, 3):
                result = einheads.einsum("b (n i) -> n b", x, n=n)
                right(result, "b (n i) -> n b", x, n=n)
        assert len(looked_up) == 6
        for wrong in (True, 1.0):
            with pytest.raises(TypeError, match="'n'"):
                einheads.einsum("b (n i) -> n b", x, n=wrong)  # type: ignore[arg-type]

    def test_mistakes_are_told_as_ever(self) -> None:
        """After guarded calls, wrong operands are refused in the words of the first call."""
        x, weight = operands()
        wrong: list[tuple[Any, ...]] = [
            (x,),
            (x, weight, weight),
            (x, weight.double()),
            (x, weight[:2]),
            (x, weight.tolist()),
            (x.to_sparse(), weight),
        ]
        messages = []
        for _ in range(2):
            for tensors in wrong:
                with pytest.raises((ValueError, TypeError)) as caught:
                    einheads.einsum(PATTERN, *tensors)
                messages.append(str(caught.value))
            warm(x, weight)
        assert messages[: len(wrong)] == messages[len(wrong) :]

    @pytest.mark.parametrize("kind", ["mkldnn", "sparse", "uint16", "float8"])
    def test_kinds_without_arithmetic(self, kind: str) -> None:
        """What torch cannot multiply is refused in our words, the first time and ever after."""
        make: Callable[[Tensor], Tensor] = {
            "mkldnn": lambda x: x.to_mkldnn(),
            "sparse": lambda x: x.to_sparse(),
            "uint16": lambda x: x.to(torch.uint16),
            "float8": lambda x: x.to(torch.float8_e5m2),
        }[kind]
        x, weight = operands()
        warm(x, weight)
        warm(torch.tensor(1.0).expand(5, 3, 7), weight)
        tensors = make(x.abs()), make(weight.abs()) if kind in ("uint16", "float8") else weight
        for _ in range(4):
            with pytest.raises(TypeError, match=r"write: \.to"):
                einheads.einsum(PATTERN, *tensors)

    def test_modes_of_functions(self, looked_up: list[int]) -> None:
        """Who changes what functions do is asked at every call, and nothing of it stays."""

        class Turned(TorchFunctionMode):
            def __torch_function__(
                self, function: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                if function is torch.bmm:
                    return torch.bmm(args[1].mT, args[0].mT).mT
                return function(*args, **(kwargs or {}))

        x, weight = torch.randn(17, 8, 31), torch.randn(8, 37, 31)
        for inside in (False, True, True, True, False, False):
            with Turned() if inside else nullcontext():
                right(einheads.einsum(PATTERN, x, weight), PATTERN, x, weight)
        assert len(looked_up) == 5  # the last one alone is guarded

    def test_a_tensor_twice(self, looked_up: list[int]) -> None:
        """Torch's guard knows none that stands twice; it is looked up, and nothing piles up."""
        x = torch.randn(5, 3, 7)
        for _ in range(4):
            result = einheads.einsum("b h i, c h i -> b c h", x, x)
            right(result, "b h i, c h i -> b c h", x, x)
        assert len(looked_up) == 4
        assert not call.cache.recent.calls
        for _ in range(3):
            other = torch.randn(5, 3, 7)
            right(
                einheads.einsum("b h i, c h i -> b c h", x, other),
                "b h i, c h i -> b c h",
                x,
                other,
            )
        assert len(looked_up) == 5

    def test_threads(self) -> None:
        """Calls are right while others empty the cache."""
        wrong: list[object] = []
        stop = threading.Event()

        def calls(seed: int) -> None:
            generator = torch.Generator().manual_seed(seed)
            x = torch.randn(2 + seed, 3, 7, generator=generator)
            weight = torch.randn(3, 11, 7, generator=generator)
            expected = torch.einsum("bhi,hoi->boh", x, weight)
            while not stop.is_set():
                if not torch.allclose(einheads.einsum(PATTERN, x, weight), expected, atol=1e-4):
                    wrong.append(seed)

        threads = [threading.Thread(target=calls, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(100):
            einheads.cache_clear()
            time.sleep(0.005)
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_nested_tensors_never_reach_a_guard(self, place: int) -> None:
        """Torch would end the process: its check asks them for strides, which they do not have."""
        three = "b i, i r, r o -> b o"
        tensors = [torch.randn(2, 3), torch.randn(3, 5), torch.randn(5, 7)]
        warm(*tensors, pattern=three)
        tensors[place] = torch.nested.nested_tensor([tensors[place]])
        with pytest.raises(TypeError, match=rf"^operand {place + 1} is a nested tensor"):
            einheads.einsum(three, *tensors)
        if place < 2:
            pair = "b i, i r -> b r"
            warm(torch.randn(2, 3), torch.randn(3, 5), pattern=pair)
            with pytest.raises(TypeError, match=rf"^operand {place + 1} is a nested tensor"):
                einheads.einsum(pair, *tensors[:2])

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
    def test_nested_inputs_of_layers(self) -> None:
        """Whatever stands among the inputs, and whatever a transform makes of it."""
        linear = einheads.Einsum("b i, o i -> b o", i=3, o=5, bias="o")
        two = einheads.Einsum("b i, b j, i j o -> b o", inputs=2, i=3, j=2, o=5)
        x, other = torch.randn(4, 3), torch.randn(4, 2)
        for _ in range(3):
            linear(x)
            two(x, other)
        with pytest.raises(TypeError, match=r"^x is a nested tensor"):
            linear(torch.nested.nested_tensor([x]))
        with pytest.raises(TypeError, match=r"^x2 is a nested tensor"):
            two(x, torch.nested.nested_tensor([other]))
        with pytest.raises(RuntimeError, match="nested"):
            torch.func.vmap(linear)(torch.nested.nested_tensor([x, x]))

    def test_what_stands_in_for_a_tensor(self) -> None:
        """A call that is noted down is one call, also after calls with tensors."""
        layer = einheads.Einsum("b i, o i -> b o", i=3, o=5)
        x, weight = torch.randn(4, 3), torch.randn(5, 3)

        def pair(x: Tensor, weight: Tensor) -> Tensor:
            return einheads.einsum("b i, o i -> b o", x, weight)

        for _ in range(3):
            layer(x)
            pair(x, weight)
        for model in (nn.Sequential(layer), pair):
            traced = torch.fx.symbolic_trace(model)
            targets = [node.target for node in traced.graph.nodes]
            assert targets.count(call.apply) == 1
            assert getattr not in targets  # nothing of it is asked for

    def test_forgotten_with_the_cache(self, looked_up: list[int]) -> None:
        """Nothing is found by a guard after the cache was cleared."""
        x, weight = operands()
        warm(x, weight)
        einheads.cache_clear()
        assert not call.cache.recent.calls
        einheads.einsum(PATTERN, x, weight)
        assert len(looked_up) == 3

    def test_without_guards(self, looked_up: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        """A version of torch that has no such check looks every call up."""
        monkeypatch.setattr("einheads.guards._Guards", None)
        for _ in range(4):
            x, weight = operands()
            right(einheads.einsum(PATTERN, x, weight), PATTERN, x, weight)
        assert len(looked_up) == 4
        assert not call.cache.recent.calls
