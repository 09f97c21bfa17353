"""Which sequence gets which blocks: admission, growth, forks, and preemption when they run out.

A sequence that takes its seat or comes back is admitted: it gets blocks for all the tokens it
has, those that the prefix cache knows and new ones. Later it gets one at a time as it decodes,
or guesses what it will decode.
When there are none, somebody is preempted: sequences that are paused (they cannot use their
blocks now), then running ones of lower rank, from the lowest class and the youngest up. One
that is being admitted takes blocks only from the paused and from lower classes, and leaves one
block free for each running sequence that may still grow (the watermark), so that admitting it
does not cause the next preemption. Nothing is preempted unless that yields enough. What was
computed stays known to the prefix cache until its memory is needed, so the victim often finds
its own blocks again.

A forked sequence shares all blocks of what it has in common with its parent. Full ones are
never written again. The last one may be partly filled: the parent goes on behind what they
share and disturbs nobody, but the child would overwrite that. It gets a copy before its first
step.

Why it cannot lock up. Nobody preempts a running sequence of better rank, so the best running
one always advances. The exception would be blocks that nobody may take: a sequence preempted
MAX_PREEMPTIONS times is exempt. It therefore comes back only with all the blocks it can ever
need, never waits for one, and ends. Sequences that find no victim keep their blocks and wait;
a forked one that finds no block for its copy is preempted itself. A lone sequence fits the
pool; the engine refuses it otherwise.
"""

from __future__ import annotations

import enum
import math
from array import array
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from realtime_serve.engine.kv_cache import BlockPool
from realtime_serve.engine.prefix_cache import PrefixCache
from realtime_serve.engine.sequence import Sequence, SequenceStatus

MAX_PREEMPTIONS = 3
"""A sequence that lost its blocks this often keeps the next ones to its end."""


class Admission(enum.Enum):
    """What came of trying to admit a sequence."""

    ADMITTED = "admitted"
    NO_BLOCKS = "no blocks"
    PREFIX_IS_COMING = "another sequence is computing its next block"


class BlockCopy(NamedTuple):
    """A block to be copied before the step's work is computed."""

    source: int
    destination: int


class Allotment:
    """Gives the blocks of a pool to the seated sequences and takes them back.

    Args:
        pool: The blocks; enough for the longest sequence.
        prefix_cache: Where their contents are known; None if sequences share nothing.
        seated: The scheduler's list of seated sequences, best rank first.

    Attributes:
        num_preemptions: Preemptions so far.
    """

    def __init__(
        self,
        pool: BlockPool,
        prefix_cache: PrefixCache | None,
        seated: list[Sequence],
    ) -> None:
        self.num_preemptions = 0
        self._pool = pool
        self._prefix_cache = prefix_cache
        self._seated = seated
        self._forked: list[Sequence] = []  # sequences that still share a block they will write
        self._copies: list[BlockCopy] = []

    # --- getting blocks -------------------------------------------------------

    def admit(self, sequence: Sequence) -> Admission:
        """Give a waiting or preempted sequence its first blocks, and have it run."""
        matched = self._match(sequence)
        if matched is None:
            return Admission.PREFIX_IS_COMING
        num_tokens = sequence.max_computed_tokens if _is_exempt(sequence) else sequence.num_tokens
        num_new = self._pool.blocks_for(num_tokens) - len(matched)
        behind_its_class = (sequence.rank[0], math.inf)
        self._pool.share(matched)  # before making room, so that they are not evicted for it
        if not self._make_room(num_new + self._watermark(), behind_its_class):
            self._pool.free(matched)
            return Admission.NO_BLOCKS
        new = self._pool.allocate(num_new, after=matched[-1] if matched else None)
        self._start(sequence, matched, new)
        return Admission.ADMITTED

    def grow(self) -> None:
        """Give running sequences, best first, the blocks that their tokens need.

        A victim is always behind the one that it is taken for, so none has grown before.
        """
        if self._forked:
            self._forked = [child for child in self._forked if not self._split(child)]
        block_size, running = self._pool.block_size, SequenceStatus.RUNNING
        for sequence in self._seated:
            has = len(sequence.block_table)
            if sequence.status is running and has * block_size < len(sequence.token_ids):
                num_new = self._pool.blocks_for(sequence.num_tokens) - has
                if self._make_room(num_new, sequence.rank):
                    last = sequence.block_table[-1]
                    sequence.block_table.extend(self._pool.allocate(num_new, after=last))

    def grow_ahead(self, sequence: Sequence, num_tokens: int) -> int:
        """Give a running sequence the blocks of tokens that are only guessed.

        They come out of what admission leaves free as well, so that nobody is preempted for
        them, now or later.

        Args:
            sequence: One whose blocks cover its tokens.
            num_tokens: Guesses; with them, it has no more than it may ever compute.

        Returns:
            How many of them its blocks cover.
        """
        table = sequence.block_table
        num_new = self._pool.blocks_for(sequence.num_tokens + num_tokens) - len(table)
        if num_new > 0:
            num_spare = max(0, self._pool.num_free - self._watermark())
            table.extend(self._pool.allocate(min(num_new, num_spare), after=table[-1]))
        return min(num_tokens, len(table) * self._pool.block_size - sequence.num_tokens)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Let a waiting sequence go on from what its parent has computed of its tokens.

        Args:
            parent: Running or paused.
            child: What it does not share is computed, and so is its last token, whose logits
                are wanted. One that shares nothing goes on waiting.
        """
        assert parent.holds_blocks
        limit = min(parent.num_computed_tokens, child.num_tokens - 1)
        num_shared = _num_common(parent.token_ids, child.token_ids, limit)
        if num_shared == 0:
            return
        num_full, num_partial = divmod(num_shared, self._pool.block_size)
        child.block_table = parent.block_table[: self._pool.blocks_for(num_shared)]
        self._pool.share(child.block_table)
        child.num_computed_tokens = num_shared
        child.num_committed_blocks = num_full
        child.block_digests = parent.block_digests[:num_full]
        child.enter(SequenceStatus.RUNNING)
        if num_partial:
            self._forked.append(child)

    def take_copies(self) -> list[BlockCopy]:
        """Copies to make before the next step's work, one after the other; each is told once."""
        copies, self._copies = self._copies, []
        return copies

    # --- giving blocks back ---------------------------------------------------

    def release(self, sequence: Sequence) -> None:
        """Take back all blocks of a sequence."""
        if self._prefix_cache is not None:
            self._prefix_cache.unclaim(sequence)
        self._pool.free(sequence.block_table)
        sequence.block_table = array("i")
        sequence.num_computed_tokens = 0
        sequence.num_committed_blocks = 0

    def forget(self, sequence: Sequence) -> None:
        """See that nobody finds what a sequence has computed: it may be wrong."""
        for block_id in sequence.block_table:
            self._pool.forget(block_id)

    # --- parts ----------------------------------------------------------------

    def _match(self, sequence: Sequence) -> list[int] | None:
        """The known blocks that it begins with; None if it should wait for the next one."""
        if self._prefix_cache is None:
            return []
        matched = self._prefix_cache.match(sequence)
        return None if self._prefix_cache.is_coming(sequence, len(matched)) else matched

    def _start(self, sequence: Sequence, matched: Iterable[int], new: Iterable[int]) -> None:
        sequence.block_table.extend(matched)
        num_matched = len(sequence.block_table)
        num_matched_tokens = num_matched * self._pool.block_size
        sequence.block_table.extend(new)
        sequence.num_computed_tokens = num_matched_tokens
        sequence.num_committed_blocks = num_matched
        if self._prefix_cache is not None:
            self._prefix_cache.claim(sequence)
            if sequence.status is SequenceStatus.WAITING:
                sequence.num_cached_tokens = num_matched_tokens
                self._prefix_cache.count(sequence.num_tokens, num_matched_tokens)
        sequence.enter(SequenceStatus.RUNNING)

    def _split(self, child: Sequence) -> bool:
        """Give a forked sequence its own copy of the block it writes next; True if it is done."""
        if child.status is SequenceStatus.PAUSED:
            return False
        if child.status is SequenceStatus.RUNNING:
            index = child.num_computed_tokens // self._pool.block_size
            shared = child.block_table[index]
            if self._pool.num_users(shared) == 1:
                self._pool.forget(shared)
            elif self._make_room(1, child.rank):
                (copy,) = self._pool.allocate(1, after=shared)
                self._copies.append(BlockCopy(shared, copy))
                child.block_table[index] = copy
                self._pool.free([shared])
            else:
                self._preempt(child)
        return True

    def _watermark(self) -> int:
        """Blocks that admission leaves free: one for each running sequence that may grow."""
        return sum(
            sequence.status is SequenceStatus.RUNNING
            and len(sequence.block_table) < self._pool.blocks_for(sequence.max_computed_tokens)
            for sequence in self._seated
        )

    def _make_room(self, num_blocks: int, rank: tuple[int, float]) -> bool:
        """See that blocks are free, preempting for one of `rank`; all of them, or nobody."""
        num_free = self._pool.num_free
        if num_free >= num_blocks:
            return True
        chosen = []
        num_given: Counter[int] = Counter()
        for victim in self._victims(rank):
            chosen.append(victim)
            num_given.update(victim.block_table)
            num_free += sum(
                num_given[block_id] == self._pool.num_users(block_id)
                for block_id in victim.block_table
            )
            if num_free >= num_blocks:
                break
        else:
            return False
        for victim in chosen:
            self._preempt(victim)
        return True

    def _victims(self, rank: tuple[int, float]) -> list[Sequence]:
        """Those whose blocks one of `rank` may take, in the order in which they are taken."""
        worst_first = [s for s in reversed(self._seated) if s.holds_blocks and not _is_exempt(s)]
        paused = [s for s in worst_first if s.status is SequenceStatus.PAUSED]
        running = [s for s in worst_first if s.status is SequenceStatus.RUNNING and s.rank > rank]
        return paused + running

    def _preempt(self, sequence: Sequence) -> None:
        self.release(sequence)
        sequence.num_preemptions += 1
        sequence.enter(SequenceStatus.PREEMPTED)
        self.num_preemptions += 1

    # --- integrity ------------------------------------------------------------

    def check_integrity(self) -> None:
        """Assert that the blocks' users are the sequences that name them."""
        self._pool.check_integrity()
        if self._prefix_cache is not None:
            self._prefix_cache.check_integrity()
        users = Counter(block_id for s in self._seated for block_id in s.block_table)
        assert len(users) == self._pool.num_used
        for block_id, num_users in users.items():
            assert num_users == self._pool.num_users(block_id), "a block's users are miscounted"
        for sequence in self._seated:
            self._check_sequence(sequence)

    def _check_sequence(self, sequence: Sequence) -> None:
        assert sequence.holds_blocks == bool(sequence.block_table)
        assert len(set(sequence.block_table)) == len(sequence.block_table)
        num_blocks = len(sequence.block_table)
        assert num_blocks >= self._pool.blocks_for(sequence.num_computed_tokens)
        assert num_blocks <= self._pool.blocks_for(sequence.max_computed_tokens)
        assert sequence.num_committed_blocks * self._pool.block_size <= sequence.num_computed_tokens
        assert sequence.num_preemptions <= MAX_PREEMPTIONS


def _num_common(a: array[int], b: array[int], limit: int) -> int:
    """How many of the first tokens are the same, of at most `limit`."""
    return next((i for i in range(limit) if a[i] != b[i]), limit)


def _is_exempt(sequence: Sequence) -> bool:
    return sequence.num_preemptions >= MAX_PREEMPTIONS
