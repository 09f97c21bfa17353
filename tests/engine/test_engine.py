"""What an engine answers and reports, over a stub that notices every wrong slot and position."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from realtime_serve import _token_ring
from realtime_serve._token_ring import FLAG_LAST, FLAG_NO_TEXT, TokenRing
from realtime_serve.engine.interface import Engine, Finished, PromptProgress, Started
from realtime_serve.engine.sequence import Sequence
from realtime_serve.errors import StalledReaderError
from realtime_serve.nn.interface import ForwardBatch, KVTensors
from realtime_serve.types import FinishReason, InferenceRequest, RequestPriority, SamplingParams
from support.engine_driver import MAX_MODEL_LEN, prompt
from support.engine_driver import EngineDriver as Driver
from support.stub_model import VOCAB_SIZE, HistoryModel, expected_tokens


def test_it_is_an_engine() -> None:
    engine: Engine = Driver().engine
    assert engine.num_sequences == 0


# --- output -------------------------------------------------------------------


@pytest.mark.parametrize("max_batch_tokens", [8, 17, 64, 500])
def test_chunks_of_any_size_and_a_mixed_batch_do_not_change_the_output(
    max_batch_tokens: int,
) -> None:
    driver = Driver(max_batch_tokens=max_batch_tokens)
    requests = []
    for i, length in enumerate([1, 2, 15, 16, 17, 31, 40, 63]):
        requests.append(driver.add(prompt(length, i)))
        driver.step()
    driver.run()
    for request in requests:
        assert driver.tokens(request) == expected_tokens(driver.model, request)


def test_sampled_output_depends_on_the_seed_alone() -> None:
    crowd, alone = Driver(), Driver()
    sampling: dict[str, Any] = {"temperature": 0.9, "top_p": 0.9, "max_tokens": 20}
    requests = [crowd.add(prompt(9), seed=seed, **sampling) for seed in (1, 2, 2, -5, 2**63 - 1)]
    single = alone.add(prompt(9), seed=2, **sampling)
    crowd.run()
    alone.run()
    outputs = [crowd.tokens(request) for request in requests]
    assert outputs == [expected_tokens(crowd.model, request) for request in requests]
    assert outputs[1] == outputs[2] == alone.tokens(single)
    assert len({tuple(output) for output in outputs}) == 4


def test_a_request_without_a_seed_draws_a_fresh_one() -> None:
    driver = Driver()
    first, second = (driver.add(prompt(9), temperature=1.0, max_tokens=20) for _ in range(2))
    driver.run()
    assert driver.tokens(first) == expected_tokens(driver.model, first, seed=1000)
    assert driver.tokens(second) == expected_tokens(driver.model, second, seed=1001)
    assert driver.tokens(first) != driver.tokens(second)


def test_records_carry_the_choice_and_the_models_logprob() -> None:
    driver = Driver()
    request = driver.add(prompt(5), max_tokens=3)
    driver.run()
    history = list(request.prompt_token_ids)
    for token_id, index, logprob, _ in driver.records["0"]:
        expected = driver.model.next_logits(history).log_softmax(-1)[token_id].item()
        assert logprob == pytest.approx(expected, abs=1e-5)
        assert index == 0
        history.append(token_id)


# --- ends ---------------------------------------------------------------------


def test_the_last_token_of_a_cut_answer_is_text() -> None:
    driver = Driver()
    driver.add(prompt(5), max_tokens=3)
    driver.run()
    assert [flags for *_, flags in driver.records["0"]] == [0, 0, FLAG_LAST]
    assert driver.finished["0"] == Finished(
        request_id="0", reason=FinishReason.LENGTH, num_prompt_tokens=5, num_generated_tokens=3
    )


@pytest.mark.parametrize("is_models_own", [True, False])
def test_a_stop_token_ends_the_answer_and_is_no_text(is_models_own: bool) -> None:
    free = Driver()
    request = free.add(prompt(5), max_tokens=10)
    free.run()
    output = free.tokens(request)
    stop_id = next(token for token in output[1:] if output.index(token) > 0)
    if is_models_own:
        driver = Driver(eos_token_ids=frozenset({stop_id}))
        driver.add(prompt(5))
    else:
        driver = Driver()
        driver.add(prompt(5), stop_token_ids=(stop_id,))
    driver.run()
    assert [r[0] for r in driver.records["0"]] == output[: output.index(stop_id) + 1]
    *others, last = (flags for *_, flags in driver.records["0"])
    assert set(others) == {0}
    assert last == FLAG_LAST | FLAG_NO_TEXT
    assert driver.finished["0"].reason is FinishReason.STOP


def test_no_stop_token_comes_before_min_tokens() -> None:
    eos_token_ids = frozenset(range(0, VOCAB_SIZE, 2))
    driver = Driver(eos_token_ids=eos_token_ids)
    request = driver.add(prompt(5), min_tokens=6)
    driver.run()
    tokens = driver.tokens(request)
    assert not eos_token_ids & set(tokens[:6])
    assert tokens == expected_tokens(driver.model, request, eos_token_ids=eos_token_ids)
    assert driver.finished["0"].reason is FinishReason.STOP


def test_max_tokens_is_cut_to_the_context() -> None:
    driver = Driver()
    driver.add(prompt(MAX_MODEL_LEN - 4), max_tokens=10**9)
    driver.run()
    assert driver.finished["0"].num_generated_tokens == 4
    assert driver.finished["0"].reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        (_token_ring.CANCELLED, FinishReason.CANCELLED),
        (_token_ring.STOP, FinishReason.STOP),
        (_token_ring.DEADLINE, FinishReason.DEADLINE),
    ],
)
def test_a_wish_of_the_reader_ends_the_request_at_the_next_step(
    wish: int, reason: FinishReason
) -> None:
    driver = Driver()
    driver.add(prompt(5))
    driver.step()
    driver.step()
    driver.rings["0"].request_cancel(wish)
    output = driver.step()
    assert output.updated == ()
    assert not output.stalled
    assert output.finished == (
        Finished(request_id="0", reason=reason, num_prompt_tokens=5, num_generated_tokens=2),
    )
    assert driver.engine.stats().kv_blocks_used == 0


def test_a_passed_deadline_ends_a_request_that_never_ran_without_computing_it() -> None:
    driver = Driver()
    driver.add(prompt(5), deadline_at_s=10.0)
    output = driver.step(now_s=10.0)
    assert output.started == ()
    assert output.num_scheduled_tokens == 0
    assert driver.finished["0"].reason is FinishReason.DEADLINE


def test_the_engine_leaves_the_terminal_state_to_the_worker() -> None:
    driver = Driver()
    driver.add(prompt(5), max_tokens=1)
    driver.run()
    assert driver.rings["0"].state == _token_ring.OPEN


# --- prefix caching -----------------------------------------------------------


@pytest.mark.parametrize("enable_prefix_caching", [True, False])
def test_output_is_the_same_with_and_without_what_the_prefix_cache_holds(
    enable_prefix_caching: bool,
) -> None:
    driver = Driver(enable_prefix_caching=enable_prefix_caching)
    requests = []
    for i in range(3):
        for length in (15, 16, 17, 32, 33, 40):
            requests.append(driver.add((*prompt(length), i), seed=5, temperature=0.9))
        driver.run()
    for request in requests:
        assert driver.tokens(request) == expected_tokens(driver.model, request)
    stats = driver.engine.stats()
    assert (stats.prefix_cache_hits_total > 0) == enable_prefix_caching


def test_a_request_is_told_how_much_of_its_prompt_was_cached() -> None:
    driver = Driver()
    driver.add(prompt(40), max_tokens=1)
    assert driver.step().started == (Started("0", 0),)
    driver.add(prompt(40), max_tokens=1)
    assert driver.step().started == (Started("1", 32),)
    stats = driver.engine.stats()
    assert stats.prefix_cache_queries_total == 80
    assert stats.prefix_cache_hits_total == 32


def test_a_prompt_that_is_computed_in_parts_tells_how_far_it_is() -> None:
    driver = Driver(max_batch_tokens=16)
    driver.add(prompt(40), max_tokens=2)
    steps = [driver.step() for _ in range(4)]
    assert [step.prefilling for step in steps] == [
        (PromptProgress("0", 16),),
        (PromptProgress("0", 32),),
        (),
        (),
    ]
    assert [step.updated for step in steps] == [(), (), ("0",), ("0",)]


def test_what_was_cached_counts_as_computed() -> None:
    driver = Driver(max_batch_tokens=16)
    driver.add(prompt(32), max_tokens=1)
    driver.run()
    driver.add((*prompt(32), *prompt(25, start=1)), max_tokens=1)
    assert driver.step().prefilling == (PromptProgress("1", 48),)


def test_what_is_computed_again_after_a_preemption_is_no_prompt() -> None:
    driver = Driver(num_blocks=4, max_batch_tokens=8, enable_prefix_caching=False)
    driver.add(prompt(8), max_tokens=40, priority=RequestPriority.LOW)
    for _ in range(20):
        driver.step()
    driver.add(prompt(40), max_tokens=1, priority=RequestPriority.HIGH)
    told = [progress for _ in range(40) for progress in driver.step().prefilling]
    assert driver.engine.stats().preemptions_total == 1
    assert driver.engine.num_sequences == 0
    # The first step has room for a token of the other one, before its blocks are taken.
    assert told == [PromptProgress("1", count) for count in (7, 15, 23, 31, 39)]


def test_a_fork_shares_the_prompt_and_both_answer_as_if_they_were_alone() -> None:
    driver = Driver()
    parent_request = driver.add(prompt(20), max_tokens=9)
    driver.step()
    request = InferenceRequest(
        request_id="fork",
        model="m",
        prompt_token_ids=prompt(20),
        sampling=SamplingParams(seed=7, max_tokens=9),
    )
    ring = driver.rings["fork"] = TokenRing(16)
    driver.records["fork"] = []
    child = Sequence(
        request,
        ring,
        arrival_index=1,
        seed=7,
        eos_token_ids=frozenset(),
        max_model_len=MAX_MODEL_LEN,
    )
    scheduler = driver.engine._scheduler
    scheduler.fork(scheduler._seated[0], child)
    assert driver.step().num_scheduled_tokens == 2
    driver.run()
    for each in (parent_request, request):
        assert driver.tokens(each) == expected_tokens(driver.model, each)


# --- the target between tokens ------------------------------------------------


def test_the_durations_of_steps_bound_the_prompts_that_running_streams_wait_for() -> None:
    """A step costs a millisecond a token, by a clock that the network moves on."""
    now_s = 0.0

    class SlowModel(HistoryModel):
        def forward(self, batch: ForwardBatch, kv_cache: KVTensors) -> Tensor:
            nonlocal now_s
            now_s += 0.001 * len(batch.token_ids)
            return super().forward(batch, kv_cache)

    driver = Driver(SlowModel(), max_batch_tokens=64, target_itl_ms=25.0, clock=lambda: now_s)
    driver.add(prompt(50), max_tokens=14)
    assert driver.step().num_scheduled_tokens == 50, "nobody waits for a token yet"
    requests = [driver.add(prompt(50, start), max_tokens=2) for start in (1, 2, 3)]
    num_tokens = [driver.step().num_scheduled_tokens for _ in range(6)]
    assert max(num_tokens) <= 25
    assert sum(num_tokens[1:]) >= 5 * 20
    driver.run()
    for request in requests:
        assert driver.tokens(request) == expected_tokens(driver.model, request)


# --- what a step reports ------------------------------------------------------


def test_a_step_says_who_started_who_got_a_token_and_who_ended() -> None:
    driver = Driver(max_batch_tokens=10)
    driver.add(prompt(3), max_tokens=2)
    driver.add(prompt(12), max_tokens=1)
    outputs = [driver.step() for _ in range(3)]
    assert [[s.request_id for s in output.started] for output in outputs] == [["0", "1"], [], []]
    assert [set(output.updated) for output in outputs] == [{"0"}, {"0", "1"}, set()]
    assert [{f.request_id for f in output.finished} for output in outputs] == [
        set(),
        {"0", "1"},
        set(),
    ]
    assert [output.num_scheduled_tokens for output in outputs] == [10, 1 + 5, 0]
    assert not any(output.stalled for output in outputs), "an empty engine is not stalled"


def test_an_engine_whose_readers_all_sleep_is_stalled_and_asks_to_be_kicked() -> None:
    driver = Driver()
    request = driver.add(prompt(3), ring_capacity=4, max_tokens=8)
    for _ in range(4):
        assert not driver.step().stalled
    assert driver.step().stalled
    assert driver.engine.stats().num_paused == 1
    driver.read(request)
    assert driver.rings["0"].take_stalled()
    driver.run()
    assert driver.tokens(request) == expected_tokens(driver.model, request)


def test_a_reader_that_does_nothing_ends_and_its_neighbours_tokens_stay_the_same() -> None:
    driver = Driver(stall_timeout_s=5.0)
    forgotten = driver.add(prompt(3), ring_capacity=4, max_tokens=40)
    neighbour = driver.add(prompt(5), max_tokens=40)
    for now_s in range(30):
        driver.step(float(now_s))
    ended = driver.finished[forgotten.request_id]
    assert ended.reason is FinishReason.CANCELLED
    assert isinstance(ended.error, StalledReaderError)
    driver.run()
    assert driver.tokens(neighbour) == expected_tokens(driver.model, neighbour)
    assert driver.engine.stats().kv_blocks_used == 0


def test_stats_count_seats_blocks_and_tokens() -> None:
    driver = Driver(num_blocks=4, max_num_seqs=2, max_batch_tokens=20)
    driver.add(prompt(30), max_tokens=2)
    driver.add(prompt(17), max_tokens=1)
    assert driver.engine.stats().num_waiting == 2
    driver.step()
    stats = driver.engine.stats()
    assert (stats.num_running, stats.num_waiting) == (1, 1)
    assert (stats.kv_blocks_used, stats.kv_blocks_total) == (2, 4)
    assert (stats.prompt_tokens_total, stats.generation_tokens_total) == (0, 0)
    driver.run()
    stats = driver.engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.kv_blocks_used) == (0, 0, 0)
    assert (stats.prompt_tokens_total, stats.generation_tokens_total) == (47, 3)
    assert stats.steps_total == 3
    assert stats.max_model_len == MAX_MODEL_LEN


def test_seats_are_counted() -> None:
    driver = Driver(max_num_seqs=3)
    driver.add(prompt(3), max_tokens=1)
    driver.add(prompt(3))
    assert (driver.engine.free_slots, driver.engine.num_sequences) == (1, 2)
    driver.step()
    assert (driver.engine.free_slots, driver.engine.num_sequences) == (2, 1)
