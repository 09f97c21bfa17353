"""ByteCursor: reads a file's bytes forward, and never past their end.

Whatever a hostile file claims, nothing is built from a count before the bytes that it counts
are known to be there.
"""

from __future__ import annotations

import mmap
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

_TEXT_LENGTH = struct.Struct("<Q")


class ByteCursor:
    """A place in a mapped file.

    Args:
        data: The file.
        place: Where to start.

    Every method raises ValueError if the file ends too early.
    """

    def __init__(self, data: mmap.mmap, place: int = 0) -> None:
        self._data = data
        self.place = place

    def skip(self, num_bytes: int) -> int:
        """Go on by so many bytes; where they begin."""
        start, end = self.place, self.place + num_bytes
        if end > len(self._data):
            raise ValueError(
                f"it has {len(self._data)} bytes, but its contents reach to byte {end}; "
                "it may be incomplete."
            )
        self.place = end
        return start

    def unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        """Values of a fixed form."""
        return form.unpack_from(self._data, self.skip(form.size))

    def numbers(self, dtype: npt.DTypeLike, count: int) -> npt.NDArray[Any]:
        """So many numbers; they are the file's own and must not be written to."""
        start = self.skip(count * np.dtype(dtype).itemsize)
        return np.frombuffer(self._data, dtype, count, start)

    def text(self) -> str:
        """A text with its length before it."""
        (length,) = self.unpack(_TEXT_LENGTH)
        start = self.skip(length)
        return str(self._data[start : start + length], "utf-8")
