"""A model in one GGUF file, as llama.cpp writes them.

Tensors come out as the Hugging Face checkpoint had them before it was converted:
dequantised to float32, under Hugging Face's names, and with the rows of query and key
of Llama models put back in order (llama.cpp turns neighbouring dimensions, Hugging
Face turns dimension i with i + head_dim / 2, and the converter reorders for it).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import ReaderTensor
from gguf.quants import dequantize
from torch import Tensor

from realtime_serve.errors import ModelLoadError
from realtime_serve.weights.gguf_config import hf_config
from realtime_serve.weights.gguf_file import read_gguf
from realtime_serve.weights.gguf_names import hf_name

ROPE_DIVISORS = "rope_freqs.weight"
"""Not a weight: the divisors of the rotary frequencies of Llama 3.1 and later."""

ROWS_AT_ONCE = 4096
"""Dequantising holds several float32 copies of what it works on; this bounds them."""

_QUANTISATION = re.compile(r"[.\-_](i?q\d\w*|tq\d\w*|mxfp4\w*|b?f16|f32)$", re.IGNORECASE)

_REORDERED = {
    "self_attn.q_proj.weight": "num_attention_heads",
    "self_attn.q_proj.bias": "num_attention_heads",
    "self_attn.k_proj.weight": "num_key_value_heads",
    "self_attn.k_proj.bias": "num_key_value_heads",
}
"""What the converter reorders for Llama, and the setting that says for how many heads."""


class GGUFCheckpoint:
    """A GGUF file as a `Checkpoint`.

    Args:
        path: The file.

    Raises:
        ModelLoadError: The file is damaged, one of several, or not supported.
    """

    def __init__(self, path: Path) -> None:
        contents = read_gguf(path)
        _refuse_split(path, contents.metadata)
        self.path = str(path)
        self.name = model_name(path)
        self.notices: list[str] = []
        self.tokenizer_metadata: Mapping[str, Any] | None = {
            key: value for key, value in contents.metadata.items() if key.startswith("tokenizer.")
        }
        divisors = contents.tensors.pop(ROPE_DIVISORS, None)
        self._tensors = {hf_name(name): tensor for name, tensor in contents.tensors.items()}
        self.config: Mapping[str, Any] = hf_config(
            contents.metadata,
            {name: _shape(tensor) for name, tensor in self._tensors.items()},
            [] if divisors is None else _dequantized(divisors).tolist(),
        )

    def tensor_names(self) -> Sequence[str]:
        """See `Checkpoint.tensor_names`."""
        return list(self._tensors)

    def tensor(self, name: str) -> Tensor:
        """See `Checkpoint.tensor`; always float32, and a copy."""
        if name not in self._tensors:
            raise ModelLoadError(f"{self.path} has no tensor {name}.")
        return self._in_hf_order(name, _dequantized(self._tensors[name]))

    def _in_hf_order(self, name: str, tensor: Tensor) -> Tensor:
        setting = _REORDERED.get(name.split(".", 3)[-1])
        if setting is None or self.config["model_type"] != "llama":
            return tensor
        num_heads = self.config[setting]
        if not isinstance(num_heads, int) or num_heads < 1 or len(tensor) % (2 * num_heads):
            raise ModelLoadError(
                f"{self.path}: the {len(tensor)} rows of {name} do not make {num_heads} heads."
            )
        pairs = tensor.view(num_heads, -1, 2, *tensor.shape[1:])
        return pairs.transpose(1, 2).reshape(tensor.shape)


def model_name(path: Path) -> str:
    """The file's name without its ending and without the quantisation: model.Q4_1.gguf is model."""
    return _QUANTISATION.sub("", path.stem)


def _refuse_split(path: Path, metadata: Mapping[str, Any]) -> None:
    num_files = metadata.get("split.count", 1)
    if num_files != 1:
        raise ModelLoadError(
            f"{path} is one of {num_files} files of a split model, which is not supported; "
            "merge them with llama-gguf-split --merge."
        )


def _shape(tensor: ReaderTensor) -> tuple[int, ...]:
    return tuple(reversed(tensor.shape.tolist()))  # GGUF counts dimensions from the inside


def _dequantized(tensor: ReaderTensor) -> Tensor:
    if not tensor.data.size or not tensor.data.ndim:
        raise ModelLoadError(f"Tensor {tensor.name} is empty.")
    values = torch.empty(_shape(tensor), dtype=torch.float32)
    stored = tensor.data.reshape(-1, tensor.data.shape[-1])
    rows = values.view(-1, values.shape[-1])
    try:
        # Scales may be spoilt; numpy would warn, and whoever uses the tensor looks for it.
        with np.errstate(all="ignore"):
            for start in range(0, len(rows), ROWS_AT_ONCE):
                piece = slice(start, start + ROWS_AT_ONCE)
                rows[piece].numpy()[:] = dequantize(stored[piece], tensor.tensor_type)
    except NotImplementedError as error:
        raise ModelLoadError(
            f"Tensor {tensor.name} is stored as {tensor.tensor_type.name}, which is not supported."
        ) from error
    return values
