"""Iteration: how many tokens of which sequence go into the next step.

Every sequence has computed tokens that must catch up with its tokens, within one token
budget a step. A sequence one token behind decodes; one further behind has a prompt to
compute, or lost its blocks. Nothing else tells the two apart.

    schedule: drop the ended ─▶ pause or resume by ring room ─▶ give decoding sequences
              the block they need ─▶ share the budget, admitting newcomers on the way

Order. Rank is (class, arrival); the best goes first everywhere. Seats never exceed the
token budget, and each decoding sequence needs one token. So all of them always fit, and
whenever a sequence has a prompt to compute, there is at least one token left for it:
neither can starve the other.

Blocks. A sequence that takes its seat or comes back is admitted: it gets blocks for all the
tokens it has. Later it gets one at a time as it decodes. When there are none, somebody is
preempted: sequences that are paused (they cannot use their blocks now), then running ones
of lower rank, from the lowest class and the youngest up. One that is being admitted takes
blocks only from the paused and from lower classes, and leaves one block free for each
running sequence that may still grow (the watermark), so that admitting it does not cause
the next preemption. Nothing is preempted unless that yields enough.

Why it cannot lock up. Nobody preempts a running sequence of better rank, so the best
running one always advances. The exception would be blocks that nobody may take: a
sequence preempted MAX_PREEMPTIONS times is exempt. It therefore comes back only with all
the blocks it can ever need, never waits for one, and ends. Sequences that find no victim
keep their blocks and wait. A lone sequence fits the pool; the engine refuses it otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from realtime_serve import _token_ring
from realtime_serve.engine.kv_cache import BlockPool
from realtime_serve.engine.sequence import Sequence, SequenceStatus
from realtime_serve.errors import ServeError
from realtime_serve.types import FinishReason

MAX_PREEMPTIONS = 3
"""A sequence that lost its blocks this often keeps the next ones to its end."""

CANCEL_REASONS = {
    _token_ring.STOP: FinishReason.STOP,
    _token_ring.CANCELLED: FinishReason.CANCELLED,
    _token_ring.DEADLINE: FinishReason.DEADLINE,
}


class ScheduledSequence(NamedTuple):
    """What one sequence computes in a step.

    Args:
        sequence: Which one.
        num_tokens: How many of its pending tokens.
        wants_logits: Whether they are all of them, so that the next token can be chosen.
    """

    sequence: Sequence
    num_tokens: int
    wants_logits: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerOutput:
    """One step's work.

    Args:
        scheduled: What to compute.
        started: Sequences that are scheduled for the first time.
        dropped: Sequences that have finished because nobody wants them any more.
    """

    scheduled: list[ScheduledSequence]
    started: list[Sequence]
    dropped: list[Sequence]


@dataclass(kw_only=True, slots=True)
class _StepPlan:
    """Shares the token budget out."""

    num_tokens_left: int
    scheduled: list[ScheduledSequence] = field(default_factory=list)
    started: list[Sequence] = field(default_factory=list)

    def add(self, sequence: Sequence) -> None:
        num_pending = sequence.num_pending_tokens
        num_tokens = min(num_pending, self.num_tokens_left)
        self.num_tokens_left -= num_tokens
        self.scheduled.append(
            ScheduledSequence(sequence, num_tokens, wants_logits=num_tokens == num_pending)
        )


class Scheduler:
    """Seats, orders, pauses and preempts the sequences of one engine.

    Args:
        pool: The blocks; enough for the longest sequence that will be added.
        max_num_seqs: Seats.
        max_batch_tokens: Token budget of a step; at least max_num_seqs.

    Attributes:
        num_preemptions: Preemptions so far.
    """

    def __init__(self, pool: BlockPool, *, max_num_seqs: int, max_batch_tokens: int) -> None:
        assert max_batch_tokens >= max_num_seqs
        self.num_preemptions = 0
        self._pool = pool
        self._max_num_seqs = max_num_seqs
        self._max_batch_tokens = max_batch_tokens
        self._sequences: dict[int, Sequence] = {}

    @property
    def free_slots(self) -> int:
        """Seats left."""
        return self._max_num_seqs - len(self._sequences)

    @property
    def num_sequences(self) -> int:
        """Seats taken, whatever the sequences' status."""
        return len(self._sequences)

    def num_with_status(self, status: SequenceStatus) -> int:
        """Seated sequences of one status."""
        return sum(sequence.status is status for sequence in self._sequences.values())

    def add(self, sequence: Sequence) -> None:
        """Seat a sequence; it is scheduled as soon as its rank and the blocks allow.

        Args:
            sequence: A waiting one, of a new arrival index, that fits the pool alone.
        """
        assert self.free_slots > 0, "the caller looks at free_slots first"
        assert self._pool.blocks_for(sequence.max_computed_tokens) <= self._pool.num_blocks
        self._sequences[sequence.arrival_index] = sequence

    def schedule(self, now_s: float) -> SchedulerOutput:
        """Choose the next step's work and allocate its blocks.

        Args:
            now_s: The instant, on the clock of the requests' deadlines.

        Returns:
            The work; each scheduled sequence must be committed or finished before the
            next call.
        """
        dropped = self._drop_ended(now_s)
        in_order = sorted(self._sequences.values(), key=attrgetter("rank"))
        self._pause_or_resume(in_order)
        self._grow(in_order)
        plan = self._share_budget(in_order)
        return SchedulerOutput(scheduled=plan.scheduled, started=plan.started, dropped=dropped)

    def commit(self, work: ScheduledSequence, token_id: int | None) -> None:
        """Record that scheduled work was computed; finishes the sequence if that ends it.

        Args:
            work: What was computed.
            token_id: The next token, if its logits were wanted.
        """
        sequence = work.sequence
        assert (token_id is not None) == work.wants_logits
        sequence.num_computed_tokens += work.num_tokens
        if token_id is None:
            return
        reason = sequence.append(token_id)
        if reason is not None:
            self.finish(sequence, reason)

    def finish(
        self, sequence: Sequence, reason: FinishReason, error: ServeError | None = None
    ) -> None:
        """End a sequence now and take back its seat and blocks.

        Args:
            sequence: A seated one.
            reason: Why.
            error: What failed, if the reason is ERROR.
        """
        self._release_blocks(sequence)
        sequence.enter(SequenceStatus.FINISHED)
        sequence.finish_reason = reason
        sequence.error = error
        del self._sequences[sequence.arrival_index]

    # --- the steps of schedule() ----------------------------------------------

    def _drop_ended(self, now_s: float) -> list[Sequence]:
        dropped = []
        for sequence in list(self._sequences.values()):
            reason = _unwanted(sequence, now_s)
            if reason is not None:
                self.finish(sequence, reason)
                dropped.append(sequence)
        return dropped

    def _pause_or_resume(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            if not sequence.holds_blocks:
                continue
            status = SequenceStatus.RUNNING if _has_room(sequence) else SequenceStatus.PAUSED
            if status is not sequence.status:
                sequence.enter(status)

    def _grow(self, in_order: Iterable[Sequence]) -> None:
        """Give running sequences, best first, the blocks that their tokens need.

        A victim is always behind the one that it is taken for, so none has grown before.
        """
        for sequence in in_order:
            if sequence.status is not SequenceStatus.RUNNING:
                continue
            num_blocks = self._pool.blocks_for(sequence.num_tokens) - len(sequence.block_table)
            if num_blocks > 0 and self._make_room(num_blocks, sequence.rank):
                sequence.block_table += self._pool.allocate(num_blocks)

    def _share_budget(self, in_order: Iterable[Sequence]) -> _StepPlan:
        """Keep a token for each decoding sequence and give the rest to the others, by rank."""
        decoding: list[Sequence] = []
        others: list[Sequence] = []
        for sequence in in_order:
            is_decoding = self._can_compute(sequence) and sequence.num_pending_tokens == 1
            (decoding if is_decoding else others).append(sequence)
        plan = _StepPlan(num_tokens_left=self._max_batch_tokens - len(decoding))
        self._schedule_catching_up(others, plan)
        plan.num_tokens_left += len(decoding)
        for sequence in decoding:
            if self._can_compute(sequence):  # a newcomer of a better class may have preempted it
                plan.add(sequence)
        return plan

    def _schedule_catching_up(self, in_order: Iterable[Sequence], plan: _StepPlan) -> None:
        """Share the plan's tokens among sequences with more to compute, admitting newcomers.

        The first that finds no blocks keeps all behind it from being admitted: they would
        take the blocks that it waits for.
        """
        may_admit = True
        for sequence in in_order:
            if plan.num_tokens_left == 0:
                return
            if may_admit and not sequence.holds_blocks and _has_room(sequence):
                is_new = sequence.status is SequenceStatus.WAITING
                may_admit = self._admit(sequence)
                if may_admit and is_new:
                    plan.started.append(sequence)
            if self._can_compute(sequence):
                plan.add(sequence)

    # --- blocks ---------------------------------------------------------------

    def _admit(self, sequence: Sequence) -> bool:
        """Give a waiting or preempted sequence its first blocks; False if there are too few."""
        is_exempt = _is_exempt(sequence)
        num_tokens = sequence.max_computed_tokens if is_exempt else sequence.num_tokens
        num_blocks = self._pool.blocks_for(num_tokens)
        behind_its_class = (sequence.rank[0], math.inf)
        if not self._make_room(num_blocks + self._watermark(), behind_its_class):
            return False
        sequence.block_table = self._pool.allocate(num_blocks)
        sequence.enter(SequenceStatus.RUNNING)
        return True

    def _watermark(self) -> int:
        """Blocks that admission leaves free: one for each running sequence that may grow."""
        return sum(
            sequence.status is SequenceStatus.RUNNING
            and len(sequence.block_table) < self._pool.blocks_for(sequence.max_computed_tokens)
            for sequence in self._sequences.values()
        )

    def _make_room(self, num_blocks: int, rank: tuple[int, float]) -> bool:
        """See that blocks are free, preempting for one of `rank`; all of them, or nobody."""
        if self._pool.num_free >= num_blocks:
            return True
        num_free = self._pool.num_free
        chosen = []
        for victim in self._victims(rank):
            chosen.append(victim)
            num_free += len(victim.block_table)
            if num_free >= num_blocks:
                break
        else:
            return False
        for victim in chosen:
            self._preempt(victim)
        return True

    def _victims(self, rank: tuple[int, float]) -> list[Sequence]:
        """Those whose blocks one of `rank` may take, in the order in which they are taken."""
        victims = [
            sequence
            for sequence in self._sequences.values()
            if sequence.holds_blocks
            and not _is_exempt(sequence)
            and (sequence.status is SequenceStatus.PAUSED or sequence.rank > rank)
        ]
        victims.sort(key=_takes_first, reverse=True)
        return victims

    def _preempt(self, sequence: Sequence) -> None:
        self._release_blocks(sequence)
        sequence.num_computed_tokens = 0
        sequence.num_preemptions += 1
        sequence.enter(SequenceStatus.PREEMPTED)
        self.num_preemptions += 1

    def _release_blocks(self, sequence: Sequence) -> None:
        self._pool.free(sequence.block_table)
        sequence.block_table = []

    def _can_compute(self, sequence: Sequence) -> bool:
        """Whether it is running and its blocks cover its tokens."""
        return (
            sequence.status is SequenceStatus.RUNNING
            and len(sequence.block_table) * self._pool.block_size >= sequence.num_tokens
        )

    def check_integrity(self) -> None:
        """Assert that seats, statuses and blocks agree. Holds between steps."""
        self._pool.check_integrity()
        assert 0 <= len(self._sequences) <= self._max_num_seqs
        owned = [block for s in self._sequences.values() for block in s.block_table]
        assert len(set(owned)) == len(owned) == self._pool.num_used, "a block has two owners"
        for sequence in self._sequences.values():
            self._check_sequence(sequence)

    def _check_sequence(self, sequence: Sequence) -> None:
        assert sequence.status is not SequenceStatus.FINISHED
        assert sequence.holds_blocks == bool(sequence.block_table)
        assert sequence.num_pending_tokens >= 1
        num_blocks = len(sequence.block_table)
        assert num_blocks >= self._pool.blocks_for(sequence.num_computed_tokens)
        assert num_blocks <= self._pool.blocks_for(sequence.max_computed_tokens)
        assert sequence.num_preemptions <= MAX_PREEMPTIONS


def _takes_first(sequence: Sequence) -> tuple[bool, tuple[int, int]]:
    return sequence.status is SequenceStatus.PAUSED, sequence.rank


def _is_exempt(sequence: Sequence) -> bool:
    return sequence.num_preemptions >= MAX_PREEMPTIONS


def _has_room(sequence: Sequence) -> bool:
    """Whether the ring takes the token that a step may emit; if not, its reader will kick."""
    return sequence.ring.free_space() >= 1 or not sequence.ring.mark_stalled()


def _unwanted(sequence: Sequence, now_s: float) -> FinishReason | None:
    """Why nobody waits for this sequence any more, or None."""
    cancel_state = sequence.ring.cancel_state
    if cancel_state != _token_ring.OPEN:
        return CANCEL_REASONS[cancel_state]
    deadline_at_s = sequence.request.deadline_at_s
    if deadline_at_s is not None and now_s >= deadline_at_s:
        return FinishReason.DEADLINE
    return None
