"""RMS norms: rows of the residual stream, and the heads of query and key."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own custom
from torch import Tensor


class RMSNorm:
    """Norm over the last dimension, computed in float32.

    Args:
        scale: Learned factor of each dimension, float32.
        eps: Added to the mean square.
        dtype: Of the result.
    """

    def __init__(self, scale: Tensor, eps: float, dtype: torch.dtype) -> None:
        self._scale = scale
        self._eps = eps
        self._dtype = dtype

    def __call__(self, rows: Tensor) -> Tensor:
        """Norm of each row.

        Args:
            rows: float32, [num_rows, len(scale)].

        Returns:
            Same shape, in the norm's dtype.
        """
        return F.rms_norm(rows, self._scale.shape, self._scale, self._eps).to(self._dtype)


class HeadNorm:
    """Norm of query and key heads, each kind with its own factors.

    Args:
        query_scale: float32, [head_dim].
        key_scale: float32, [head_dim].
        num_heads: Query heads.
        num_kv_heads: Key heads.
        eps: Added to the mean square.
    """

    def __init__(
        self, query_scale: Tensor, key_scale: Tensor, num_heads: int, num_kv_heads: int, eps: float
    ) -> None:
        self._scales = torch.cat(
            (query_scale.expand(num_heads, -1), key_scale.expand(num_kv_heads, -1))
        )
        self._eps = eps

    def normalize_(self, heads: Tensor) -> None:
        """Normalise in place.

        Args:
            heads: [num_rows, num_heads + num_kv_heads, head_dim]; may be a view.
        """
        normed = F.rms_norm(heads.float(), heads.shape[-1:], None, self._eps)
        heads.copy_(normed.mul_(self._scales))
