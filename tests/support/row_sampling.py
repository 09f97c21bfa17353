"""The C sampler on a single row, as a reference for rows in batches."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from realtime_serve._kernels import cpu_levels, sample_rows
from realtime_serve.engine.runner import SamplingRow


def sample_row(
    logits: Tensor, row: SamplingRow, level: str = cpu_levels()[-1], allowed: Any = None
) -> tuple[int, float] | None:
    """Choose one token; the logits stay as they are."""
    masks = None if allowed is None else allowed[None]
    (token,) = sample_rows(logits.clone()[None].numpy(), [row], level=level, allowed=masks)
    return token
