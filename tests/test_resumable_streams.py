"""Streams that are kept while clients come and go, with a ring that the test fills itself."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime_serve import _token_ring as ring_states
from realtime_serve import resumable_streams
from realtime_serve._token_ring import TokenRing
from realtime_serve.errors import OverloadedError, StreamNotFoundError
from realtime_serve.event_log import Event
from realtime_serve.resumable_stream import ResumableStream, StreamReader
from realtime_serve.resumable_streams import STREAM_BYTES, ResumableStreams
from realtime_serve.stream import TokenStream
from support.hand_fed_streams import open_stream, push
from support.scripted_servers import wait_until

NEVER_S = 3600.0
PLENTY = 1 << 20


def end_events(stream: TokenStream, failure: Exception | None) -> list[bytes]:
    assert stream.finish_reason is not None
    return [stream.finish_reason.value.encode(), b"done"]


class Source:
    """A kept stream, and the engine's end of it."""

    def __init__(self, table: ResumableStreams, *, start: bytes = b"", capacity: int = 64) -> None:
        self.stream, self.ring, self.queue = open_stream(capacity=capacity)
        self.kept = table.open(self.stream, start=start, frame=str.encode, end_events=end_events)

    def say(self, text: str) -> None:
        """Generate a text, and wait until it is kept."""
        end = self.kept.numbers.stop + len(text)
        push(self.ring, text)
        self._wake()
        wait_until(lambda: self.kept.numbers.stop >= end)

    def end(self) -> None:
        self.ring.finish(ring_states.STOP)
        self._wake()
        wait_until(lambda: self.kept.ended)

    @property
    def is_cancelled(self) -> bool:
        return self.ring.cancel_state == ring_states.CANCELLED

    def _wake(self) -> None:
        self.stream.feed.call().flush()


@pytest.fixture
def table() -> ResumableStreams:
    return ResumableStreams(NEVER_S, PLENTY)


@pytest.fixture
def source(table: ResumableStreams) -> Iterator[Source]:
    source = Source(table, start=b"start")
    yield source
    source.stream.cancel()
    wait_until(lambda: source.kept.ended)


def rest(reader: StreamReader) -> list[Event]:
    events: list[Event] = []
    while not reader.is_over:
        events += [event for _, event in reader.read(NEVER_S)]
    return events


def texts(events: list[Event]) -> str:
    return "".join(event for event in events if isinstance(event, str))


def test_a_reader_gets_all_events_with_their_numbers(source: Source) -> None:
    source.say("ab")
    source.end()
    reader = source.kept.attach(0)
    assert reader.read(0) == [(0, b"start"), (1, "a"), (2, "b"), (3, b"stop"), (4, b"done")]
    assert reader.is_complete
    assert reader.is_over


def test_a_reader_waits_for_events_and_for_the_end(source: Source) -> None:
    reader = source.kept.attach(1)
    assert reader.read(0.01) == []
    assert not reader.is_over
    speaker = threading.Thread(target=say_all, args=(source, "xyz"))
    speaker.start()
    assert rest(reader) == ["x", "y", "z", b"stop", b"done"]
    speaker.join()


def say_all(source: Source, text: str) -> None:
    source.say(text)
    source.end()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.text("abcdef", max_size=5), st.integers(0, 8), st.integers(0, 8)), max_size=8
    )
)
def test_whoever_is_cut_and_comes_back_gets_each_event_once(
    turns: list[tuple[str, int, int]],
) -> None:
    """Each turn says a text, lets the client take some events, and loses those on their way."""
    source = Source(ResumableStreams(NEVER_S, PLENTY), start=b"start")
    had: list[Event] = []
    for text, num_read, num_lost in turns:
        source.say(text)
        reader = source.kept.attach(len(had))
        events = [event for _, event in reader.read(0)][:num_read]
        had += events[: max(0, len(events) - num_lost)]
        reader.leave()
    source.end()
    had += rest(source.kept.attach(len(had)))
    assert had == [b"start", *"".join(text for text, _, _ in turns), b"stop", b"done"]


# --- readers ------------------------------------------------------------------


def test_a_second_reader_ends_the_first(source: Source) -> None:
    first = source.kept.attach(0)
    heard: list[Event] = []
    waiter = threading.Thread(target=lambda: heard.extend(rest(first)))
    waiter.start()
    wait_until(lambda: heard == [] and first.next_number == 1)
    second = source.kept.attach(0)
    waiter.join()
    assert first.was_replaced
    assert not first.is_complete
    source.say("a")
    assert heard == [b"start"]
    assert [event for _, event in second.read(NEVER_S)] == [b"start", "a"]


def test_only_the_last_reader_counts_as_the_client(source: Source) -> None:
    assert is_alone(source)  # nobody was ever there
    first = source.kept.attach(0)
    assert not is_alone(source)
    second = source.kept.attach(0)
    first.leave()
    assert not is_alone(source)
    second.leave()
    assert source.kept.alone_since_s == second.left_at_s


def is_alone(source: Source) -> bool:
    return source.kept.alone_since_s is not None


# --- how long streams are kept ------------------------------------------------


def test_without_a_client_it_is_cancelled_and_forgotten_in_time() -> None:
    table = ResumableStreams(0.05, PLENTY)
    source = Source(table)
    wait_until(lambda: len(table) == 0)
    assert source.is_cancelled
    wait_until(lambda: source.kept.ended)
    assert table.usage == 0
    with pytest.raises(StreamNotFoundError):
        table.find(source.kept.id)


def test_while_its_client_is_there_it_is_kept() -> None:
    table = ResumableStreams(0.05, PLENTY)
    watched, other = Source(table), Source(table)
    reader = watched.kept.attach(0)
    wait_until(lambda: len(table) == 1)
    assert table.find(watched.kept.id) is watched.kept
    assert not watched.is_cancelled
    assert other.is_cancelled
    reader.leave()
    wait_until(lambda: len(table) == 0)
    assert watched.is_cancelled


def test_it_is_swept_again_after_the_table_was_empty() -> None:
    table = ResumableStreams(0.02, PLENTY)
    for _ in range(3):
        Source(table)
        wait_until(lambda: len(table) == 0)


def test_an_ended_stream_keeps_little(table: ResumableStreams) -> None:
    """STREAM_BYTES is an estimate from above."""
    Source(table).end()
    tracemalloc.start()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(100):
        Source(table).end()
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(table) == 101
    assert grown / 100 < STREAM_BYTES


# --- the bound ----------------------------------------------------------------


def room_for(num_streams: int, num_events: int = 0) -> ResumableStreams:
    return ResumableStreams(NEVER_S, num_streams * (STREAM_BYTES + 9 * num_events + 100))


def is_kept(table: ResumableStreams, source: Source) -> bool:
    try:
        return table.find(source.kept.id) is source.kept
    except StreamNotFoundError:
        return False


def test_those_that_have_ended_go_first_and_the_longest_alone_before_others() -> None:
    table = room_for(8)
    running, first, second, third = sources = [Source(table) for _ in range(4)]
    for source in (first, second, third):
        source.end()
    for source in (second, first, third):
        source.kept.attach(0).leave()
    add_watched(table, 4)
    table.require_room()  # for two: an eighth is freed at once
    assert [source for source in sources if is_kept(table, source)] == [running, third]
    add_watched(table, 2)
    table.require_room()
    assert not any(is_kept(table, source) for source in sources)
    assert running.is_cancelled


def add_watched(table: ResumableStreams, num_streams: int) -> None:
    for _ in range(num_streams):
        Source(table).kept.attach(0)


def test_where_all_have_clients_there_is_no_room() -> None:
    table = room_for(2)
    sources = [Source(table) for _ in range(2)]
    readers = [source.kept.attach(0) for source in sources]
    with pytest.raises(OverloadedError) as refusal:
        table.require_room()
    assert refusal.value.retry_after_s is not None
    assert all(is_kept(table, source) for source in sources)
    readers[0].leave()
    table.require_room()
    assert sources[0].is_cancelled


def test_a_stream_that_is_read_gives_up_what_its_client_has() -> None:
    table = room_for(1, num_events=50)
    source = Source(table)
    reader = source.kept.attach(0)
    heard: list[Event] = []
    for _ in range(40):
        source.say("abcdefghij")
        heard += [event for _, event in reader.read(0)]
        assert table.usage <= 1 + 10 * 9 / STREAM_BYTES
    assert texts(heard) == "abcdefghij" * 40
    assert source.kept.numbers.start > 0
    with pytest.raises(StreamNotFoundError):
        source.kept.attach(0).read(0)


def test_a_stream_whose_client_stalls_at_the_bound_is_not_read_on() -> None:
    table = room_for(1, num_events=50)
    source = Source(table, capacity=64)
    reader = source.kept.attach(0)
    said = fill(source.ring, source)
    assert source.kept.numbers.stop < said
    heard: list[Event] = []
    while len(heard) < said:
        heard += [event for _, event in reader.read(NEVER_S)]
    assert texts(heard) == "x" * said
    source.end()


def fill(ring: TokenRing, source: Source) -> int:
    """Generate until nobody takes any more; returns how many tokens that were."""
    said, stopped_at = 0, -1
    while stopped_at != said:
        stopped_at = said
        for _ in range(1000):
            if ring.free_space() == 0:
                threading.Event().wait(0.001)
            else:
                push(ring, "x")
                source.stream.feed.call().flush()
                said += 1
    return said


def test_a_stalled_client_that_leaves_lets_its_stream_be_given_up() -> None:
    table = room_for(1, num_events=50)
    source = Source(table, capacity=64)
    reader = source.kept.attach(0)
    fill(source.ring, source)
    reader.leave()
    wait_until(lambda: source.is_cancelled)
    wait_until(lambda: source.kept.ended)
    assert len(table) == 0


def test_a_failure_of_the_keeper_ends_the_stream(
    table: ResumableStreams, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[Exception | None] = []

    def note_failure(stream: TokenStream, failure: Exception | None) -> list[bytes]:
        failures.append(failure)
        return [b"failed"]

    stream, ring, _ = open_stream()
    kept: ResumableStream = table.open(stream, start=b"", frame=str.encode, end_events=note_failure)
    broken: Any = kept
    broken.append = None
    push(ring, "a")
    stream.feed.call().flush()
    wait_until(lambda: kept.ended)
    assert isinstance(failures[0], TypeError)
    assert stream.ended
    assert "A resumable stream failed" in caplog.text


def test_an_end_that_cannot_be_told_ends_the_stream_all_the_same(
    table: ResumableStreams, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(stream: TokenStream, failure: Exception | None) -> list[bytes]:
        raise KeyError("a mistake")

    stream, ring, _ = open_stream()
    kept = table.open(stream, start=b"", frame=str.encode, end_events=fail)
    ring.finish(ring_states.STOP)
    stream.feed.call().flush()
    wait_until(lambda: kept.ended)
    assert "could not be told" in caplog.text


def test_where_nobody_can_make_room_the_table_is_not_searched_for_each_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = room_for(1, num_events=50)
    searches: list[float] = []
    search = table._free

    def count(wanted_bytes: float) -> None:
        searches.append(wanted_bytes)
        search(wanted_bytes)

    monkeypatch.setattr(table, "_free", count)
    monkeypatch.setattr(resumable_streams, "SEARCH_INTERVAL_S", NEVER_S)
    source = Source(table, capacity=64)
    reader = source.kept.attach(0)
    num_read = 0
    while num_read < 1000:
        source.say("abcdefgh")
        num_read += len(reader.read(NEVER_S))
    assert len(searches) == 1
