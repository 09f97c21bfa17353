"""Reads a GGUF file's metadata and finds its tensors, trusting nothing in it.

The gguf package parses; this module stands between it and the bytes. Every read of the
package passes `_get`, which here refuses to go past the end of the file (numpy would
return fewer bytes, and a hostile count would loop over nothing for ever), and all counts
are bounded before anything is built from them. The same override makes parsing four
times faster: the package's own slices a memmap, which costs microseconds a piece.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, GGUFValueType, ReaderTensor

from realtime_serve.errors import ModelLoadError

HEADER = struct.Struct("<4sIQQ")
"""Magic, version, number of tensors, number of metadata entries."""

SUPPORTED_VERSIONS = (2, 3)

MAX_TENSORS = 65_536
"""Fifty times what the largest models have."""

MAX_ENTRIES = 65_536
"""A thousand times what files have."""

MAX_ARRAY_ITEMS = 2**21
"""All metadata arrays together. The package makes a Python object of about 200 bytes from
each item; the largest vocabularies, with scores, types and merges, have 1.3 million."""

_ARRAY = GGUFValueType.ARRAY.value

# What the package and numpy raise at bytes that make no sense: wrong enum values, text that
# is not UTF-8, duplicate names, shapes that do not multiply, sums beyond 64 bits, endless nesting.
_PARSE_ERRORS = (ValueError, LookupError, ArithmeticError, TypeError, RecursionError, OSError)


class GGUFFile(NamedTuple):
    """The contents of a GGUF file.

    Args:
        metadata: Each entry as a Python value: text, number, bool, or a list of them.
        tensors: Each tensor by its name; the data are views of the mapped file.
    """

    metadata: dict[str, Any]
    tensors: dict[str, ReaderTensor]


def read_gguf(path: Path) -> GGUFFile:
    """Map a file and parse everything before the tensors' data.

    Args:
        path: The file.

    Returns:
        Its contents. All tensor data lie within the file.

    Raises:
        ModelLoadError: The file is not GGUF, damaged, truncated or of unknown version.
    """
    _check_header(path)
    try:
        with np.errstate(over="raise"):  # numpy would warn, and go on with a wrapped offset
            reader = _BoundedReader(path)
            metadata = {name: field.contents() for name, field in reader.fields.items()}
    except _PARSE_ERRORS as error:
        raise ModelLoadError(f"{path} is a damaged GGUF file: {error}") from error
    return GGUFFile(metadata, {tensor.name: tensor for tensor in reader.tensors})


def _check_header(path: Path) -> None:
    try:
        with path.open("rb") as file:
            header = file.read(HEADER.size)
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}.") from error
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


class _BoundedReader(GGUFReader):
    """The package's reader, kept inside the file."""

    _num_array_items = 0

    def _get(
        self,
        offset: int,
        dtype: npt.DTypeLike,
        count: int = 1,
        override_order: Literal["I", "S", "<"] | None = None,
    ) -> npt.NDArray[Any]:
        """A piece of the file; the byte order is little, as the header was checked to say."""
        num_bytes = int(count) * np.dtype(dtype).itemsize
        if int(offset) + num_bytes > self.data.nbytes:
            raise ValueError(
                f"it has {self.data.nbytes} bytes, but its contents reach "
                f"to byte {int(offset) + num_bytes}; it may be incomplete."
            )
        return np.ndarray((int(count),), dtype, buffer=self.data, offset=int(offset))

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[npt.NDArray[Any]], list[int], list[GGUFValueType]]:
        """One metadata value, after its length has been counted if it is an array."""
        if int(raw_type) == _ARRAY:  # an enum compared with a numpy number takes microseconds
            self._num_array_items += int(self._get(orig_offs + 4, np.uint64)[0])
            if self._num_array_items > MAX_ARRAY_ITEMS:
                raise ValueError(
                    f"its metadata arrays claim {self._num_array_items} items or more."
                )
        return super()._get_field_parts(orig_offs, raw_type)
