"""The block pool: no block is lost, users are counted, and contents are found until evicted."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_serve.engine.blank_blocks import STRETCH_BLOCKS
from realtime_serve.engine.kv_cache import BlockPool


def digest(number: int) -> bytes:
    return number.to_bytes(16, "little")


def pool_with_idle(num_blocks: int, groups: list[int]) -> tuple[BlockPool, list[list[int]]]:
    """A pool in which so many blocks each of some sequences were kept and freed, in order."""
    pool = BlockPool(num_blocks, 16)
    tables = [pool.allocate(size) for size in groups]
    for number, block_ids in enumerate(tables):
        for i, block_id in enumerate(block_ids):
            pool.keep(block_id, digest(100 * number + i))
    for block_ids in tables:
        pool.free(block_ids)
    return pool, tables


@given(st.integers(0, 1000), st.integers(1, 64))
def test_blocks_for_is_the_least_number_that_holds_the_tokens(
    num_tokens: int, block_size: int
) -> None:
    num_blocks = BlockPool(1, block_size).blocks_for(num_tokens)
    assert num_blocks * block_size >= num_tokens
    assert num_tokens > (num_blocks - 1) * block_size


# --- users --------------------------------------------------------------------


@given(num_blocks=st.integers(1, 20), data=st.data())
def test_every_block_is_free_or_has_the_users_that_hold_it(
    num_blocks: int, data: st.DataObject
) -> None:
    """Tables are allocated, shared, kept, forgotten and freed in any order."""
    pool = BlockPool(num_blocks, 16)
    tables: list[list[int]] = []
    actions = st.sampled_from(["allocate", "allocate", "share", "keep", "forget", "free"])
    for number, action in enumerate(data.draw(st.lists(actions, max_size=60))):
        if action == "allocate":
            after = data.draw(st.none() | st.integers(0, num_blocks - 1))
            tables.append(pool.allocate(data.draw(st.integers(0, pool.num_free)), after))
        elif tables:
            table = data.draw(st.sampled_from(tables))
            act_on(pool, action, table, tables, number)
        users = [block_id for table in tables for block_id in table]
        assert [pool.num_users(b) for b in range(num_blocks)] == [
            users.count(b) for b in range(num_blocks)
        ]
        assert pool.num_used == len(set(users)) == num_blocks - pool.num_free
        pool.check_integrity()


def act_on(
    pool: BlockPool, action: str, table: list[int], tables: list[list[int]], number: int
) -> None:
    if action == "share":
        pool.share(table)
        tables.append(list(table))
    elif action == "free":
        tables.remove(table)
        pool.free(table)
    else:
        for i, block_id in enumerate(table):
            pool.forget(block_id)
            if action == "keep":
                pool.keep(block_id, digest(100 * number + i))


def test_no_more_blocks_are_given_than_are_free() -> None:
    pool = BlockPool(2, 16)
    with pytest.raises(AssertionError):
        pool.allocate(3)
    assert pool.num_free == 2


@pytest.mark.parametrize("block_ids", [[0, 0], [2]])
def test_a_block_cannot_be_given_back_more_often_than_it_was_taken(block_ids: list[int]) -> None:
    pool = BlockPool(3, 16)
    pool.allocate(2)
    with pytest.raises(AssertionError, match="free already"):
        pool.free(block_ids)


def test_a_shared_block_is_free_once_its_last_user_is_gone() -> None:
    pool = BlockPool(1, 16)
    block_ids = pool.allocate(1)
    pool.share(block_ids)
    pool.free(block_ids)
    assert pool.num_free == 0
    pool.free(block_ids)
    assert pool.num_free == 1


# --- side by side -------------------------------------------------------------


def test_the_blocks_of_one_request_are_consecutive() -> None:
    pool = BlockPool(40, 16)
    assert pool.allocate(10) == list(range(10))
    pool.free(list(range(10)))
    assert pool.allocate(40) == list(range(40))


@pytest.mark.parametrize("num_old", [0, 4])
def test_sequences_that_grow_in_turns_get_stretches_of_consecutive_blocks(num_old: int) -> None:
    """In a fresh pool, and in one that is full of old contents."""
    pool, _ = pool_with_idle(16 * STRETCH_BLOCKS, [4 * STRETCH_BLOCKS] * num_old)
    tables = [pool.allocate(1) for _ in range(4)]
    for _ in range(4 * STRETCH_BLOCKS - 1):
        for table in tables:
            table.extend(pool.allocate(1, after=table[-1]))
    for table in tables:
        num_breaks = sum(b != a + 1 for a, b in itertools.pairwise(table))
        assert num_breaks <= len(table) / STRETCH_BLOCKS - 1


def test_the_rest_of_a_stretch_goes_to_others_when_there_is_nothing_else() -> None:
    pool = BlockPool(STRETCH_BLOCKS, 16)
    for block_id in range(STRETCH_BLOCKS):
        assert pool.allocate(1) == [block_id]


# --- contents -----------------------------------------------------------------


def test_a_kept_block_is_found_while_it_is_used_and_after_it_was_freed() -> None:
    pool = BlockPool(4, 16)
    (block_id,) = pool.allocate(1)
    pool.keep(block_id, digest(7))
    assert pool.find(digest(7)) == block_id
    pool.free([block_id])
    assert pool.find(digest(7)) == block_id
    assert pool.num_free == 4
    pool.share([block_id])
    assert pool.num_free == 3
    assert pool.find(digest(8)) is None


def test_of_two_blocks_with_the_same_content_one_is_kept() -> None:
    pool = BlockPool(2, 16)
    first, second = pool.allocate(2)
    pool.keep(first, digest(7))
    pool.keep(second, digest(7))
    assert pool.find(digest(7)) == first
    assert pool.num_kept == 1


def test_a_forgotten_block_is_not_found_and_is_blank_when_it_is_freed() -> None:
    pool = BlockPool(1, 16)
    (block_id,) = pool.allocate(1)
    pool.keep(block_id, digest(7))
    pool.forget(block_id)
    assert pool.find(digest(7)) is None
    pool.keep(block_id, digest(8))
    assert pool.find(digest(8)) == block_id


def test_a_block_that_is_known_cannot_become_something_else() -> None:
    pool = BlockPool(1, 16)
    (block_id,) = pool.allocate(1)
    pool.keep(block_id, digest(7))
    with pytest.raises(AssertionError, match="changed"):
        pool.keep(block_id, digest(8))


def test_contents_stay_as_long_as_there_are_stretches_without() -> None:
    pool, _ = pool_with_idle(4 * STRETCH_BLOCKS, [STRETCH_BLOCKS])
    pool.allocate(3 * STRETCH_BLOCKS)
    assert pool.num_kept == STRETCH_BLOCKS
    pool.allocate(1)
    assert pool.num_kept == 0


def test_the_content_that_was_used_longest_ago_goes_first() -> None:
    pool, (old, newer) = pool_with_idle(2 * STRETCH_BLOCKS, [STRETCH_BLOCKS, STRETCH_BLOCKS])
    pool.share(old)
    pool.free(old)
    assert sorted(pool.allocate(STRETCH_BLOCKS)) == newer
    assert [pool.find(digest(i)) for i in range(STRETCH_BLOCKS)] == old


def test_of_one_sequence_the_end_goes_before_the_beginning() -> None:
    pool, (blocks,) = pool_with_idle(2 * STRETCH_BLOCKS, [2 * STRETCH_BLOCKS])
    pool.allocate(STRETCH_BLOCKS)
    found = [pool.find(digest(i)) for i in range(2 * STRETCH_BLOCKS)]
    assert found == blocks[:STRETCH_BLOCKS] + [None] * STRETCH_BLOCKS


def test_a_newer_content_in_the_same_stretch_is_not_evicted_along() -> None:
    """The sequences share a stretch, but another one was used between the two."""
    pool, (old, _, new) = pool_with_idle(2 * STRETCH_BLOCKS, [1, STRETCH_BLOCKS, 1])
    assert old[0] // STRETCH_BLOCKS == new[0] // STRETCH_BLOCKS == 0
    pool.allocate(1)
    assert pool.find(digest(0)) is None
    assert pool.find(digest(200)) == new[0]


# --- the check ----------------------------------------------------------------


def test_the_integrity_check_notices_blocks_that_are_lost_or_in_two_states() -> None:
    lost, doubled, renamed = (pool_with_idle(4, [2])[0] for _ in range(3))
    lost._blank.take_any()
    doubled._num_users[0] = 1
    renamed._digests[0] = digest(99)
    for broken in (lost, doubled, renamed):
        with pytest.raises((AssertionError, KeyError)):
            broken.check_integrity()
