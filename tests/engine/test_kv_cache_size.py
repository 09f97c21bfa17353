"""A KV cache has the blocks that are wanted, of use, and have room."""

from __future__ import annotations

import pytest

from realtime_serve.engine.kv_cache_size import choose_num_blocks
from realtime_serve.errors import ModelLoadError
from realtime_serve.types import BatchConfig

BLOCK_BYTES = 1000
LONGEST = 512  # 32 blocks
TWO_SEATS = BatchConfig(max_num_seqs=2)


def num_blocks(kv_cache_bytes: int, free_memory_bytes: int | None) -> int:
    return choose_num_blocks(
        BLOCK_BYTES,
        batch=TWO_SEATS,
        kv_cache_bytes=kv_cache_bytes,
        max_model_len=LONGEST,
        free_memory_bytes=free_memory_bytes,
    )


def test_a_size_that_does_not_fit_is_refused_with_both_numbers() -> None:
    assert num_blocks(40_999, 40_000) == 40
    with pytest.raises(ModelLoadError, match=r"take 41000 bytes, but only 40999 are") as caught:
        num_blocks(41_000, 40_999)
    assert caught.value.param == "kv_cache_bytes"


def test_what_all_seats_together_cannot_use_needs_no_room() -> None:
    assert num_blocks(10**12, 64_000) == 64
    with pytest.raises(ModelLoadError, match="64000"):
        num_blocks(10**12, 63_999)


def test_where_the_free_memory_is_not_known_the_size_is_believed() -> None:
    assert num_blocks(41_000, None) == 41
