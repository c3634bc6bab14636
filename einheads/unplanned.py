"""What autograd does by itself with some steps: the same steps, undone one by one.

A planned backward has to be better than this to be worth its call, so it is written down here as
steps like all others, and priced like them. It follows the derivatives of torch: a view is undone
by a view, or by a copy where the gradient does not lie for it; a product has two products for
gradients. The file knows nothing of torch itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .build import Builder
from .candidates import Traits
from .layout import Layout, contiguous
from .price import layouts_of, price
from .sizes import Dims
from .steps import (
    Accumulate,
    Add,
    Bmm,
    Diagonal,
    Expand,
    Linear,
    Matmul,
    Multiply,
    Permute,
    Place,
    Reshape,
    Step,
    Steps,
    Strided,
    Sum,
    flat,
    sources,
)


def undone(
    steps: Steps, layouts: Sequence[Layout], needs: Sequence[bool], sizes: Mapping[str, int]
) -> Steps:
    """The steps of autograd's own backward.

    Example:
        >>> from einheads.pattern import parse
        >>> from einheads.plan import plan
        >>> from einheads.lower import lower
        >>> from einheads.sizes import bind
        >>> bound = bind(parse("b i, o i -> b o"), [(8, 64), (32, 64)])
        >>> dims = [(("b",), ("i",)), (("o",), ("i",))]
        >>> layouts = [contiguous(one, bound.sizes) for one in dims]
        >>> own = undone(lower(bound, plan(bound)), layouts, [True, True], bound.sizes)
        >>> [type(step).__name__ for step in own.steps]
        ['Matmul', 'Permute', 'Matmul']

    Args:
        steps: the forward.
        layouts: how each of its inputs lies in memory.
        needs: which of them need gradients.
        sizes: of every axis.

    Returns:
        Steps whose inputs are the gradient of the result, which lies in order, and then all values
        of the forward. A gradient that does not lie in order is copied at the end, as autograd does
        for a parameter.
    """
    return _Undoing(steps, layouts, needs, sizes).all()


def price_undone(
    steps: Steps,
    layouts: Sequence[Layout],
    needs: Sequence[bool],
    sizes: Mapping[str, int],
    traits: Traits,
) -> float:
    """What autograd's own backward costs, in nanoseconds, without the making of its graph.

    Args:
        steps: the forward.
        layouts: how each of its inputs lies in memory.
        needs: which of them need gradients.
        sizes: of every axis.
        traits: device and dtype.
    """
    own = undone(steps, layouts, needs, sizes)
    inputs = [contiguous(own.inputs[0], sizes), *layouts_of(steps, layouts, sizes)]
    return price(own, inputs, sizes, traits.itemsize, traits.rates)


class _Undoing:
    def __init__(
        self,
        steps: Steps,
        layouts: Sequence[Layout],
        needs: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> None:
        self.forward = steps
        self.sizes = sizes
        self.wanted = list(needs)
        for step in steps.steps:
            self.wanted.append(any(self.wanted[source] for source in sources(step)))
        result = steps.dims(steps.result)
        inputs = (result, *(steps.dims(number) for number in range(len(self.wanted))))
        known = [contiguous(result, sizes), *layouts_of(steps, layouts, sizes)]
        self.build = Builder(inputs, sizes, known=dict(enumerate(known)))
        self.gradients = {steps.result: 0}

    def all(self) -> Steps:
        forward, build = self.forward, self.build
        first = len(forward.inputs)
        for place, step in reversed(list(enumerate(forward.steps))):
            number = first + place
            if number in self.gradients and self.wanted[number]:
                self.one(step, self.gradients[number])
        for number, dims in enumerate(forward.inputs):
            gradient = self.gradients.get(number)
            if gradient is not None and not build.known[gradient].folds(flat(dims)):
                build.emit(Reshape(gradient, copies=True, dims=build.dims(gradient)))
        return Steps(build.inputs, tuple(build.steps), 0)

    def value(self, number: int) -> int:
        """A value of the forward, among the inputs of the backward."""
        return number + 1

    def put(self, number: int, gradient: int) -> None:
        """Hand a gradient on; it is added to what came before."""
        before = self.gradients.get(number)
        if before is not None:
            dims = self.forward.dims(number)
            gradient = self.build.combine(Add, before, gradient, dims)
        self.gradients[number] = gradient

    def one(self, step: Step, g: int) -> None:
        build, forward = self.build, self.forward
        if isinstance(step, Permute):
            back = sorted(range(len(step.order)), key=lambda place: step.order[place])
            self.put(step.source, build.permute(g, back))
        elif isinstance(step, Reshape):
            self.put(step.source, self.folded(g, forward.dims(step.source)))
        elif isinstance(step, Expand):
            self.put(step.source, self.reduced(g, forward.dims(step.source)))
        elif isinstance(step, Sum):
            dims = forward.dims(step.source)
            open_ = tuple(() if place in step.places else dim for place, dim in enumerate(dims))
            g = build.reshape(g, open_)
            self.put(step.source, build.emit(Expand(g, dims), build.known[g]))
        elif isinstance(step, Diagonal):
            # The gradient is written into a field of zeros; for the price it is a copy.
            dims = forward.dims(step.source)
            self.put(step.source, build.emit(Reshape(g, copies=True, dims=dims)))
        elif isinstance(step, (Multiply, Add)):
            self.elementwise(step, g)
        else:
            assert not isinstance(step, (Accumulate, Place, Strided))  # autograd never sees one
            self.product(step, g)

    def folded(self, g: int, dims: Dims) -> int:
        """Fold a gradient; one that is the same along a part of a dimension is copied for that."""
        if self.patchy(g, dims):
            return self.build.emit(Reshape(g, copies=True, dims=dims))
        return self.build.reshape(g, dims)

    def patchy(self, g: int, dims: Dims) -> bool:
        """Whether a gradient is expanded along some axes of a dimension, and along others not."""
        have, sizes = self.build.known[g].order, self.build.sizes
        long = [[name for name in dim if sizes[name] != 1] for dim in dims]
        return any(0 < sum(name in have for name in dim) < len(dim) for dim in long)

    def elementwise(self, step: Multiply | Add, g: int) -> None:
        for own, other in ((step.left, step.right), (step.right, step.left)):
            if not self.wanted[own]:
                continue
            gradient = g
            if isinstance(step, Multiply):
                gradient = self.build.combine(Multiply, g, self.value(other), step.dims)
            self.put(own, self.reduced(gradient, self.forward.dims(own)))

    def reduced(self, g: int, dims: Dims) -> int:
        """Sum over the dimensions that were broadcast."""
        have = self.build.dims(g)
        wide = ((),) * (len(have) - len(dims)) + dims
        places = tuple(k for k, (a, b) in enumerate(zip(have, wide, strict=True)) if a and not b)
        if places:
            rest = tuple(dim for place, dim in enumerate(have) if place not in places)
            g = self.build.emit(Sum(g, places, rest))
        return self.build.reshape(g, dims)

    def product(self, step: Bmm | Matmul | Linear, g: int) -> None:
        build, forward = self.build, self.forward
        left, right = forward.dims(step.left), forward.dims(step.right)
        bias = None if isinstance(step, Matmul) else step.bias
        if bias is not None and self.wanted[bias]:
            self.put(bias, self.reduced(g, forward.dims(bias)))
        if len(left) < 2 or len(right) < 2:
            return self.vector(step, g)
        *stack, _, _ = build.dims(g)
        if len(stack) > 1 and len(right) > 2 and self.patchy(g, (flat(tuple(stack)),)):
            # Torch folds a stack itself.
            g = build.emit(Reshape(g, copies=True, dims=build.dims(g)))
        columns = right[-2] if isinstance(step, Linear) else right[-1]
        if self.wanted[step.left]:
            other = self.value(step.right)
            if not isinstance(step, Linear):
                other = self.turned(other)
            self.put(step.left, self.multiplied(g, other, columns, left))
        if not self.wanted[step.right]:
            return None
        rows = flat(left[: len(left) - len(right) + 1])
        value = self.value(step.left)
        if len(left) > len(right):
            g = build.reshape(g, (rows, columns))
            value = build.reshape(value, (rows, step.contract))
        contract = build.dims(g)[-2]
        first, second = (g, value) if isinstance(step, Linear) else (value, g)
        return self.put(step.right, self.multiplied(self.turned(first), second, contract, right))

    def vector(self, step: Bmm | Matmul | Linear, g: int) -> None:
        """A matrix, or many, and a vector: the gradient of the matrices is an outer product."""
        for own, other in ((step.left, step.right), (step.right, step.left)):
            if not self.wanted[own]:
                continue
            dims = self.forward.dims(own)
            have = flat(self.build.dims(g))
            if set(have) <= set(flat(dims)):
                open_ = tuple(dim if set(dim) <= set(have) else () for dim in dims)
                wide = self.build.reshape(g, open_) if have else g
                self.put(own, self.build.combine(Multiply, wide, self.value(other), dims))
            else:
                # The vector: its gradient is the transposed matrix, all rows folded, times that of
                # the result.
                rows = flat(self.build.dims(g))
                matrix = self.build.reshape(self.value(other), (rows, *dims))
                folded = self.build.reshape(g, (rows,))
                self.put(own, self.multiplied(self.turned(matrix), folded, rows, dims))

    def turned(self, number: int) -> int:
        """A stack of matrices, each transposed."""
        last = len(self.build.dims(number)) - 1
        if last < 1:
            return number
        return self.build.permute(number, (*range(last - 1), last, last - 1))

    def multiplied(self, left: int, right: int, contract: tuple[str, ...], dims: Dims) -> int:
        kind = Bmm if len(self.build.dims(right)) == 3 and len(dims) == 3 else Matmul
        return self.build.emit(kind(left, right, contract, dims))
