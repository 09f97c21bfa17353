from __future__ import annotations

from pathlib import Path

import pytest
import torch

from realtime_serve.engine.kv_storage import KVStorage, bytes_per_block
from realtime_serve.engine.runner import BLOCK_SIZE
from support.stub_model import HistoryModel


class Shapes(HistoryModel):
    """Shapes of a real model: 30 layers, 3 heads of 64."""

    num_layers = 30
    num_kv_heads = 3
    head_dim = 64
    dtype = torch.bfloat16


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_a_block_takes_the_bytes_that_are_said() -> None:
    model = Shapes()
    storage = KVStorage(model, 7)
    held = sum(layer.numel() * layer.element_size() for layer in storage.tensors)
    assert held == 7 * bytes_per_block(model)
    assert bytes_per_block(model) == 30 * BLOCK_SIZE * 2 * 3 * 64 * 2


def test_there_is_one_tensor_a_layer_in_the_models_dtype() -> None:
    storage = KVStorage(Shapes(), 7)
    assert len(storage.tensors) == 30
    for layer in storage.tensors:
        assert layer.shape == (7, BLOCK_SIZE, 2, 3, 64)
        assert layer.dtype == torch.bfloat16
        assert layer.device == torch.device("cpu")


def test_what_was_never_written_reads_as_zero() -> None:
    for layer in KVStorage(Shapes(), 7).tensors:
        assert not layer.any()


def test_memory_is_taken_when_it_is_written_and_given_back_at_the_end() -> None:
    before = resident_bytes()
    storage = KVStorage(Shapes(), 4 * 2**30 // bytes_per_block(Shapes()))
    assert resident_bytes() - before < 50 * 2**20
    for layer in storage.tensors:
        layer[:256].fill_(1.0)
    written = 256 * bytes_per_block(Shapes())
    assert resident_bytes() - before == pytest.approx(written, rel=0.3)
    del layer, storage
    assert resident_bytes() - before < written / 2
