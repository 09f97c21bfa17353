"""Who owns which block of the KV cache. Ids only: the memory is the runner's.

A block holds the keys and values of `block_size` consecutive tokens of one sequence, in every
layer. Keys and values of a token depend on the tokens before it and nothing else, so sequences
that begin alike can use the same blocks: a block counts its users. A full block can be kept:
the pool then knows its content by a digest, and finds it again while it is in use and
afterwards, until it needs the memory.

    blank ──allocate──▶ used ──last free──▶ blank              its content is not known
      ▲                  │ ▲ └─last free──▶ idle ──┐           its content is known
      │                  │ └────── share ───┘      │
      └─────── evicted, the one least recently used first ◀────┘
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from realtime_serve.engine.blank_blocks import STRETCH_BLOCKS, BlankBlocks


class BlockPool:
    """Users, contents and free blocks.

    All methods cost O(1) a block. A free block is taken in this order: the one beside the
    block that it follows; the first of a blank stretch; one whose content has not been used
    for longest; whatever is blank.

    Args:
        num_blocks: How many there are; their ids are 0 to num_blocks - 1.
        block_size: Tokens a block.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._num_users = [0] * num_blocks
        self._digests: list[bytes | None] = [None] * num_blocks
        self._blocks_by_digest: dict[bytes, int] = {}
        self._blank = BlankBlocks(num_blocks)
        self._idle: OrderedDict[int, None] = OrderedDict()  # least recently used first

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated: blank and idle ones."""
        return len(self._blank) + len(self._idle)

    @property
    def num_used(self) -> int:
        """Blocks with at least one user."""
        return self.num_blocks - self.num_free

    @property
    def num_kept(self) -> int:
        """Blocks whose content can be found, used or idle."""
        return len(self._blocks_by_digest)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks that many tokens of one sequence need."""
        return -(-num_tokens // self.block_size)

    # --- users ----------------------------------------------------------------

    def allocate(self, num_blocks: int, after: int | None = None) -> list[int]:
        """Take blocks out, each for one user; what was in them is forgotten.

        Args:
            num_blocks: How many; at most `num_free`.
            after: The block that they follow in a sequence, if there is one.

        Returns:
            Their ids.
        """
        assert num_blocks <= self.num_free, "the caller looks at num_free first"
        block_ids: list[int] = []
        for _ in range(num_blocks):
            after = self._take(after)
            assert self._num_users[after] == 0
            self._num_users[after] = 1
            block_ids.append(after)
        return block_ids

    def share(self, block_ids: Iterable[int]) -> None:
        """Add a user to blocks that are used or idle."""
        for block_id in block_ids:
            if self._num_users[block_id] == 0:
                del self._idle[block_id]
            self._num_users[block_id] += 1

    def free(self, block_ids: Sequence[int]) -> None:
        """Take a user away from blocks of one sequence.

        Args:
            block_ids: Its blocks in order; the later ones will be evicted first, since they
                are of no use without the earlier ones.
        """
        for block_id in reversed(block_ids):
            assert self._num_users[block_id] > 0, f"block {block_id} is free already"
            self._num_users[block_id] -= 1
            if self._num_users[block_id] == 0:
                self._retire(block_id)

    def num_users(self, block_id: int) -> int:
        """How many users a block has; 0 if it is free."""
        return self._num_users[block_id]

    # --- contents -------------------------------------------------------------

    def keep(self, block_id: int, digest: bytes) -> None:
        """Make a used block's content known, unless another block has the same.

        Args:
            block_id: A block that nobody will write to any more.
            digest: Stands for its tokens and all tokens before them.
        """
        assert self._num_users[block_id] > 0
        if digest not in self._blocks_by_digest:
            assert self._digests[block_id] is None, "its content has changed"
            self._blocks_by_digest[digest] = block_id
            self._digests[block_id] = digest

    def find(self, digest: bytes) -> int | None:
        """The block of that content; it is used or idle."""
        return self._blocks_by_digest.get(digest)

    def forget(self, block_id: int) -> None:
        """Make a used block's content unknown, if it was known."""
        assert self._num_users[block_id] > 0
        self._drop_digest(block_id)

    # --- free blocks ----------------------------------------------------------

    def _take(self, after: int | None) -> int:
        block_id = None if after is None else self._blank.take_after(after)
        if block_id is None:
            block_id = self._blank.take_from_whole_stretch()
        if block_id is None and self._idle:
            block_id = self._evict()
        if block_id is None:
            block_id = self._blank.take_any()
        assert block_id is not None
        return block_id

    def _evict(self) -> int | None:
        """Turn the least recently used idle block blank and take it, or a block beside it.

        Those next in line go along if they are of the same stretch: a sequence's blocks were
        freed together, so this mostly yields a whole stretch.
        """
        oldest = next(iter(self._idle))
        stretch = oldest // STRETCH_BLOCKS
        while self._idle and next(iter(self._idle)) // STRETCH_BLOCKS == stretch:
            block_id, _ = self._idle.popitem(last=False)
            self._drop_digest(block_id)
            self._blank.add(block_id)
        return self._blank.take_from_stretch_of(oldest)

    def _retire(self, block_id: int) -> None:
        if self._digests[block_id] is None:
            self._blank.add(block_id)
        else:
            self._idle[block_id] = None

    def _drop_digest(self, block_id: int) -> None:
        digest = self._digests[block_id]
        if digest is not None:
            del self._blocks_by_digest[digest]
            self._digests[block_id] = None

    def check_integrity(self) -> None:
        """Assert that every block is used, idle or blank, and that contents are known once."""
        self._blank.check_integrity()
        for block_id, num_users in enumerate(self._num_users):
            is_idle = block_id in self._idle
            states = (num_users > 0) + is_idle + (block_id in self._blank)
            assert states == 1, f"block {block_id} is lost, or in two states"
            digest = self._digests[block_id]
            assert not (is_idle and digest is None), "an idle block has no content"
            assert digest is None or self._blocks_by_digest[digest] == block_id
            assert digest is None or block_id not in self._blank
        assert len(self._blocks_by_digest) == sum(d is not None for d in self._digests)
