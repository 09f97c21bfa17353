"""A KV cache has the blocks that are wanted, of use, and can ever have room."""

from __future__ import annotations

import pytest

from realtime_serve.engine.host_memory import DeviceMemory
from realtime_serve.engine.kv_cache_size import KVCacheLimit, KVCacheSize, choose_num_blocks
from realtime_serve.errors import ModelLoadError
from realtime_serve.types import BatchConfig, MemoryShare

BLOCK_BYTES = 1_500_000
LONGEST = 512  # 32 blocks
GIB = 2**30


def choose(
    wanted: int | MemoryShare,
    *,
    free: int = 100 * GIB,
    capacity: int = 100 * GIB,
    own: int = 0,
    workers: int = 1,
    seats: int = 2048,
) -> KVCacheSize:
    limit = KVCacheLimit(wanted, DeviceMemory(free, capacity, own), workers)
    batch = BatchConfig(max_num_seqs=seats)
    return choose_num_blocks(BLOCK_BYTES, limit, batch=batch, max_model_len=LONGEST)


def refusal(wanted: int | MemoryShare, **memory: int) -> str:
    with pytest.raises(ModelLoadError) as caught:
        choose(wanted, **memory)
    assert caught.value.param == "kv_cache_bytes"
    return caught.value.message


def test_what_fits_the_machine_but_not_its_free_memory_is_taken_with_one_notice() -> None:
    (num_blocks, (notice,)) = choose(12 * GIB, free=3 * GIB, capacity=12 * GIB)
    assert num_blocks == 12 * GIB // BLOCK_BYTES
    assert "may come to take 12 GiB, but only 3 GiB are free now" in notice


def test_what_fits_the_free_memory_needs_no_notice() -> None:
    assert choose(12 * GIB, free=12 * GIB).notices == ()


def test_what_can_never_fit_is_refused_with_the_numbers_as_they_were_written() -> None:
    assert choose(12 * GIB, capacity=24 * GIB, workers=2).num_blocks > 0
    message = refusal(12 * GIB, capacity=23_100_000_000, workers=2, own=300_000_000)
    assert "12 GiB in each of 2 workers, beside 300.0 MB that each has" in message
    assert "26.4 GB in all, but there are only 23.1 GB." in message


def test_what_each_worker_has_beside_the_cache_counts() -> None:
    assert choose(12 * GIB, capacity=26 * GIB, own=GIB, workers=2).num_blocks > 0
    assert "12 GiB" in refusal(12 * GIB, capacity=26 * GIB, own=GIB + 2 * BLOCK_BYTES, workers=2)


def test_what_all_seats_together_cannot_use_needs_no_room() -> None:
    useful = 64 * BLOCK_BYTES
    assert choose(10**12, free=useful, capacity=useful, seats=2) == (64, ())
    assert "would take 96.0 MB, beside" in refusal(10**12, capacity=useful - 1, seats=2)


def test_where_the_memory_is_not_known_the_size_is_believed() -> None:
    limit = KVCacheLimit(41 * BLOCK_BYTES)
    batch = BatchConfig(max_num_seqs=2)
    chosen = choose_num_blocks(BLOCK_BYTES, limit, batch=batch, max_model_len=LONGEST)
    assert chosen == (41, ())


def test_a_small_share_is_taken_with_a_notice_that_says_how_it_came_about() -> None:
    (num_blocks, (notice,)) = choose(MemoryShare(0.02), free=23_100_000_000, workers=3)
    assert num_blocks == 1
    assert "max_model_len is 16 instead of 512" in notice
    assert "0.02 % of 23.1 GB free, divided among 3 workers, is 1.5 MB." in notice


def test_a_share_of_less_than_one_block_is_refused() -> None:
    message = refusal(MemoryShare(0.02), free=22_400_000_000, workers=3)
    assert "0.02 % of 22.4 GB free, divided among 3 workers, is 1.5 MB, but" in message
    assert refusal(MemoryShare(0.001), free=100_000).startswith(
        "The KV cache would be too small: 0.001 % of 100.0 kB free is 1 bytes, but this model "
        "needs at least 1.5 MB, which holds the keys and values of 16 tokens"
    )


def test_a_share_is_never_more_than_what_can_fit() -> None:
    assert choose(MemoryShare(100), free=GIB, capacity=GIB, own=GIB).notices == ()
