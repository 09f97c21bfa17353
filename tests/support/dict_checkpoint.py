"""A checkpoint in memory, for a test to spoil."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from torch import Tensor

from realtime_serve.errors import ModelLoadError
from realtime_serve.weights import StoredTensor
from support.tiny_models import random_model


class DictCheckpoint:
    """A tiny model's tensors.

    Args:
        kind: As for `random_model`.
    """

    def __init__(self, kind: str | transformers.PretrainedConfig = "llama") -> None:
        model = random_model(kind)
        self.path = self.name = "tiny"
        self.files: Sequence[Path] = ()
        self.tokenizer_metadata: Mapping[str, Any] | None = None
        self.config: Mapping[str, Any] = model.config.to_dict()
        self.tensors: dict[str, Tensor] = dict(model.state_dict())
        self.notices: list[str] = []
        if model.config.tie_word_embeddings:
            del self.tensors["lm_head.weight"]

    def tensor_names(self) -> Sequence[str]:
        return list(self.tensors)

    def stored(self, name: str) -> StoredTensor:
        values = self.tensor(name).numpy()
        num_rows = int(np.prod(values.shape[:-1]))
        data = np.ascontiguousarray(values).reshape(num_rows, -1).view(np.uint8)
        return StoredTensor(name=name, type="F32", shape=values.shape, data=data)

    def tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ModelLoadError(f"tiny has no tensor {name}.")
        return self.tensors[name]
