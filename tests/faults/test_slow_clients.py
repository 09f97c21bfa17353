"""Clients that take their time: each is cut at its timeout or left alone, and costs nobody else."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.live_server import LiveServer
from support.raw_stream import RawStream, payloads, stream_request
from support.unharmed import MODEL, Guarded, start_faulty

pytestmark = pytest.mark.not_under_gevent("the server is a process of its own")

GET = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

STALLED_BODIES = {
    "with a length": POST + b"Content-Length: 1000\r\n\r\n{",
    "in chunks": POST + b"Transfer-Encoding: chunked\r\n\r\n10\r\n{",
    "not begun": POST + b"Content-Length: 1000\r\n\r\n",
}

NUM_EACH = 500

HURRIED = {"REALTIME_SERVE_BODY_TIMEOUT_S": "2"}


@pytest.fixture(scope="module", autouse=True)
def _many_descriptors() -> Iterator[None]:
    """The clients are all in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4 * NUM_EACH:
        pytest.skip(f"only {hard} descriptors may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4 * NUM_EACH), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(server: LiveServer, data: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    client.sendall(data)
    return client


def read_to_end(client: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionResetError):  # closed with bytes of ours unread
        while piece := client.recv(65536):
            answer += piece
    return answer


def assert_timed_out(answer: bytes) -> None:
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"body_timeout"' in answer


# --- bodies -------------------------------------------------------------------


def test_bodies_that_stall_are_refused_and_their_connections_closed(guarded: Guarded) -> None:
    with guarded.unharmed():
        for client in [connect(guarded.server, data) for data in STALLED_BODIES.values()]:
            with client:
                assert_timed_out(read_to_end(client))


def test_a_body_that_trickles_wins_no_time(guarded: Guarded) -> None:
    with guarded.unharmed(), connect(guarded.server, STALLED_BODIES["with a length"]) as client:
        while not select.select([client], [], [], 0.05)[0]:
            client.send(b" ")
        assert_timed_out(read_to_end(client))


def test_threads_do_not_wait_for_ever_either(tmp_path: Path) -> None:
    options = ("--worker-class=gthread", "--threads=2")
    environ = {"REALTIME_SERVE_BODY_TIMEOUT_S": "0.5"}
    server = start_faulty(tmp_path / "log", *options, environ=environ)
    try:
        with connect(server, STALLED_BODIES["with a length"]) as client:
            assert_timed_out(read_to_end(client))
        assert server.stop() == 0, server.log
    finally:
        server.kill()


def test_after_a_slow_body_that_is_whole_in_time_the_connection_goes_on(guarded: Guarded) -> None:
    whole = stream_request("one", model=MODEL, max_tokens=3)
    with guarded.unharmed(), RawStream(guarded.server.port) as stream:
        for _ in range(2):
            for part in (whole[:-5], whole[-5:]):
                stream.send(part)
            assert payloads(stream.read_answer()[1])[-1] == "[DONE]"


# --- crowds -------------------------------------------------------------------


class Crowd:
    """Clients that send a byte now and then, until the server has closed on all of them."""

    def __init__(self, server: LiveServer, begun: list[bytes]) -> None:
        self._clients = [connect(server, data) for data in begun]
        self._poll = select.poll()
        for client in self._clients:
            self._poll.register(client, select.POLLIN)
        self._by_fd = {client.fileno(): client for client in self._clients}
        self._heard: dict[socket.socket, bytes] = {}

    @property
    def num_open(self) -> int:
        return len(self._by_fd)

    def trickle(self) -> None:
        for client in self._by_fd.values():
            with contextlib.suppress(OSError):
                client.send(b"x")

    def listen(self) -> None:
        """Hear those to whom something was said, or nothing ever will be."""
        for descriptor, _ in self._poll.poll(0):
            self._poll.unregister(descriptor)
            client = self._by_fd.pop(descriptor)
            self._heard[client] = read_to_end(client)

    def answers(self) -> list[bytes]:
        return [self._heard[client] for client in self._clients]

    def leave(self) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture(scope="module")
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server that has little patience with heads and bodies."""
    log = tmp_path_factory.mktemp("hurried") / "log"
    server = start_faulty(log, "--keep-alive=2", environ=HURRIED)
    try:
        yield Guarded(server)
        assert server.stop() == 0, server.log
        assert "Traceback" not in server.log
    finally:
        server.kill()


def test_crowds_of_slow_heads_and_bodies_are_cut_while_all_others_are_served(
    hurried: Guarded,
) -> None:
    begun = [GET + b"A: "] * NUM_EACH + [STALLED_BODIES["with a length"]] * NUM_EACH
    num_healthy = 0
    with hurried.unharmed():
        crowd = Crowd(hurried.server, begun)
        while crowd.num_open:
            crowd.trickle()
            assert hurried.server.request("GET", "/health").status == 200
            num_healthy += crowd.num_open == len(begun)
            crowd.listen()
        heads, bodies = crowd.answers()[:NUM_EACH], crowd.answers()[NUM_EACH:]
        crowd.leave()
    assert num_healthy > 0
    assert set(heads) == {b""}
    for body in bodies:
        assert_timed_out(body)


def test_who_speaks_tls_to_a_plain_port_is_cut_as_one_who_says_nothing(hurried: Guarded) -> None:
    context = ssl.create_default_context()
    with hurried.unharmed(), connect(hurried.server) as client, pytest.raises(ssl.SSLError):
        context.wrap_socket(client, server_hostname="localhost")


def test_idle_connections_cost_nothing(guarded: Guarded) -> None:
    asked = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with guarded.unharmed(), contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(connect(guarded.server)) for _ in range(2 * NUM_EACH)]
        for client in crowd:
            client.sendall(asked)
        for client in crowd:
            answer = b""
            while not answer.endswith(b'{"status":"live"}'):
                answer += client.recv(65536)
        closed = select.poll()
        for client in crowd:
            closed.register(client, select.POLLIN)
        assert closed.poll(0) == []


# --- readers ------------------------------------------------------------------


def test_a_reader_that_stalls_is_paused_and_harms_nobody(guarded: Guarded) -> None:
    server = guarded.server

    def num_paused() -> int:
        states: dict[str, Any] = server.request("GET", "/stats/streams").json()["states"]
        return int(states["paused"])

    with guarded.unharmed(), contextlib.ExitStack() as stack:
        for _ in range(4):
            stalled = stack.enter_context(RawStream(server.port, receive_buffer=4096))
            stalled.send(stream_request("stalled", model=MODEL, max_tokens=4000))
        server.wait_until(lambda: num_paused() == 4, "paused")
