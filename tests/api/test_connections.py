"""Which connections are idle is known for those that clients have to us, and for no others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from flask import Flask, Response

from realtime_serve.api.client import PYWSGI_SOCKET
from realtime_serve.api.connections import ClientConnections


class Connection:
    """Both ends of a connection to a listener of this process."""

    def __init__(self, listener: socket.socket, ends: ExitStack) -> None:
        self.client = ends.enter_context(socket.socket(listener.family))
        self.client.connect(listener.getsockname())
        self.server = ends.enter_context(listener.accept()[0])
        self.client.setblocking(False)
        self.server.setblocking(False)

    def is_shut(self) -> bool:
        """Whether the server reads the end of it."""
        return is_at_end(self.server)


def is_at_end(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False


@pytest.fixture(params=["TCP", "Unix"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    is_tcp = request.param == "TCP"
    with socket.socket(socket.AF_INET if is_tcp else socket.AF_UNIX) as listener:
        listener.bind(("127.0.0.1", 0) if is_tcp else str(tmp_path / "socket"))
        listener.listen()
        yield listener


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    with ExitStack() as ends:
        yield ends


@pytest.fixture
def app() -> Flask:
    return Flask("app")


@pytest.fixture
def connections(app: Flask, listener: socket.socket) -> ClientConnections:
    connections = ClientConnections(app)
    connections.know_listeners([listener.getsockname()])
    return connections


def test_one_is_shut_when_it_is_idle_for_the_second_time(
    connections: ClientConnections, listener: socket.socket, ends: ExitStack
) -> None:
    first = Connection(listener, ends)
    connections.shut_idle()
    assert not first.is_shut()
    second = Connection(listener, ends)
    connections.shut_idle()
    assert first.is_shut()
    assert not second.is_shut()
    assert not is_at_end(first.client)  # what the server still writes arrives
    connections.shut_idle()
    assert second.is_shut()


def test_one_that_carries_a_request_is_left_alone_until_the_answer_is_complete(
    app: Flask, connections: ClientConnections, listener: socket.socket, ends: ExitStack
) -> None:
    connection = Connection(listener, ends)

    @app.get("/")
    def sweep() -> str:
        connections.shut_idle()
        connections.shut_idle()
        return str(connection.is_shut())

    environ = {PYWSGI_SOCKET: connection.server}
    answer = app.test_client().get("/", environ_overrides=environ, buffered=False)
    connections.shut_idle()
    connections.shut_idle()
    assert not connection.is_shut()
    assert answer.text == "False"
    answer.close()
    connections.shut_idle()
    connections.shut_idle()
    assert connection.is_shut()


def test_one_whose_request_lost_its_answer_to_a_failing_hook_is_idle(
    app: Flask, connections: ClientConnections, listener: socket.socket, ends: ExitStack
) -> None:
    connection = Connection(listener, ends)

    @app.after_request
    def fail(response: Response) -> Response:
        raise RuntimeError("the hook's mistake")

    environ = {PYWSGI_SOCKET: connection.server}
    assert app.test_client().get("/", environ_overrides=environ).status_code == 500
    connections.shut_idle()
    connections.shut_idle()
    assert connection.is_shut()


def test_other_sockets_of_the_process_are_not_ours(
    connections: ClientConnections, ends: ExitStack
) -> None:
    """Such as a connection to elsewhere, or one that a listener of somebody else has accepted."""
    other = ends.enter_context(socket.create_server(("127.0.0.1", 0)))
    foreign = Connection(other, ends)
    for _ in range(2):
        connections.shut_idle()
    connections.shut_all()
    assert not foreign.is_shut()
    assert not is_at_end(foreign.client)


def test_in_the_end_all_are_cut(
    app: Flask, connections: ClientConnections, listener: socket.socket, ends: ExitStack
) -> None:
    busy = Connection(listener, ends)

    @app.get("/")
    def cut() -> str:
        connections.shut_all()
        return "done"

    app.test_client().get("/", environ_overrides={PYWSGI_SOCKET: busy.server})
    assert busy.is_shut()
    assert is_at_end(busy.client)
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):  # the listener itself goes on
        listener.accept()
