"""What an engine refuses, survives and lets go of."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from realtime_serve.engine.engine import LLMEngine
from realtime_serve.engine.kv_cache_size import MIN_MODEL_LEN, KVCacheLimit
from realtime_serve.engine.kv_storage import bytes_per_block
from realtime_serve.engine.runner import BLOCK_SIZE
from realtime_serve.engine.torch_runner import TorchRunner
from realtime_serve.errors import (
    ContextLengthExceededError,
    EngineError,
    InvalidRequestError,
    ModelLoadError,
)
from realtime_serve.nn.interface import ForwardBatch, KVTensors
from realtime_serve.types import BatchConfig, FinishReason, size_text
from support.engine_driver import MAX_MODEL_LEN, prompt
from support.engine_driver import EngineDriver as Driver
from support.stub_model import VOCAB_SIZE, HistoryModel, expected_tokens

# --- refusals -----------------------------------------------------------------


def test_a_prompt_without_room_for_a_token_is_refused_with_both_numbers() -> None:
    driver = Driver()
    with pytest.raises(ContextLengthExceededError, match=f"has 64 tokens.* is {MAX_MODEL_LEN} "):
        driver.add(prompt(MAX_MODEL_LEN))
    assert driver.engine.num_sequences == 0
    driver.add(prompt(MAX_MODEL_LEN - 1))


@pytest.mark.parametrize("bad_id", [-1, VOCAB_SIZE])
def test_token_ids_outside_the_vocabulary_are_refused(bad_id: int) -> None:
    driver = Driver()
    with pytest.raises(InvalidRequestError) as of_prompt:
        driver.add((1, bad_id, 2))
    with pytest.raises(InvalidRequestError) as of_stops:
        driver.add((1, 2), stop_token_ids=(bad_id,))
    assert (of_prompt.value.param, of_stops.value.param) == ("prompt", "stop_token_ids")
    assert driver.engine.num_sequences == 0


# --- faults -------------------------------------------------------------------


class FaultyModel(HistoryModel):
    """Calls `fault` with each step's batch and logits."""

    def __init__(self, fault: Callable[[ForwardBatch, Tensor], None]) -> None:
        super().__init__(MAX_MODEL_LEN)
        self.fault = fault

    def forward(self, batch: ForwardBatch, kv_cache: KVTensors) -> Tensor:
        logits = super().forward(batch, kv_cache)
        self.fault(batch, logits)
        return logits


POISON = VOCAB_SIZE - 1


def raise_at_poison(batch: ForwardBatch, logits: Tensor) -> None:
    if POISON in batch.token_ids:
        raise torch.OutOfMemoryError("out of memory at block 17")


def nan_at_poison(batch: ForwardBatch, logits: Tensor) -> None:
    for i, row in enumerate(batch.logits_rows.tolist()):
        if batch.token_ids[row] == POISON:
            logits[i] = torch.nan


@pytest.mark.parametrize("fault", [raise_at_poison, nan_at_poison])
def test_a_failure_ends_only_the_request_that_causes_it(
    fault: Callable[[ForwardBatch, Tensor], None],
) -> None:
    driver = Driver(FaultyModel(fault))
    healthy = [driver.add(prompt(length), stop_token_ids=(POISON,)) for length in (3, 20)]
    driver.step()
    driver.add((1, 2, POISON), stop_token_ids=(POISON,))
    healthy.append(driver.add(prompt(9), stop_token_ids=(POISON,)))
    driver.run()
    finished = driver.finished.pop("2")
    assert finished.reason is FinishReason.ERROR
    assert isinstance(finished.error, EngineError)
    assert driver.records["2"] == []
    for request in healthy:
        assert driver.tokens(request) == expected_tokens(driver.model, request)
        assert driver.finished[request.request_id].error is None


def test_the_cause_of_a_failure_is_kept_for_the_log_and_from_the_client() -> None:
    driver = Driver(FaultyModel(raise_at_poison))
    driver.add((1, POISON))
    assert driver.step().prefilling == ()
    error = driver.finished["0"].error
    assert error is not None
    assert isinstance(error.__cause__, torch.OutOfMemoryError)
    assert "block 17" not in error.message


def test_a_step_that_fails_once_costs_nobody_anything() -> None:
    failures = iter([RuntimeError("once")])

    def fail_once(batch: ForwardBatch, logits: Tensor) -> None:
        for failure in failures:
            raise failure

    driver = Driver(FaultyModel(fail_once))
    requests = [driver.add(prompt(length), max_tokens=9, temperature=1.0) for length in (3, 20)]
    driver.run()
    for seed, request in enumerate(requests, start=1000):
        assert driver.tokens(request) == expected_tokens(driver.model, request, seed=seed)


# --- size ---------------------------------------------------------------------


def build(num_blocks: int, *, max_model_len: int, max_num_seqs: int = 4) -> LLMEngine:
    model = HistoryModel(max_model_len)
    return LLMEngine(
        TorchRunner(model),
        eos_token_ids=frozenset(),
        batch=BatchConfig(max_num_seqs=max_num_seqs),
        kv_cache_limit=KVCacheLimit(num_blocks * bytes_per_block(model)),
        max_model_len=max_model_len,
    )


def test_a_cache_smaller_than_the_context_cuts_the_context_and_says_so() -> None:
    engine = build(MIN_MODEL_LEN // BLOCK_SIZE, max_model_len=1000)
    assert engine.max_model_len == MIN_MODEL_LEN
    (notice,) = engine.notices
    assert str(MIN_MODEL_LEN) in notice
    assert "1000" in notice


def test_a_cache_that_holds_the_context_needs_no_notice() -> None:
    engine = build(63, max_model_len=1000)
    assert engine.max_model_len == 1000
    assert engine.notices == ()


@pytest.mark.parametrize("max_model_len", [64, 1000])
def test_a_cache_too_small_to_be_of_use_is_refused_with_both_numbers(max_model_len: int) -> None:
    num_blocks = min(max_model_len, MIN_MODEL_LEN) // BLOCK_SIZE
    per_block = bytes_per_block(HistoryModel())
    with pytest.raises(
        ModelLoadError,
        match=f"{size_text((num_blocks - 1) * per_block)}.*{size_text(num_blocks * per_block)}",
    ):
        build(num_blocks - 1, max_model_len=max_model_len)


def test_no_more_blocks_are_made_than_full_seats_can_use() -> None:
    engine = build(10_000, max_model_len=100, max_num_seqs=3)
    assert engine.stats().kv_blocks_total == 3 * 7


def test_a_closed_engine_lets_go_of_its_runner_and_refuses_to_step() -> None:
    engine = build(63, max_model_len=1000)
    assert engine._runner is not None
    runner = weakref.ref(engine._runner)
    engine.close()
    gc.collect()
    assert runner() is None
    with pytest.raises(AssertionError, match="closed"):
        engine.step(0.0)
    engine.close()
