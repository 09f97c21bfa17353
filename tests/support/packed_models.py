"""Starts of one small model, and what they leave in the cache of packed weights."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from gguf import GGMLQuantizationType as Storage

from realtime_serve.engine.load_watcher import LoadWatcher
from realtime_serve.engine.packing import PackedDType
from realtime_serve.model_files import load_packed
from realtime_serve.weights import open_checkpoint
from realtime_serve.weights.packed_file import PackedWeights
from support.native_network import CONFIGS
from support.tiny_models import random_model, write_gguf


def write_model(path: Path) -> None:
    """Write the model as a GGUF file of 8 bit weights."""
    path.write_bytes(_model_bytes())


@functools.cache
def _model_bytes() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model.gguf")
        write_gguf(random_model(CONFIGS["llama"]), path, lambda _: Storage.Q8_0)
        return path.read_bytes()


class Load:
    """One start of a model: what it gave, and whether something had to be packed for it."""

    def __init__(self, model: Path, cache_dir: object, dtype: PackedDType = "q8") -> None:
        self.progress: list[float] = []
        checkpoint = open_checkpoint(str(model))
        watcher = LoadWatcher(on_progress=self.progress.append)
        self.weights: PackedWeights = load_packed(checkpoint, dtype, str(cache_dir), watcher)
        self.notices = checkpoint.notices
        self.bytes = {name: bytes(section.data) for name, section in self.weights.items()}

    @property
    def packed(self) -> bool:
        return bool(self.progress)


def packed_file(cache: Path) -> Path:
    """The one model in a cache."""
    (path,) = cache.glob("*.packed")
    return path
