"""`einsum`: the one function that most people need.

It knows nothing of modules or initial values.
"""

from __future__ import annotations

from torch import Tensor

from .call import apply


def einsum(pattern: str, /, *tensors: Tensor, **sizes: int) -> Tensor:
    """Sum of products of tensors, by the names of their axes.

    The pattern is planned and compiled at the first call, into a few views and matrix products that
    copy nothing they need not copy; further calls, with other batch sizes too, only look the
    program up.

    Example:
        >>> import torch, einheads
        >>> x, w = torch.randn(4, 10, 8, 64), torch.randn(8, 32, 64)
        >>> einheads.einsum("b w h i, h o i -> b w h o", x, w).shape   # each head its own matrix
        torch.Size([4, 10, 8, 32])
        >>> einheads.einsum("... (h i), h o i -> ... (h o)", x.flatten(2), w).shape
        torch.Size([4, 10, 256])
        >>> einheads.einsum("b w h i -> h", x).shape                   # axes that vanish are summed
        torch.Size([8])
        >>> einheads.einsum("i, j -> i j n", x[0, 0, 0], w[0, 0], n=3).shape
        torch.Size([64, 64, 3])

    Args:
        pattern: the operands, separated by commas, `->`, and the output. Axes are names separated
            by spaces; `...` is any number of axes, `(h d)` one dimension made of two axes, `1` an
            axis of size one.
        *tensors: one for each operand, of the same dtype and device.
        **sizes: sizes by axis name, where the shapes do not tell them: one factor of `(h d)`, or an
            axis that is only in the output.

    Returns:
        The output of the pattern. Where nothing is multiplied or summed it may be a view of the
        input.

    Raises:
        PatternError: the pattern has no meaning; the message points at the place.
        SizeError: the tensors do not fit the pattern or each other.
        TypeError: a tensor is none, or dtypes or devices differ.
    """
    return apply(pattern, tuple(sizes.items()) if sizes else (), *tensors)
