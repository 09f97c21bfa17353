"""Rotary position embeddings: the sines and cosines of a step, and how heads are turned.

Each pair of dimensions (i, i + head_dim / 2) of a head turns by position x frequency i.
Angles are computed for the rows of a step and not kept in a table: that costs
microseconds, and no config can ask for a table that does not fit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from realtime_serve.nn.rope_config import RopeConfig


class Rotation(NamedTuple):
    """How far each row turns, ready for `rotate_`.

    Args:
        cos: Cosines, [num_rows, 1, head_dim].
        signed_sin: Sines, the first half negated, same shape.
    """

    cos: Tensor
    signed_sin: Tensor


class RotaryEmbedding:
    """Turns positions into rotations.

    Args:
        config: Base and scaling.
        head_dim: Dimensions of a head.
        dtype: Of the rotations.
        device: Of the rotations.
    """

    def __init__(
        self, config: RopeConfig, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        frequencies, self._scale = config.frequencies(head_dim)
        self._frequencies = torch.from_numpy(frequencies).to(device)
        self._dtype = dtype

    def rotation(self, positions: Tensor) -> Rotation:
        """Cosines and sines for the rows of a step.

        Args:
            positions: int64, [num_rows].

        Returns:
            The rotation of each row.
        """
        angles = positions.to(torch.float32)[:, None, None] * self._frequencies
        cos, sin = angles.cos() * self._scale, angles.sin() * self._scale
        return Rotation(
            torch.cat((cos, cos), dim=-1).to(self._dtype),
            torch.cat((-sin, sin), dim=-1).to(self._dtype),
        )


def rotate_(heads: Tensor, rotation: Rotation) -> None:
    """Rotate queries or keys in place.

    Args:
        heads: [num_rows, num_heads, head_dim]; may be a view.
        rotation: Of the same rows.
    """
    first, second = heads.chunk(2, dim=-1)
    swapped = torch.cat((second, first), dim=-1)
    heads.mul_(rotation.cos).addcmul_(swapped, rotation.signed_sin)
