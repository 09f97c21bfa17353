"""Forks share what they have in common, and a write to a shared block goes to a copy of it.

The driver's memory proves in every step that nobody's history was overwritten.
"""

from __future__ import annotations

import pytest

from realtime_serve import _token_ring
from realtime_serve.engine.sequence import Sequence, SequenceStatus
from realtime_serve.types import RequestPriority
from support.scheduler_driver import BLOCK_SIZE
from support.scheduler_driver import SchedulerDriver as Driver

WAITING, RUNNING, PAUSED, PREEMPTED, FINISHED = SequenceStatus


def running_parent(
    driver: Driver, num_prompt: int, num_steps: int = 1, max_tokens: int = 100
) -> Sequence:
    parent = driver.add(num_prompt, max_tokens)
    for _ in range(num_steps):
        driver.step()
    return parent


def prompt_of(sequence: Sequence) -> tuple[int, ...]:
    return sequence.request.prompt_token_ids


def test_a_fork_takes_no_block_and_computes_one_token_before_it_goes_its_own_way() -> None:
    driver = Driver(32)
    parent = running_parent(driver, 14)
    num_used = driver.pool.num_used
    child = driver.fork(parent, prompt_of(parent))
    assert driver.pool.num_used == num_used
    assert child.block_table == parent.block_table
    plan = driver.step()
    assert {work.sequence: work.num_tokens for work in plan.scheduled} == {parent: 1, child: 1}
    assert child.num_generated_tokens == 1


def test_a_child_copies_the_partly_filled_block_and_nothing_else() -> None:
    driver = Driver(32)
    parent = running_parent(driver, 14)
    child = driver.fork(parent, prompt_of(parent))
    plan = driver.step()
    (copy,) = plan.block_copies
    assert copy.source == parent.block_table[3]
    assert copy.destination == child.block_table[3]
    assert child.block_table[:3] == parent.block_table[:3]
    assert driver.step().block_copies == []


def test_a_fork_at_the_end_of_a_block_copies_nothing() -> None:
    driver = Driver(32)
    parent = running_parent(driver, 13)
    child = driver.fork(parent, prompt_of(parent))
    assert child.num_computed_tokens == 12
    assert driver.step().block_copies == []
    assert child.num_generated_tokens == 1


def test_of_several_that_share_a_block_all_but_the_first_get_copies() -> None:
    driver = Driver(32)
    parent = running_parent(driver, 14)
    children = [driver.fork(parent, prompt_of(parent)) for _ in range(4)]
    assert len(driver.step().block_copies) == 4
    last_blocks = {sequence.block_table[3] for sequence in (parent, *children)}
    assert len(last_blocks) == 5


def test_the_last_one_to_use_a_block_writes_to_it_without_a_copy() -> None:
    driver = Driver(32)
    parent = running_parent(driver, 14)
    child = driver.fork(parent, prompt_of(parent))
    parent.ring.request_cancel(_token_ring.CANCELLED)
    assert driver.step().block_copies == []
    assert child.num_generated_tokens == 1


def test_a_known_block_that_a_child_alone_uses_is_forgotten_before_it_is_written() -> None:
    """The parent filled the block; the child goes on from the middle of it with other tokens."""
    driver = Driver(32)
    parent = running_parent(driver, 16)
    child = driver.fork(parent, (*prompt_of(parent)[:14], 77, 78, 79))
    parent.ring.request_cancel(_token_ring.CANCELLED)
    driver.step()
    again = driver.add(20, shared=prompt_of(parent))
    driver.step()
    assert again.num_cached_tokens == 12
    assert child.num_generated_tokens == 2


def test_a_child_may_go_on_with_tokens_of_its_own() -> None:
    driver = Driver(32)
    parent = running_parent(driver, 14)
    child = driver.fork(parent, (*prompt_of(parent)[:10], *range(200, 215)))
    plan = driver.step()
    assert {work.sequence: work.num_tokens for work in plan.scheduled}[child] == 15
    assert child.block_table[:2] == parent.block_table[:2]


def test_a_child_of_a_parent_that_has_computed_nothing_waits_like_any_other() -> None:
    driver = Driver(32)
    parent = running_parent(driver, 14)
    child = driver.fork(parent, prompt_of(parent)[:1])
    assert child.status is WAITING
    driver.step()
    assert child.num_generated_tokens == 1


def test_a_fork_of_a_fork_shares_too() -> None:
    driver = Driver(32)
    parent = running_parent(driver, 14)
    child = driver.fork(parent, prompt_of(parent))
    grandchild = driver.fork(child, prompt_of(parent))
    assert len(driver.step().block_copies) == 2
    assert grandchild.num_generated_tokens == 1


def test_a_child_that_finds_no_block_for_its_copy_is_preempted_and_comes_back() -> None:
    driver = Driver(4)
    parent = running_parent(driver, 14)
    child = driver.fork(parent, prompt_of(parent), max_tokens=2)
    plan = driver.step()
    assert child.status is PREEMPTED
    assert plan.block_copies == []
    assert parent.num_preemptions == 0
    driver.steps_until(child, FINISHED)
    assert child.num_generated_tokens == 2


def test_a_child_takes_the_block_for_its_copy_from_a_worse_class() -> None:
    driver = Driver(6)
    low = driver.add(5, priority=RequestPriority.LOW)
    parent = running_parent(driver, 14, max_tokens=3)
    assert driver.pool.num_free == 0
    child = driver.fork(parent, prompt_of(parent), max_tokens=3)
    plan = driver.step()
    assert low.status is PREEMPTED
    assert len(plan.block_copies) == 1
    assert child.num_generated_tokens == 1


def test_a_paused_child_copies_when_it_resumes() -> None:
    driver = Driver(32)
    parent = running_parent(driver, 14)
    child = driver.fork(parent, prompt_of(parent))
    while child.ring.push(0):
        pass
    assert driver.step().block_copies == []
    assert child.status is PAUSED
    child.ring.pop()
    assert len(driver.step().block_copies) == 1
    assert child.num_generated_tokens == 1


@pytest.mark.parametrize("num_steps", range(1, 2 * BLOCK_SIZE))
def test_children_of_a_parent_that_is_well_ahead_share_what_it_has(num_steps: int) -> None:
    driver = Driver(32)
    parent = running_parent(driver, 9, num_steps)
    child = driver.fork(parent, tuple(parent.token_ids), max_tokens=5)
    assert child.num_computed_tokens == parent.num_computed_tokens
    driver.steps_until(child, FINISHED)
    assert child.num_generated_tokens == 5
