"""What decoding remembers: the keys and the values of earlier positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from einheads.errors import EinheadsError, SizeError


@dataclass(slots=True)
class KeyValueCache:
    """Keys and values of the positions that were already decoded; `Attention.cache` makes it.

    Attributes:
        key: `... k s d`, room for all positions.
        value: `... k s d`.
        length: how many positions are filled. To start again, set it to zero.
    """

    key: Tensor
    value: Tensor
    length: int = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the next positions, and give all keys and all values so far: views.

        Args:
            key: `... k t d`.
            value: `... k t d`.

        Raises:
            SizeError: there is no room for `t` more positions, or the shapes are others.
            EinheadsError: the keys have gradients, which could not flow through the cache.
        """
        start, room = self.length, self.key.shape[-2]
        end = start + key.shape[-2]
        if end > room:
            raise SizeError(
                f"the cache has room for s={room} positions, but {end} are needed",
                notes=[f"write: .cache(..., s={end}) or more"],
            )
        wanted = (*self.key.shape[:-2], key.shape[-2], self.key.shape[-1])
        if tuple(key.shape) != wanted:
            raise SizeError(
                f"the cache is made for keys '... k t d' = {wanted}, not {tuple(key.shape)}",
                notes=[f"write: .cache({', '.join(map(str, key.shape[:-3]))}, s={room})"],
            )
        if torch.is_grad_enabled() and (key.requires_grad or value.requires_grad):
            raise EinheadsError(
                "a cache is written in place, so no gradient can flow through it",
                notes=["write: with torch.no_grad(): ..."],
            )
        self.key[..., start:end, :] = key
        self.value[..., start:end, :] = value
        self.length = end
        return self.key[..., :end, :], self.value[..., :end, :]


__all__ = ["KeyValueCache"]
