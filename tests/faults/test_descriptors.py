"""A server that has no descriptor left goes on with what it has, and takes new clients after it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.live_server import LiveServer, free_port, start_program
from support.processes import children
from support.raw_stream import RawStream, stream_request, text_of
from support.unharmed import (
    NEIGHBOUR,
    NEIGHBOURS,
    Guarded,
    ask,
    faulty_command,
    faulty_environ,
)

pytestmark = pytest.mark.not_under_gevent("the server is a process of its own")

MAX_DESCRIPTORS = 64

SOON_STUCK = {"REALTIME_SERVE_STUCK_AFTER_S": "0.1"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    """One that may have few descriptors."""
    port, log = free_port(), tmp_path / "log"
    command = f"ulimit -n {MAX_DESCRIPTORS}; exec {shlex.join(faulty_command(port))}"
    server = start_program(
        ["bash", "-c", command], port, log, environ={**faulty_environ(log), **SOON_STUCK}
    )
    yield server
    server.kill()


def num_descriptors(server: LiveServer) -> int:
    (worker,) = children(server.process.pid)
    return len(os.listdir(f"/proc/{worker}/fd"))


def test_when_descriptors_run_out_streams_go_on_and_when_they_come_back_so_do_clients(
    server: LiveServer,
) -> None:
    guarded = Guarded(server)
    prompt = NEIGHBOURS[0]
    undisturbed = ask(server, prompt)
    request = stream_request(prompt, **NEIGHBOUR)
    with guarded.unharmed(), ExitStack() as stack:
        early, late = ([stack.enter_context(RawStream(server.port)) for _ in "abc"] for _ in "12")
        with guarded.stuck():
            for stream in early:
                stream.send(request)
                assert stream.read_head()[0] == 200
            for _ in range(2 * MAX_DESCRIPTORS):
                stack.enter_context(RawStream(server.port))
            server.wait_until(lambda: num_descriptors(server) >= MAX_DESCRIPTORS, "full")
        for stream in early:
            assert text_of(b"".join(content for _, content in stream.chunks())) == undisturbed
        for stream in late:  # accepted before, and none is left to send this one directly
            stream.send(request)
            assert text_of(stream.read_answer()[1]) == undisturbed
    assert server.request("GET", "/health/ready").status == 200
    assert server.stop() == 0, server.log
