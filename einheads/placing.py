"""Products that are written straight into the order of the output.

The natural result of a stack of products is a permuted view, which whoever reads it next may have
to copy. Where a library writes rows at any distance, as cuBLAS does, the product can be placed into
the result itself: `torch.bmm(..., out=view)`. Autograd cannot follow that, so only programs that
run without it, or inside of a function of ours, have such steps. The file turns steps into steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .layout import contiguous
from .sizes import Dims
from .steps import Bmm, Permute, Place, Reshape, Steps, renumbered, sources


def placed(steps: Steps, sizes: Mapping[str, int]) -> Steps:
    """The same steps, the last stack of products placed into the result if that saves a view.

    Example:
        >>> from einheads.pattern import parse
        >>> from einheads.plan import plan
        >>> from einheads.lower import lower
        >>> from einheads.sizes import bind
        >>> heads = bind(parse("b h i, h i o -> b h o"), [(8, 4, 16), (4, 16, 32)])
        >>> [type(step).__name__ for step in placed(lower(heads, plan(heads)), heads.sizes).steps]
        ['Permute', 'Place']

    Args:
        steps: a lowering.
        sizes: of every axis; only to tell what axes of size one do to a layout.
    """
    first = len(steps.inputs)
    chain = _chain(steps)
    if chain is None:
        return steps
    start, stop = chain
    product, last = steps.steps[start], steps.steps[stop]
    assert isinstance(product, Bmm)
    if not _writable(product.dims, last.dims, sizes):
        return steps
    order = contiguous(last.dims, sizes).order
    # Axes of size one may stand anywhere; a dimension lies where its other axes do.
    folded = sorted(
        product.dims,
        key=lambda dim: min([order.index(name) for name in dim if name in order] or [0]),
    )
    made = Place(
        product.left, product.right, product.contract, last.dims, product.dims, tuple(folded)
    )
    by = stop - start

    def number(value: int) -> int:
        return value if value <= first + start else max(first + start, value - by)

    rest = [renumbered(step, number) for step in steps.steps[stop + 1 :]]
    return replace(
        steps,
        steps=(*steps.steps[:start], made, *rest),
        result=number(steps.result),
        products=tuple(map(number, steps.products)),
    )


def _chain(steps: Steps) -> tuple[int, int] | None:
    """The places of the last stack of products and of the last view of it, if there is one."""
    first = len(steps.inputs)
    start = max(
        (place for place, step in enumerate(steps.steps) if isinstance(step, Bmm)), default=None
    )
    if start is None:
        return None
    product = steps.steps[start]
    assert isinstance(product, Bmm)
    if product.each:
        return None
    stop = start
    for place in range(start + 1, len(steps.steps)):
        step = steps.steps[place]
        view = isinstance(step, Permute) or (isinstance(step, Reshape) and not step.copies)
        if not view or sources(step) != (first + stop,):
            break
        stop = place
    readers = [one for step in steps.steps[stop + 1 :] for one in sources(step)]
    alone = not any(first + start <= one < first + stop for one in readers)
    return (start, stop) if stop > start and product.bias is None and alone else None


def _writable(product: Dims, result: Dims, sizes: Mapping[str, int]) -> bool:
    """Whether the product differs from the result in its order, and each matrix is one there."""
    born, wanted = contiguous(product, sizes), contiguous(result, sizes)
    if born.order == wanted.order or not all(wanted.folds(dim) for dim in product):
        return False
    _, rows, columns = product
    ends = [[name for name in dim if sizes[name] != 1][-1:] for dim in (rows, columns)]
    return [wanted.unit] in ends
