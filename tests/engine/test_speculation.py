"""Guesses change how many steps an answer takes, and nothing else.

Over a stub network that mostly repeats itself, so that many guesses are right, and many wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from realtime_serve import _token_ring
from realtime_serve._token_ring import FLAG_LAST, FLAG_NO_TEXT
from realtime_serve.engine.runner import SampledToken
from realtime_serve.engine.sequence import Sequence as EngineSequence
from realtime_serve.engine.sequence import SequenceStatus
from realtime_serve.engine.speculation import (
    MAX_SEQUENCES,
    MAX_STEP_ROWS,
    Speculation,
    accepted_run,
    max_samples,
)
from realtime_serve.types import BatchConfig, FinishReason, InferenceRequest
from support.engine_driver import EngineDriver
from support.engine_driver import prompt as some_prompt
from support.scheduler_driver import BLOCK_SIZE, SchedulerDriver
from support.stub_model import EchoModel, expected_tokens

MAX_MODEL_LEN = 64
REPEATING = (5, 6, 7, 8, 5, 6, 7, 8, 5, 6)

SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 0.8, "top_p": 0.9, "seed": 4},
    {"temperature": 2.0, "top_k": 40, "seed": 5},
]


def echo_driver(num_speculative_tokens: int = 8, **settings: Any) -> EngineDriver:
    return EngineDriver(
        EchoModel(MAX_MODEL_LEN), num_speculative_tokens=num_speculative_tokens, **settings
    )


def expected(request: InferenceRequest) -> list[int]:
    return expected_tokens(EchoModel(MAX_MODEL_LEN), request, seed=1000)


# --- which samples are tokens -------------------------------------------------


def tokens_of(token_ids: Sequence[int | None]) -> list[SampledToken | None]:
    return [None if token_id is None else SampledToken(token_id, -1.0) for token_id in token_ids]


@given(drafts=st.lists(st.integers(0, 1), max_size=6), data=st.data())
def test_a_run_is_what_one_token_a_step_would_have_given(
    drafts: list[int], data: st.DataObject
) -> None:
    choices = st.lists(
        st.sampled_from([0, 1, 1, None]), min_size=len(drafts) + 1, max_size=len(drafts) + 1
    )
    samples = data.draw(choices)
    run = [token.token_id for token in accepted_run(drafts, tokens_of(samples))]
    assert run == samples[: len(run)]
    num_accepted = max(0, len(run) - 1)
    assert run[:num_accepted] == drafts[:num_accepted], "it was computed after other tokens"
    is_whole = len(run) == len(samples)
    assert is_whole or samples[len(run)] is None or run[-1] != drafts[len(run) - 1]


# --- the same answer in fewer steps -------------------------------------------


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("num_speculative_tokens", [1, 3, 8, 15])
def test_an_answer_is_the_same_in_fewer_steps(
    sampling: dict[str, Any], num_speculative_tokens: int
) -> None:
    driver = echo_driver(num_speculative_tokens)
    request = driver.add(REPEATING, max_tokens=50, **sampling)
    driver.run()
    assert driver.tokens(request) == expected(request)
    stats = driver.engine.stats()
    assert stats.generation_tokens_total == 50
    assert stats.prompt_tokens_total == len(REPEATING)
    assert 0 < stats.num_accepted_tokens_total < stats.num_draft_tokens_total
    assert stats.steps_total == 50 - stats.num_accepted_tokens_total


def test_without_guesses_every_token_takes_a_step() -> None:
    driver = echo_driver(0)
    driver.add(REPEATING, max_tokens=50)
    driver.run()
    stats = driver.engine.stats()
    assert stats.steps_total == 50
    assert stats.num_draft_tokens_total == stats.num_accepted_tokens_total == 0


def test_log_probabilities_are_those_of_the_tokens() -> None:
    drivers = [echo_driver(8), echo_driver(0)]
    for driver in drivers:
        driver.add(REPEATING, max_tokens=50)
        driver.run()
    assert drivers[0].records == drivers[1].records
    assert drivers[0].engine.stats().num_accepted_tokens_total > 0


# --- where it ends ------------------------------------------------------------


@pytest.mark.parametrize("max_tokens", range(1, 12))
def test_no_guess_leads_past_max_tokens(max_tokens: int) -> None:
    driver = echo_driver()
    request = driver.add(REPEATING, max_tokens=max_tokens)
    driver.run()
    assert driver.tokens(request) == expected(request)
    assert len(driver.tokens(request)) == max_tokens
    assert driver.finished["0"].reason is FinishReason.LENGTH
    flags = [record[3] for record in driver.records["0"]]
    assert flags == [0] * (max_tokens - 1) + [FLAG_LAST]


def test_no_guess_leads_past_the_context() -> None:
    driver = echo_driver()
    request = driver.add(REPEATING)
    driver.run()
    assert driver.tokens(request) == expected(request)
    assert len(driver.tokens(request)) == MAX_MODEL_LEN - len(REPEATING)


@pytest.mark.parametrize("min_tokens", range(9))
def test_a_stop_token_inside_a_run_ends_it_there_unless_it_is_banned(min_tokens: int) -> None:
    driver = echo_driver()
    request = driver.add(
        REPEATING, stop_token_ids=(8,), min_tokens=min_tokens, max_tokens=20, seed=7
    )
    driver.run()
    tokens = driver.tokens(request)
    assert tokens == expected(request)
    assert 8 not in tokens[:-1]
    if tokens[-1] == 8:
        assert driver.finished["0"].reason is FinishReason.STOP
        assert driver.records["0"][-1][3] == FLAG_LAST | FLAG_NO_TEXT
    assert driver.finished["0"].num_generated_tokens == len(tokens)


def test_a_stop_token_is_met_in_the_middle_of_guesses() -> None:
    driver = echo_driver()
    request = driver.add((*REPEATING[:-2], 5, 6, 7) * 2, stop_token_ids=(8,), max_tokens=20)
    driver.run()
    stats = driver.engine.stats()
    assert driver.tokens(request) == expected(request)
    assert stats.generation_tokens_total == len(driver.tokens(request))


class BrokenOffTheWay(EchoModel):
    """Fails on rows whose history is not what the answer will be, as only guesses can have it."""

    def __init__(self, fault: Callable[[], Tensor]) -> None:
        super().__init__(MAX_MODEL_LEN)
        self.allowed: list[int] = []
        self.num_faults = 0
        self._fault = fault

    def next_logits(self, history: Sequence[int]) -> Tensor:
        if self.allowed and list(history) != self.allowed[: len(history)]:
            self.num_faults += 1
            return self._fault()
        return super().next_logits(history)


def raise_error() -> Tensor:
    raise RuntimeError("such a history cannot be")


def all_nan() -> Tensor:
    return torch.full((EchoModel.vocab_size,), torch.nan)


@pytest.mark.parametrize("fault", [raise_error, all_nan])
def test_a_wrong_guess_that_breaks_the_model_costs_its_sequence_nothing(
    fault: Callable[[], Tensor],
) -> None:
    model = BrokenOffTheWay(fault)
    driver = EngineDriver(model, num_speculative_tokens=8)
    request = driver.add(REPEATING, max_tokens=50)
    model.allowed = [*REPEATING, *expected(request)]
    driver.run()
    assert model.num_faults > 0
    assert driver.tokens(request) == expected(request)
    assert driver.finished["0"].error is None


@pytest.mark.parametrize("num_right", [20, 30, 40])
def test_an_error_comes_after_all_tokens_before_it(num_right: int) -> None:
    model = BrokenOffTheWay(all_nan)
    driver = EngineDriver(model, num_speculative_tokens=8)
    request = driver.add(REPEATING, max_tokens=50)
    model.allowed = [*REPEATING, *expected(request)][:num_right]
    driver.run()
    assert driver.finished["0"].reason is FinishReason.ERROR
    assert driver.tokens(request) == expected(request)[: num_right - len(REPEATING) + 1]


@pytest.mark.parametrize("num_steps", [3, 6, 9])
def test_a_cancelled_sequence_keeps_what_it_has(num_steps: int) -> None:
    driver = echo_driver()
    request = driver.add(REPEATING, max_tokens=50)
    for _ in range(num_steps):
        driver.step()
    driver.rings["0"].request_cancel(_token_ring.CANCELLED)
    driver.run()
    tokens = driver.tokens(request)
    assert tokens == expected(request)[: len(tokens)]
    assert driver.finished["0"].num_generated_tokens == len(tokens) > num_steps


# --- what guesses may take ----------------------------------------------------


def loop_driver(num_blocks: int = 100, **settings: Any) -> SchedulerDriver:
    """Sequences repeat one token, so that every guess is right."""
    return SchedulerDriver(num_blocks, speculation=Speculation(8), **settings)


def drafts_of(driver: SchedulerDriver) -> list[int]:
    return [len(work.draft_token_ids) for work in driver.step().scheduled]


@pytest.mark.parametrize("ring_capacity", [1, 2, 4, 8])
def test_a_run_never_needs_more_than_the_rings_room(ring_capacity: int) -> None:
    driver = loop_driver()
    sequence = driver.add(3, max_tokens=60, ring_capacity=ring_capacity)
    most = 0
    for _ in range(200):
        most = max([most, *drafts_of(driver)])  # the driver checks the room
        sequence.ring.pop(ring_capacity)
    assert sequence.finish_reason is FinishReason.LENGTH
    assert most == ring_capacity - 1


@pytest.mark.parametrize("num_seqs", range(1, MAX_SEQUENCES + 3))
def test_a_step_with_guesses_has_few_sequences_and_few_rows(num_seqs: int) -> None:
    driver = loop_driver()
    for _ in range(num_seqs):
        driver.add(3, max_tokens=50)
    steps = [drafts_of(driver) for _ in range(8)]
    assert all(sum(drafts) + num_seqs <= MAX_STEP_ROWS for drafts in steps)
    assert any(sum(drafts) > 0 for drafts in steps) == (num_seqs <= MAX_SEQUENCES)


def test_more_seats_do_not_make_the_samples_of_a_step_more_than_it_may_have() -> None:
    assert max_samples(BatchConfig(max_num_seqs=1)) == MAX_STEP_ROWS
    assert max_samples(BatchConfig(max_num_seqs=64)) == 64
    assert max_samples(BatchConfig(max_num_seqs=1, max_batch_tokens=4)) == 4


@pytest.mark.parametrize("max_batch_tokens", [2, 3, 5])
def test_guesses_stay_within_the_token_budget(max_batch_tokens: int) -> None:
    driver = loop_driver(max_num_seqs=2, max_batch_tokens=max_batch_tokens)
    for _ in range(2):
        driver.add(2, max_tokens=40)
    steps = [drafts_of(driver) for _ in range(10)]  # the driver checks the budget
    assert max(map(sum, steps)) == (max_batch_tokens // 2 - 1) * 2


def test_a_step_with_a_prompt_has_no_guesses() -> None:
    driver = loop_driver(max_batch_tokens=16)
    driver.add(3, max_tokens=100)
    for _ in range(6):
        driver.step()
    assert sum(drafts_of(driver)) > 0
    driver.add(60)
    while (step := driver.step()).num_prompt_tokens > 0:
        assert step.num_draft_tokens == 0
    assert step.num_draft_tokens > 0


def test_guesses_take_only_blocks_that_nobody_is_going_to_need() -> None:
    num_steps_ahead = 0
    for num_blocks in range(5, 20):
        driver = loop_driver(num_blocks)
        sequences = [driver.add(3, max_tokens=length) for length in (17, 14)]
        while driver.scheduler.num_sequences:
            needed = [driver.pool.blocks_for(sequence.num_tokens) for sequence in sequences]
            driver.step()
            has = [len(sequence.block_table) for sequence in sequences]
            if any(a > b for a, b in zip(has, needed, strict=True)):
                num_steps_ahead += 1
                assert driver.pool.num_free >= sum(map(may_grow, sequences))
    assert num_steps_ahead > 10


def may_grow(sequence: EngineSequence) -> bool:
    max_blocks = -(-sequence.max_computed_tokens // BLOCK_SIZE)
    return sequence.status is SequenceStatus.RUNNING and len(sequence.block_table) < max_blocks


def test_what_is_kept_for_a_sequence_goes_with_it() -> None:
    speculation = Speculation(8)
    driver = SchedulerDriver(100, speculation=speculation)
    sequences: list[EngineSequence] = [driver.add(3, max_tokens=9) for _ in range(3)]
    driver.step()
    driver.step()
    assert speculation._drafters.keys() == set(sequences)
    while driver.scheduler.num_sequences:
        driver.step()
    assert not speculation._drafters


# --- beside others ------------------------------------------------------------


@pytest.mark.parametrize("enable_prefix_caching", [True, False])
@pytest.mark.parametrize("num_blocks", [4, 64])
def test_answers_are_the_same_together_preempted_and_from_the_cache(
    num_blocks: int, enable_prefix_caching: bool
) -> None:
    driver = echo_driver(num_blocks=num_blocks, enable_prefix_caching=enable_prefix_caching)
    requests = [
        driver.add((*REPEATING, *some_prompt(length)), max_tokens=30, seed=length, **sampling)
        for length, sampling in zip((1, 8, 8, 20), map(_without_seed, SAMPLINGS), strict=True)
    ]
    driver.run()
    for request in requests:
        assert driver.tokens(request) == expected(request)
    assert driver.engine.stats().num_accepted_tokens_total > 0
    assert (driver.engine.stats().preemptions_total > 0) == (num_blocks < 64)


def _without_seed(sampling: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sampling.items() if name != "seed"}
