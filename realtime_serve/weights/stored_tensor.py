"""StoredTensor: a tensor as its file has it, by rows, and as float32 when asked.

Quantised weights can go into the packed form as the file has them; all others go through
float32. Both are read a few rows at a time, so that no tensor has to be in memory twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from realtime_serve.weights.dequantize import dequantize

Codes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]

ALL_ROWS = slice(None)

ROWS_AT_ONCE = 4096
"""Dequantising holds several float32 copies of what it works on; this bounds them."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoredTensor:
    """A tensor in a file. Reading it reads the file, which has to stay as it is.

    Args:
        name: Its name, for messages.
        type: How its values are stored, in GGML's words: F32, BF16, Q8_0 and so on.
        shape: Its dimensions, the innermost last.
        data: The stored bytes, [rows, bytes a row]; a vector is one row.
        row_order: Which row of `data` each row is; None takes them as they stand.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    data: Codes
    row_order: npt.NDArray[np.intp] | None = None

    def codes(self, rows: slice = ALL_ROWS) -> Codes:
        """Stored bytes.

        Args:
            rows: Which rows.

        Returns:
            [rows, bytes a row]; they may be the mapped file's and must not be written to.
        """
        return self.data[rows] if self.row_order is None else self.data[self.row_order[rows]]

    def floats(self, rows: slice = ALL_ROWS) -> Floats:
        """Values.

        Args:
            rows: Which rows.

        Returns:
            [rows, values a row], aligned and without gaps; they may be the mapped file's and
            must not be written to.

        Raises:
            ModelLoadError: Values of this type cannot be read.
        """
        return dequantize(self.codes(rows), self.type, self.name)

    def all_floats(self) -> Floats:
        """A copy of all values, in the tensor's shape.

        Raises:
            ModelLoadError: Values of this type cannot be read.
        """
        values = np.empty(self.shape, np.float32)
        rows = values.reshape(len(self.data), -1)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            piece = slice(start, start + ROWS_AT_ONCE)
            rows[piece] = self.floats(piece)
        return values
