"""The block pool: no block is lost, and none has two owners."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_serve.engine.kv_cache import BlockPool


@given(st.integers(0, 1000), st.integers(1, 64))
def test_blocks_for_is_the_least_number_that_holds_the_tokens(
    num_tokens: int, block_size: int
) -> None:
    num_blocks = BlockPool(1, block_size).blocks_for(num_tokens)
    assert num_blocks * block_size >= num_tokens
    assert num_tokens > (num_blocks - 1) * block_size


@given(
    num_blocks=st.integers(1, 20),
    actions=st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60),
)
def test_every_block_is_free_once_or_used_by_one(
    num_blocks: int, actions: list[tuple[bool, int]]
) -> None:
    pool = BlockPool(num_blocks, 16)
    tables: list[list[int]] = []
    for gives_back, number in actions:
        if gives_back and tables:
            pool.free(tables.pop(number % len(tables)))
        elif number <= pool.num_free:
            tables.append(pool.allocate(number))
            assert len(tables[-1]) == number
        owned = [block_id for table in tables for block_id in table]
        assert len(set(owned)) == len(owned) == pool.num_used
        assert set(owned) <= set(range(num_blocks))
        assert pool.num_free + pool.num_used == num_blocks
        pool.check_integrity()


def test_blocks_come_out_in_ascending_order_again_after_they_were_given_back() -> None:
    pool = BlockPool(8, 16)
    first = pool.allocate(5)
    assert first == [0, 1, 2, 3, 4]
    pool.free(first)
    assert pool.allocate(8) == list(range(8))


def test_no_more_blocks_are_given_than_are_free() -> None:
    pool = BlockPool(2, 16)
    with pytest.raises(AssertionError):
        pool.allocate(3)
    assert pool.num_free == 2


@pytest.mark.parametrize("block_ids", [[0, 0], [2]])
def test_a_block_cannot_be_given_back_twice(block_ids: list[int]) -> None:
    pool = BlockPool(3, 16)
    pool.allocate(2)
    with pytest.raises(AssertionError, match="free already"):
        pool.free(block_ids)


def test_the_integrity_check_notices_a_lost_and_a_doubled_block() -> None:
    lost = BlockPool(3, 16)
    lost._free.pop()
    with pytest.raises(AssertionError, match="lost"):
        lost.check_integrity()
    doubled = BlockPool(3, 16)
    doubled._free.append(0)
    with pytest.raises(AssertionError, match="twice"):
        doubled.check_integrity()
