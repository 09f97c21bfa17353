"""Prefix caching: what was computed once is found by whoever begins alike, and by nobody else.

The driver's memory proves in every step that each block holds the history that its users need.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_serve import _token_ring
from realtime_serve.engine.kv_cache import BlockPool
from realtime_serve.engine.scheduler import Scheduler
from realtime_serve.engine.sequence import Sequence, SequenceStatus
from realtime_serve.engine.step_plan import SchedulerOutput
from realtime_serve.types import FinishReason, RequestPriority
from support.scheduler_driver import BLOCK_SIZE, tokens_by_sequence
from support.scheduler_driver import SchedulerDriver as Driver

HIGH, NORMAL, LOW = RequestPriority
WAITING, RUNNING, PAUSED, PREEMPTED, FINISHED = SequenceStatus

SHARED = tuple(range(500, 512))
"""Three blocks."""


def num_computed(plans: list[SchedulerOutput]) -> int:
    return sum(work.num_tokens for plan in plans for work in plan.scheduled)


def run_alone(driver: Driver, prompt: tuple[int, ...], max_tokens: int = 1) -> Sequence:
    sequence = driver.add(len(prompt), max_tokens, shared=prompt)
    driver.steps_until(sequence, FINISHED)
    return sequence


# --- what is found ------------------------------------------------------------


def test_a_later_prompt_computes_only_what_comes_after_the_common_blocks() -> None:
    driver = Driver(32)
    run_alone(driver, (*SHARED, 1, 2, 3))
    later = driver.add(20, shared=SHARED)
    assert tokens_by_sequence(driver.step()) == {"1": 20 - 12}
    assert later.num_cached_tokens == 12


def test_a_running_sequence_shares_its_blocks() -> None:
    driver = Driver(32)
    first = driver.add(16, shared=SHARED)
    driver.step()
    second = driver.add(16, shared=SHARED)
    driver.step()
    assert second.block_table[:3] == first.block_table[:3]
    assert driver.pool.num_users(first.block_table[0]) == 2


@pytest.mark.parametrize("length", [11, 12, 13])
def test_the_last_token_of_a_prompt_is_computed_even_if_all_of_it_is_known(length: int) -> None:
    driver = Driver(32)
    run_alone(driver, (*SHARED, 1, 2))
    again = driver.add(length, shared=SHARED[:length])
    plan = driver.step()
    assert again.num_cached_tokens == (length - 1) // BLOCK_SIZE * BLOCK_SIZE
    assert tokens_by_sequence(plan) == {"1": length - again.num_cached_tokens}
    assert again.num_generated_tokens == 1


def test_an_answer_is_found_by_the_next_turn_of_its_conversation() -> None:
    driver = Driver(32)
    first = run_alone(driver, SHARED, max_tokens=9)
    follow_up = driver.add(30, shared=tuple(first.token_ids))
    driver.step()
    assert follow_up.num_cached_tokens == 20, "12 of the prompt and 8 of the 9 generated"


def test_a_preempted_sequence_finds_its_own_blocks_again() -> None:
    driver = Driver(12)
    low = driver.add(20, priority=LOW)
    driver.step()
    driver.add(25, max_tokens=1, priority=HIGH)
    driver.step()
    assert low.status is PREEMPTED
    assert tokens_by_sequence(driver.step()) == {"0": 21 - 16}, "four blocks were not needed"
    assert low.num_cached_tokens == 0, "they were computed for this very request"
    assert driver.prefix_cache.num_hit_tokens == 0


def test_the_same_tokens_after_another_beginning_are_something_else() -> None:
    driver = Driver(32)
    run_alone(driver, (*SHARED[:4], *SHARED[4:8], 1))
    other = driver.add(9, shared=(9, 9, 9, 9, *SHARED[4:8]))
    driver.step()
    assert other.num_cached_tokens == 0


@given(
    first=st.lists(st.integers(0, 2), min_size=1, max_size=40),
    second=st.lists(st.integers(0, 2), min_size=1, max_size=40),
)
def test_what_is_found_is_the_longest_common_beginning_in_whole_blocks(
    first: list[int], second: list[int]
) -> None:
    driver = Driver(64)
    run_alone(driver, tuple(first))
    sequence = run_alone(driver, tuple(second))
    num_common = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )
    num_findable = min(num_common, len(second) - 1)
    assert sequence.num_cached_tokens == num_findable // BLOCK_SIZE * BLOCK_SIZE


def test_without_a_cache_nothing_is_shared() -> None:
    driver = Driver(32)
    driver.scheduler = Scheduler(driver.pool, max_num_seqs=8, max_batch_tokens=64)
    for _ in range(2):
        driver.add(20, max_tokens=4, shared=SHARED)
        assert num_computed([driver.step()]) >= 20
    assert driver.pool.num_kept == 0


# --- what is not found --------------------------------------------------------


def test_evicted_blocks_are_computed_again() -> None:
    driver = Driver(8)
    run_alone(driver, (*SHARED, 1))
    run_alone(driver, tuple(range(30)))
    again = driver.add(13, shared=SHARED)
    driver.step()
    assert again.num_cached_tokens == 0
    assert again.num_generated_tokens == 1


def test_what_a_failed_sequence_computed_is_not_handed_to_the_next() -> None:
    driver = Driver(32)
    failing = driver.add(20, shared=SHARED)
    driver.step()
    assert driver.pool.num_kept > 0
    driver.scheduler.finish(failing, FinishReason.ERROR)
    assert driver.pool.num_kept == 0
    again = driver.add(20, shared=SHARED)
    driver.step()
    assert again.num_cached_tokens == 0


def test_blocks_are_not_found_before_they_are_computed() -> None:
    driver = Driver(32)
    first = driver.add(20, shared=SHARED)
    plan = driver.scheduler.schedule(0.0)
    assert [work.sequence for work in plan.scheduled] == [first]
    assert driver.pool.num_kept == 0


# --- simultaneous arrivals ----------------------------------------------------


@pytest.mark.parametrize("max_batch_tokens", [16, 50, 1000])
def test_simultaneous_prompts_compute_their_common_beginning_once(max_batch_tokens: int) -> None:
    num_seqs, num_shared, num_own = 16, 112, 7
    driver = Driver(1000, max_num_seqs=num_seqs, max_batch_tokens=max_batch_tokens)
    shared = tuple(range(700, 700 + num_shared))
    for _ in range(num_seqs):
        driver.add(num_shared + num_own, max_tokens=1, shared=shared)
    plans = []
    while driver.scheduler.num_sequences:
        plans.append(driver.step())
        assert plans[-1].scheduled
    assert num_computed(plans) == num_shared + num_seqs * num_own
    assert driver.prefix_cache.num_queried_tokens == num_seqs * (num_shared + num_own)
    assert driver.prefix_cache.num_hit_tokens == (num_seqs - 1) * num_shared


def test_one_that_waits_for_a_common_beginning_starts_as_soon_as_that_is_computed() -> None:
    driver = Driver(64, max_batch_tokens=14)
    driver.add(20, shared=SHARED)
    short = driver.add(15, shared=SHARED)
    assert tokens_by_sequence(driver.step()) == {"0": 14}
    assert short.status is WAITING
    assert tokens_by_sequence(driver.step()) == {"0": 6, "1": 3}
    assert short.num_cached_tokens == 12


def test_one_that_waits_for_a_common_beginning_holds_up_nobody_behind_it() -> None:
    driver = Driver(64)
    driver.add(20, shared=SHARED)
    driver.add(20, shared=SHARED)
    driver.add(20)
    assert tokens_by_sequence(driver.step()) == {"0": 20, "2": 20}


def test_a_better_class_does_not_wait_for_a_worse_one_to_compute() -> None:
    driver = Driver(64, max_batch_tokens=8)
    driver.add(40, shared=SHARED, priority=LOW)
    driver.step()
    high = driver.add(40, shared=SHARED, priority=HIGH)
    plan = driver.step()
    assert tokens_by_sequence(plan) == {"1": 8}
    assert high.num_cached_tokens == 8, "what there was by then"


@pytest.mark.parametrize("wish", [_token_ring.CANCELLED, _token_ring.STOP])
def test_when_the_one_that_computes_goes_the_next_takes_over(wish: int) -> None:
    driver = Driver(64, max_batch_tokens=8)
    first = driver.add(40, shared=SHARED)
    second = driver.add(40, shared=SHARED)
    driver.step()
    assert second.status is WAITING
    first.ring.request_cancel(wish)
    assert tokens_by_sequence(driver.step()) == {"1": 8}
    assert second.num_cached_tokens == 8


def test_a_paused_sequence_is_not_waited_for() -> None:
    driver = Driver(64, max_batch_tokens=8)
    first = driver.add(40, shared=SHARED, ring_capacity=1)
    second = driver.add(40, shared=SHARED)
    driver.step()
    first.ring.push(1)
    plan = driver.step()
    assert first.status is PAUSED
    assert tokens_by_sequence(plan) == {"1": 8}
    assert second.status is RUNNING


# --- shortage -----------------------------------------------------------------


def test_what_a_newcomer_finds_is_not_evicted_to_make_room_for_the_rest_of_it() -> None:
    driver = Driver(8)
    run_alone(driver, (*SHARED, 1))
    newcomer = driver.add(8 * BLOCK_SIZE, max_tokens=1, shared=SHARED)
    driver.step()
    assert newcomer.num_cached_tokens == 12
    assert newcomer.num_generated_tokens == 1


def test_a_newcomer_that_finds_too_little_room_leaves_what_it_found_in_the_cache() -> None:
    driver = Driver(8)
    run_alone(driver, (*SHARED, 1))
    driver.add(14, max_tokens=100)
    driver.step()
    newcomer = driver.add(24, shared=SHARED)
    driver.step()
    assert newcomer.status is WAITING
    assert driver.pool.num_used == 4
    assert driver.pool.num_kept >= 3


def test_shared_blocks_are_not_counted_as_what_a_victim_yields() -> None:
    """Two share three blocks; preempting one of them frees only its own."""
    driver = Driver(8)
    running = [driver.add(13, shared=SHARED, priority=LOW) for _ in range(2)]
    driver.steps_until(running[1], RUNNING)
    assert driver.pool.num_used == 5
    newcomer = driver.add(20, max_tokens=1, priority=HIGH)
    driver.step()
    assert newcomer.num_generated_tokens == 1
    assert [sequence.num_preemptions for sequence in running] == [1, 1]


def test_the_pool_holds_more_sequences_that_begin_alike_than_that_do_not() -> None:
    alike, unlike = Driver(8), Driver(8)
    for driver, shared in ((alike, SHARED), (unlike, ())):
        for _ in range(4):
            driver.add(13, max_tokens=1, shared=shared)
        driver.step()
    assert len(alike.step().scheduled) == 3
    assert len(unlike.step().scheduled) == 2


def test_the_size_of_a_pool_bounds_what_is_kept() -> None:
    pool = BlockPool(8, BLOCK_SIZE)
    driver = Driver(8)
    for start in range(50):
        run_alone(driver, tuple(range(1000 * start, 1000 * start + 13)))
        assert driver.pool.num_kept <= pool.num_blocks
