"""Numbers on their way from Python to the device of a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(
    values: Sequence[int] | Sequence[float], device: torch.device, dtype: torch.dtype = torch.int64
) -> Tensor:
    """A tensor of numbers, without waiting for the device.

    A GPU copies from pinned memory while the host goes on; torch keeps that memory until the
    copy is made. Plain memory would make the host wait for all that the GPU has to do before.

    Args:
        values: The numbers.
        device: Where they go.
        dtype: What they become.

    Returns:
        The tensor, one-dimensional.
    """
    host = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)
