"""Slow, or taking nothing: judged by what the client's kernel takes."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from realtime_serve.native import pause
from realtime_serve.stall_clock import LOOKS_A_TIMEOUT, Pace, StallClock, num_taken_bytes

CHUNK = bytes(4096)


def test_a_client_that_takes_nothing_stalls_at_its_timeout() -> None:
    clock = StallClock(8.0)
    clock.start(100, 50.0)
    assert clock.interval_s == 8.0 / LOOKS_A_TIMEOUT
    assert clock.read(100, 57.9) is Pace.PAUSING
    assert clock.read(100, 58.0) is Pace.STALLED


def test_each_byte_taken_begins_the_time_anew() -> None:
    clock = StallClock(8.0)
    clock.start(100, 0.0)
    for number in range(1, 100):
        assert clock.read(100 + number, 7.0 * number) is Pace.TAKING
    assert clock.read(199, 7.0 * 99 + 7.9) is Pace.PAUSING
    assert clock.read(199, 7.0 * 99 + 8.0) is Pace.STALLED


@pytest.fixture(params=[socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A server's and a client's end with small buffers, neither of which waits."""
    if request.param == socket.AF_UNIX:
        server, client = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            client.connect(listener.getsockname())
            server, _ = listener.accept()
    with server, client:
        server.setblocking(False)
        client.setblocking(False)
        yield server, client


def fill(server: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            server.send(CHUNK)


def settled(server: socket.socket) -> int:
    """The figure once the client's kernel is full."""
    figures = [num_taken_bytes(server.fileno())]
    while len(figures) < 20 or len(set(figures[-20:])) > 1:
        pause(0.05)
        figures.append(num_taken_bytes(server.fileno()))
    return figures[-1]


def drained(client: socket.socket) -> int:
    num_bytes = 0
    with contextlib.suppress(BlockingIOError):
        while data := client.recv(1 << 16):
            num_bytes += len(data)
    return num_bytes


def test_the_figure_moves_when_the_client_reads_and_only_then(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    server, client = pair
    fill(server)
    stuck = settled(server)
    assert drained(client) > 0
    while num_taken_bytes(server.fileno()) == stuck:
        drained(client)
        pause(0.001)


@pytest.mark.parametrize("pair", [socket.AF_INET], ids=["tcp"], indirect=True)
def test_it_moves_also_while_the_sender_fills_what_becomes_free(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    server, client = pair
    seen = set()
    for _ in range(5):
        fill(server)
        pause(0.05)
        seen.add(num_taken_bytes(server.fileno()))
        assert drained(client) > 0
    assert len(seen) > 1


def test_asking_leaves_the_descriptor_as_it_was(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    num_taken_bytes(server.fileno())
    assert not os.get_blocking(server.fileno())
    server.send(b"x")
    pause(0.01)
    assert client.recv(10) == b"x"


def test_a_closed_socket_has_no_figure() -> None:
    with pytest.raises(OSError, match="closed"):
        num_taken_bytes(-1)
