"""What the networks' tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from support.reference_model import hf_directory


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The tests' tensors are not worth a second thread, least of all on a busy machine."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def reference_path(gguf_path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model as a Hugging Face directory, written by transformers."""
    return hf_directory(gguf_path, tmp_path_factory.getbasetemp())
