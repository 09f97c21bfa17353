"""Float32 rows as rows in another format: what a table that is looked up by rows holds.

Rounding is that of the kernels (csrc/kernels/bf16.h and pack.h).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Codes: TypeAlias = npt.NDArray[np.uint8]

GROUP_SIZE = 32
"""Values that share a scale."""

_GROUP_BYTES = {"f32": 128, "bf16": 64, "Q8_0": 34}

_EXPONENT = np.uint32(0x7F800000)


def encode_rows(values: Floats, row_format: str) -> Codes:
    """Write rows in a format.

    Args:
        values: [rows, values a row], finite; a row is a multiple of 32 values.
        row_format: "f32", "bf16" or "Q8_0".

    Returns:
        [rows, bytes a row].
    """
    return _ENCODERS[row_format](values)


def row_nbytes(row_format: str, width: int) -> int:
    """Bytes a row.

    Args:
        row_format: As for `encode_rows`.
        width: Values a row, a multiple of 32.
    """
    return width // GROUP_SIZE * _GROUP_BYTES[row_format]


def _to_float32(values: Floats) -> Codes:
    return values.view(np.uint8)


def _to_bfloat16(values: Floats) -> Codes:
    """To nearest, ties to even; what would be subnormal becomes zero."""
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    signed_zero = (bits >> 16) & 0x8000
    chosen = np.where(bits & _EXPONENT, rounded, signed_zero)
    return chosen.astype(np.uint16).view(np.uint8)


def _to_q8_0(values: Floats) -> Codes:
    """Groups of 32: a float16 scale of the greatest magnitude / 127, then int8 codes."""
    groups = values.reshape(len(values), -1, GROUP_SIZE)
    scales = (np.abs(groups).max(axis=2, keepdims=True) / 127).astype(np.float16)
    divisors = np.where(scales == 0, np.inf, scales).astype(np.float32)
    codes = np.rint(groups / divisors).clip(-127, 127).astype(np.int8)
    blocks = np.concatenate([scales.view(np.uint8), codes.view(np.uint8)], axis=2)
    return blocks.reshape(len(values), -1)


_ENCODERS: Mapping[str, Callable[[Floats], Codes]] = {
    "f32": _to_float32,
    "bf16": _to_bfloat16,
    "Q8_0": _to_q8_0,
}
