"""Streams that go around the WSGI server, against real gunicorn processes and raw sockets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import kill_clients
from support.echo_process import RING, figures, run_echo, settled, start_echo
from support.live_server import LiveServer
from support.raw_stream import (
    RawStream,
    came_directly,
    echo,
    payloads,
    stream_request,
    text_of,
    without_names,
)

pytestmark = pytest.mark.not_under_gevent("the server is a process of its own")

PROMPT = 'a "quoted" line\nand another. '
NUM_TOKENS = 300

TIMEOUT = "X-Request-Timeout: 0.2\r\n"

KEY = "the-key-of-this-test"

UNSENT_BYTES = 64 * 1024
"""What the server may hold of a stream beside its ring."""


@pytest.fixture(scope="module", params=["gunicorn", "run"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """The two servers whose streams go directly: gunicorn's gevent worker and run()."""
    log_path = tmp_path_factory.mktemp("echo") / "server.log"
    if request.param == "run":
        server = run_echo(log_path)
    else:
        server = start_echo(log_path, "--worker-class=gevent")
    yield server
    assert server.stop() == 0, server.log


def ask(server: LiveServer, prompt: str = PROMPT, **fields: Any) -> tuple[list[str], bytes]:
    with RawStream(server.port) as stream:
        stream.send(stream_request(prompt, **{"max_tokens": NUM_TOKENS, **fields}))
        return stream.read_answer()


def ask_http_1_0(server: LiveServer, **fields: Any) -> bytes:
    """The same over HTTP/1.0: no chunks, and the end of the connection is the end."""
    with RawStream(server.port) as stream:
        fields = {"max_tokens": NUM_TOKENS, **fields}
        stream.send(stream_request(PROMPT, version="1.0", **fields))
        status, headers = stream.read_head()
        assert status == 200
        assert "transfer-encoding" not in headers
        return stream.reader.read()


# --- the same bytes on each way -----------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 1},
        {"stream_options": {"include_usage": True}},
        {"stop": ["another. a"]},
        {"stop": ["no such text"]},
    ],
    ids=["plain", "one token", "usage", "stop string", "stop string that never comes"],
)
def test_a_direct_stream_has_the_bytes_of_a_yielded_one(
    server: LiveServer, fields: dict[str, Any]
) -> None:
    sizes, body = ask(server, **fields)
    assert came_directly(sizes)
    assert without_names(body) == without_names(ask_http_1_0(server, **fields))


def test_a_direct_stream_is_the_whole_answer(server: LiveServer) -> None:
    _, body = ask(server)
    assert text_of(body) == echo(PROMPT, NUM_TOKENS)


def test_characters_of_several_tokens_arrive_whole(server: LiveServer) -> None:
    _, body = ask(server, prompt="日本語 🎉 ", max_tokens=15 * 4)
    assert text_of(body) == "日本語 🎉 " * 4


@pytest.mark.parametrize(
    ("worker", "app"),
    [("gevent", "wrapped"), ("gthread", "app"), ("sync", "app"), ("gevent_pywsgi", "app")],
)
def test_elsewhere_everything_goes_through_the_server(
    server: LiveServer, worker: str, app: str, tmp_path: Path
) -> None:
    """Inside middleware, whose business it is, and where there is no hub or another framing."""
    other = start_echo(tmp_path / "server.log", f"--worker-class={worker}", app=app)
    try:
        sizes, body = ask(other)
        assert worker == "gevent_pywsgi" or not came_directly(sizes)
        assert without_names(body) == without_names(ask(server)[1])
    finally:
        other.kill()


# --- connections that go on ---------------------------------------------------


def test_a_connection_goes_on_after_a_direct_stream(server: LiveServer) -> None:
    with RawStream(server.port) as stream:
        for number in range(3):
            stream.send(stream_request(f"<{number}>", max_tokens=NUM_TOKENS))
            sizes, body = stream.read_answer()
            assert came_directly(sizes)
            assert text_of(body) == echo(f"<{number}>", NUM_TOKENS)


def test_pipelined_requests_are_answered_in_order(server: LiveServer) -> None:
    prompts = [f"<{number}>" for number in range(4)]
    with RawStream(server.port) as stream:
        stream.send(b"".join(stream_request(prompt, max_tokens=NUM_TOKENS) for prompt in prompts))
        for prompt in prompts:
            sizes, body = stream.read_answer()
            assert came_directly(sizes)
            assert text_of(body) == echo(prompt, NUM_TOKENS)


def test_a_stream_that_fails_says_so_and_ends_properly(server: LiveServer) -> None:
    with RawStream(server.port) as stream:
        stream.send(stream_request(PROMPT, max_tokens=10**6, headers=TIMEOUT))
        _, body = stream.read_answer()
        *_, error, done = payloads(body)
        assert error["error"]["code"] == "deadline_exceeded"
        assert error["usage"]["completion_tokens"] > 0
        assert done == "[DONE]"
        stream.send(stream_request("x", max_tokens=NUM_TOKENS))
        assert text_of(stream.read_answer()[1]) == "x" * NUM_TOKENS


# --- clients that do not keep up ----------------------------------------------


@pytest.mark.parametrize("stop", [None, ["no such text"]], ids=["drained", "written"])
def test_nothing_is_lost_through_the_smallest_buffers(
    server: LiveServer, stop: list[str] | None
) -> None:
    fields: dict[str, Any] = {"max_tokens": 3000} | ({} if stop is None else {"stop": stop})
    with RawStream(server.port, receive_buffer=1) as stream:
        stream.send(stream_request(PROMPT, headers="X-Test-Send-Buffer: 1\r\n", **fields))
        sizes, body = stream.read_answer()
    assert came_directly(sizes)
    assert text_of(body) == echo(PROMPT, 3000)


def test_a_client_that_does_not_read_stops_its_own_stream_only(server: LiveServer) -> None:
    num_tokens = 20_000
    before = figures(server)["num_generated"]
    with RawStream(server.port, receive_buffer=4096) as stalled:
        stalled.send(stream_request(PROMPT, max_tokens=num_tokens))
        generated = settled(lambda: figures(server)["num_generated"] - before, server)
        event_bytes = 150  # none is shorter
        in_the_clients_kernel = 64 * 1024  # far more than it was told to take
        assert generated * event_bytes < UNSENT_BYTES + in_the_clients_kernel + RING * event_bytes
        assert text_of(ask(server)[1]) == echo(PROMPT, NUM_TOKENS)
        assert text_of(stalled.read_answer()[1]) == echo(PROMPT, num_tokens)


def test_a_stalled_reader_is_listed_as_paused_with_what_it_has_not_taken(tmp_path: Path) -> None:
    environ = {"REALTIME_SERVE_ADMIN_API_KEY": KEY}
    server = start_echo(tmp_path / "log", "--worker-class=gevent", environ=environ)

    def listed() -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {KEY}"}
        answer = server.request("GET", "/stats/streams", headers=headers).json()
        (stream,) = answer["streams"]
        assert answer["states"][stream["state"]] == 1
        return dict(stream)

    with RawStream(server.port, receive_buffer=4096) as stalled:
        stalled.send(stream_request(PROMPT, max_tokens=20_000))
        assert stalled.read_head()[0] == 200
        server.wait_until(lambda: listed()["state"] == "paused", "paused")
        before, after = listed(), listed()
        assert before["tokens"] > 0
        assert before["sent_bytes"] + before["unsent_bytes"] > 150 * before["tokens"]
        assert 0 < before["unsent_bytes"] < UNSENT_BYTES
        assert 0 < before["paused_ms"] < after["paused_ms"]
        while listed()["state"] == "paused":
            assert stalled.reader.read(4096)
        assert listed()["sent_bytes"] > before["sent_bytes"]
    assert server.stop() == 0, server.log


def test_a_client_that_leaves_while_it_is_stalled_frees_everything(server: LiveServer) -> None:
    server.wait_until(lambda: figures(server)["num_running"] == 0, "idle")
    before = figures(server)["num_descriptors"]
    for _ in range(5):
        with RawStream(server.port, receive_buffer=4096) as stalled:
            stalled.send(stream_request(PROMPT, max_tokens=10**6))
            server.wait_until(lambda: figures(server)["num_running"] > 0, "running")
    server.wait_until(lambda: figures(server)["num_running"] == 0, "idle")
    server.wait_until(lambda: figures(server)["num_descriptors"] <= before, "closed")


def test_no_client_ever_hears_another_ones_bytes(server: LiveServer) -> None:
    """A short form of `python tests/support/kill_clients.py PORT 10000`."""
    before = figures(server)["num_descriptors"]
    num_heard = kill_clients.run(server.port, int(os.environ.get("KILLED_CLIENTS", "400")))
    assert num_heard > 0
    server.wait_until(lambda: figures(server)["num_running"] == 0, "idle")
    server.wait_until(lambda: figures(server)["num_descriptors"] <= before, "closed")
    assert "Traceback" not in server.log
