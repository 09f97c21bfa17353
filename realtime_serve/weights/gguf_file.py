"""Reads a GGUF file's metadata and finds its tensors, trusting nothing in it.

    magic, version, number of tensors and entries
    entries    name, type, value: the metadata
    tensors    name, dimensions, storage type, offset
    padding, then the tensors' data

The gguf package's own reader makes five Python objects of every text in an array, which takes
ten times as long as all of this; and it believes what a file says of its own size.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from realtime_serve.errors import ModelLoadError
from realtime_serve.weights.byte_cursor import ByteCursor
from realtime_serve.weights.ggml_types import GGML_TYPES, StorageType
from realtime_serve.weights.stored_tensor import StoredTensor

HEADER = struct.Struct("<4sIQQ")
"""Magic, version, number of tensors, number of metadata entries."""

SUPPORTED_VERSIONS = (2, 3)

MAX_TENSORS = 65_536
"""Fifty times what the largest models have."""

MAX_ENTRIES = 65_536
"""A thousand times what files have."""

MAX_ARRAY_ITEMS = 2**21
"""All metadata arrays together. Each item becomes a Python object of up to 100 bytes; the
largest vocabularies, with scores, types and merges, have 1.3 million."""

MAX_DIMENSIONS = 4
"""GGML's own limit."""

DEFAULT_ALIGNMENT = 32

_NUMBERS: Mapping[int, np.dtype[Any]] = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
"""Types of metadata values by their number in the file."""

_TEXT, _ARRAY = 8, 9

_KIND = struct.Struct("<I")
_ARRAY_HEAD = struct.Struct("<IQ")
_PLACEMENT = struct.Struct("<IQ")


class GGUFFile(NamedTuple):
    """The contents of a GGUF file.

    Args:
        metadata: Each entry as a Python value: text, number, bool, or a list of them.
        tensors: Each tensor by its name.
    """

    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def read_gguf(path: Path) -> GGUFFile:
    """Map a file and parse everything before the tensors' data.

    Args:
        path: The file.

    Returns:
        Its contents. All tensor data lie within the file.

    Raises:
        ModelLoadError: The file is not GGUF, damaged, truncated or of unknown version.
    """
    try:
        with path.open("rb") as file:
            num_tensors, num_entries = _read_header(path, file.read(HEADER.size))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}.") from error
    cursor = ByteCursor(data, HEADER.size)
    try:
        metadata = _read_metadata(cursor, num_entries)
        tensors = _read_tensors(cursor, num_tensors, metadata)
    except ValueError as error:
        raise ModelLoadError(f"{path} is a damaged GGUF file: {error}") from error
    return GGUFFile(metadata, tensors)


def _read_header(path: Path, header: bytes) -> tuple[int, int]:
    """The numbers of tensors and of entries."""
    if header[:4] != b"GGUF":
        raise ModelLoadError(f"{path} is not a GGUF file.")
    if len(header) < HEADER.size:
        raise ModelLoadError(f"{path} is a damaged GGUF file: it ends inside its header.")
    _, version, num_tensors, num_entries = HEADER.unpack(header)
    if version not in SUPPORTED_VERSIONS:
        raise ModelLoadError(
            f"{path} is GGUF of version {version} or of foreign byte order; supported are "
            f"versions {' and '.join(map(str, SUPPORTED_VERSIONS))}, little-endian."
        )
    if num_tensors > MAX_TENSORS or num_entries > MAX_ENTRIES:
        raise ModelLoadError(
            f"{path} is a damaged GGUF file: it claims {num_tensors} tensors and "
            f"{num_entries} metadata entries."
        )
    return num_tensors, num_entries


# --- metadata -----------------------------------------------------------------


def _read_metadata(cursor: ByteCursor, num_entries: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    num_array_items = 0
    for _ in range(num_entries):
        name = cursor.text()
        if name in metadata:
            raise ValueError(f"it has the entry {name!r} twice.")
        (kind,) = cursor.unpack(_KIND)
        if kind == _ARRAY:
            item_kind, count = cursor.unpack(_ARRAY_HEAD)
            num_array_items += count
            _check_array_items(num_array_items)
            metadata[name] = _values(cursor, item_kind, count)
        else:
            (metadata[name],) = _values(cursor, kind, 1)
    return metadata


def _check_array_items(count: int) -> None:
    if count > MAX_ARRAY_ITEMS:
        raise ValueError(f"its metadata arrays claim {count} items or more.")


def _values(cursor: ByteCursor, kind: int, count: int) -> list[Any]:
    if kind == _TEXT:
        return [cursor.text() for _ in range(count)]
    if kind not in _NUMBERS:  # arrays of arrays are nowhere in use, and GGML refuses them too
        raise ValueError(f"it has a metadata value of unknown type {kind}.")
    values: list[Any] = cursor.numbers(_NUMBERS[kind], count).tolist()
    return values


# --- tensors ------------------------------------------------------------------


class _Placement(NamedTuple):
    """Where a tensor is.

    Args:
        shape: Its dimensions, the innermost last.
        storage: How its values are stored.
        offset: From the start of all tensors' data.
    """

    shape: tuple[int, ...]
    storage: StorageType
    offset: int


def _read_tensors(
    cursor: ByteCursor, num_tensors: int, metadata: dict[str, Any]
) -> dict[str, StoredTensor]:
    placements: dict[str, _Placement] = {}
    for name, placement in _read_placements(cursor, num_tensors):
        if name in placements:
            raise ValueError(f"it has the tensor {name} twice.")
        placements[name] = placement
    alignment = _alignment(metadata)
    start = -(-cursor.place // alignment) * alignment
    return {name: _tensor(cursor, name, placement, start) for name, placement in placements.items()}


def _read_placements(cursor: ByteCursor, num_tensors: int) -> Iterator[tuple[str, _Placement]]:
    for _ in range(num_tensors):
        name = cursor.text()
        (num_dimensions,) = cursor.unpack(_KIND)
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"its tensor {name} has {num_dimensions} dimensions.")
        from_inside = cursor.numbers("<u8", num_dimensions).tolist()
        type_number, offset = cursor.unpack(_PLACEMENT)
        if type_number not in GGML_TYPES:
            raise ValueError(f"its tensor {name} has the unknown storage type {type_number}.")
        yield name, _Placement(tuple(reversed(from_inside)), GGML_TYPES[type_number], offset)


def _alignment(metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"its general.alignment must be a power of two, not {alignment!r}.")
    return alignment


def _tensor(cursor: ByteCursor, name: str, placement: _Placement, start: int) -> StoredTensor:
    shape, storage = placement.shape, placement.storage
    if 0 in shape:
        raise ValueError(f"its tensor {name} is empty.")
    if shape[-1] % storage.block_values:
        raise ValueError(
            f"its tensor {name} has rows of {shape[-1]} values, which are no whole blocks of "
            f"{storage.name}."
        )
    num_rows = math.prod(shape[:-1])
    row_bytes = shape[-1] // storage.block_values * storage.block_bytes
    cursor.place = start + placement.offset
    data = cursor.numbers(np.uint8, num_rows * row_bytes).reshape(num_rows, row_bytes)
    return StoredTensor(name=name, type=storage.name, shape=shape, data=data)
