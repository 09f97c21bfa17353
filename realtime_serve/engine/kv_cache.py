"""Who owns which block of the KV cache. Ids only: the memory is KVStorage's.

A block holds the keys and values of `block_size` consecutive tokens of one sequence, in
every layer.
"""

from __future__ import annotations

from collections.abc import Sequence


class BlockPool:
    """The free blocks, as a stack.

    Allocating and freeing cost O(1) a block. Blocks come out in ascending order as long as
    they are given back in order, because attention reads consecutive blocks fastest.

    Args:
        num_blocks: How many there are; their ids are 0 to num_blocks - 1.
        block_size: Tokens a block.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._is_used = bytearray(num_blocks)

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Blocks that are allocated."""
        return self.num_blocks - len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks that many tokens of one sequence need."""
        return -(-num_tokens // self.block_size)

    def allocate(self, num_blocks: int) -> list[int]:
        """Take blocks out.

        Args:
            num_blocks: How many; at most `num_free`.

        Returns:
            Their ids.
        """
        assert num_blocks <= len(self._free), "the caller looks at num_free first"
        block_ids = [self._free.pop() for _ in range(num_blocks)]
        for block_id in block_ids:
            self._is_used[block_id] = True
        return block_ids

    def free(self, block_ids: Sequence[int]) -> None:
        """Give blocks back.

        Args:
            block_ids: Allocated blocks, each once.
        """
        for block_id in reversed(block_ids):
            assert self._is_used[block_id], f"block {block_id} is free already"
            self._is_used[block_id] = False
            self._free.append(block_id)

    def check_integrity(self) -> None:
        """Assert that every block is either free, once, or used."""
        assert len(set(self._free)) == len(self._free), "a block is free twice"
        assert not any(self._is_used[block_id] for block_id in self._free)
        assert sum(self._is_used) + len(self._free) == self.num_blocks, "a block is lost"
