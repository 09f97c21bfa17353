"""`realtime_serve.run`: gevent's own server in a process that nobody has patched."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.event_stream import DONE, EventStream
from support.live_server import LiveServer, free_port, start_program

pytestmark = pytest.mark.not_under_gevent("the server is a process of its own")

TESTS = Path(__file__).parents[1]
PROGRAM = """
import sys
from realtime_serve import load_config, run
from support.scripted_servers import EndlessAlphabet, serve
run(serve(EndlessAlphabet, load_config()), port=int(sys.argv[1]))
print("after run")
"""
LONG = {"model": "alphabet", "max_tokens": 90_000, "temperature": 0}
KEY = "key"


@pytest.fixture
def drain_timeout_s() -> float:
    """How long the server may go on; some tests have another one."""
    return 1.0


@pytest.fixture
def server(tmp_path: Path, drain_timeout_s: float) -> Iterator[LiveServer]:
    """A program that serves an endless model with run()."""
    port = free_port()
    places = [str(TESTS), str(TESTS.parent / "examples"), os.environ.get("PYTHONPATH")]
    environ = {
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
        "REALTIME_SERVE_DRAIN_TIMEOUT_S": str(drain_timeout_s),
        "REALTIME_SERVE_ADMIN_API_KEY": KEY,
        "REALTIME_SERVE_BODY_TIMEOUT_S": "1",
    }
    command = [sys.executable, "-c", PROGRAM, str(port)]
    server = start_program(command, port, tmp_path / "log", environ=environ)
    yield server
    server.kill()


def open_stream(server: LiveServer) -> socket.socket:
    """A connection on which an endless stream has begun."""
    body = {"model": "alphabet", "prompt": "a", "max_tokens": 90_000, "stream": True}
    data = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    client = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    assert client.recv(10) == b"HTTP/1.1 2"
    return client


def num_running(server: LiveServer) -> int:
    running = server.request("GET", "/health").json()["running"]
    assert isinstance(running, int)
    return running


def test_a_client_that_goes_away_stops_its_generation(server: LiveServer) -> None:
    with open_stream(server):
        server.wait_until(lambda: num_running(server) == 1, "running")
    server.wait_until(lambda: num_running(server) == 0, "cancelled")


def test_a_body_that_never_comes_is_refused_and_its_connection_closed(server: LiveServer) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(head + b"Content-Length: 1000\r\n\r\n{")
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"body_timeout"' in answer
    assert server.request("GET", "/health/live").status == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_a_signal_ends_run_while_nobody_reads_an_open_stream(
    server: LiveServer, number: int
) -> None:
    with open_stream(server):
        assert server.stop(number) == 0, server.log
    assert "after run" in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_a_stream_that_a_signal_cuts_says_so(server: LiveServer, number: int) -> None:
    with EventStream(server, LONG) as stream:
        stream.first_text()
        server.process.send_signal(number)
        *_, last, done = stream.rest()
    assert (last["error"]["code"], done) == ("draining", DONE)
    assert last["usage"]["completion_tokens"] > 0
    assert server.process.wait(120) == 0, server.log
    assert "after run" in server.log


@pytest.mark.parametrize("drain_timeout_s", [1000.0])
def test_run_waits_for_streams_but_not_for_idle_connections(server: LiveServer) -> None:
    with (
        EventStream(server, {**LONG, "max_tokens": 2000}) as stream,
        socket.create_connection(("127.0.0.1", server.port), timeout=60),
    ):
        stream.first_text()
        assert server.request("GET", "/health/live").status == 200  # both are accepted by now
        server.process.send_signal(signal.SIGTERM)
        *_, last, done = stream.rest()
        assert (last["choices"][0]["finish_reason"], done) == ("length", DONE)
        assert server.process.wait(120) == 0, server.log
    assert "after run" in server.log


def test_draining_over_http_ends_run(server: LiveServer) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    assert server.request("POST", "/admin/drain", headers=headers).status == 202
    assert server.process.wait(120) == 0, server.log
    assert "after run" in server.log
