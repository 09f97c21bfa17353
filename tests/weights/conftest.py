"""What the weights' tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.reference_model import hf_directory


@pytest.fixture(scope="session")
def reference_path(gguf_path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model as a Hugging Face directory, written by transformers."""
    return hf_directory(gguf_path, tmp_path_factory.getbasetemp())
