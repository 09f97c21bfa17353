"""When blocks run short: who is preempted, who is admitted, and that nothing locks up."""

from __future__ import annotations

import random
from collections import Counter

from realtime_serve import _token_ring
from realtime_serve.engine.allotment import MAX_PREEMPTIONS
from realtime_serve.engine.sequence import Sequence, SequenceStatus
from realtime_serve.types import FinishReason, RequestPriority
from support.scheduler_driver import BLOCK_SIZE, tokens_by_sequence
from support.scheduler_driver import SchedulerDriver as Driver

HIGH, NORMAL, LOW = RequestPriority
WAITING, RUNNING, PAUSED, PREEMPTED, FINISHED = SequenceStatus


# --- shortage of blocks -------------------------------------------------------


def test_growth_takes_from_the_paused_first_even_of_a_better_class() -> None:
    driver = Driver(7)
    paused = driver.add(8, priority=HIGH, ring_capacity=1)
    growing = driver.add(7, priority=NORMAL)
    youngest = driver.add(3, priority=LOW)
    assert len(driver.step().started) == 3
    driver.steps_until(paused, PREEMPTED)
    assert growing.status is youngest.status is RUNNING
    assert growing.num_preemptions == youngest.num_preemptions == 0


def test_growth_takes_from_the_lowest_class_and_there_from_the_youngest() -> None:
    driver = Driver(11)
    normal = driver.add(7, priority=NORMAL)
    low_old = driver.add(7, priority=LOW)
    low_young = driver.add(7, priority=LOW)
    normal_young = driver.add(7, priority=NORMAL)
    assert len(driver.step().started) == 4
    in_order = [low_young, low_old, normal_young]
    for num_victims, sequence in enumerate(in_order, start=1):
        driver.steps_until(sequence, PREEMPTED)
        assert [s for s in in_order if s.num_preemptions] == in_order[:num_victims]
    driver.steps_until(normal, FINISHED)
    assert normal.num_preemptions == 0


def test_nobody_takes_blocks_from_a_running_sequence_of_better_rank() -> None:
    driver = Driver(4)
    old = driver.add(6, max_tokens=3)
    young = driver.add(7, max_tokens=6)
    driver.step()
    driver.step()
    held = young.block_table[:]
    driver.step()
    assert old.num_preemptions == 0
    assert young.status is RUNNING, "it waits with its blocks rather than preempt itself"
    assert young.block_table[: len(held)] == held
    driver.steps_until(young, FINISHED)
    assert driver.scheduler.num_preemptions == 0


def test_a_preempted_sequence_computes_what_was_lost_again_and_goes_on() -> None:
    driver = Driver(5)
    old = driver.add(7, max_tokens=9)
    young = driver.add(7, max_tokens=9)
    driver.steps_until(young, PREEMPTED)
    assert young.num_computed_tokens == 0
    assert not young.block_table
    num_tokens = young.num_tokens
    assert num_tokens > 7
    driver.steps_until(old, FINISHED)
    driver.steps_until(young, RUNNING)
    assert young.num_tokens == num_tokens + 1
    assert len(driver.step().started) == 0
    driver.steps_until(young, FINISHED)
    assert young.num_generated_tokens == 9


def test_a_lone_sequence_may_fill_the_whole_pool() -> None:
    driver = Driver(4)
    sequence = driver.add(7, max_tokens=10)
    driver.steps_until(sequence, FINISHED)
    assert sequence.num_generated_tokens == 10
    assert driver.scheduler.num_preemptions == 0


# --- admission ----------------------------------------------------------------


def test_admission_leaves_a_block_for_each_running_sequence_that_may_grow() -> None:
    driver = Driver(5)
    driver.add(8, max_tokens=20)
    driver.step()
    newcomer = driver.add(9)
    driver.step()
    assert newcomer.status is WAITING, "3 blocks needed and 3 free, less 1 for growth"


def test_no_block_is_held_back_for_a_sequence_that_has_all_it_will_need() -> None:
    driver = Driver(5)
    driver.add(8, max_tokens=1, ring_capacity=1)
    driver.add(5, max_tokens=3)
    driver.step()
    newcomer = driver.add(9, max_tokens=1)
    plan = driver.step()
    assert plan.started == [newcomer]


def test_a_newcomer_takes_no_blocks_from_running_sequences_of_its_class() -> None:
    driver = Driver(4)
    running = driver.add(13)
    driver.step()
    newcomer = driver.add(4)
    driver.step()
    assert running.status is RUNNING
    assert newcomer.status is WAITING


def test_a_newcomer_of_a_better_class_takes_the_blocks_of_a_worse_one() -> None:
    driver = Driver(4)
    running = driver.add(13, priority=LOW)
    driver.step()
    newcomer = driver.add(4, priority=NORMAL)
    plan = driver.step()
    assert running.status is PREEMPTED
    assert plan.started == [newcomer]
    assert tokens_by_sequence(plan) == {"1": 4}


def test_nobody_is_preempted_when_that_would_not_yield_enough() -> None:
    driver = Driver(6)
    driver.add(13, priority=HIGH)
    low = driver.add(4, max_tokens=1, priority=LOW, ring_capacity=1)
    low.ring.push(1)  # full from the start: never runs
    other = driver.add(4, max_tokens=2, priority=LOW)
    driver.step()
    newcomer = driver.add(16, priority=NORMAL)
    driver.step()
    assert newcomer.status is WAITING
    assert other.num_preemptions == 0


def test_a_sequence_that_finds_no_blocks_is_not_overtaken_within_its_class_or_below() -> None:
    driver = Driver(6)
    driver.add(13)
    driver.step()
    big = driver.add(12)
    small = driver.add(1, max_tokens=1)
    low = driver.add(1, max_tokens=1, priority=LOW)
    driver.step()
    assert big.status is small.status is low.status is WAITING
    high = driver.add(1, max_tokens=1, priority=HIGH)
    assert driver.step().started == [high]


def test_a_preempted_sequence_comes_back_before_newcomers_of_its_class() -> None:
    driver = Driver(5)
    old = driver.add(7, max_tokens=9)
    young = driver.add(7, max_tokens=9)
    driver.steps_until(young, PREEMPTED)
    newcomer = driver.add(7, max_tokens=1)
    driver.steps_until(old, FINISHED)
    driver.steps_until(young, RUNNING)
    assert newcomer.num_generated_tokens == 0
    driver.steps_until(newcomer, FINISHED)


def test_a_preempted_sequence_waits_outside_while_its_ring_is_full() -> None:
    driver = Driver(5)
    slow = driver.add(7, ring_capacity=1)
    other = driver.add(7, max_tokens=9)
    driver.steps_until(slow, PREEMPTED)
    driver.steps_until(other, FINISHED)
    assert driver.step().scheduled == []
    assert slow.status is PREEMPTED
    slow.ring.pop()
    assert slow.ring.take_stalled(), "it asked to be kicked"
    driver.step()
    assert slow.status is RUNNING


def test_one_that_comes_back_takes_no_blocks_from_running_sequences_of_its_class() -> None:
    driver = Driver(5)
    slow = driver.add(7, ring_capacity=1)
    other = driver.add(7, max_tokens=9)
    driver.steps_until(slow, PREEMPTED)
    slow.ring.pop()
    driver.steps_until(other, FINISHED)
    assert other.num_preemptions == 0, "although it is younger"
    driver.steps_until(slow, RUNNING)


# --- exemption ----------------------------------------------------------------


def preempt_until_exempt(driver: Driver, sequence: Sequence) -> None:
    """Have a sequence lose its blocks to one HIGH request after the other."""
    for count in range(1, MAX_PREEMPTIONS + 1):
        driver.steps_until(sequence, RUNNING)
        driver.add(driver.pool.num_blocks * BLOCK_SIZE, max_tokens=1, priority=HIGH)
        driver.steps_until(sequence, PREEMPTED)
        assert sequence.num_preemptions == count
    driver.steps_until(sequence, RUNNING)


def test_one_preempted_three_times_holds_all_it_needs_and_is_never_preempted_again() -> None:
    driver = Driver(5)
    exempt = driver.add(4, max_tokens=13, priority=LOW)
    preempt_until_exempt(driver, exempt)
    assert len(exempt.block_table) == driver.pool.blocks_for(4 + 13 - 1)
    newcomer = driver.add(5, max_tokens=1, priority=HIGH)
    driver.steps_until(exempt, FINISHED)
    assert newcomer.num_generated_tokens == 0, "all others are exempt: it waited"
    assert exempt.num_preemptions == MAX_PREEMPTIONS
    driver.steps_until(newcomer, FINISHED)


def test_an_exempt_sequence_keeps_its_blocks_while_it_is_paused() -> None:
    driver = Driver(5)
    exempt = driver.add(4, max_tokens=13, priority=LOW, ring_capacity=16)
    preempt_until_exempt(driver, exempt)
    while exempt.ring.push(0):
        pass
    newcomer = driver.add(5, priority=HIGH)
    for _ in range(3):
        assert driver.step().scheduled == []
    assert exempt.status is PAUSED
    assert exempt.block_table
    assert newcomer.status is WAITING
    exempt.ring.pop()
    driver.steps_until(newcomer, RUNNING)


# --- nothing locks up ---------------------------------------------------------


def random_event(driver: Driver, draw: random.Random) -> None:
    """An arrival, a cancellation, a reader that reads a little, or a step."""
    (event,) = draw.choices(["add", "cancel", "read", "step"], [5, 1, 4, 10])
    if event == "step":
        check_progress(driver)
    elif event == "add" and driver.scheduler.free_slots:
        driver.add(
            draw.randint(1, min(16, driver.pool.num_blocks * BLOCK_SIZE)),
            draw.randint(1, 16),
            priority=draw.choice(list(RequestPriority)),
            ring_capacity=draw.choice([1, 2, 64]),
        )
    elif driver.added:
        ring = draw.choice(driver.added).ring
        if event == "read":
            ring.pop(1)
        elif event == "cancel":
            ring.request_cancel(_token_ring.CANCELLED)


def check_progress(driver: Driver) -> None:
    """Step; nothing moves only if there is nothing, or a full ring holds it up."""
    if driver.step().scheduled:
        return
    seated = [sequence for sequence in driver.added if sequence.status is not FINISHED]
    assert not seated or any(sequence.ring.free_space() == 0 for sequence in seated)


def drain(driver: Driver) -> None:
    """Let every reader read; then all must end, and soon."""
    for _ in range(driver.scheduler.num_sequences * 100):
        if driver.scheduler.num_sequences == 0:
            return
        for sequence in driver.added:
            sequence.ring.pop(1)
        plan = driver.step()
        assert plan.scheduled or plan.dropped, "the readers read, and yet nothing moves"


def test_whatever_happens_every_sequence_ends_once_its_reader_reads() -> None:
    seen: Counter[str] = Counter()
    for seed in range(120):
        draw = random.Random(seed)
        driver = Driver(
            draw.randint(2, 8), max_num_seqs=5, max_batch_tokens=draw.choice([5, 8, 64])
        )
        for _ in range(100):
            random_event(driver, draw)
        drain(driver)
        assert driver.scheduler.num_sequences == driver.pool.num_used == 0, f"seed {seed}"
        for sequence in driver.added:
            assert sequence.status is FINISHED
            assert sequence.num_preemptions <= MAX_PREEMPTIONS
            if sequence.finish_reason is FinishReason.LENGTH:
                assert sequence.num_generated_tokens == sequence.max_tokens
            seen[f"preempted {sequence.num_preemptions} times"] += 1
    for count in range(MAX_PREEMPTIONS + 1):
        assert seen[f"preempted {count} times"] >= 50, f"the histories are too tame: {seen}"
