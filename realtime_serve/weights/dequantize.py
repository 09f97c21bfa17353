"""Stored bytes to float32, for every storage type that there is a reader for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from realtime_serve.errors import ModelLoadError


def dequantize(codes: npt.NDArray[np.uint8], type_name: str, name: str) -> npt.NDArray[np.float32]:
    """Read rows of values.

    Args:
        codes: Whole rows, [rows, bytes a row], each without gaps.
        type_name: How they are stored, in GGML's words.
        name: The tensor's name, for the message.

    Returns:
        [rows, values a row], aligned and without gaps; where the values are float32 already,
        they may be those of `codes`.

    Raises:
        ModelLoadError: There is no reader for the type.
    """
    match type_name:
        case "F32":
            values = codes.view(np.float32)
        case "F16":
            values = codes.view(np.float16).astype(np.float32)
        case "BF16":
            values = _from_bfloat16(codes.view(np.uint16))
        case _:
            values = _from_blocks(codes, type_name, name)
    return np.require(values, np.float32, ["C_CONTIGUOUS", "ALIGNED"])


def _from_bfloat16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _from_blocks(
    codes: npt.NDArray[np.uint8], type_name: str, name: str
) -> npt.NDArray[np.float32]:
    # Not at the top: it loads much that a process which reads no quantised weights needs not.
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize as dequantize_blocks

    try:
        with np.errstate(all="ignore"):  # scales may be spoilt; whoever uses the values looks
            values: npt.NDArray[np.float32] = dequantize_blocks(
                codes, GGMLQuantizationType[type_name]
            )
    except (NotImplementedError, KeyError) as error:
        raise ModelLoadError(f"{name} is stored as {type_name}, which is not supported.") from error
    return values
