"""Iteration: how many tokens of which sequence go into the next step.

Every sequence has computed tokens that must catch up with its tokens, within one token
budget a step. A sequence one token behind decodes; one further behind has a prompt to
compute, or lost its blocks. Nothing else tells the two apart.

    schedule: drop the ended ─▶ pause or resume by ring room ─▶ drop those whose readers do
              nothing ─▶ give running sequences the blocks they need ─▶ share the budget,
              admitting newcomers on the way

Order. Rank is (class, arrival); the best goes first everywhere. Seats never exceed the
token budget, and each decoding sequence needs one token. So all of them always fit, and
whenever a sequence has a prompt to compute, there is at least one token left for it:
neither can starve the other. While some decode, PrefillBudget may leave the others less than
the whole budget, but never nothing. Who gets blocks is the Allotment's business.

A step in which a few sequences decode and nothing else happens has room for guesses of what
comes next (Speculation). They use what is left over: blocks that nobody waits for, room in the
ring, tokens of the budget. If that is not enough, there are fewer guesses.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from operator import attrgetter

from realtime_serve import _token_ring
from realtime_serve.engine.allotment import Admission, Allotment
from realtime_serve.engine.kv_cache import BlockPool
from realtime_serve.engine.prefill_budget import PrefillBudget
from realtime_serve.engine.prefix_cache import PrefixCache
from realtime_serve.engine.reader_leases import ReaderLeases
from realtime_serve.engine.sequence import Sequence, SequenceStatus
from realtime_serve.engine.speculation import Speculation
from realtime_serve.engine.step_plan import ScheduledSequence, SchedulerOutput
from realtime_serve.errors import ServeError, StalledReaderError
from realtime_serve.types import FinishReason

CANCEL_REASONS = {
    _token_ring.STOP: FinishReason.STOP,
    _token_ring.CANCELLED: FinishReason.CANCELLED,
    _token_ring.DEADLINE: FinishReason.DEADLINE,
}


@dataclass(kw_only=True, slots=True)
class _CatchingUp:
    """Shares tokens out among the sequences that are more than one behind."""

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
    """Seats, orders and pauses the sequences of one engine.

    Args:
        pool: The blocks; enough for the longest sequence that will be added.
        max_num_seqs: Seats.
        max_batch_tokens: Token budget of a step; at least max_num_seqs.
        prefix_cache: Knows the pool's contents; None if sequences share nothing.
        prefill_budget: Bounds prompts while others decode; None if nothing does.
        speculation: Guesses tokens ahead; None if nobody does.
        reader_lease_s: See ReaderLeases.
    """

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_num_seqs: int,
        max_batch_tokens: int,
        prefix_cache: PrefixCache | None = None,
        prefill_budget: PrefillBudget | None = None,
        speculation: Speculation | None = None,
        reader_lease_s: float | None = None,
    ) -> None:
        assert max_batch_tokens >= max_num_seqs
        self._pool = pool
        self._max_num_seqs = max_num_seqs
        self._max_batch_tokens = max_batch_tokens
        self._prefix_cache = prefix_cache
        self._prefill_budget = prefill_budget
        self._speculation = speculation
        self._seated: list[Sequence] = []  # best rank first
        self._allotment = Allotment(pool, prefix_cache, self._seated)
        self._earliest_deadline_s = math.inf
        self._leases: ReaderLeases[Sequence] = ReaderLeases(reader_lease_s)

    @property
    def free_slots(self) -> int:
        """Seats left."""
        return self._max_num_seqs - len(self._seated)

    @property
    def num_sequences(self) -> int:
        """Seats taken, whatever the sequences' status."""
        return len(self._seated)

    @property
    def num_preemptions(self) -> int:
        """Preemptions so far."""
        return self._allotment.num_preemptions

    def count_by_status(self) -> dict[SequenceStatus, int]:
        """Seated sequences of each status."""
        statuses = [sequence.status for sequence in self._seated]
        return {status: statuses.count(status) for status in SequenceStatus}

    def add(self, sequence: Sequence) -> None:
        """Seat a sequence; it is scheduled as soon as its rank and the blocks allow.

        Args:
            sequence: A waiting one, of a new arrival index, that fits the pool alone.
        """
        assert self.free_slots > 0, "the caller looks at free_slots first"
        assert self._pool.blocks_for(sequence.max_computed_tokens) <= self._pool.num_blocks
        insort(self._seated, sequence, key=attrgetter("rank"))
        deadline_at_s = sequence.request.deadline_at_s
        if deadline_at_s is not None:
            self._earliest_deadline_s = min(self._earliest_deadline_s, deadline_at_s)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Seat a sequence that goes on from what another one has computed.

        Args:
            parent: A seated one that holds blocks.
            child: As for `add`.
        """
        self.add(child)
        self._allotment.fork(parent, child)

    def schedule(self, now_s: float) -> SchedulerOutput:
        """Choose the next step's work and allocate its blocks.

        Args:
            now_s: The instant, on the clock of the requests' deadlines.

        Returns:
            The work; each scheduled sequence must be committed or finished before the
            next call.
        """
        dropped = self._drop_ended(now_s)
        self._pause_or_resume()
        dropped += self._drop_unread(now_s)
        self._allotment.grow()
        catching_up, decoding = self._share_budget()
        if self._speculation is not None and not catching_up.scheduled:
            decoding = self._add_drafts(self._speculation, decoding)
        return SchedulerOutput(
            scheduled=catching_up.scheduled + decoding,
            num_decoding=len(decoding),
            num_draft_tokens=sum(len(work.draft_token_ids) for work in decoding),
            num_prompt_tokens=sum(work.num_tokens for work in catching_up.scheduled),
            block_copies=self._allotment.take_copies(),
            started=catching_up.started,
            dropped=dropped,
            next_lapse_at_s=self._leases.next_end_at_s,
        )

    def observe(self, step: SchedulerOutput, duration_s: float) -> None:
        """Learn how long computing a step took."""
        if self._prefill_budget is not None:
            num_decoding = step.num_decoding + step.num_draft_tokens  # their rows cost the same
            self._prefill_budget.observe(num_decoding, step.num_prompt_tokens, duration_s)

    def commit(self, work: ScheduledSequence, token_ids: Tokens[int]) -> int:
        """Record that scheduled work was computed; finishes the sequence if that ends it.

        Args:
            work: What was computed.
            token_ids: The next tokens: if its logits were wanted, one more than guesses were
                right; none otherwise.

        Returns:
            How many of them the sequence has taken: it may end before the last.
        """
        sequence = work.sequence
        assert work.wants_logits == (len(token_ids) > 0)
        num_taken, reason = sequence.extend(token_ids)
        num_accepted = max(0, num_taken - 1)
        sequence.num_computed_tokens += work.num_tokens + num_accepted
        if self._speculation is not None and work.draft_token_ids:
            self._speculation.observe(sequence, len(work.draft_token_ids), num_accepted)
        self._keep_full_blocks(sequence)
        if reason is not None:
            self.finish(sequence, reason)
        return num_taken

    def finish(
        self, sequence: Sequence, reason: FinishReason, error: ServeError | None = None
    ) -> None:
        """End a sequence now and take back its seat and blocks.

        Args:
            sequence: A seated one.
            reason: Why.
            error: What failed, if the reason is ERROR; why, if it is CANCELLED by the engine.
        """
        if reason is FinishReason.ERROR:
            self._allotment.forget(sequence)
        self._allotment.release(sequence)
        if self._speculation is not None:
            self._speculation.end(sequence)
        sequence.enter(SequenceStatus.FINISHED)
        sequence.finish_reason = reason
        sequence.error = error
        self._seated.remove(sequence)

    # --- the steps of schedule() ----------------------------------------------

    def _drop_ended(self, now_s: float) -> list[Sequence]:
        dropped = [sequence for sequence in self._seated if sequence.ring.cancel_state]
        for sequence in dropped:
            self.finish(sequence, CANCEL_REASONS[sequence.ring.cancel_state])
        if now_s >= self._earliest_deadline_s:
            dropped += self._drop_expired(now_s)
        return dropped

    def _drop_expired(self, now_s: float) -> list[Sequence]:
        expired = [sequence for sequence in self._seated if _deadline(sequence) <= now_s]
        for sequence in expired:
            self.finish(sequence, FinishReason.DEADLINE)
        self._earliest_deadline_s = min(map(_deadline, self._seated), default=math.inf)
        return expired

    def _pause_or_resume(self) -> None:
        running, paused = SequenceStatus.RUNNING, SequenceStatus.PAUSED
        for sequence in self._seated:
            status = sequence.status
            if status is running:
                if not _has_room(sequence):
                    sequence.enter(paused)
                    if self._prefix_cache is not None:
                        self._prefix_cache.unclaim(sequence)
            elif status is paused and _has_room(sequence):
                sequence.enter(running)

    def _drop_unread(self, now_s: float) -> list[Sequence]:
        paused, preempted = SequenceStatus.PAUSED, SequenceStatus.PREEMPTED
        waiting = [
            sequence
            for sequence in self._seated
            if (sequence.status is paused or sequence.status is preempted) and _is_full(sequence)
        ]
        lapsed = self._leases.lapsed(waiting, now_s)
        for sequence in lapsed:
            self.finish(sequence, FinishReason.CANCELLED, StalledReaderError())
        return lapsed

    def _share_budget(self) -> tuple[_CatchingUp, list[ScheduledSequence]]:
        """Keep a token for each decoding sequence and give the rest to the others, by rank."""
        decoding: list[Sequence] = []
        others: list[Sequence] = []
        for sequence in self._seated:
            num_behind = len(sequence.token_ids) - sequence.num_computed_tokens
            is_decoding = num_behind == 1 and self._can_compute(sequence)
            (decoding if is_decoding else others).append(sequence)
        catching_up = _CatchingUp(num_tokens_left=self._num_prompt_tokens(len(decoding), others))
        self._catch_up(others, catching_up)
        return catching_up, [
            ScheduledSequence(sequence, 1, True)
            for sequence in decoding
            # A newcomer of a better class may have preempted it.
            if sequence.status is SequenceStatus.RUNNING
        ]

    def _num_prompt_tokens(self, num_decoding: int, others: Iterable[Sequence]) -> int:
        """What a step has for the prompts of others beside so many decoding sequences."""
        num_left = self._max_batch_tokens - num_decoding
        if self._prefill_budget is None or num_decoding == 0:
            return num_left
        paused = SequenceStatus.PAUSED
        num_waiting = sum(each.num_tokens for each in others if each.status is not paused)
        return min(num_left, self._prefill_budget.max_prompt_tokens(num_decoding, num_waiting))

    def _catch_up(self, in_order: Iterable[Sequence], catching_up: _CatchingUp) -> None:
        """Share tokens out among sequences with more to compute, admitting newcomers.

        The first that finds no blocks keeps all behind it from being admitted: they would
        take the blocks that it waits for.
        """
        may_admit = True
        for sequence in in_order:
            if catching_up.num_tokens_left == 0:
                return
            if may_admit and not sequence.holds_blocks and _has_room(sequence):
                is_new = sequence.status is SequenceStatus.WAITING
                admission = self._allotment.admit(sequence)
                may_admit = admission is not Admission.NO_BLOCKS
                if is_new and admission is Admission.ADMITTED:
                    catching_up.started.append(sequence)
            if self._can_compute(sequence):
                catching_up.add(sequence)

    def _add_drafts(
        self, speculation: Speculation, decoding: list[ScheduledSequence]
    ) -> list[ScheduledSequence]:
        """Give decoding sequences guesses, if they are few."""
        max_tokens = speculation.max_tokens_each(len(decoding), self._max_batch_tokens)
        if max_tokens == 0:
            return decoding
        return [
            work._replace(draft_token_ids=self._draft(speculation, work.sequence, max_tokens))
            for work in decoding
        ]

    def _draft(self, speculation: Speculation, sequence: Sequence, max_tokens: int) -> Tokens[int]:
        """A sequence's guesses, as many as its ring, its limits and the free blocks allow."""
        max_tokens = min(
            max_tokens,
            sequence.ring.free_space() - 1,  # all of them and the token after may be right
            sequence.max_computed_tokens - sequence.num_tokens,
        )
        if max_tokens <= 0:
            return ()
        draft_token_ids = speculation.propose(sequence, max_tokens)
        num_fitting = self._allotment.grow_ahead(sequence, len(draft_token_ids))
        return draft_token_ids[:num_fitting]

    def _can_compute(self, sequence: Sequence) -> bool:
        """Whether it is running and its blocks cover its tokens."""
        return sequence.status is SequenceStatus.RUNNING and len(
            sequence.block_table
        ) * self._pool.block_size >= len(sequence.token_ids)

    # --- the rest -------------------------------------------------------------

    def _keep_full_blocks(self, sequence: Sequence) -> None:
        num_full = sequence.num_computed_tokens // self._pool.block_size
        if self._prefix_cache is not None and num_full > sequence.num_committed_blocks:
            self._prefix_cache.commit(sequence)

    def check_integrity(self) -> None:
        """Assert that seats, statuses and blocks agree. Holds between steps."""
        assert 0 <= len(self._seated) <= self._max_num_seqs
        ranks = [sequence.rank for sequence in self._seated]
        assert ranks == sorted(set(ranks))
        for sequence in self._seated:
            assert sequence.status is not SequenceStatus.FINISHED
            assert sequence.num_pending_tokens >= 1
            assert _deadline(sequence) >= self._earliest_deadline_s
        self._allotment.check_integrity()
        if self._speculation is not None:
            self._speculation.check_integrity(self._seated)


def _deadline(sequence: Sequence) -> float:
    deadline_at_s = sequence.request.deadline_at_s
    return math.inf if deadline_at_s is None else deadline_at_s


def _is_full(sequence: Sequence) -> bool:
    return sequence.ring.free_space() == 0


def _has_room(sequence: Sequence) -> bool:
    """Whether the ring takes the token that a step may emit; if not, its reader will kick."""
    return not _is_full(sequence) or not sequence.ring.mark_stalled()
