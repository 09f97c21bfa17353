"""Whole answers whose tokens the hub's drain takes: the same text, and one wake-up."""

from __future__ import annotations

import gevent
import pytest
from gevent.hub import Hub
from hypothesis import given
from hypothesis import strategies as st

from realtime_serve import _token_ring as ring_states
from realtime_serve._event_streams import CollectedStream, EventStream, TextTable, TokenTimes
from realtime_serve._token_ring import FLAG_LAST, TokenRing
from realtime_serve.native import GeventParker, new_parker
from realtime_serve.text_collector import TextCollector, text_of
from support.hub_thread import on_hub_thread

TABLE = TextTable(256)
for _value in range(256):
    TABLE.set_text(_value, bytes([_value]))


def events_of(ring: TokenRing) -> EventStream:
    return EventStream(ring, TABLE, TokenTimes(), b"", b"")


def hub_parker() -> GeventParker:
    parker = new_parker()
    assert isinstance(parker, GeventParker)
    return parker


@given(st.text())
def test_the_text_of_escaped_events_is_the_tokens_text(text: str) -> None:
    tokens = text.encode("utf-8", "replace")
    ring = TokenRing(max(1, len(tokens)))
    for token_id in tokens:
        ring.push(token_id)
    ring.finish(ring_states.LENGTH)
    events = events_of(ring)
    collected = b""
    while events.end_state == ring_states.OPEN:
        collected += events.take()
    assert text_of(collected) == tokens.decode()


def test_nobody_is_woken_before_the_end() -> None:
    def body(_: Hub) -> None:
        ring, parker, log = TokenRing(8), hub_parker(), []

        def wait() -> None:
            parker.park()
            log.append("woken")

        with TextCollector(parker, events_of(ring)) as collector:
            waiting = gevent.spawn(wait)
            gevent.sleep(0)
            for letter in b"abcdefghijklmnop":  # twice what the ring holds
                assert ring.push(letter)
                parker.waker.add(parker)
                parker.waker.flush()
                gevent.sleep(0.001)
            assert log == []
            ring.push(ord("!"), flags=FLAG_LAST)
            ring.finish(ring_states.STOP)
            parker.waker.add(parker)
            parker.waker.flush()
            waiting.join()
            assert collector.end_state == ring_states.STOP
            assert collector.text() == "abcdefghijklmnop!"

    on_hub_thread(body)


def test_a_cancelled_stream_wakes_its_greenlet() -> None:
    def body(_: Hub) -> None:
        ring, parker = TokenRing(8), hub_parker()
        with TextCollector(parker, events_of(ring)):
            waiting = gevent.spawn(parker.park)
            gevent.sleep(0)
            ring.request_cancel(ring_states.CANCELLED)
            parker.waker.flush()
            waiting.join()

    on_hub_thread(body)


def test_a_collector_that_was_left_takes_no_more() -> None:
    def body(_: Hub) -> None:
        ring, parker = TokenRing(8), hub_parker()
        with TextCollector(parker, events_of(ring)) as collector:
            pass
        ring.push(ord("a"))
        parker.waker.flush()
        gevent.sleep(0.001)
        assert collector.text() == ""

    on_hub_thread(body)


def test_a_collected_stream_needs_events() -> None:
    with pytest.raises(TypeError):
        CollectedStream(None)  # type: ignore[arg-type]
