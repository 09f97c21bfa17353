"""Packed matrices back to numbers, from the layouts that csrc/kernels/matrix.h describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

PANEL_COLUMNS = 32
GROUP_SIZE = 32

Floats: TypeAlias = npt.NDArray[np.float32]
Groups: TypeAlias = npt.NDArray[np.uint8]
"""[panels, groups of 32 along the depth, bytes]."""


def unpack(matrix_format: str, data: memoryview, num_columns: int, depth: int) -> Floats:
    """The weights of a packed matrix, [num_columns, depth]; its padding has to be zero."""
    num_panels = -(-num_columns // PANEL_COLUMNS)
    groups = np.frombuffer(data, np.uint8).reshape(num_panels, depth // GROUP_SIZE, -1)
    by_panel = _UNPACKERS[matrix_format](groups)  # [panel, group, k, column]
    weights = by_panel.transpose(0, 3, 1, 2).reshape(num_panels * PANEL_COLUMNS, depth)
    assert not weights[num_columns:].any()
    return weights[:num_columns]


def apart(weights: Floats) -> tuple[Floats, Floats]:
    """The two matrices whose panels take turns in one."""
    panels = weights.reshape(-1, 2, PANEL_COLUMNS, weights.shape[1])
    first, second = panels[:, 0], panels[:, 1]
    return first.reshape(-1, weights.shape[1]), second.reshape(-1, weights.shape[1])


def _from_f32(groups: Groups) -> Floats:
    return _view(groups, np.float32).reshape(*groups.shape[:2], GROUP_SIZE, PANEL_COLUMNS)


def _from_bf16(groups: Groups) -> Floats:
    bits = _view(groups, np.uint16).reshape(*groups.shape[:2], GROUP_SIZE // 2, PANEL_COLUMNS, 2)
    values: Floats = (bits.astype(np.uint32) << 16).view(np.float32)
    return values.swapaxes(3, 4).reshape(*groups.shape[:2], GROUP_SIZE, PANEL_COLUMNS)


def _from_q8(groups: Groups) -> Floats:
    codes = groups[..., :1024].view(np.int8).reshape(*groups.shape[:2], 8, PANEL_COLUMNS, 4)
    scales = _view(groups[..., 1024:], np.float16).astype(np.float32)[:, :, None]
    by_k = codes.swapaxes(3, 4).reshape(*groups.shape[:2], GROUP_SIZE, PANEL_COLUMNS)
    weights: Floats = scales * by_k
    return weights


def _from_q4(groups: Groups) -> Floats:
    pairs = groups[..., :512].reshape(*groups.shape[:2], 4, 1, PANEL_COLUMNS, 4)
    codes = np.concatenate([pairs & 15, pairs >> 4], axis=3)
    scales = _view(groups[..., 512:576], np.float16).astype(np.float32)[:, :, None]
    minimums = _view(groups[..., 576:], np.float16).astype(np.float32)[:, :, None]
    by_k = codes.swapaxes(4, 5).reshape(*groups.shape[:2], GROUP_SIZE, PANEL_COLUMNS)
    weights: Floats = scales * by_k + minimums
    return weights


def _view(data: npt.NDArray[np.uint8], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.ascontiguousarray(data).view(dtype)


_UNPACKERS: Mapping[str, Callable[[Groups], Floats]] = {
    "f32": _from_f32,
    "bf16": _from_bf16,
    "q8": _from_q8,
    "q4": _from_q4,
}
