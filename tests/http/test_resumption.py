"""Streams that are cut and resumed, against real gunicorn processes and raw sockets."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest

from support.echo_process import start_echo
from support.live_server import LiveServer
from support.raw_stream import RawStream, stream_request
from support.resumable import ResumingClient

pytestmark = pytest.mark.not_under_gevent("the servers are processes of their own")

PROMPT = 'a "quoted" line\nand another é. '
NUM_TOKENS = 300

WORKERS = {
    "gevent": ("--worker-class=gevent",),
    "gthread": ("--worker-class=gthread", "--threads=8"),
    "gevent_pywsgi": ("--worker-class=gevent_pywsgi",),
}

SETTINGS = {"ECHO_STEP_MS": "1", "REALTIME_SERVE_KEEP_ALIVE_S": "0.2"}


@pytest.fixture(scope="module", params=WORKERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """One of each kind that has several connections at once."""
    log = tmp_path_factory.mktemp("resume") / "server.log"
    server = start_echo(log, *WORKERS[request.param], environ=SETTINGS)
    yield server
    assert server.stop() == 0, server.log
    assert "Traceback" not in server.log


@pytest.fixture(scope="module")
def gevent_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    log = tmp_path_factory.mktemp("resume") / "server.log"
    server = start_echo(log, *WORKERS["gevent"], environ=SETTINGS)
    yield server
    assert server.stop() == 0, server.log
    assert "Traceback" not in server.log


def client_of(server: LiveServer, **fields: Any) -> ResumingClient:
    return ResumingClient(server.port, PROMPT, {"max_tokens": NUM_TOKENS, **fields})


def text_of(events: list[bytes]) -> str:
    """The text of all events of a stream that ended well."""
    *chunks, done = [event.removeprefix(b"data: ") for event in events]
    assert done == b"[DONE]"
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert choices[-1]["finish_reason"] == "length"
    return "".join(choice["text"] for choice in choices)


def echo_bytes(prompt: str, num_tokens: int) -> str:
    """What the echo model answers to any prompt whose characters are not cut at the end."""
    data = prompt.encode()
    return (data * (num_tokens // len(data) + 1))[:num_tokens].decode()


def without_times(events: list[bytes]) -> list[bytes]:
    return [re.sub(rb'"id":"[^"]*"|"created":\d+', b"", event) for event in events]


def undisturbed(server: LiveServer, **fields: Any) -> list[bytes]:
    """The events of the same request, of which none is cut or can be resumed."""
    with RawStream(server.port) as stream:
        stream.send(stream_request(PROMPT, **{"max_tokens": NUM_TOKENS, **fields}))
        body = stream.read_answer()[1]
    return [block for block in body.split(b"\n\n")[:-1] if not block.startswith(b":")]


# --- the same events ----------------------------------------------------------


def test_a_stream_that_nobody_cuts_has_the_events_of_any_other(server: LiveServer) -> None:
    client = client_of(server)
    client.read()
    assert client.is_done
    assert without_times(client.events) == without_times(undisturbed(server))
    assert text_of(client.events) == echo_bytes(PROMPT, NUM_TOKENS)


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_that_is_cut_anywhere_loses_and_repeats_nothing(
    server: LiveServer, seed: int
) -> None:
    expected = without_times(undisturbed(server))
    chance = random.Random(seed)
    client = client_of(server)
    num_cuts = 0
    while not client.is_done:
        client.read(chance.randint(0, 9000), reset=chance.random() < 0.5)
        num_cuts += 1
    assert num_cuts > 5
    assert without_times(client.events) == expected
