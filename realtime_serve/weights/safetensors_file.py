"""Finds the tensors in a safetensors file, without torch.

The safetensors package checks the file: sizes, offsets without gaps or overlaps, lengths. It
gives out arrays of the dtypes that numpy has, and bfloat16 is none of them, so that the bytes
of a tensor are taken from where the header says that they are.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from realtime_serve.errors import ModelLoadError
from realtime_serve.weights.byte_cursor import ByteCursor
from realtime_serve.weights.stored_tensor import StoredTensor

METADATA = "__metadata__"
"""The one entry of a header that is no tensor."""

_HEADER_LENGTH = struct.Struct("<Q")

# What the package raises, and what a header raises that the package has understood otherwise.
_PARSE_ERRORS = (SafetensorError, OSError, RuntimeError, ValueError, TypeError, LookupError)


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Map a file and find its tensors.

    Args:
        path: The file.

    Returns:
        Each tensor by its name, under the dtype's name in the file. All data lie within it.

    Raises:
        ModelLoadError: The file cannot be read or is damaged.
    """
    try:
        with safe_open(path, framework="np") as checked, path.open("rb") as file:
            names = list(checked.keys())
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _find_tensors(ByteCursor(data), names)
    except _PARSE_ERRORS as error:
        raise ModelLoadError(f"{path} is a damaged safetensors file: {error}") from error


def _find_tensors(cursor: ByteCursor, names: list[str]) -> dict[str, StoredTensor]:
    (header_bytes,) = cursor.unpack(_HEADER_LENGTH)
    header = json.loads(cursor.numbers(np.uint8, header_bytes).tobytes())
    start = cursor.place
    return {name: _tensor(cursor, name, header[name], start) for name in names}


def _tensor(cursor: ByteCursor, name: str, entry: dict[str, Any], start: int) -> StoredTensor:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    cursor.place = start + begin
    data = cursor.numbers(np.uint8, end - begin)
    num_rows = math.prod(shape[:-1])
    row_bytes = len(data) // max(num_rows, 1)
    return StoredTensor(
        name=name, type=entry["dtype"], shape=shape, data=data.reshape(num_rows, row_bytes)
    )
