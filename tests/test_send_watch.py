"""Sends that block in a WSGI server: watched, renewed, and in the end made to fail."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator, Iterator

import pytest

from realtime_serve.errors import ServeError, StalledReaderError
from realtime_serve.native import pause
from realtime_serve.send_watch import SendWatch
from support.scripted_servers import wait_until

PIECE = bytes(1 << 20)


class Told:
    """Notes what a stream is told."""

    def __init__(self) -> None:
        self.num_renewals = 0
        self.errors: list[ServeError | None] = []

    def renew_lease(self) -> None:
        self.num_renewals += 1

    def cancel(self, error: ServeError | None = None) -> None:
        self.errors.append(error)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A server's and a client's end of a TCP connection, the client's with a small buffer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
    with server, client:
        yield server, client


def pieces(num_pieces: int, closed: list[str]) -> Generator[bytes, None, None]:
    try:
        for _ in range(num_pieces):
            yield PIECE
    finally:
        closed.append("closed")


class Handler(threading.Thread):
    """What a WSGI server does: it sends each piece and, at the end or a failure, closes."""

    def __init__(self, watch: SendWatch, server: socket.socket, num_pieces: int) -> None:
        super().__init__()
        self.told = Told()
        self.closed: list[str] = []
        self.failure: OSError | None = None
        self._watch = watch
        self._server = server
        self._num_pieces = num_pieces

    def run(self) -> None:
        try:
            with self._watch.open(self._server, self.told) as sends:
                for piece in sends.through(pieces(self._num_pieces, self.closed)):
                    self._server.sendall(piece)
        except OSError as error:
            self.failure = error


def test_a_send_to_a_client_that_takes_nothing_fails_and_frees_its_thread(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    server, _ = pair
    handler = Handler(SendWatch(0.2), server, 2)
    handler.start()
    handler.join()
    assert isinstance(handler.failure, BrokenPipeError)
    assert [type(error) for error in handler.told.errors] == [StalledReaderError]
    assert handler.closed == ["closed"]


def test_a_client_that_reads_slowly_is_waited_for_and_renews_its_stream(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    server, client = pair
    handler = Handler(SendWatch(2.0), server, 1)
    handler.start()
    num_read = 0
    while num_read < len(PIECE):
        num_read += len(client.recv(8192))
        pause(0.02 if handler.told.num_renewals < 2 else 0)
    handler.join()
    assert handler.failure is None
    assert handler.told.errors == []
    assert handler.told.num_renewals >= 2


def test_a_handler_that_waits_for_tokens_is_not_sending(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """However long ago its client took the last piece, or is yet to take it."""
    server, _ = pair
    told = Told()

    def slow() -> Generator[bytes, None, None]:
        yield bytes(1 << 12)
        pause(0.3)
        yield b"x"

    with SendWatch(0.05).open(server, told) as sends:
        for piece in sends.through(slow()):
            server.sendall(piece)
    assert told.errors == []
    server.sendall(b"still open")


def test_the_connections_next_answers_find_it_as_it_was(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    server, _ = pair

    def low_water_mark() -> int:
        return server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)

    before = low_water_mark()
    with SendWatch(None).open(server, Told()):
        assert low_water_mark() != before
    assert low_water_mark() == before


def test_the_watching_thread_lives_as_long_as_there_are_streams(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    server, _ = pair
    watch = SendWatch(0.05)
    for _ in range(2):
        with watch.open(server, Told()):
            assert watch.is_looking
        wait_until(lambda: not watch.is_looking)


@pytest.mark.parametrize("stall_timeout_s", [None, 0.05])
def test_without_a_socket_pieces_go_through_unwatched(stall_timeout_s: float | None) -> None:
    watch = SendWatch(stall_timeout_s)
    with watch.open(None, Told()) as sends:
        assert not watch.is_looking
        assert len(list(sends.through(pieces(3, [])))) == 3
