"""A model in a Hugging Face directory: config.json and safetensors files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from realtime_serve.errors import ModelLoadError
from realtime_serve.weights.safetensors_file import read_safetensors
from realtime_serve.weights.stored_tensor import StoredTensor

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

MAX_JSON_BYTES = 64 * 1024 * 1024
"""Far above any index; a larger file is not one, and would be parsed into memory."""


class SafetensorsCheckpoint:
    """A Hugging Face directory as a `Checkpoint`.

    Args:
        path: The directory.

    Raises:
        ModelLoadError: A file is missing, damaged or not supported.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.name = path.resolve().name
        self.notices: list[str] = []
        self.tokenizer_metadata: Mapping[str, Any] | None = None
        self.config: Mapping[str, Any] = _read_json_object(path / CONFIG_FILE)
        weight_files = [path / name for name in _file_names(path)]
        self.files: Sequence[Path] = (path / CONFIG_FILE, *weight_files)
        self._tensors: dict[str, StoredTensor] = {}
        self._file_of: dict[str, Path] = {}
        for file in weight_files:
            tensors = _read_file(file)
            self._tensors |= tensors
            self._file_of |= dict.fromkeys(tensors, file)

    def tensor_names(self) -> Sequence[str]:
        """See `Checkpoint.tensor_names`."""
        return list(self._tensors)

    def stored(self, name: str) -> StoredTensor:
        """See `Checkpoint.stored`."""
        if name not in self._tensors:
            raise ModelLoadError(f"{self.path} has no tensor {name}.")
        return self._tensors[name]

    def tensor(self, name: str) -> Tensor:
        """See `Checkpoint.tensor`; shares the mapped file's memory."""
        import torch

        self.stored(name)
        try:
            with safe_open(self._file_of[name], framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError, TypeError) as error:
            raise ModelLoadError(f"{self.path}: {name} cannot be read: {error}") from error
        if tensor.dtype not in {torch.float32, torch.float16, torch.bfloat16}:
            raise ModelLoadError(
                f"{self.path}: {name} is stored as {tensor.dtype}, which is not supported."
            )
        return tensor


def _file_names(directory: Path) -> list[str]:
    if (directory / SINGLE_FILE).is_file():
        return [SINGLE_FILE]
    if not (directory / INDEX_FILE).is_file():
        raise ModelLoadError(
            f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}; "
            "other formats than safetensors are not supported."
        )
    index = _read_json_object(directory / INDEX_FILE)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelLoadError(f"{directory / INDEX_FILE} has no weight_map.")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name:
            raise ModelLoadError(f"{directory / INDEX_FILE} points outside of it, to {name!r}.")
    return names


def _read_file(path: Path) -> dict[str, StoredTensor]:
    if not path.is_file():
        raise ModelLoadError(f"{path} is missing.")
    return read_safetensors(path)


def _read_json_object(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelLoadError(f"{path} is larger than {MAX_JSON_BYTES} bytes.")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path} must hold a JSON object.")
    return value
