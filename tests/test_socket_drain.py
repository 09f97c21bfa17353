"""Sinks on socket pairs, in a hub of their own, driven through real rings by hand."""

from __future__ import annotations

import _socket
import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from realtime_serve import _token_ring as ring_states
from realtime_serve._event_streams import EventStream, StreamDrain, TextTable, TokenTimes
from realtime_serve._token_ring import TokenRing
from realtime_serve.errors import EngineError, ServeError, StalledReaderError
from realtime_serve.hub_drain import HubDrain
from realtime_serve.native import GeventParker, NativeThread, new_parker
from realtime_serve.socket_drain import SocketSink

LONG_S = 60.0

TABLE = TextTable(128)
for _letter in b"abc":
    TABLE.set_text(_letter, bytes([_letter]))


_SOCKETS: list[_socket.socket] = []


@pytest.fixture(autouse=True)
def close_sockets() -> Iterator[None]:
    yield
    while _SOCKETS:
        _SOCKETS.pop().close()


def in_a_hub(test: Callable[[], None]) -> None:
    """Run on a thread that has a hub, in a greenlet, and raise what it raises."""

    def body() -> None:
        hub = gevent.get_hub()
        try:
            gevent.spawn(test).get()
        finally:
            hub.destroy(destroy_loop=True)

    thread = NativeThread(body, "hub")
    thread.start()
    assert thread.join(LONG_S)
    assert thread.error is None, thread.error


def pair(send_buffer: int = 1) -> tuple[_socket.socket, _socket.socket]:
    """The server's end and the client's, by default with the smallest buffer there is."""
    server, client = _socket.socketpair()  # C's own type, which gevent does not patch
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    client.setblocking(False)
    _SOCKETS.extend((server, client))
    return server, client


def parker() -> GeventParker:
    parker = new_parker()
    assert isinstance(parker, GeventParker)
    return parker


class Told:
    """Notes what a stream is told."""

    def __init__(self) -> None:
        self.num_renewals = 0
        self.errors: list[ServeError | None] = []

    def renew_lease(self) -> None:
        self.num_renewals += 1

    def cancel(self, error: ServeError | None = None) -> None:
        self.errors.append(error)


def open_sink(
    ring: TokenRing | None,
    server: _socket.socket,
    told: Told | None = None,
    stall_timeout_s: float | None = None,
) -> SocketSink:
    events = None if ring is None else EventStream(ring, TABLE, TokenTimes(), b"<", b">")
    return SocketSink(parker(), events, server.fileno(), told or Told(), stall_timeout_s)


def read_all(client: _socket.socket) -> bytes:
    data = b""
    while True:
        try:
            piece = client.recv(1 << 16)
        except BlockingIOError:
            return data
        if not piece:
            return data
        data += piece


def test_a_busy_hub_joins_what_two_steps_bring() -> None:
    def body() -> None:
        ring, (server, client) = TokenRing(8), pair()
        with open_sink(ring, server) as sink:
            waker = sink.parker.waker
            pace = HubDrain.of(waker).pace
            pace.max_delay_s = 1.0
            now_s = time.monotonic()
            pace.note_pass(now_s - LONG_S, now_s, left_some=False)
            for letter in b"ab":
                ring.push(letter)
                waker.flush()
                gevent.sleep(0.001)
            assert read_all(client) == b""
            while not (received := read_all(client)):
                gevent.sleep(0.01)
            assert received == b"6\r\n<a><b>\r\n"

    in_a_hub(body)


def test_a_pass_sends_what_all_streams_have_and_wakes_nobody() -> None:
    def body() -> None:
        rings, pairs = [TokenRing(8) for _ in range(3)], [pair() for _ in range(3)]
        sinks = [open_sink(ring, ends[0]) for ring, ends in zip(rings, pairs, strict=True)]
        for ring, letter in zip(rings, b"abc", strict=True):
            ring.push(letter)
            ring.push(letter)
        assert HubDrain.of(sinks[0].parker.waker).run() == []
        heard = [read_all(client) for _, client in pairs]
        assert heard == [b"6\r\n<a><a>\r\n", b"6\r\n<b><b>\r\n", b"6\r\n<c><c>\r\n"]
        for sink in sinks:
            sink.close()

    in_a_hub(body)


@pytest.mark.parametrize("state", [ring_states.LENGTH, ring_states.ERROR])
def test_the_end_of_a_stream_wakes_its_greenlet(state: int) -> None:
    def body() -> None:
        ring, (server, client) = TokenRing(8), pair()
        sink = open_sink(ring, server)
        ring.push(ord("a"))
        ring.finish(state)
        assert HubDrain.of(sink.parker.waker).run() == [sink.parker]
        assert sink.end_state == state
        sink.finish(b"end")
        sink.close()
        assert read_all(client) == b"3\r\n<a>\r\n3\r\nend\r\n"

    in_a_hub(body)


def test_a_wish_to_end_wakes_the_greenlet() -> None:
    def body() -> None:
        ring, (server, _client) = TokenRing(8), pair()
        with open_sink(ring, server) as sink:
            ring.request_cancel(ring_states.CANCELLED)
            assert HubDrain.of(sink.parker.waker).run() == [sink.parker]

    in_a_hub(body)


def test_a_blocked_client_gets_everything_in_order_once_it_reads() -> None:
    def body() -> None:
        server, client = pair()
        heard: list[bytes] = []

        def read_slowly() -> None:
            while not b"".join(heard).endswith(b"end\r\n"):
                heard.append(read_all(client))
                gevent.sleep(0.001)

        with open_sink(None, server) as sink:
            pieces = [bytes([65 + number]) * 3000 for number in range(26)]
            for piece in pieces:
                sink.write(piece)
            assert not sink.is_clear()
            reader = gevent.spawn(read_slowly)
            sink.finish(b"end")
            assert sink.is_clear()
            reader.get()
        expected = [b"bb8\r\n" + piece + b"\r\n" for piece in pieces]
        assert b"".join(heard) == b"".join(expected) + b"3\r\nend\r\n"

    in_a_hub(body)


def full_ring(num_tokens: int) -> TokenRing:
    ring = TokenRing(num_tokens)
    for _ in range(num_tokens):
        assert ring.push(ord("a"))
    return ring


def test_a_greenlet_that_fills_the_socket_is_woken_when_the_client_has_read() -> None:
    def body() -> None:
        server, client = pair()
        with open_sink(full_ring(4096), server) as sink:
            sink.take()
            assert not sink.is_clear()
            gevent.spawn(read_all, client)
            sink.parker.park(LONG_S / 4)
            assert sink.is_clear()

    in_a_hub(body)


def test_what_one_pass_leaves_in_a_ring_is_sent_without_another_wake_up() -> None:
    def body() -> None:
        server, client = pair(send_buffer=1 << 20)
        with open_sink(full_ring(8192), server) as sink:
            HubDrain.of(sink.parker.waker).run()
            heard = read_all(client)
            assert heard.count(b"<a>") < 8192
            for _ in range(1000):
                gevent.sleep(0.001)
                heard += read_all(client)
                if heard.count(b"<a>") == 8192:
                    return
            pytest.fail("the rest never came")

    in_a_hub(body)


def test_a_client_that_never_takes_the_end_is_dropped() -> None:
    def body() -> None:
        server, client = pair()
        with open_sink(None, server, stall_timeout_s=0.05) as sink:
            sink.finish(b"x" * 100_000)
        assert len(read_all(client)) < 100_000
        with pytest.raises(BrokenPipeError):
            server.send(b"0\r\n\r\n")

    in_a_hub(body)


def tcp_pair() -> tuple[_socket.socket, _socket.socket]:
    """The same over TCP, where the kernel takes more than the sink gives it by itself."""
    client = _socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client.connect(listener.getsockname())
        server = _socket.socket(fileno=listener.accept()[0].detach())
    client.setblocking(False)
    _SOCKETS.extend((server, client))
    return server, client


def test_a_client_that_stalls_can_still_read_how_its_answer_has_ended() -> None:
    def body() -> None:
        server, client = tcp_pair()
        told = Told()
        with open_sink(full_ring(1 << 16), server, told, stall_timeout_s=0.05) as sink:
            while not sink.is_stalled:
                sink.take()
                sink.parker.park(1.0)
            assert [type(error) for error in told.errors] == [StalledReaderError]
            sink.finish(b"why")
        heard = b""
        while not heard.endswith(b"\r\n3\r\nwhy\r\n0\r\n\r\n"):
            heard += read_all(client)
            gevent.sleep(0.001)
        with pytest.raises(BrokenPipeError):
            server.send(b"the connection ends there")

    in_a_hub(body)


def test_a_server_in_a_hurry_leaves_the_end_to_the_kernel() -> None:
    def body() -> None:
        server, client = tcp_pair()
        with open_sink(None, server) as sink:
            sink.write(b"x" * 200_000)
            assert not sink.is_clear()
            sink.finish(b"why", may_wait=False)
        heard = b""
        while not heard.endswith(b"\r\n3\r\nwhy\r\n0\r\n\r\n"):
            heard += read_all(client)
            gevent.sleep(0.001)
        assert heard.count(b"x") == 200_000

    in_a_hub(body)


def test_a_client_that_reads_slowly_is_not_given_up_and_renews_its_stream() -> None:
    def body() -> None:
        server, client = tcp_pair()
        told = Told()
        data = b"x" * 500_000

        def read_slowly() -> None:
            num_left = len(data)
            while num_left > 0:
                with contextlib.suppress(BlockingIOError):
                    num_left -= len(client.recv(4096))
                gevent.sleep(0.05 if told.num_renewals < 3 else 0)

        with open_sink(None, server, told, stall_timeout_s=2.0) as sink:
            reader = gevent.spawn(read_slowly)
            sink.finish(data)
            reader.get()
            assert not sink.is_stalled
        assert told.errors == []
        assert told.num_renewals >= 3

    in_a_hub(body)


def test_a_stream_that_the_engine_cuts_wakes_a_greenlet_whose_client_is_blocked() -> None:
    def body() -> None:
        ring, (server, _client) = full_ring(4096), pair()
        with open_sink(ring, server) as sink:
            assert HubDrain.of(sink.parker.waker).run() == []
            assert not sink.is_clear()
            ring.finish(ring_states.CANCELLED)
            assert HubDrain.of(sink.parker.waker).run() == [sink.parker]

    in_a_hub(body)


def test_an_error_in_the_middle_leaves_no_way_to_end_the_answer_properly() -> None:
    def body() -> None:
        server, _client = pair()
        sink = open_sink(None, server)
        sink.write(b"x")
        sink.__exit__(RuntimeError, RuntimeError("in the middle"), None)
        with pytest.raises(BrokenPipeError):
            server.send(b"0\r\n\r\n")

    in_a_hub(body)


def test_a_closed_sink_leaves_the_connection_to_the_server() -> None:
    def body() -> None:
        server, client = pair()
        with open_sink(TokenRing(8), server) as sink:
            sink.finish(b"x")
        server.send(b"0\r\n\r\n")
        assert read_all(client) == b"1\r\nx\r\n0\r\n\r\n"

    in_a_hub(body)


def test_a_client_that_was_slow_leaves_nothing_in_the_hubs_poll_set() -> None:
    """Or else that would be made anew, with all connections: milliseconds for everybody."""

    def body() -> None:
        server, client = pair()
        before = polled_descriptors()
        with open_sink(None, server) as sink:
            sink.write(b"x" * 100_000)
            gevent.sleep(0.001)  # the hub polls, and so registers what it has to watch
            assert polled_descriptors() - before
            reader = gevent.spawn(read_until, client, b"end\r\n")
            sink.finish(b"end")
            assert not sink.source.is_blocked
        for number in polled_descriptors():
            os.fstat(number)  # fails for one that is closed
        reader.get()

    in_a_hub(body)


def read_until(client: _socket.socket, end: bytes) -> None:
    data = b""
    while not data.endswith(end):
        gevent.sleep(0)
        data += read_all(client)


def polled_descriptors() -> set[int]:
    """The numbers in the epoll sets of this process, those that are closed included."""
    polled = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself is closed by now
            if os.readlink(f"/proc/self/fd/{number}") == "anon_inode:[eventpoll]":
                text = Path(f"/proc/self/fdinfo/{number}").read_text()
                polled |= {int(found) for found in re.findall(r"tfd: *(\d+)", text)}
    return polled


def test_a_client_that_has_gone_is_told_of_and_costs_nothing_more() -> None:
    def body() -> None:
        told = Told()
        ring, (server, client) = TokenRing(8), pair()
        with open_sink(ring, server, told) as sink:
            client.close()
            ring.push(ord("a"))
            assert HubDrain.of(sink.parker.waker).run() == [sink.parker]
            assert told.errors == [None]
            sink.finish(b"nobody hears this")

    in_a_hub(body)


def test_a_client_that_has_gone_is_told_of_once_however_long_its_greenlet_is_busy() -> None:
    def body() -> None:
        told = Told()
        ring, (server, client) = TokenRing(8), pair()
        with open_sink(ring, server, told) as sink:
            client.close()
            ring.push(ord("a"))
            for _ in range(3):
                assert HubDrain.of(sink.parker.waker).run() == [sink.parker]
            assert told.errors == [None]

    in_a_hub(body)


class Unhearing(Told):
    """Fails to hear that its client has gone."""

    def cancel(self, error: ServeError | None = None) -> None:
        super().cancel(error)
        if error is None:
            raise MemoryError


def test_a_stream_that_cannot_be_seen_to_fails_alone() -> None:
    def body() -> None:
        told = Unhearing()
        pairs, rings = [pair(), pair()], [TokenRing(8), TokenRing(8)]
        failing = open_sink(rings[0], pairs[0][0], told)
        other = open_sink(rings[1], pairs[1][0])
        pairs[0][1].close()
        rings[0].push(ord("a"))
        rings[1].finish(ring_states.LENGTH)
        with failing, other:
            assert HubDrain.of(other.parker.waker).run() == [failing.parker, other.parker]
            assert failing.source.is_dead
        _, error = told.errors
        assert isinstance(error, EngineError)
        assert isinstance(error.__cause__, MemoryError)

    in_a_hub(body)


def test_a_number_that_was_closed_and_given_away_gets_nothing() -> None:
    """The sink writes to its own duplicate, whatever becomes of the server's descriptor."""

    def body() -> None:
        ring, (server, client) = TokenRing(8), pair()
        number = server.fileno()
        with open_sink(ring, server) as sink:
            server.close()
            stranger, strangers_client = pair()
            assert number in {stranger.fileno(), strangers_client.fileno()}
            ring.push(ord("a"))
            sink.take()
            assert read_all(strangers_client) == b""
            assert read_all(client) == b"3\r\n<a>\r\n"

    in_a_hub(body)


def test_members_may_leave_a_drain_in_any_order() -> None:
    def body() -> None:
        ends = [pair() for _ in range(40)]
        rings = [TokenRing(8) for _ in ends]
        sinks = [open_sink(ring, server) for ring, (server, _) in zip(rings, ends, strict=True)]
        for sink in sinks[::3]:
            sink.close()
        for ring in rings:
            ring.push(ord("a"))
        HubDrain.of(sinks[0].parker.waker).run()
        heard = [read_all(client) for _, client in ends]
        assert all((data == b"") == (number % 3 == 0) for number, data in enumerate(heard))
        for sink in sinks:
            sink.close()

    in_a_hub(body)


def test_a_stream_without_events_cannot_be_drained() -> None:
    def body() -> None:
        server, _client = pair()
        with open_sink(None, server) as sink, pytest.raises(TypeError):
            sink.take()

    in_a_hub(body)


def test_an_empty_drain_does_nothing() -> None:
    assert StreamDrain().run() == []
