"""Positions as rotations of pairs of features. There is no parameter here."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from einheads.errors import SizeError

from .arguments import arguments, check_last


class Rotary(nn.Module):
    """Turn pairs of features by angles that grow with the position, `... t d -> ... t d`.

    Pair `p` of position `t` is turned by `t * base^(-2 p / d)`, so that the product of a query and
    a key depends on how far apart they are. The pairs are `(p, p + d/2)`, or with
    `interleaved=True` `(2 p, 2 p + 1)`; checkpoints are trained with one or the other.

    Example:
        >>> import torch
        >>> from einheads import Rotary
        >>> query, key = torch.randn(2, 1, 64)
        >>> rotary = Rotary()
        >>> def product(t, s):
        ...     turned = [rotary(x, torch.tensor([n])) for x, n in ((query, t), (key, s))]
        ...     return (turned[0] * turned[1]).sum()
        >>> torch.allclose(product(7, 3), product(27, 23), atol=1e-4)   # four apart, both times
        True

    Equivalent:
        ```python
        def rotary(x, base=10000.0):
            t, d = x.shape[-2:]
            speed = base ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
            angle = torch.arange(t, dtype=x.dtype).unsqueeze(-1) * speed      # t (d/2)
            pairs = torch.complex(*x.chunk(2, -1))                            # ... t (d/2)
            pairs = pairs * torch.polar(torch.ones_like(angle), angle)
            return torch.cat([pairs.real, pairs.imag], -1)
        ```

    Used by nearly every language model since GPT-NeoX and Llama.

    Not for cross-attention between things that have no common positions.

    Args:
        base: the greater, the slower the slowest pairs turn; long contexts use 500000 and more.
        part: how many features are turned, from the first one on; by default all.
        interleaved: whether neighbors make a pair.

    Reference:
        Su et al., "RoFormer: enhanced transformer with rotary position embedding" (2021), section
        3.2.2 (pairs of neighbors); the other pairs are those of GPT-NeoX (2022) and Llama.
    """

    def __init__(
        self, *, base: float = 10000.0, part: int | None = None, interleaved: bool = False
    ) -> None:
        if part is not None and (part < 0 or part % 2):
            raise SizeError(
                f"part={part} features cannot be turned in pairs", notes=["write: an even number"]
            )
        super().__init__()
        self.base = base
        self.part = part
        self.interleaved = interleaved

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """Turn the features.

        Args:
            x: `... t d`.
            positions: `t`, or `... t` as far as it broadcasts; by default 0, 1, 2, ...

        Returns:
            `... t d`, of the dtype of `x`.

        Raises:
            SizeError: `d` is odd, or less than the part to be turned, or there is no `t`.
        """
        check_last(x, "... t d")
        part = self.turned(x.shape[-1])
        # Angles are made at every call, not kept in a buffer: a buffer would be rounded by
        # `.bfloat16()`, which spoils far positions, and be empty after `.to_empty()`.
        wide = torch.promote_types(x.dtype, torch.float32)
        pairs = torch.arange(0, part, 2, device=x.device, dtype=wide)
        speed = torch.pow(torch.as_tensor(self.base, dtype=wide, device=x.device), -pairs / part)
        if positions is None:
            positions = torch.arange(x.shape[-2], device=x.device)
        angle = positions.to(wide).unsqueeze(-1) * speed
        cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        turned, rest = x[..., :part], x[..., part:]
        if self.interleaved:
            first, second = turned[..., 0::2], turned[..., 1::2]
        else:
            first, second = turned.chunk(2, -1)
        both = first * cosine - second * sine, first * sine + second * cosine
        turned = torch.stack(both, -1).flatten(-2) if self.interleaved else torch.cat(both, -1)
        return turned if self.part is None else torch.cat([turned, rest], -1)

    def turned(self, d: int) -> int:
        """How many of `d` features are turned.

        Raises:
            SizeError: `d` is odd, or less than the part to be turned.
        """
        part = d if self.part is None else self.part
        if part % 2 or part > d:
            raise SizeError(
                f"d={d} features have no {part} that could be turned in pairs",
                notes=[f"write: Rotary(part={min(part, d) // 2 * 2}), or an even d"],
            )
        return part

    def extra_repr(self) -> str:
        """The arguments of the call that makes this module."""
        return arguments(self) or ""


__all__ = ["Rotary"]
