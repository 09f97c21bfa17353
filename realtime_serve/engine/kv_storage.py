"""The memory of the KV cache: one tensor a layer, cut into blocks.

Who owns which block is the BlockPool's business; this is only the storage. On a CPU
it is an anonymous mapping, so that a page costs memory when it is first written, not
before, and reads as zero until then (a fresh `torch.empty` may hold NaN, which a
mask does not stop). A GPU's memory is taken whole, and set to zero.
"""

from __future__ import annotations

import math
import mmap

import torch
from torch import Tensor

from realtime_serve.engine.runner import BLOCK_SIZE
from realtime_serve.errors import ModelLoadError
from realtime_serve.nn.interface import CausalLM, KVTensors


class KVStorage:
    """Key and value tensors for `num_blocks` blocks in every layer.

    Args:
        model: Whose shapes, dtype and device to take.
        num_blocks: Blocks in each layer.
        block_size: Tokens a block.

    Attributes:
        num_blocks: As given.
        block_size: As given.
        device: Where the tensors are.
        tensors: One a layer, as `KVTensors` describes.

    Raises:
        ModelLoadError: The GPU has less memory left.
    """

    def __init__(self, model: CausalLM, num_blocks: int, block_size: int = BLOCK_SIZE) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.device = model.device
        shape = (num_blocks, block_size, 2, model.num_kv_heads, model.head_dim)
        try:
            self.tensors: KVTensors = tuple(
                _zeros(shape, model.dtype, model.device) for _ in range(model.num_layers)
            )
        except torch.OutOfMemoryError as error:
            raise ModelLoadError(
                f"The GPU has no room for {num_blocks * bytes_per_block(model, block_size)} bytes "
                "of KV cache: lower kv_cache_bytes, or give it a share such as 80%.",
                param="kv_cache_bytes",
            ) from error


def bytes_per_block(model: CausalLM, block_size: int = BLOCK_SIZE) -> int:
    """Bytes that one block takes in all layers together."""
    per_token = 2 * model.num_kv_heads * model.head_dim * model.dtype.itemsize
    return model.num_layers * block_size * per_token


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # Private: Python's default would be shared with a forked child.
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=private)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
