"""Hands a network its weights by name: checked by the giver, cast and placed here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

TakeTensor: TypeAlias = Callable[[str, tuple[int, ...]], Tensor]
"""(name, shape) to the tensor of that name; raises ModelLoadError if it is missing or has
another shape. Names are Hugging Face's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """The weights below one prefix.

    Args:
        take: Gives a stored tensor.
        dtype: Of the weights of linear layers and embeddings.
        device: Where all weights go.
        prefix: What every name starts with.
    """

    take: TakeTensor
    dtype: torch.dtype
    device: torch.device
    prefix: str = ""

    def under(self, name: str) -> Parameters:
        """The weights below `name`."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def weight(self, name: str, *shape: int) -> Tensor:
        """The weights of layer `name`, in the network's dtype."""
        return self._cast(f"{name}.weight", shape, self.dtype)

    def scale(self, name: str, *shape: int) -> Tensor:
        """The weights of norm `name`, in float32: norms are computed there."""
        return self._cast(f"{name}.weight", shape, torch.float32)

    def bias(self, name: str, num_outputs: int) -> Tensor:
        """The bias of layer `name`, in the network's dtype."""
        return self._cast(f"{name}.bias", (num_outputs,), self.dtype)

    def _cast(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return self.take(self.prefix + name, shape).to(device=self.device, dtype=dtype)
