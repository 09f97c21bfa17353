"""What goes into a step: order, budget, ends and pausing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_serve import _token_ring
from realtime_serve.engine.sequence import Sequence, SequenceStatus
from realtime_serve.errors import StalledReaderError
from realtime_serve.types import FinishReason, RequestPriority
from support.scheduler_driver import SchedulerDriver as Driver
from support.scheduler_driver import tokens_by_sequence

HIGH, NORMAL, LOW = RequestPriority
WAITING, RUNNING, PAUSED, PREEMPTED, FINISHED = SequenceStatus


# --- the budget ---------------------------------------------------------------


def test_a_long_prompt_is_computed_in_chunks_and_gives_a_token_with_the_last() -> None:
    driver = Driver(16, max_batch_tokens=10)
    driver.add(25)
    plans = [driver.step() for _ in range(4)]
    assert [tokens_by_sequence(plan) for plan in plans] == [
        {"0": 10},
        {"0": 10},
        {"0": 5},
        {"0": 1},
    ]
    assert [plan.scheduled[0].wants_logits for plan in plans] == [False, False, True, True]
    assert [len(plan.started) for plan in plans] == [1, 0, 0, 0]


def test_prompts_share_a_step_with_each_other_and_with_decoding_sequences() -> None:
    driver = Driver(32, max_batch_tokens=12)
    driver.add(4)
    driver.step()
    driver.add(5)
    driver.add(9)
    assert tokens_by_sequence(driver.step()) == {"0": 1, "1": 5, "2": 6}
    assert tokens_by_sequence(driver.step()) == {"0": 1, "1": 1, "2": 3}


@given(
    num_seats=st.integers(2, 6),
    spare=st.integers(0, 3),
    num_prompt=st.integers(2, 30),
)
def test_neither_decoding_nor_a_prompt_starves_in_the_tightest_budget(
    num_seats: int, spare: int, num_prompt: int
) -> None:
    """Every seat but one decodes; the budget is hardly more than the seats."""
    driver = Driver(100, max_num_seqs=num_seats, max_batch_tokens=num_seats + spare)
    for _ in range(num_seats - 1):
        driver.add(1)
        driver.step()
    driver.add(num_prompt)
    chunk = 1 + spare
    for _ in range(-(-num_prompt // chunk)):
        scheduled = tokens_by_sequence(driver.step())
        prompt_tokens = scheduled.pop(str(num_seats - 1))
        assert 1 <= prompt_tokens <= chunk
        assert scheduled == {str(i): 1 for i in range(num_seats - 1)}
    assert driver.added[-1].num_generated_tokens == 1


def test_a_better_class_computes_its_prompt_before_a_half_done_one() -> None:
    driver = Driver(32, max_batch_tokens=8)
    low = driver.add(30, priority=LOW)
    driver.step()
    high = driver.add(10, priority=HIGH)
    driver.step()
    driver.step()
    assert high.num_generated_tokens == 1
    assert low.num_computed_tokens == 8 + 6
    assert low.status is RUNNING


def test_sequences_are_admitted_by_class_and_then_by_arrival() -> None:
    driver = Driver(64, max_batch_tokens=8)
    for priority in (LOW, NORMAL, HIGH, NORMAL):
        driver.add(8, max_tokens=1, priority=priority)
    started = [seq.request.request_id for _ in range(4) for seq in driver.step().started]
    assert started == ["2", "1", "3", "0"]


# --- ends ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        (_token_ring.CANCELLED, FinishReason.CANCELLED),
        (_token_ring.DEADLINE, FinishReason.DEADLINE),
        (_token_ring.STOP, FinishReason.STOP),
    ],
)
def test_what_its_reader_asks_for_ends_a_sequence_before_the_next_step(
    wish: int, reason: FinishReason
) -> None:
    driver = Driver(16)
    sequence = driver.add(10)
    driver.step()
    sequence.ring.request_cancel(wish)
    plan = driver.step()
    assert plan.dropped == [sequence]
    assert sequence.finish_reason is reason
    assert plan.scheduled == []
    assert driver.pool.num_used == driver.scheduler.num_sequences == 0


def test_a_sequence_past_its_deadline_is_dropped_even_if_it_never_ran() -> None:
    driver = Driver(16)
    sequence = driver.add(10, deadline_at_s=5.0)
    plan = driver.step(now_s=5.0)
    assert plan.dropped == [sequence]
    assert plan.started == []
    assert sequence.finish_reason is FinishReason.DEADLINE


def test_each_sequence_is_dropped_at_its_own_deadline() -> None:
    driver = Driver(32)
    sequences = [driver.add(5, deadline_at_s=deadline_s) for deadline_s in (7.0, 5.0, 9.0)]
    dropped = [driver.step(now_s).dropped for now_s in (4.0, 5.0, 6.0, 8.0, 9.0)]
    assert dropped == [[], [sequences[1]], [], [sequences[0]], [sequences[2]]]


def test_before_its_deadline_a_sequence_runs() -> None:
    driver = Driver(16)
    driver.add(10, deadline_at_s=5.0)
    assert driver.step(now_s=4.9).dropped == []


def test_an_ended_sequence_gives_its_seat_and_blocks_back_at_once() -> None:
    driver = Driver(4, max_num_seqs=1)
    driver.add(10, max_tokens=2)
    driver.step()
    assert driver.scheduler.free_slots == 0
    driver.step()
    assert driver.scheduler.free_slots == 1
    assert driver.pool.num_used == 0


# --- pausing ------------------------------------------------------------------


def test_a_full_ring_pauses_its_sequence_only_and_blocks_are_kept() -> None:
    driver = Driver(32)
    slow = driver.add(4, ring_capacity=2)
    quick = driver.add(4)
    for _ in range(6):
        driver.step()
    assert slow.status is PAUSED
    assert slow.num_generated_tokens == 2
    assert slow.block_table
    assert quick.num_generated_tokens == 6


def test_a_paused_sequence_asks_to_be_kicked_and_resumes_where_it_was() -> None:
    driver = Driver(32)
    slow = driver.add(4, ring_capacity=2)
    for _ in range(4):
        driver.step()
    slow.ring.pop()
    assert slow.ring.take_stalled()
    blocks = slow.block_table[:]
    assert tokens_by_sequence(driver.step()) == {"0": 1}
    assert slow.block_table[: len(blocks)] == blocks
    assert slow.num_generated_tokens == 3


# --- readers that do nothing --------------------------------------------------


def full_ring_after(driver: Driver, now_s: float) -> Sequence:
    """A sequence whose ring is full, as of a step at that instant."""
    slow = driver.add(4, ring_capacity=2)
    while slow.status is not PAUSED:
        driver.step(now_s)
    return slow


def test_a_reader_that_does_nothing_for_too_long_loses_its_seat_and_blocks() -> None:
    driver = Driver(32, reader_lease_s=10.0)
    slow = full_ring_after(driver, 0.0)
    assert driver.step(9.9).next_lapse_at_s == 10.0
    assert slow.status is PAUSED
    assert driver.step(10.0).dropped == [slow]
    assert slow.finish_reason is FinishReason.CANCELLED
    assert isinstance(slow.error, StalledReaderError)
    assert driver.scheduler.free_slots == 8
    assert driver.pool.num_used == 0
    assert driver.step(20.0).next_lapse_at_s is None


def test_a_preempted_sequence_loses_its_seat_to_its_reader_too() -> None:
    driver = Driver(5, reader_lease_s=10.0)
    slow = full_ring_after(driver, 0.0)
    driver.add(16, max_tokens=2)
    driver.step(1.0)
    assert slow.status is PREEMPTED
    assert driver.step(10.0).dropped == [slow]


@pytest.mark.parametrize("act", ["read", "renew"])
def test_whatever_a_reader_does_renews_its_lease(act: str) -> None:
    driver = Driver(32, reader_lease_s=10.0)
    slow = full_ring_after(driver, 0.0)
    for now_s in range(5, 100, 5):
        if act == "read":
            slow.ring.pop(1)
        else:
            slow.ring.renew()
        for _ in range(2):  # to fill the ring again, and to see that it is full
            assert driver.step(float(now_s)).dropped == []
    assert driver.step(104.0).dropped == []
    assert driver.step(105.0).dropped == [slow]


def test_only_a_full_ring_has_a_lease() -> None:
    driver = Driver(32, reader_lease_s=10.0)
    unread = driver.add(4, ring_capacity=1024)
    assert driver.step(0.0).next_lapse_at_s is None
    driver.step(1000.0)
    assert unread.status is RUNNING


def test_a_lease_of_nothing_ends_a_sequence_with_the_step_that_finds_no_room() -> None:
    driver = Driver(32, reader_lease_s=0.0)
    slow = driver.add(4, ring_capacity=2)
    quick = driver.add(4)
    dropped = [driver.step().dropped for _ in range(3)]
    assert dropped == [[], [], [slow]]
    assert slow.num_generated_tokens == 2
    assert quick.num_generated_tokens == 3


def test_without_a_lease_a_reader_may_sleep_for_ever() -> None:
    driver = Driver(32, reader_lease_s=None)
    slow = full_ring_after(driver, 0.0)
    assert driver.step(1e9).dropped == []
    assert slow.status is PAUSED
