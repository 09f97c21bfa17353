"""A model in one GGUF file, as llama.cpp writes them.

Tensors come out as the Hugging Face checkpoint had them before it was converted: under
Hugging Face's names, and with the rows of query and key of Llama models put back in order
(llama.cpp turns neighbouring dimensions, Hugging Face turns dimension i with
i + head_dim / 2, and the converter reorders for it).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from realtime_serve.errors import ModelLoadError
from realtime_serve.weights.ggml_types import FLOAT_TYPES
from realtime_serve.weights.gguf_config import hf_config
from realtime_serve.weights.gguf_file import read_gguf
from realtime_serve.weights.gguf_names import hf_name
from realtime_serve.weights.stored_tensor import StoredTensor

if TYPE_CHECKING:
    from torch import Tensor

ROPE_DIVISORS = "rope_freqs.weight"
"""Not a weight: the divisors of the rotary frequencies of Llama 3.1 and later."""

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
        self.files: Sequence[Path] = (path,)
        self.notices: list[str] = []
        self.tokenizer_metadata: Mapping[str, Any] | None = {
            key: value for key, value in contents.metadata.items() if key.startswith("tokenizer.")
        }
        divisors = contents.tensors.pop(ROPE_DIVISORS, None)
        self._tensors = {hf_name(name): tensor for name, tensor in contents.tensors.items()}
        self.config: Mapping[str, Any] = hf_config(
            contents.metadata,
            {name: tensor.shape for name, tensor in self._tensors.items()},
            [] if divisors is None else divisors.all_floats().ravel().tolist(),
        )

    def tensor_names(self) -> Sequence[str]:
        """See `Checkpoint.tensor_names`."""
        return list(self._tensors)

    def stored(self, name: str) -> StoredTensor:
        """See `Checkpoint.stored`."""
        if name not in self._tensors:
            raise ModelLoadError(f"{self.path} has no tensor {name}.")
        tensor = self._tensors[name]
        setting = _REORDERED.get(name.split(".", 3)[-1])
        if setting is None or self.config["model_type"] != "llama":
            return tensor
        return _reordered(tensor, _hf_order(self.path, name, tensor, self.config[setting]))

    def tensor(self, name: str) -> Tensor:
        """See `Checkpoint.tensor`; always float32, and a copy."""
        import torch

        return torch.from_numpy(self.stored(name).all_floats())


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


def _hf_order(
    path: str, name: str, tensor: StoredTensor, num_heads: object
) -> npt.NDArray[np.intp]:
    """Which of the file's rows each of Hugging Face's rows is."""
    num_rows = tensor.shape[0]
    if not isinstance(num_heads, int) or num_heads < 1 or num_rows % (2 * num_heads):
        raise ModelLoadError(
            f"{path}: the {num_rows} rows of {name} do not make {num_heads} heads."
        )
    return np.arange(num_rows).reshape(num_heads, -1, 2).swapaxes(1, 2).ravel()


def _reordered(tensor: StoredTensor, order: npt.NDArray[np.intp]) -> StoredTensor:
    if len(tensor.shape) > 1:
        return replace(tensor, row_order=order)
    if tensor.type not in FLOAT_TYPES:
        raise ModelLoadError(
            f"{tensor.name} is stored as {tensor.type}, which is not supported for a bias."
        )
    # A bias is one row to its file; its values are put in order as rows of one.
    values = tensor.data.reshape(len(order), -1)[order]
    return replace(tensor, data=values.reshape(1, -1))
