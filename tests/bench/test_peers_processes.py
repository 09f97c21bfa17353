from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from peers.processes import (
    Launch,
    ServerFailedError,
    ServerProcess,
    free_port,
    session_members,
    started,
)

# A server with a child that ignores SIGTERM and holds 64 MB.
PARENT = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[2]], stdout=subprocess.PIPE)
child.stdout.readline()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
CHILD = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
held = bytearray(b"x") * 64_000_000
print(flush=True)
time.sleep(600)
"""
HANG_TIMEOUT_S = 60.0


def launch(port: int, parent: str = PARENT) -> Launch:
    return Launch(
        command=[sys.executable, "-c", parent, str(port), CHILD], environ={}, ready_path="/"
    )


def test_a_server_is_weighed_and_stopped_with_its_children(tmp_path: Path) -> None:
    port = free_port()
    with started(launch(port), port, tmp_path) as server:
        assert server.wait_until_ready(HANG_TIMEOUT_S) > 0
        members = session_members(server.session_id)
        assert len(members) == 2
        assert server.memory_bytes() > 64_000_000
    while session_members(server.session_id):
        time.sleep(0.01)  # a killed process takes a moment to go


def test_a_server_that_ends_is_told_with_what_it_printed(tmp_path: Path) -> None:
    port = free_port()
    with (
        started(launch(port, "import sys; sys.exit('no model')"), port, tmp_path) as server,
        pytest.raises(ServerFailedError, match="ended with 1:\nno model"),
    ):
        server.wait_until_ready(HANG_TIMEOUT_S)


def test_a_server_that_never_gets_ready_is_given_up(tmp_path: Path) -> None:
    port = free_port()
    server = ServerProcess(launch(port, "import time; time.sleep(600)"), port, tmp_path)
    with pytest.raises(ServerFailedError, match="not ready after 0"):
        server.wait_until_ready(0)
    server.stop()
    assert session_members(server.session_id) == []
