"""One view of a model's files, and which reader a path gets.

No reader needs torch, but for the tensors that `tensor()` gives to a network in torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from realtime_serve.errors import ModelLoadError
from realtime_serve.weights.gguf import GGUFCheckpoint, model_name
from realtime_serve.weights.safetensors import SafetensorsCheckpoint
from realtime_serve.weights.stored_tensor import StoredTensor

if TYPE_CHECKING:
    from torch import Tensor


class Checkpoint(Protocol):
    """An opened model: its configuration at once, its tensors one at a time.

    Attributes:
        path: Where it came from.
        name: A good name to serve it under.
        files: All files that its configuration and its tensors are read from.
        config: The words of Hugging Face's config.json, whatever the format.
        notices: Sentences for a person; readers of the checkpoint may add theirs.
        tokenizer_metadata: A GGUF file's tokenizer.* entries; None for a directory, which
            holds the tokenizer's own files.
    """

    path: str
    name: str
    files: Sequence[Path]
    config: Mapping[str, Any]
    notices: list[str]
    tokenizer_metadata: Mapping[str, Any] | None

    def tensor_names(self) -> Sequence[str]:
        """Hugging Face's names of all tensors."""
        ...

    def stored(self, name: str) -> StoredTensor:
        """Find one tensor without reading it.

        Args:
            name: One of `tensor_names()`.

        Returns:
            The tensor as it is stored, its rows as Hugging Face orders them.

        Raises:
            ModelLoadError: There is no such tensor, or its rows make no sense.
        """
        ...

    def tensor(self, name: str) -> Tensor:
        """Read one tensor.

        Args:
            name: One of `tensor_names()`.

        Returns:
            The tensor as Hugging Face lays it out, in float32 or the stored float dtype; it
            may share the file's memory and must not be written to.

        Raises:
            ModelLoadError: There is no such tensor, or its contents cannot be read.
        """
        ...


def checkpoint_name(path: str) -> str:
    """The name that a checkpoint of that path has, or would have if it could be opened."""
    place = Path(path)
    is_gguf = place.is_file() or (place.suffix == ".gguf" and not place.is_dir())
    return model_name(place) if is_gguf else place.resolve().name


def open_checkpoint(path: str) -> Checkpoint:
    """Open a model's files and check that they are whole.

    Args:
        path: A GGUF file, or a directory with config.json and safetensors.

    Returns:
        The checkpoint. It reads from the files until it is dropped.

    Raises:
        ModelLoadError: There is nothing at the path, or it is damaged or not supported.
    """
    place = Path(path)
    if place.is_dir():
        return SafetensorsCheckpoint(place)
    if place.is_file():
        return GGUFCheckpoint(place)
    raise ModelLoadError(
        f"{path} does not exist; give a GGUF file or a Hugging Face model directory."
    )
