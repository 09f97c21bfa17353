"""The consumer's end of a stream, driven through a real ring by hand."""

import gc
import weakref
from collections.abc import Callable

import pytest

from realtime_serve import _token_ring as ring_states
from realtime_serve._token_ring import FLAG_LAST, FLAG_NO_TEXT
from realtime_serve.errors import (
    DeadlineExceededError,
    EngineError,
    RequestCancelledError,
    StalledReaderError,
)
from realtime_serve.native import NativeThread
from realtime_serve.stream_manager import StreamManager
from realtime_serve.types import FinishReason
from support.hand_fed_streams import open_stream, push

LONG_S = 60.0


def on_native_thread(produce: Callable[[], None]) -> NativeThread:
    thread = NativeThread(produce, "producer")
    thread.start()
    return thread


def test_ready_tokens_are_read_at_once_and_in_order() -> None:
    stream, ring, _ = open_stream()
    push(ring, "abc")
    assert [token.text for token in stream.read()] == ["a", "b", "c"]
    assert not stream.ended


def test_the_last_token_carries_the_reason() -> None:
    stream, ring, _ = open_stream()
    push(ring, "ab", last=True)
    ring.finish(ring_states.LENGTH)
    tokens = list(stream)
    assert [token.finish_reason for token in tokens] == [None, FinishReason.LENGTH]
    assert stream.finish_reason is FinishReason.LENGTH


def test_a_last_token_seen_before_its_reason_waits_for_it() -> None:
    stream, ring, _ = open_stream()
    push(ring, "ab", last=True)
    assert stream.read(timeout_s=0.0) == []
    ring.finish(ring_states.STOP)
    tokens = stream.read()
    assert [(t.text, t.finish_reason) for t in tokens] == [("a", None), ("b", FinishReason.STOP)]


def test_a_stop_token_counts_but_has_no_text() -> None:
    stream, ring, _ = open_stream()
    push(ring, "a")
    ring.push(50, flags=FLAG_NO_TEXT | FLAG_LAST)
    ring.finish(ring_states.STOP)
    assert [token.text for token in stream] == ["a", ""]
    assert stream.usage.completion_tokens == 2


def test_a_full_ring_loses_neither_tokens_nor_the_end() -> None:
    stream, ring, _ = open_stream(capacity=4)
    push(ring, "abcd")
    ring.finish(ring_states.STOP)
    assert "".join(token.text for token in stream) == "abcd"
    assert stream.finish_reason is FinishReason.STOP


def test_tokens_pushed_by_a_native_thread_wake_the_reader() -> None:
    stream, ring, _ = open_stream()
    waker = stream.feed.parker.waker

    def produce() -> None:
        for char in "hello":
            push(ring, char)
            waker.add(stream.feed.parker)
            waker.flush()
        stream.feed.end(FinishReason.STOP)
        waker.add(stream.feed.parker)
        waker.flush()

    thread = on_native_thread(produce)
    assert "".join(token.text for token in stream) == "hello"
    assert thread.join(LONG_S)


# --- stop strings and characters over several tokens --------------------------


def test_a_stop_string_over_several_tokens_is_cut_and_ends_the_stream() -> None:
    stream, ring, queue = open_stream(stop=("END",))
    push(ring, "abENDcd")
    tokens = stream.read()
    assert "".join(token.text for token in tokens) == "ab"
    assert stream.finish_reason is FinishReason.STOP
    assert tokens[-1].finish_reason is FinishReason.STOP
    assert ring.cancel_state == ring_states.STOP
    assert queue.kicks == 1


def test_tokens_past_a_stop_string_are_not_counted() -> None:
    stream, ring, _ = open_stream(stop=("b",))
    push(ring, "abcdef")
    stream.read()
    assert stream.usage.completion_tokens == 2


def test_a_stop_string_within_min_tokens_is_ordinary_text() -> None:
    stream, ring, _ = open_stream(stop=("b",), min_tokens=3)
    push(ring, "abcab")
    assert "".join(token.text for token in stream.read()) == "abca"
    assert stream.finish_reason is FinishReason.STOP


def test_text_held_for_a_stop_string_that_never_came_is_delivered_at_the_end() -> None:
    stream, ring, _ = open_stream(stop=("END",))
    push(ring, "abEN", last=True)
    assert stream.read(timeout_s=0.0) == []
    ring.finish(ring_states.LENGTH)
    assert "".join(token.text for token in stream.read()) == "abEN"


def test_half_a_character_is_held_back_and_flushed_at_the_end() -> None:
    stream, ring, _ = open_stream()
    ring.push(0)
    assert [token.text for token in stream.read()] == [""]
    ring.push(0, flags=FLAG_LAST)
    ring.finish(ring_states.LENGTH)
    assert [token.text for token in stream.read()] == ["\ufffd"]


# --- ends ---------------------------------------------------------------------


def test_closing_a_seated_stream_asks_the_engine_to_drop_it() -> None:
    stream, ring, queue = open_stream()
    stream.close()
    stream.close()
    assert ring.cancel_state == ring_states.CANCELLED
    assert queue.kicks == 1
    assert stream.finish_reason is FinishReason.CANCELLED


def test_closing_a_queued_stream_takes_it_out_of_the_queue() -> None:
    stream, _, queue = open_stream()
    stream.queue_handle = 7
    stream.close()
    assert queue.waiting == set()
    assert queue.kicks == 0


def test_leaving_the_with_block_closes() -> None:
    stream, ring, _ = open_stream()
    with stream:
        push(ring, "a")
    assert ring.cancel_state == ring_states.CANCELLED


def test_a_forgotten_stream_is_cancelled() -> None:
    stream, ring, _ = open_stream()
    reference, feed = weakref.ref(stream), stream.feed
    del stream
    gc.collect()
    assert reference() is None
    assert ring.cancel_state == ring_states.CANCELLED
    assert feed.ring is ring


def test_a_finished_stream_is_not_cancelled_by_close() -> None:
    stream, ring, _ = open_stream()
    push(ring, "a", last=True)
    ring.finish(ring_states.STOP)
    list(stream)
    stream.close()
    assert ring.cancel_state == ring_states.OPEN
    assert stream.finish_reason is FinishReason.STOP


def test_cancel_from_elsewhere_ends_a_waiting_reader() -> None:
    stream, _, _ = open_stream()
    thread = on_native_thread(stream.cancel)
    assert stream.read(LONG_S) == []
    assert stream.finish_reason is FinishReason.CANCELLED
    with pytest.raises(RequestCancelledError):
        stream.raise_for_error()
    assert thread.join(LONG_S)


def test_a_passed_deadline_ends_the_stream_and_the_sequence() -> None:
    stream, ring, _ = open_stream(deadline_in_s=0.01)
    with pytest.raises(DeadlineExceededError):
        list(stream)
    assert ring.cancel_state == ring_states.DEADLINE
    assert stream.finish_reason is FinishReason.DEADLINE


def test_an_engine_failure_is_raised_after_the_tokens_before_it() -> None:
    stream, ring, _ = open_stream()
    push(ring, "ab")
    stream.feed.end(FinishReason.ERROR, EngineError("broken"))
    assert [token.text for token in stream.read()] == ["a", "b"]
    with pytest.raises(EngineError, match="broken"):
        list(stream)


def test_only_the_first_end_counts() -> None:
    stream, _, _ = open_stream()
    stream.feed.end(FinishReason.STOP)
    stream.feed.end(FinishReason.ERROR, EngineError("too late"))
    assert list(stream) == []
    assert stream.finish_reason is FinishReason.STOP
    assert stream.error is None


def test_a_read_with_a_timeout_returns_empty_handed() -> None:
    stream, _, _ = open_stream()
    assert stream.read(timeout_s=0.01) == []
    assert not stream.ended


def test_making_room_in_a_stalled_ring_kicks_the_engine() -> None:
    stream, ring, queue = open_stream(capacity=2)
    push(ring, "ab")
    assert ring.mark_stalled()
    stream.read()
    assert queue.kicks == 1


def test_end_callbacks_run_once_with_the_final_counts() -> None:
    stream, ring, _ = open_stream(stop=("b",))
    calls: list[int] = []
    stream.add_end_callback(lambda ended: calls.append(ended.usage.completion_tokens))
    push(ring, "abc")
    stream.read()
    stream.close()
    assert calls == [2]


def test_an_end_callback_that_fails_costs_neither_the_tokens_nor_the_other_callbacks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream, ring, _ = open_stream()
    reasons: list[FinishReason | None] = []

    def fail(_: object) -> None:
        raise RuntimeError("a bill that cannot be sent")

    stream.add_end_callback(fail)
    stream.add_end_callback(lambda ended: reasons.append(ended.finish_reason))
    push(ring, "ab", last=True)
    ring.finish(ring_states.LENGTH)
    assert "".join(token.text for token in stream) == "ab"
    assert reasons == [FinishReason.LENGTH] == [stream.finish_reason]
    assert "a bill that cannot be sent" in caplog.text


def test_statistics_count_every_gap() -> None:
    stream, ring, _ = open_stream()
    push(ring, "abc")
    stream.read()
    push(ring, "de", last=True)
    ring.finish(ring_states.STOP)
    stream.read()
    assert stream.statistics.num_tokens == 5
    assert sum(stream.statistics.inter_token_counts) == 4


# --- ends that the reader did not ask for -------------------------------------


def test_a_reader_that_comes_back_too_late_finds_the_reason_and_no_more_tokens() -> None:
    stream, ring, _ = open_stream(capacity=4)
    push(ring, "abcd")
    stream.feed.end(FinishReason.CANCELLED, StalledReaderError())
    with pytest.raises(StalledReaderError):
        list(stream)
    assert stream.finish_reason is FinishReason.ERROR
    assert stream.usage.completion_tokens == 0


def test_whoever_closes_a_stream_that_was_cut_leaves_the_reason() -> None:
    stream, _, _ = open_stream()
    stream.cancel(StalledReaderError())
    stream.close()
    assert stream.finish_reason is FinishReason.ERROR
    assert isinstance(stream.error, StalledReaderError)


def test_a_stream_that_has_ended_cannot_be_cut() -> None:
    stream, ring, queue = open_stream()
    push(ring, "a", last=True)
    ring.finish(ring_states.LENGTH)
    stream.read()
    stream.cancel(StalledReaderError())
    assert stream.error is None
    assert queue.kicks == 0


def test_a_lease_is_renewed_through_the_ring() -> None:
    stream, ring, _ = open_stream()
    before = ring.reader_activity()
    stream.renew_lease()
    assert ring.reader_activity() > before


# --- the manager --------------------------------------------------------------


def test_the_manager_counts_open_streams_only() -> None:
    manager = StreamManager()
    first, _, _ = open_stream()
    second, _, _ = open_stream()
    manager.add(first)
    manager.add(second)
    assert len(manager) == 2
    first.close()
    assert len(manager) == 1
    del second
    gc.collect()
    assert len(manager) == 0


def test_an_answer_that_is_cut_stays_good_whatever_ends_the_engine() -> None:
    stream, ring, _ = open_stream(stop=("b",))
    push(ring, "abc")
    stream.feed.end(FinishReason.ERROR, EngineError("shutting down"))
    assert "".join(token.text for token in stream) == "a"
    assert stream.finish_reason is FinishReason.STOP
    assert stream.error is None


def test_a_token_that_cannot_be_decoded_fails_its_own_stream() -> None:
    stream, ring, _ = open_stream()
    ring.push(-1)  # chr() refuses it
    with pytest.raises(EngineError, match="decoded") as caught:
        list(stream)
    assert isinstance(caught.value.__cause__, ValueError)
    assert ring.cancel_state == ring_states.CANCELLED
