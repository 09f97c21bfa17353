"""A sequence's life, its limits and its end."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from realtime_serve._token_ring import TokenRing
from realtime_serve.engine.sequence import TRANSITIONS, Sequence, SequenceStatus
from realtime_serve.types import FinishReason, InferenceRequest, RequestPriority, SamplingParams

EOS = 2

WAITING, RUNNING, PAUSED, PREEMPTED, FINISHED = SequenceStatus


def make_sequence(
    *,
    prompt: tuple[int, ...] = (5, 6, 7),
    max_model_len: int = 32,
    priority: RequestPriority = RequestPriority.NORMAL,
    arrival_index: int = 0,
    **sampling: Any,
) -> Sequence:
    request = InferenceRequest(
        request_id="r",
        model="m",
        prompt_token_ids=prompt,
        sampling=SamplingParams(**sampling),
        priority=priority,
    )
    return Sequence(
        request,
        TokenRing(4),
        arrival_index=arrival_index,
        seed=0,
        eos_token_ids=frozenset({EOS}),
        max_model_len=max_model_len,
    )


@pytest.mark.parametrize(("before", "after"), list(itertools.product(SequenceStatus, repeat=2)))
def test_the_status_follows_the_table_and_nothing_else(
    before: SequenceStatus, after: SequenceStatus
) -> None:
    sequence = make_sequence()
    sequence.status = before
    if after in TRANSITIONS[before]:
        sequence.enter(after)
        assert sequence.status is after
    else:
        with pytest.raises(AssertionError):
            sequence.enter(after)
        assert sequence.status is before


def test_only_what_runs_or_pauses_can_be_preempted_and_every_life_can_end() -> None:
    assert {s for s in SequenceStatus if PREEMPTED in TRANSITIONS[s]} == {RUNNING, PAUSED}
    assert {s for s in SequenceStatus if FINISHED not in TRANSITIONS[s]} == {FINISHED}
    assert TRANSITIONS[FINISHED] == frozenset()
    assert TRANSITIONS[WAITING] == TRANSITIONS[PREEMPTED] == {RUNNING, FINISHED}


def test_all_of_a_new_sequence_is_pending() -> None:
    sequence = make_sequence(prompt=(5, 6, 7))
    assert sequence.num_tokens == sequence.num_prompt_tokens == sequence.num_pending_tokens == 3
    assert sequence.num_generated_tokens == 0


@pytest.mark.parametrize(("asked", "granted"), [(None, 29), (1000, 29), (29, 29), (5, 5)])
def test_max_tokens_is_cut_to_the_room_that_the_context_leaves(
    asked: int | None, granted: int
) -> None:
    sequence = make_sequence(prompt=(5, 6, 7), max_model_len=32, max_tokens=asked)
    assert sequence.max_tokens == granted
    assert sequence.max_computed_tokens == 3 + granted - 1


def test_appending_grows_the_same_array() -> None:
    sequence = make_sequence()
    token_ids = sequence.token_ids
    sequence.append(9)
    assert sequence.token_ids is token_ids
    assert list(token_ids) == [5, 6, 7, 9]
    assert sequence.num_generated_tokens == 1


def test_c_reads_tokens_and_blocks_where_they_lie() -> None:
    sequence = make_sequence(prompt=(5, 6, 7))
    for each in (sequence.token_ids, sequence.block_table):
        with memoryview(each) as view:
            assert (view.format, view.itemsize, view.c_contiguous) == ("i", 4, True)


def test_it_ends_by_length_at_its_last_token() -> None:
    sequence = make_sequence(max_tokens=2)
    assert sequence.append(9) is None
    assert sequence.append(9) is FinishReason.LENGTH


def test_the_models_own_stop_token_ends_it() -> None:
    assert make_sequence().append(EOS) is FinishReason.STOP


def test_ignore_eos_ignores_only_the_models_own_stop_tokens() -> None:
    sequence = make_sequence(ignore_eos=True, stop_token_ids=(8,))
    assert sequence.append(EOS) is None
    assert sequence.append(8) is FinishReason.STOP


def test_a_stop_token_in_the_last_place_is_a_stop_and_not_a_length() -> None:
    assert make_sequence(max_tokens=1).append(EOS) is FinishReason.STOP


def test_of_several_tokens_it_takes_those_up_to_its_end() -> None:
    assert make_sequence().extend([9, EOS, 9]) == (2, FinishReason.STOP)
    assert make_sequence(max_tokens=3).extend([9, 9, 9, 9]) == (3, FinishReason.LENGTH)
    assert make_sequence().extend([9, 9]) == (2, None)
    assert make_sequence().extend([]) == (0, None)


def test_stop_tokens_are_banned_until_min_tokens_are_there() -> None:
    sequence = make_sequence(min_tokens=2, stop_token_ids=(8,))
    assert [sequence.banned_token_ids(i) for i in range(3)] == [{8, EOS}, {8, EOS}, frozenset()]


def test_ranks_order_by_class_and_then_by_arrival() -> None:
    ranked = [
        make_sequence(priority=RequestPriority.HIGH, arrival_index=7),
        make_sequence(priority=RequestPriority.NORMAL, arrival_index=3),
        make_sequence(priority=RequestPriority.NORMAL, arrival_index=4),
        make_sequence(priority=RequestPriority.LOW, arrival_index=1),
    ]
    assert [s.rank for s in ranked] == sorted(s.rank for s in ranked)


def test_a_prompt_that_fills_the_context_is_not_made_into_a_sequence() -> None:
    with pytest.raises(AssertionError):
        make_sequence(prompt=(1,) * 32, max_model_len=32)
