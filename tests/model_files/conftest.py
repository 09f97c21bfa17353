"""The model that these tests pack, and the cache that it goes into."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.packed_models import write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A GGUF file."""
    path: Path = tmp_path / "model.gguf"
    write_model(path)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A directory that is not there yet."""
    return tmp_path / "cache"
