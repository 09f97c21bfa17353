from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from realtime_serve.weights.encode import encode_rows, row_nbytes

ROWS = arrays.arrays(
    np.float32, (3, 64), elements=st.floats(-60_000, 60_000, width=32, allow_subnormal=True)
)


def from_bf16(rows: np.ndarray) -> np.ndarray:
    return (rows.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


@given(ROWS)
def test_float32_rows_stay_as_they_are(values: np.ndarray) -> None:
    np.testing.assert_array_equal(encode_rows(values, "f32").view(np.float32), values)


@given(ROWS)
def test_bfloat16_is_rounded_as_torch_rounds_it(values: np.ndarray) -> None:
    normal = np.where(np.abs(values) < np.finfo(np.float32).tiny, 0, values)
    expected = torch.from_numpy(normal).bfloat16().float().numpy()
    np.testing.assert_array_equal(from_bf16(encode_rows(values, "bf16")), expected)


def test_what_bfloat16_has_as_subnormal_becomes_zero_of_its_sign() -> None:
    values = np.full((1, 32), np.float32(1e-40))
    values[0, 1] = -1e-40
    bits = encode_rows(values, "bf16").view(np.uint16)[0]
    assert (bits[0], bits[1]) == (0, 0x8000)


@given(ROWS)
def test_a_q8_0_value_is_within_half_a_step_of_what_was_stored(values: np.ndarray) -> None:
    rows = encode_rows(values, "Q8_0")
    read = gguf.dequantize(rows, gguf.GGMLQuantizationType.Q8_0)
    groups = np.abs(values).reshape(3, 2, 32)
    greatest = np.repeat(groups.max(axis=2), 32, axis=1)
    # Half a step, and what rounding the scale to 11 bits, or to a subnormal, moves 127 steps by.
    tolerance = greatest * (0.5 / 127 + 2.0**-11) + 127 * 2.0**-24
    assert (np.abs(read - values) <= tolerance * 1.001).all()


def test_a_group_of_zeros_is_zero() -> None:
    assert not encode_rows(np.zeros((2, 32), np.float32), "Q8_0").any()


@pytest.mark.parametrize("row_format", ["f32", "bf16", "Q8_0"])
def test_rows_have_the_size_that_is_foretold(row_format: str) -> None:
    rows = encode_rows(np.ones((2, 96), np.float32), row_format)
    assert rows.shape == (2, row_nbytes(row_format, 96))
    assert rows.dtype == np.uint8
