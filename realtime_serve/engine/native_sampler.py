"""From logits to tokens, in C, for networks in torch: as the native step does with its own logits.

One idea: on a CPU both paths choose alike, all rows of a step in one call. The same logits give
the same tokens on either.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from realtime_serve._kernels import sample_rows
from realtime_serve.engine.runner import SampledToken, SamplingRow


class NativeSampler:
    """Chooses tokens from logits in host memory. Keeps nothing between calls.

    Args:
        level: The CPU level whose kernels to run, one of `_kernels.cpu_levels()`.
    """

    def __init__(self, level: str) -> None:
        self._level = level

    def sample(self, logits: Tensor, rows: Sequence[SamplingRow]) -> list[SampledToken | None]:
        """Choose one token a row.

        Args:
            logits: float32, [len(rows), vocab_size], on the CPU; may be overwritten.
            rows: How to choose.

        Returns:
            A token for each row; None where the logits hold NaN or plus infinity, or where
            no token that may be chosen has a finite logit.
        """
        chosen = sample_rows(logits.contiguous().numpy(), rows, level=self._level)
        return [None if token is None else SampledToken(*token) for token in chosen]
