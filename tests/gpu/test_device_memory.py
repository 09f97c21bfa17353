"""The memory of a GPU: what is left of it, and what happens when it does not suffice."""

from __future__ import annotations

import pytest
import torch

from realtime_serve.engine.kv_storage import KVStorage, bytes_per_block
from realtime_serve.engine.torch_device import device_memory
from realtime_serve.errors import ModelLoadError
from support.stub_model import HistoryModel


class Wide(HistoryModel):
    """A cache worth measuring: 1 MiB a block."""

    num_layers = 2
    num_kv_heads = 16
    head_dim = 256

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device


def test_a_block_takes_the_memory_that_is_said(gpu: torch.device) -> None:
    model = Wide(gpu)
    before = device_memory(gpu).free_bytes
    storage = KVStorage(model, 512)
    taken = before - device_memory(gpu).free_bytes
    assert taken == pytest.approx(512 * bytes_per_block(model), rel=0.1)
    assert not any(layer.any() for layer in storage.tensors)


def test_what_torch_keeps_in_reserve_counts_as_free(gpu: torch.device) -> None:
    before = device_memory(gpu).free_bytes
    held = torch.empty(256 * 2**20, dtype=torch.uint8, device=gpu)
    assert device_memory(gpu).free_bytes <= before - held.nbytes
    del held
    assert device_memory(gpu).free_bytes >= before


def test_a_cache_that_does_not_fit_is_refused_with_what_to_do(gpu: torch.device) -> None:
    model = Wide(gpu)
    _, total = torch.cuda.mem_get_info(gpu)
    with pytest.raises(ModelLoadError, match=r"no room for .* lower kv_cache_bytes") as caught:
        KVStorage(model, 2 * total // bytes_per_block(model))
    assert caught.value.param == "kv_cache_bytes"
