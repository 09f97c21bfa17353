"""Free blocks whose content nobody needs, and which of them to take.

Attention reads a sequence's keys and values fastest from consecutive blocks. Many sequences
grow at the same time, one block each, so taking the first free block would interleave them.
Ids are therefore cut into stretches. A sequence opens a stretch that is wholly blank and goes
on in it, so at least STRETCH_BLOCKS of its blocks lie side by side. Nothing is reserved: what
is left of an opened stretch goes to others when there is nothing better.
"""

from __future__ import annotations

STRETCH_BLOCKS = 4
"""8 KiB a head with 64 dimensions in bf16, so that starting at a new place in memory costs
little. Longer ones leave more blocks idle beside short sequences."""


class BlankBlocks:
    """A set of block ids; taking and adding one costs O(1), but for a scan of flags in C.

    Args:
        num_blocks: Ids are from 0 to num_blocks - 1; all are in the set at first.
    """

    def __init__(self, num_blocks: int) -> None:
        self._is_blank = bytearray(b"\x01") * num_blocks
        self._is_whole = bytearray(b"\x01") * -(-num_blocks // STRETCH_BLOCKS)
        self._num_blank = num_blocks

    def __len__(self) -> int:
        """Blocks in the set."""
        return self._num_blank

    def __contains__(self, block_id: int) -> bool:
        """Whether a block is in the set."""
        return bool(self._is_blank[block_id])

    def add(self, block_id: int) -> None:
        """Put a block in that is not there."""
        assert not self._is_blank[block_id]
        self._is_blank[block_id] = 1
        self._num_blank += 1
        stretch = block_id // STRETCH_BLOCKS
        self._is_whole[stretch] = 0 not in self._flags_of(stretch)

    def take_after(self, block_id: int) -> int | None:
        """Take the block beside another one; None if it is not blank."""
        beside = block_id + 1
        if beside < len(self._is_blank) and self._is_blank[beside]:
            return self._take(beside)
        return None

    def take_from_whole_stretch(self) -> int | None:
        """Take the first block of a stretch that is wholly blank; None if there is none."""
        stretch = self._is_whole.find(1)
        return None if stretch < 0 else self._take(stretch * STRETCH_BLOCKS)

    def take_from_stretch_of(self, block_id: int) -> int | None:
        """Take the first blank block of the stretch that a block belongs to."""
        stretch = block_id // STRETCH_BLOCKS
        offset = self._flags_of(stretch).find(1)
        return None if offset < 0 else self._take(stretch * STRETCH_BLOCKS + offset)

    def take_any(self) -> int | None:
        """Take a block; None if there is none."""
        block_id = self._is_blank.find(1)
        return None if block_id < 0 else self._take(block_id)

    def _take(self, block_id: int) -> int:
        self._is_blank[block_id] = 0
        self._is_whole[block_id // STRETCH_BLOCKS] = 0
        self._num_blank -= 1
        return block_id

    def _flags_of(self, stretch: int) -> bytearray:
        start = stretch * STRETCH_BLOCKS
        return self._is_blank[start : start + STRETCH_BLOCKS]

    def check_integrity(self) -> None:
        """Assert that the counts and the flags of the stretches are right."""
        assert self._num_blank == self._is_blank.count(1)
        for stretch, is_whole in enumerate(self._is_whole):
            assert is_whole == (0 not in self._flags_of(stretch))
