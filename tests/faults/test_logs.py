"""A log that cannot be written costs lines, which are counted, and no request."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.live_server import LiveServer, free_port, start_program
from support.unharmed import NEIGHBOUR, Guarded, faulty_command, faulty_environ

pytestmark = pytest.mark.not_under_gevent("the server is a process of its own")

DROPPED = re.compile(r"^realtime_serve:dropped_log_lines_total (\S+)$", re.MULTILINE)

REDIRECTIONS = {"a full disk": "2>/dev/full", "a closed stderr": "2>&-"}


def num_dropped(server: LiveServer) -> int:
    (value,) = DROPPED.findall(server.request("GET", "/metrics").body.decode())
    return int(float(value))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], LiveServer]]:
    """Starts a server whose stderr a shell has redirected."""
    servers = []

    def started(redirection: str) -> LiveServer:
        port, log = free_port(), tmp_path / "log"
        command = shlex.join(faulty_command(port))
        server = start_program(
            ["bash", "-c", f"exec {command} {redirection}"], port, log, environ=faulty_environ(log)
        )
        servers.append(server)
        return server

    yield started
    for server in servers:
        server.kill()


@pytest.mark.parametrize("redirection", REDIRECTIONS.values(), ids=REDIRECTIONS)
def test_what_cannot_be_logged_is_counted_and_serving_goes_on(
    start: Callable[[str], LiveServer], redirection: str
) -> None:
    server = start(redirection)
    guarded = Guarded(server)
    before = num_dropped(server)
    with guarded.unharmed():
        for prompt, status in (("well", 200), ("E", 500)):  # the second one logs a traceback
            body = {**NEIGHBOUR, "prompt": prompt}
            assert server.post("/v1/completions", body).status == status
    server.wait_until(lambda: num_dropped(server) >= before + 3, "counting what was dropped")
    # 120 is how Python itself ends where the last bytes cannot be written to stderr.
    assert server.stop() in {0, 120}
