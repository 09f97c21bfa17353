"""Events made in C against those that the stream and the writer make in Python."""

from __future__ import annotations

import codecs
import itertools
import socket
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_serve import _token_ring as ring_states
from realtime_serve._event_streams import (
    TOKEN_GAP_BOUNDS_S,
    EventStream,
    SocketStream,
    TextTable,
    TokenTimes,
)
from realtime_serve._token_ring import FLAG_LAST, FLAG_NO_TEXT, TokenRing
from realtime_serve.api.responses import chat_head
from realtime_serve.api.sse import ChatChunkWriter
from realtime_serve.stream import TokenStream
from realtime_serve.types import FinishReason, InferenceRequest, SamplingParams

TABLE = TextTable(256)
for _value in range(256):
    TABLE.set_text(_value, bytes([_value]))

WRITER = ChatChunkWriter(chat_head("r1", model='a "model"', created=7))


class Bytes:
    """Token id = byte."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token_id: int) -> str:
        return self._utf8.decode(bytes([token_id]))

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class Queue:
    """Counts the kicks."""

    def __init__(self) -> None:
        self.kicks = 0

    def remove(self, handle: int) -> bool:
        return False

    def kick(self) -> None:
        self.kicks += 1

    def progress(self, handle: int) -> None:
        pass


def open_stream(
    *, capacity: int = 1024, stop: tuple[str, ...] = ()
) -> tuple[TokenStream, TokenRing, Queue]:
    request = InferenceRequest(
        request_id="r", model="m", prompt_token_ids=(1,), sampling=SamplingParams(stop=stop)
    )
    ring, queue = TokenRing(capacity), Queue()
    stream = TokenStream(request, ring=ring, detokenizer=Bytes(), admission=queue, text_table=TABLE)
    return stream, ring, queue


def events_of(stream: TokenStream) -> EventStream:
    events = stream.new_events(*WRITER.frame)
    assert events is not None
    return events


def in_python(stream: TokenStream) -> Callable[[], bytes]:
    return lambda: b"".join(
        WRITER.text(token.text) for token in stream.read(timeout_s=0.0) if token.text
    )


def in_c(stream: TokenStream) -> Callable[[], bytes]:
    events = events_of(stream)
    return lambda: stream.read_events(events, timeout_s=0.0)


def answer(
    reader: Callable[[TokenStream], Callable[[], bytes]],
    batches: list[bytes],
    end: Callable[[TokenRing], None],
) -> tuple[bytes, FinishReason | None, int]:
    """What a stream gives to which the engine pushes some batches, and how it ends."""
    stream, ring, _ = open_stream()
    read = reader(stream)
    data = b""
    for batch in batches:
        for value in batch:
            assert ring.push(value)
        data += read()
    end(ring)
    while not stream.ended:
        data += read()
    return data, stream.finish_reason, stream.statistics.num_tokens


def end_with(flags: int, state: int) -> Callable[[TokenRing], None]:
    def end(ring: TokenRing) -> None:
        assert ring.push(ord("!"), flags=flags)
        ring.finish(state)

    return end


def end_without_a_token(ring: TokenRing) -> None:
    ring.finish(ring_states.ERROR)


ENDS = [
    end_with(FLAG_LAST, ring_states.LENGTH),
    end_with(FLAG_LAST | FLAG_NO_TEXT, ring_states.STOP),
    end_with(0, ring_states.CANCELLED),
    end_without_a_token,
]


# Python's decoder keeps the first two bytes of an encoded surrogate longer than it must.
without_surrogates = st.binary(max_size=6).map(lambda data: data.replace(b"\xed", b"\xee"))


@given(batches=st.lists(without_surrogates, max_size=8), end=st.sampled_from(ENDS))
def test_events_are_the_same_bytes_as_python_makes(
    batches: list[bytes], end: Callable[[TokenRing], None]
) -> None:
    assert answer(in_c, batches, end) == answer(in_python, batches, end)


@pytest.mark.parametrize("reader", [in_c, in_python])
def test_the_last_event_waits_for_the_reason_and_has_what_was_kept_back(
    reader: Callable[[TokenStream], Callable[[], bytes]],
) -> None:
    stream, ring, _ = open_stream()
    read = reader(stream)
    ring.push(0xC3)
    assert read() == b""
    ring.push(ord("!"), flags=FLAG_LAST | FLAG_NO_TEXT)
    assert read() == b""
    ring.finish(ring_states.STOP)
    assert read() == WRITER.text("\ufffd")
    assert stream.finish_reason is FinishReason.STOP


def test_a_long_queue_is_taken_in_parts_and_loses_nothing() -> None:
    stream, ring, _ = open_stream(capacity=4096)
    events = events_of(stream)
    for _ in range(4096):
        assert ring.push(ord("x"))
    ring.finish(ring_states.LENGTH)
    parts = []
    while not stream.ended:
        parts.append(stream.read_events(events))
    assert max(map(len, parts)) < 80 * 1024
    assert b"".join(parts) == WRITER.text("x") * 4096


def test_a_stream_with_stop_strings_needs_python() -> None:
    stream, _, _ = open_stream(stop=("x",))
    assert stream.new_events(b"", b"") is None


def test_making_room_in_a_stalled_ring_kicks_the_engine() -> None:
    stream, ring, queue = open_stream(capacity=2)
    events = events_of(stream)
    ring.push(1)
    ring.push(2)
    assert ring.mark_stalled()
    stream.read_events(events)
    assert queue.kicks == 1
    ring.push(3)
    stream.read_events(events)
    assert queue.kicks == 1


def test_a_cancelled_stream_ends_without_the_rest() -> None:
    stream, ring, _ = open_stream()
    events = events_of(stream)
    ring.push(ord("x"))
    stream.cancel()
    assert stream.read_events(events) == b""
    assert stream.finish_reason is FinishReason.CANCELLED


@given(
    st.lists(st.tuples(st.integers(1, 5), st.floats(0, 20)), max_size=20),
)
def test_token_times_count_as_a_plain_model_does(steps: list[tuple[int, float]]) -> None:
    times = TokenTimes()
    now_s, last_at_s = 100.0, None
    gaps: list[float] = []
    for num_tokens, pause_s in steps:
        now_s += pause_s
        times.note(num_tokens, now_s)
        gaps += [] if last_at_s is None else [now_s - last_at_s]
        gaps += [0.0] * (num_tokens - 1)
        last_at_s = now_s
    assert times.num_tokens == sum(num_tokens for num_tokens, _ in steps)
    assert times.first_at_s == (100.0 + steps[0][1] if steps else None)
    assert times.last_at_s == last_at_s
    assert times.gap_sum_s == pytest.approx(sum(gaps))
    bounds = [-1.0, *TOKEN_GAP_BOUNDS_S, float("inf")]
    expected = [sum(low < gap <= high for gap in gaps) for low, high in itertools.pairwise(bounds)]
    assert times.gap_counts == expected


def test_no_tokens_cannot_be_noted() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        TokenTimes().note(0, 1.0)


# --- bytes on their way to a socket -------------------------------------------


def test_what_a_client_never_took_is_known_after_its_connection_has_ended() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = SocketStream(None, ours.fileno())
        num_bytes = 8 * 1024 * 1024  # more than the kernel takes
        stream.write(b"x" * num_bytes)
        sent, unsent = stream.num_sent_bytes, stream.num_unsent_bytes
        assert sent > 0
        assert unsent > 0
        assert sent + unsent > num_bytes
        stream.close()
        assert (stream.num_sent_bytes, stream.num_unsent_bytes) == (sent, unsent)


def test_an_answer_that_lost_bytes_cannot_be_taken_for_a_whole_one() -> None:
    """Also where the kernel has refused a send and the connection itself is sound."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        stream = SocketStream(None, ours.fileno())
        stream.write(b"sent")
        stream.write(b"x" * 40_000)  # as one packet, more than the socket may ever hold
        assert stream.is_dead
        assert stream.num_unsent_bytes > 40_000
        stream.close()
        assert theirs.recv(100) == b"4\r\nsent\r\n"
        assert (
            theirs.recv(100, socket.MSG_DONTWAIT) == b""
        )  # the end: whoever has the original cannot send either
        with pytest.raises(BrokenPipeError):
            ours.send(b"0\r\n\r\n")
