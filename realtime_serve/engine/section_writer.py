"""Writes one section of packed weights, a few rows at a time: memory for it is bounded.

Codes that a file has in the section's format go in unchanged; everything else is read as
float32 and rounded or quantised.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from realtime_serve._kernels import pack, packed_nbytes
from realtime_serve.engine.checkpoint_fit import not_finite
from realtime_serve.errors import ModelLoadError
from realtime_serve.weights.encode import encode_rows
from realtime_serve.weights.stored_tensor import StoredTensor

PANEL_COLUMNS = 32
"""Outputs a panel (csrc/kernels/matrix.h)."""

FLOATS_AT_ONCE = 2**20
"""4 MiB of float32: what is read is packed while it is in the cache."""

LARGEST_QUANTISED = 65504.0
"""Scales and minimums are float16."""

_UNCHANGED = frozenset({("Q8_0", "q8"), ("Q4_0", "q4"), ("Q4_1", "q4"), ("Q8_0", "Q8_0")})
"""Storage types, and the formats that take their codes as they are."""

_BLOCKS = {"Q8_0": (34, 2), "Q4_0": (18, 2), "Q4_1": (20, 4)}
"""Bytes a block of those types, and how many of them at its front are float16 scales."""


def write_vector(tensors: Sequence[StoredTensor], out: memoryview) -> None:
    """Write the values of tensors one after the other.

    Args:
        tensors: Vectors.
        out: Room for all their values as float32.

    Raises:
        ModelLoadError: They cannot be read, or are not finite.
    """
    values = np.frombuffer(out, np.float32)
    start = 0
    for tensor in tensors:
        part = tensor.all_floats()
        _require_values(tensor, part, "f32")
        values[start : start + part.size] = part
        start += part.size


def write_matrix(
    tensors: Sequence[StoredTensor], section_format: str, out: memoryview, *, alternate: bool
) -> None:
    """Pack the outputs of matrices one after the other.

    Args:
        tensors: Matrices of one depth; all but the last fill whole panels.
        section_format: Of the panels.
        out: Room for all panels.
        alternate: The panels of the tensors take turns.

    Raises:
        ModelLoadError: Weights cannot be read, are not finite, or too large to be quantised.
    """
    stride = len(tensors) if alternate else 1
    panel_bytes = packed_nbytes(section_format, PANEL_COLUMNS, tensors[0].shape[1])
    for tensor, first_panel in zip(tensors, _first_panels(tensors, alternate), strict=True):
        for rows in _pieces(tensor):
            panel = first_panel + rows.start // PANEL_COLUMNS * stride
            _pack_rows(tensor, rows, section_format, out[panel * panel_bytes :], stride)


def _first_panels(tensors: Sequence[StoredTensor], alternate: bool) -> Iterable[int]:
    """Where each tensor begins."""
    if alternate:
        return range(len(tensors))
    sizes = [tensor.shape[0] // PANEL_COLUMNS for tensor in tensors]
    return itertools.accumulate(sizes[:-1], initial=0)


def _pack_rows(
    tensor: StoredTensor, rows: slice, section_format: str, out: memoryview, stride: int
) -> None:
    unchanged = _is_unchanged(tensor, section_format)
    source = _codes(tensor, rows) if unchanged else _floats(tensor, rows, section_format)
    pack(
        section_format,
        source.data,
        len(source),
        tensor.shape[1],
        out,
        stored=tensor.type if unchanged else "f32",
        panel_stride=stride,
    )


def write_table(tensor: StoredTensor, row_format: str, out: memoryview) -> None:
    """Write the rows of a matrix as rows.

    Args:
        tensor: The matrix.
        row_format: Of the rows; see `encode_rows`.
        out: Room for all rows.

    Raises:
        ModelLoadError: As for `write_matrix`.
    """
    table = np.frombuffer(out, np.uint8).reshape(tensor.shape[0], -1)
    for rows in _pieces(tensor):
        if _is_unchanged(tensor, row_format):
            table[rows] = _codes(tensor, rows)
        else:
            table[rows] = encode_rows(_floats(tensor, rows, row_format), row_format)


def _pieces(tensor: StoredTensor) -> Iterator[slice]:
    """The tensor's rows, whole panels at a time."""
    num_rows, width = tensor.shape
    num_panels = max(1, FLOATS_AT_ONCE // (width * PANEL_COLUMNS))
    step = num_panels * PANEL_COLUMNS
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


def _is_unchanged(tensor: StoredTensor, section_format: str) -> bool:
    return (tensor.type, section_format) in _UNCHANGED


def _codes(tensor: StoredTensor, rows: slice) -> npt.NDArray[np.uint8]:
    codes = tensor.codes(rows)
    _require_scales(tensor, codes)
    return codes


def _floats(tensor: StoredTensor, rows: slice, section_format: str) -> npt.NDArray[np.float32]:
    values = tensor.floats(rows)
    _require_values(tensor, values, section_format)
    return values


def _require_scales(tensor: StoredTensor, codes: npt.NDArray[np.uint8]) -> None:
    block_bytes, scale_bytes = _BLOCKS[tensor.type]
    scales = codes.reshape(-1, block_bytes)[:, :scale_bytes]
    if not np.isfinite(np.ascontiguousarray(scales).view(np.float16)).all():
        raise not_finite(tensor.name)


def _require_values(
    tensor: StoredTensor, values: npt.NDArray[np.float32], section_format: str
) -> None:
    greatest = max(values.max(), -values.min())  # NaN comes through both
    if not np.isfinite(greatest):
        raise not_finite(tensor.name)
    if section_format not in {"f32", "bf16"} and greatest > LARGEST_QUANTISED:
        raise ModelLoadError(
            f"{tensor.name} holds a value of {greatest:g}, too large to be quantised: "
            "use bfloat16 or float32."
        )
