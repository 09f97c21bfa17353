"""Clients that shut down their sending side after the request, against real servers."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.echo_process import figures, start_echo
from support.live_server import LiveServer
from support.raw_stream import RawStream, echo, stream_request, text_of

pytestmark = pytest.mark.not_under_gevent("the servers are processes of their own")

NUM_TOKENS = 300

WORKERS = ["gevent", "gthread"]
"""A hub that watches, and threads that look now and then."""


def start_with(log: Path, worker: str, half_close: str) -> LiveServer:
    """Slow enough that a client's end is seen before the first token, and again later."""
    environ = {
        "REALTIME_SERVE_HALF_CLOSE": half_close,
        "ECHO_STEP_MS": "2",
        "ECHO_PROMPT_TOKENS_A_STEP": "1",
    }
    options = [f"--worker-class={worker}", "--threads=8"]
    return start_echo(log, *options, environ=environ)


@pytest.fixture(scope="module", params=WORKERS)
def finishing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    server = start_with(tmp_path_factory.mktemp("echo") / "log", request.param, "finish")
    yield server
    assert server.stop() == 0, server.log


PROMPT = "a prompt of three hundred tokens " * 9


def test_a_stream_goes_on_to_its_end(finishing: LiveServer) -> None:
    with RawStream(finishing.port) as client:
        client.send(stream_request(PROMPT, max_tokens=NUM_TOKENS))
        client.sock.shutdown(socket.SHUT_WR)
        assert text_of(client.read_answer()[1]) == echo(PROMPT, NUM_TOKENS)


def test_a_whole_answer_is_awaited(finishing: LiveServer) -> None:
    with RawStream(finishing.port) as client:
        client.send(stream_request(PROMPT, max_tokens=NUM_TOKENS, stream=False))
        client.sock.shutdown(socket.SHUT_WR)
        status, headers = client.read_head()
        assert status == 200
        answer = json.loads(client.reader.read(int(headers["content-length"])))
    assert answer["choices"][0]["text"] == echo(PROMPT, NUM_TOKENS)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_client_that_resets_has_gone(finishing: LiveServer, stream: bool) -> None:
    with RawStream(finishing.port) as client:
        client.send(stream_request(PROMPT, max_tokens=10**6, stream=stream))
        client.sock.shutdown(socket.SHUT_WR)
        finishing.wait_until(lambda: figures(finishing)["num_running"] == 1, "running")
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finishing.wait_until(lambda: figures(finishing)["num_running"] == 0, "cancelled")


def test_a_client_that_closes_has_gone_once_something_is_sent(finishing: LiveServer) -> None:
    with RawStream(finishing.port) as client:
        client.send(stream_request("short", max_tokens=10**6))
        assert client.read_head()[0] == 200
    finishing.wait_until(lambda: figures(finishing)["num_running"] == 0, "cancelled")


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_by_default_a_half_closed_client_has_gone(
    worker: str, stream: bool, tmp_path: Path
) -> None:
    server = start_with(tmp_path / "log", worker, "cancel")
    with RawStream(server.port) as client:
        client.send(stream_request(PROMPT, max_tokens=10**6, stream=stream))
        server.wait_until(lambda: figures(server)["num_running"] == 1, "running")
        client.sock.shutdown(socket.SHUT_WR)
        server.wait_until(lambda: figures(server)["num_running"] == 0, "cancelled")
    assert server.stop() == 0, server.log
