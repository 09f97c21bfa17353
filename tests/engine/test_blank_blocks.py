"""Blank blocks: none is given twice, and a sequence's lie side by side."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from realtime_serve.engine.blank_blocks import STRETCH_BLOCKS, BlankBlocks

TAKERS: list[Callable[[BlankBlocks, int], int | None]] = [
    lambda blank, block_id: blank.take_after(block_id),
    lambda blank, block_id: blank.take_from_whole_stretch(),
    lambda blank, block_id: blank.take_from_stretch_of(block_id),
    lambda blank, block_id: blank.take_any(),
]


@given(
    num_blocks=st.integers(1, 23),
    actions=st.lists(st.tuples(st.integers(0, len(TAKERS)), st.integers(0, 22)), max_size=80),
)
def test_it_is_a_set_whatever_way_blocks_are_taken(
    num_blocks: int, actions: list[tuple[int, int]]
) -> None:
    blank = BlankBlocks(num_blocks)
    inside = set(range(num_blocks))
    for action, number in actions:
        block_id = number % num_blocks
        if action < len(TAKERS):
            taken = TAKERS[action](blank, block_id)
            assert taken is None or taken in inside
            inside.discard(-1 if taken is None else taken)
        elif block_id not in inside:
            blank.add(block_id)
            inside.add(block_id)
        assert {b for b in range(num_blocks) if b in blank} == inside
        assert len(blank) == len(inside)
        blank.check_integrity()


def test_the_block_beside_is_taken_only_if_it_is_blank() -> None:
    blank = BlankBlocks(3)
    assert blank.take_after(0) == 1
    assert blank.take_after(0) is None
    assert blank.take_after(2) is None, "there is no block 3"


def test_a_stretch_is_whole_again_once_all_its_blocks_are_back() -> None:
    blank = BlankBlocks(2 * STRETCH_BLOCKS)
    firsts = [blank.take_from_whole_stretch() for _ in range(3)]
    assert firsts == [0, STRETCH_BLOCKS, None]
    blank.add(0)
    assert blank.take_from_whole_stretch() == 0


def test_the_last_stretch_may_be_a_short_one() -> None:
    blank = BlankBlocks(STRETCH_BLOCKS + 1)
    assert blank.take_from_stretch_of(STRETCH_BLOCKS) == STRETCH_BLOCKS
    assert blank.take_from_stretch_of(STRETCH_BLOCKS) is None
    blank.add(STRETCH_BLOCKS)
    blank.take_any()
    assert blank.take_from_whole_stretch() == STRETCH_BLOCKS


def test_an_empty_set_gives_nothing() -> None:
    blank = BlankBlocks(1)
    assert blank.take_any() == 0
    assert [take(blank, 0) for take in TAKERS] == [None] * len(TAKERS)
