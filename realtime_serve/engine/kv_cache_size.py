"""How many blocks the KV cache gets: as configured, as far as they are of use and have room.

The memory is used only as blocks are first written. A cache that does not fit would start, and
be killed under load: so it is refused when the model is loaded.
"""

from __future__ import annotations

import math

from realtime_serve.engine.runner import BLOCK_SIZE
from realtime_serve.errors import ModelLoadError
from realtime_serve.types import BatchConfig

MIN_MODEL_LEN = 256
"""A KV cache that holds less than this, and less than the model's context, is a mistake."""


def choose_num_blocks(
    bytes_per_block: int,
    *,
    batch: BatchConfig,
    kv_cache_bytes: int,
    max_model_len: int,
    free_memory_bytes: int | None,
) -> int:
    """As many blocks as fit, but no more than full seats of the longest sequences need.

    Args:
        bytes_per_block: Memory that one block takes in all layers together.
        batch: Seats.
        kv_cache_bytes: Most memory for all blocks.
        max_model_len: Longest sequence in tokens.
        free_memory_bytes: What there is; None if that is not known.

    Returns:
        The number, at least 1.

    Raises:
        ModelLoadError: The blocks would be too few to be of use, or more than there is room for.
    """
    _require_enough(bytes_per_block, kv_cache_bytes, min(max_model_len, MIN_MODEL_LEN))
    num_useful = batch.max_num_seqs * math.ceil(max_model_len / BLOCK_SIZE)
    num_blocks = min(kv_cache_bytes // bytes_per_block, num_useful)
    if free_memory_bytes is not None:
        _require_room(num_blocks * bytes_per_block, free_memory_bytes)
    return num_blocks


def _require_enough(bytes_per_block: int, kv_cache_bytes: int, num_tokens: int) -> None:
    least = math.ceil(num_tokens / BLOCK_SIZE) * bytes_per_block
    if kv_cache_bytes < least:
        raise ModelLoadError(
            f"kv_cache_bytes is {kv_cache_bytes}, but this model needs at least {least}: "
            f"that holds the keys and values of {num_tokens} tokens.",
            param="kv_cache_bytes",
        )


def _require_room(nbytes: int, free_memory_bytes: int) -> None:
    if nbytes > free_memory_bytes:
        raise ModelLoadError(
            f"The KV cache would take {nbytes} bytes, but only {free_memory_bytes} are free once "
            "the weights are loaded: lower kv_cache_bytes, or give it a share such as 80%.",
            param="kv_cache_bytes",
        )
