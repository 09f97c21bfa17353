"""The budget for prompts: learnt from made-up durations, no clock anywhere."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_serve.engine.prefill_budget import (
    MIN_PROMPT_TOKENS,
    MIN_SPREAD_TOKENS,
    NUM_RECENT,
    PrefillBudget,
)
from realtime_serve.engine.speculation import Speculation
from realtime_serve.engine.step_plan import SchedulerOutput
from support.scheduler_driver import SchedulerDriver as Driver

TARGET_S = 0.05

MANY = 10**6
"""Tokens that wait: so many that only the target bounds a step."""

Cost = Callable[[int, int], float]
"""Duration of a step with so many decoding sequences and prompt tokens."""


def linear(
    base_s: float = 0.004, per_decoding_s: float = 0.0005, per_token_s: float = 0.0003
) -> Cost:
    return lambda decoding, prompt: base_s + per_decoding_s * decoding + per_token_s * prompt


def learnt(cost: Cost, num_decoding: int, num_steps: int = 30) -> PrefillBudget:
    """A budget after some steps of decoding and some that follow its own advice."""
    budget = PrefillBudget(TARGET_S)
    for _ in range(3):
        budget.observe(num_decoding, 0, cost(num_decoding, 0))
    for _ in range(num_steps):
        num_tokens = budget.max_prompt_tokens(num_decoding, MANY)
        budget.observe(num_decoding, num_tokens, cost(num_decoding, num_tokens))
    return budget


# --- the model ----------------------------------------------------------------


def test_before_it_knows_anything_it_allows_the_least() -> None:
    budget = PrefillBudget(TARGET_S)
    assert budget.max_prompt_tokens(1, MANY) == MIN_PROMPT_TOKENS
    budget.observe(1, 0, 0.001)
    assert budget.max_prompt_tokens(1, MANY) == MIN_PROMPT_TOKENS, (
        "decoding says nothing of prompts"
    )


@pytest.mark.parametrize("num_decoding", [1, 4, 16, 60])
def test_it_comes_close_to_the_target_and_stays_below_it(num_decoding: int) -> None:
    cost = linear()
    budget = learnt(cost, num_decoding)
    duration_s = cost(num_decoding, budget.max_prompt_tokens(num_decoding, MANY))
    assert 0.8 * TARGET_S < duration_s <= TARGET_S


@given(
    base_s=st.floats(0, 0.1),
    per_decoding_s=st.floats(0, 0.002),
    per_token_s=st.floats(1e-6, 0.01),
    num_decoding=st.integers(1, 64),
)
def test_whatever_a_step_costs_it_ends_within_the_target_or_at_the_least(
    base_s: float, per_decoding_s: float, per_token_s: float, num_decoding: int
) -> None:
    cost = linear(base_s, per_decoding_s, per_token_s)
    num_tokens = learnt(cost, num_decoding).max_prompt_tokens(num_decoding, MANY)
    assert num_tokens >= MIN_PROMPT_TOKENS
    assert num_tokens == MIN_PROMPT_TOKENS or cost(num_decoding, num_tokens) <= TARGET_S


def test_no_step_on_the_way_is_far_above_the_target() -> None:
    """It starts from one prompt that ran alone, and from a base learnt far too high."""
    cost = linear()
    budget = PrefillBudget(TARGET_S)
    budget.observe(0, 32, cost(0, 32))
    for _ in range(NUM_RECENT):
        budget.observe(16, 0, 0.04)
    for _ in range(30):
        num_tokens = budget.max_prompt_tokens(16, MANY)
        assert cost(16, num_tokens) <= 1.5 * TARGET_S
        budget.observe(16, num_tokens, cost(16, num_tokens))


@pytest.mark.parametrize("num_prompt_tokens", [0, 100])
@pytest.mark.parametrize("factor", [20.0, 0.01])
def test_one_step_that_took_far_too_long_or_short_changes_little(
    num_prompt_tokens: int, factor: float
) -> None:
    cost = linear()
    budget = learnt(cost, 16)
    before = budget.max_prompt_tokens(16, MANY)
    budget.observe(16, num_prompt_tokens, factor * cost(16, num_prompt_tokens))
    assert budget.max_prompt_tokens(16, MANY) == pytest.approx(before, rel=0.05)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_it_follows_a_machine_that_becomes_slower_or_faster(factor: float) -> None:
    budget = learnt(linear(), 16)
    changed = linear(0.004 * factor, 0.0005 * factor, 0.0003 * factor)
    for _ in range(NUM_RECENT):
        num_tokens = budget.max_prompt_tokens(16, MANY)
        budget.observe(16, num_tokens, changed(16, num_tokens))
        assert changed(16, num_tokens) <= max(1, factor) * TARGET_S
        budget.observe(16, 0, changed(16, 0))
    assert 0.7 * TARGET_S < changed(16, budget.max_prompt_tokens(16, MANY)) <= TARGET_S


def test_a_wrong_base_does_not_keep_it_from_the_target() -> None:
    """Without a step of decoding alone, the base is unknown."""
    cost = linear()
    budget = PrefillBudget(TARGET_S)
    budget.observe(0, 500, cost(0, 500))
    for _ in range(30):
        num_tokens = budget.max_prompt_tokens(32, MANY)
        budget.observe(32, num_tokens, cost(32, num_tokens))
    assert 0.7 * TARGET_S < cost(32, budget.max_prompt_tokens(32, MANY)) <= TARGET_S


def test_more_sequences_leave_less_for_prompts() -> None:
    budget = PrefillBudget(TARGET_S)
    cost = linear()
    budget.observe(0, 500, cost(0, 500))
    for num_decoding in (1, 16, 60):
        budget.observe(num_decoding, 0, cost(num_decoding, 0))
    allowed = [budget.max_prompt_tokens(num_decoding, MANY) for num_decoding in (1, 16, 60)]
    assert allowed == sorted(allowed, reverse=True)
    assert len(set(allowed)) == 3


def test_a_few_prompt_tokens_and_a_clock_that_stands_still_teach_nothing() -> None:
    budget = learnt(linear(), 4)
    before = budget.max_prompt_tokens(4, MANY)
    for _ in range(NUM_RECENT):
        budget.observe(4, MIN_PROMPT_TOKENS - 1, 1.0)
        budget.observe(4, 100, 0.0)
        budget.observe(4, 0, 0.0)
    assert budget.max_prompt_tokens(4, MANY) == before


# --- in the scheduler ---------------------------------------------------------


def noisy(cost: Cost, seed: int) -> Cost:
    """The same with a few percent of noise, and the CPU taken away every now and then."""
    draw = random.Random(seed)

    def duration_s(decoding: int, prompt: int) -> float:
        factor = draw.uniform(0.95, 1.05) if draw.random() > 0.01 else 5.0
        return cost(decoding, prompt) * factor

    return duration_s


def decoding_driver(num_decoding: int, target_s: float | None) -> Driver:
    driver = Driver(
        2000,
        max_num_seqs=64,
        max_batch_tokens=2048,
        prefill_budget=None if target_s is None else PrefillBudget(target_s),
    )
    for _ in range(num_decoding):
        driver.add(20, max_tokens=3000)
    return driver


def timed_step(driver: Driver, cost: Cost) -> float:
    step = driver.step()
    duration_s = cost(step.num_decoding, step.num_prompt_tokens)
    driver.scheduler.observe(step, duration_s)
    return duration_s


@pytest.mark.parametrize("seed", range(5))
def test_long_prompts_raise_the_time_between_tokens_of_running_streams_to_no_more_than_the_target(
    seed: int,
) -> None:
    cost = noisy(linear(), seed)
    driver = decoding_driver(16, TARGET_S)
    for _ in range(10):
        timed_step(driver, cost)
    durations_s = []
    for _ in range(4):
        newcomer = driver.add(2000, max_tokens=2)
        while newcomer.num_generated_tokens == 0:
            durations_s.append(timed_step(driver, cost))
    assert len(durations_s) < 100, "the prompts take as much of each step as they may"
    *_, p97 = quantiles(durations_s, n=33)
    assert p97 <= TARGET_S


def test_without_a_target_a_prompt_takes_the_whole_budget() -> None:
    driver = decoding_driver(16, None)
    driver.step()
    driver.add(2000)
    assert driver.step().num_prompt_tokens == 2000


def test_a_prompt_that_nobody_waits_for_takes_the_whole_budget() -> None:
    driver = decoding_driver(0, TARGET_S)
    driver.add(2000)
    assert driver.step().num_prompt_tokens == 2000


def test_steps_with_guesses_do_not_make_a_step_without_them_look_dearer() -> None:
    budget = PrefillBudget(TARGET_S)
    driver = Driver(100, prefill_budget=budget, speculation=Speculation(8))
    cost = linear(per_decoding_s=0.002)  # a guess costs as much as another sequence

    def observed_step() -> SchedulerOutput:
        step = driver.step()
        num_rows = step.num_decoding + step.num_draft_tokens
        driver.scheduler.observe(step, cost(num_rows, step.num_prompt_tokens))
        return step

    driver.add(20, max_tokens=200)
    while observed_step().num_draft_tokens == 0:
        before = budget.max_prompt_tokens(1, MANY)
    assert before > MIN_PROMPT_TOKENS
    steps = [observed_step() for _ in range(2 * NUM_RECENT)]
    assert all(step.num_draft_tokens > 0 for step in steps)
    assert budget.max_prompt_tokens(1, MANY) == before


def test_few_prompts_are_spread_and_many_take_what_the_target_allows() -> None:
    budget = learnt(linear(), 16)
    most = budget.max_prompt_tokens(16, MANY)
    assert 8 * most > 8 * MIN_SPREAD_TOKENS
    assert budget.max_prompt_tokens(16, 10) == MIN_SPREAD_TOKENS
    assert budget.max_prompt_tokens(16, 8 * MIN_SPREAD_TOKENS) == MIN_SPREAD_TOKENS
    assert budget.max_prompt_tokens(16, 8 * (MIN_SPREAD_TOKENS + 1)) == MIN_SPREAD_TOKENS + 1
    assert budget.max_prompt_tokens(16, 8 * (most + 1)) == most


def test_a_prompt_is_spread_evenly_whatever_of_it_is_computed_already() -> None:
    cost = linear()
    driver = decoding_driver(16, TARGET_S)
    for _ in range(2):  # so that it knows what prompts cost
        newcomer = driver.add(2000, max_tokens=2)
        while newcomer.num_generated_tokens == 0:
            timed_step(driver, cost)
    driver.add(600, max_tokens=2)
    steps = [driver.step().num_prompt_tokens for _ in range(9)]
    assert steps == [75] * 8 + [0]


def test_on_the_slowest_machine_prompts_still_progress() -> None:
    driver = decoding_driver(4, TARGET_S)
    for _ in range(20):
        timed_step(driver, linear(base_s=1.0))
    newcomer = driver.add(100)
    while newcomer.num_generated_tokens == 0:
        before = newcomer.num_computed_tokens
        timed_step(driver, linear(base_s=1.0))
        assert newcomer.num_computed_tokens - before in {MIN_PROMPT_TOKENS, 100 % MIN_PROMPT_TOKENS}
