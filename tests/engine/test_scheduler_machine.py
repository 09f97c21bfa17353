"""Any history of arrivals, forks, cancellations, slow readers and steps, in a pool too small.

Readers that do nothing are dropped at once, after three steps or never. With and without
guesses: there are two tokens only, in no order, so that guesses are often right and often wrong.

Hypothesis looks for one that breaks an invariant. After every step `check_integrity` holds, the
driver's memory shows that nobody reads a block which holds anything but its own history, and at
the end every sequence ends once its reader reads.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from realtime_serve import _token_ring
from realtime_serve.engine.sequence import Sequence, SequenceStatus
from realtime_serve.engine.speculation import Speculation
from realtime_serve.engine.step_plan import SchedulerOutput
from realtime_serve.types import FinishReason, RequestPriority
from support.scheduler_driver import BLOCK_SIZE
from support.scheduler_driver import SchedulerDriver as Driver

PRIORITIES = st.sampled_from(list(RequestPriority))
PROMPTS = st.tuples(st.integers(0, 2), st.integers(0, 24), st.integers(1, 9))
"""Which of three common beginnings, how much of it, and how much of its own."""


class SchedulerMachine(RuleBasedStateMachine):
    """The rules are what the world can do to a scheduler."""

    @initialize(
        num_blocks=st.integers(2, 12),
        max_batch_tokens=st.sampled_from([6, 9, 100]),
        num_speculative_tokens=st.sampled_from([0, 2, 8]),
        reader_lease_s=st.sampled_from([None, 0.0, 3.0]),
    )
    def start(
        self,
        num_blocks: int,
        max_batch_tokens: int,
        num_speculative_tokens: int,
        reader_lease_s: float | None,
    ) -> None:
        self.now_s = 0.0
        self.driver = Driver(
            num_blocks,
            max_num_seqs=6,
            max_batch_tokens=max_batch_tokens,
            speculation=Speculation(num_speculative_tokens) if num_speculative_tokens else None,
            reader_lease_s=reader_lease_s,
            next_token=lambda history: 1 + (history % 3 == 0),
        )

    def seated(self) -> list[Sequence]:
        return [s for s in self.driver.added if s.status is not SequenceStatus.FINISHED]

    def parents(self) -> list[Sequence]:
        return [s for s in self.seated() if s.holds_blocks and s.num_computed_tokens > 0]

    def has_seat(self) -> bool:
        return hasattr(self, "driver") and self.driver.scheduler.free_slots > 0

    @precondition(has_seat)
    @rule(
        prompt=PROMPTS,
        max_tokens=st.integers(1, 12),
        priority=PRIORITIES,
        ring_capacity=st.sampled_from([1, 4, 64]),
    )
    def arrive(
        self,
        prompt: tuple[int, int, int],
        max_tokens: int,
        priority: RequestPriority,
        ring_capacity: int,
    ) -> None:
        beginning, num_shared, num_own = prompt
        room = self.driver.pool.num_blocks * BLOCK_SIZE
        self.driver.add(
            min(num_shared + num_own, room),
            max_tokens,
            shared=tuple(range(100 * beginning, 100 * beginning + num_shared)),
            priority=priority,
            ring_capacity=ring_capacity,
        )

    @precondition(lambda self: self.has_seat() and self.parents())
    @rule(data=st.data(), num_own=st.integers(0, 6), max_tokens=st.integers(1, 12))
    def fork(self, data: st.DataObject, num_own: int, max_tokens: int) -> None:
        parent = data.draw(st.sampled_from(self.parents()))
        num_shared = data.draw(st.integers(1, parent.num_tokens))
        room = self.driver.pool.num_blocks * BLOCK_SIZE
        own = range(9000, 9000 + num_own)
        self.driver.fork(parent, (*parent.token_ids[:num_shared], *own)[:room], max_tokens)

    @precondition(lambda self: self.seated())
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.seated())).ring.pop(data.draw(st.sampled_from([1, 100])))

    @precondition(lambda self: self.seated())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.seated()))
        sequence.ring.request_cancel(_token_ring.CANCELLED)

    @precondition(lambda self: self.parents())
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.parents()))
        self.driver.scheduler.finish(sequence, FinishReason.ERROR)

    @rule(num_steps=st.sampled_from([1, 1, 1, 5]))
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            plan = self.step_once()
            seated = self.seated()
            has_moved = plan.scheduled or plan.dropped
            assert has_moved or not seated or any(s.ring.free_space() == 0 for s in seated)

    def step_once(self) -> SchedulerOutput:
        self.now_s += 1.0
        return self.driver.step(self.now_s)

    @invariant()
    def integrity(self) -> None:
        if hasattr(self, "driver"):
            self.driver.scheduler.check_integrity()

    def teardown(self) -> None:
        """Every reader reads: all must end, and soon."""
        if not hasattr(self, "driver"):
            return
        for _ in range(self.driver.scheduler.num_sequences * 100):
            for sequence in self.driver.added:
                sequence.ring.pop(1)
            if self.driver.scheduler.num_sequences:
                plan = self.step_once()
                assert plan.scheduled or plan.dropped, "the readers read, and yet nothing moves"
        assert self.driver.scheduler.num_sequences == self.driver.pool.num_used == 0
        for sequence in self.driver.added:
            if sequence.finish_reason is FinishReason.LENGTH:
                assert sequence.num_generated_tokens == sequence.max_tokens


SchedulerMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=60, deadline=None
)
TestScheduler = SchedulerMachine.TestCase
