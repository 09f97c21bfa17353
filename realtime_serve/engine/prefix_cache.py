"""Prompts that begin alike share the blocks of what they have in common.

A full block is known by a digest of its tokens and of its predecessor's digest, so one digest
stands for the whole history. It is cryptographic: whoever could make two histories collide
could read somebody else's context out of the cache.

Blocks become known when they are computed, so a sequence can only find what was computed
before it is admitted. Sequences that arrive together would each compute their common prefix.
A sequence therefore claims, when it is admitted, the blocks that it is going to compute; one
of lower rank whose next block is claimed waits until it has been computed. That costs it
nothing: a step's time is spent on the tokens it computes, and these are computed once instead
of twice. The claimant goes first in every step, so it cannot be held up by those who wait.
"""

from __future__ import annotations

from hashlib import blake2b

from realtime_serve.engine.kv_cache import BlockPool
from realtime_serve.engine.sequence import Sequence, SequenceStatus

DIGEST_BYTES = 16
"""Two histories with the same digest take 2**64 attempts to find."""

ROOT = bytes(DIGEST_BYTES)
"""What the first block of a sequence has for its predecessor's digest."""


class PrefixCache:
    """Finds, claims and registers the blocks of sequences by their content.

    Args:
        pool: Where the blocks are.

    Attributes:
        num_queried_tokens: Tokens of all sequences that were admitted for the first time.
        num_hit_tokens: How many of them were found.
    """

    def __init__(self, pool: BlockPool) -> None:
        self.num_queried_tokens = 0
        self.num_hit_tokens = 0
        self._pool = pool
        self._claims: dict[bytes, Sequence] = {}

    def match(self, sequence: Sequence) -> list[int]:
        """Find the blocks that a sequence's tokens begin with.

        Args:
            sequence: One without blocks.

        Returns:
            The blocks in order. They never hold its last token: that one is computed, because
            its logits are wanted.
        """
        self._extend_digests(sequence, sequence.num_tokens)
        block_ids = []
        for digest in sequence.block_digests[: self._num_matchable(sequence)]:
            block_id = self._pool.find(digest)
            if block_id is None:
                break
            block_ids.append(block_id)
        return block_ids

    def is_coming(self, sequence: Sequence, num_matched: int) -> bool:
        """Whether a sequence of better rank is about to compute the block after a match."""
        if num_matched >= self._num_matchable(sequence):
            return False
        claimant = self._claims.get(sequence.block_digests[num_matched])
        return claimant is not None and claimant.rank < sequence.rank

    def claim(self, sequence: Sequence) -> None:
        """Tell others that a sequence is going to compute the rest of its full blocks."""
        for digest in sequence.block_digests[sequence.num_committed_blocks :]:
            self._claims.setdefault(digest, sequence)

    def unclaim(self, sequence: Sequence) -> None:
        """Take back what a sequence claims: it will not go on, or not now."""
        for digest in sequence.block_digests[sequence.num_committed_blocks :]:
            self._drop_claim(digest, sequence)

    def commit(self, sequence: Sequence) -> None:
        """Make the blocks known that a sequence has filled."""
        num_filled = sequence.num_computed_tokens // self._pool.block_size
        self._extend_digests(sequence, sequence.num_computed_tokens)
        for i in range(sequence.num_committed_blocks, num_filled):
            digest = sequence.block_digests[i]
            self._pool.keep(sequence.block_table[i], digest)
            self._drop_claim(digest, sequence)
        sequence.num_committed_blocks = num_filled

    def count(self, num_queried_tokens: int, num_hit_tokens: int) -> None:
        """Count a sequence that was admitted for the first time."""
        self.num_queried_tokens += num_queried_tokens
        self.num_hit_tokens += num_hit_tokens

    def _num_matchable(self, sequence: Sequence) -> int:
        return (sequence.num_tokens - 1) // self._pool.block_size

    def _drop_claim(self, digest: bytes, sequence: Sequence) -> None:
        if self._claims.get(digest) is sequence:
            del self._claims[digest]

    def _extend_digests(self, sequence: Sequence, num_tokens: int) -> None:
        """Digest the full blocks among a sequence's first tokens."""
        digests, size = sequence.block_digests, self._pool.block_size
        digest = digests[-1] if digests else ROOT
        for i in range(len(digests), num_tokens // size):
            content = digest + sequence.token_ids[i * size : (i + 1) * size].tobytes()
            digest = blake2b(content, digest_size=DIGEST_BYTES).digest()
            digests.append(digest)

    def check_integrity(self) -> None:
        """Assert that claims are of running sequences, on blocks that they have to compute."""
        for digest, sequence in self._claims.items():
            assert sequence.status is SequenceStatus.RUNNING
            assert digest in sequence.block_digests[sequence.num_committed_blocks :]
