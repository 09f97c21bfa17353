"""Whether a client has gone, as a hub notices it and as a probe does."""

import os
import resource
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from realtime_serve.disconnect import PROBE_INTERVAL_S, DisconnectWatch, duplicate_socket
from realtime_serve.native import Parker, new_parker
from realtime_serve.types import HalfClose
from support.hub_thread import LONG_S, on_hub_thread


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    server, client = socket.socketpair()
    with server, client:
        yield server, client


def test_what_is_no_socket_leaves_no_duplicate_behind(tmp_path: Path) -> None:
    """As when another thread closes one meanwhile, and its number is given away."""
    with open(tmp_path / "file", "w") as file:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(OSError, match="socket"):
            duplicate_socket(file.fileno())
        assert os.listdir("/proc/self/fd") == before


def notices_gone(watch: DisconnectWatch, gone: list[bool], parker: Parker) -> bool:
    """Whether the watch notices, for which it may wait: by itself with a hub, else by a probe."""
    if watch.watched:
        parker.park(LONG_S)
        return bool(gone)
    return watch.gone()


def watch_for(
    server: socket.socket, half_close: HalfClose = "cancel"
) -> tuple[DisconnectWatch, list[bool], Parker]:
    gone: list[bool] = []
    parker = new_parker()

    def on_gone() -> None:
        gone.append(True)
        parker.unpark()

    return DisconnectWatch(server, on_gone, half_close), gone, parker


def test_a_closed_peer_is_noticed(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    watch, gone, parker = watch_for(server)
    assert not watch.gone()
    client.close()
    assert notices_gone(watch, gone, parker)
    watch.close()


@pytest.fixture
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with server, client:
        yield server, client


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_a_half_closed_peer_that_may_finish_is_not_gone_until_it_resets(
    tcp_pair: tuple[socket.socket, socket.socket],
) -> None:
    server, client = tcp_pair
    watch, gone, parker = watch_for(server, "finish")
    client.shutdown(socket.SHUT_WR)
    parker.park(1.5 * PROBE_INTERVAL_S)
    assert gone == []
    assert not watch.gone()
    reset(client)
    assert notices_gone(watch, gone, parker)
    watch.close()


def test_a_half_closed_peer_does_not_keep_the_hub_busy(
    tcp_pair: tuple[socket.socket, socket.socket],
) -> None:
    server, client = tcp_pair

    def count_rounds(hub: Any) -> None:
        watch, gone, parker = watch_for(server, "finish")
        client.shutdown(socket.SHUT_WR)
        before = hub.loop.iteration
        parker.park(1.5 * PROBE_INTERVAL_S)
        assert hub.loop.iteration - before < 20
        reset(client)
        assert notices_gone(watch, gone, parker)
        watch.close()
        hub.destroy(destroy_loop=True)

    on_hub_thread(count_rounds)


def test_a_half_closed_peer_is_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    watch, gone, parker = watch_for(server)
    client.shutdown(socket.SHUT_WR)
    assert notices_gone(watch, gone, parker)
    watch.close()


def test_a_peer_that_sends_more_is_not_gone_and_loses_nothing(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    server, client = pair
    watch, gone, parker = watch_for(server)
    client.sendall(b"GET / HTTP/1.1")
    parker.park(1.5 * PROBE_INTERVAL_S)
    assert gone == []
    assert not watch.gone()
    watch.close()
    assert server.recv(100) == b"GET / HTTP/1.1"


def test_a_peer_that_sends_more_and_then_closes_is_noticed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    server, client = pair
    watch, gone, parker = watch_for(server)
    client.sendall(b"\r\n")
    parker.park(0.02)
    client.close()
    assert notices_gone(watch, gone, parker)
    watch.close()


def test_unread_bytes_do_not_keep_the_hub_busy(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair

    def count_rounds(hub: Any) -> None:
        watch, gone, parker = watch_for(server)
        assert watch.watched
        client.sendall(b"\r\n")
        before = hub.loop.iteration
        parker.park(1.5 * PROBE_INTERVAL_S)
        assert hub.loop.iteration - before < 20
        assert gone == []
        client.close()
        assert notices_gone(watch, gone, parker)
        watch.close()
        hub.destroy(destroy_loop=True)

    on_hub_thread(count_rounds)


def test_looking_needs_no_descriptor(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    watch, gone, parker = watch_for(server)
    lowest_free = os.dup(server.fileno())
    os.close(lowest_free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(server.fileno())
        assert not watch.gone()
        client.close()
        assert notices_gone(watch, gone, parker)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    watch.close()


def test_a_default_timeout_of_the_host_changes_nothing(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    server, _ = pair
    watch, _, _ = watch_for(server)
    was_blocking = os.get_blocking(server.fileno())
    socket.setdefaulttimeout(0.01)
    try:
        assert not watch.gone()
    finally:
        socket.setdefaulttimeout(None)
    assert os.get_blocking(server.fileno()) == was_blocking
    watch.close()


def test_a_closed_watch_calls_nobody(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    watch, gone, parker = watch_for(server)
    watch.close()
    watch.close()
    client.close()
    parker.park(0.02)
    assert gone == []


def test_without_a_socket_nobody_is_ever_gone() -> None:
    watch = DisconnectWatch(None, lambda: None)
    assert not watch.watched
    assert not watch.gone()
    watch.close()
