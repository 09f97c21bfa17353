"""The admin routes of real servers: draining stops all of one, and its key stays a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.event_stream import DONE, EventStream
from support.live_server import MODEL, LiveServer, start_server

pytestmark = pytest.mark.not_under_gevent("the server is a process of its own")

KEY = "the-key-of-this-test"
LONG = {"model": MODEL, "max_tokens": 8000, "ignore_eos": True}


def start(log: Path, *options: str) -> LiveServer:
    return start_server(log, *options, environ={"REALTIME_SERVE_ADMIN_API_KEY": KEY})


@pytest.mark.parametrize("num_workers", [1, 2])
def test_draining_ends_streams_and_then_gunicorn(num_workers: int, tmp_path: Path) -> None:
    server = start(tmp_path / "log", f"--workers={num_workers}", "--graceful-timeout=3")
    with EventStream(server, LONG) as stream:
        stream.first_text()
        answer = server.request("POST", "/admin/drain", headers=authorization(KEY))
        assert (answer.status, answer.json()) == (202, {"status": "draining"})
        *_, last, done = stream.rest()
        assert (last["error"]["code"], done) == ("draining", DONE)
    assert server.process.wait(120) == 0, server.log
    assert "SIGKILL" not in server.log
    assert KEY not in server.log


def test_without_the_key_nothing_happens(tmp_path: Path) -> None:
    server = start(tmp_path / "log", "--log-level=debug")
    for key in ("", "wrong", KEY + "x"):
        answer = server.request("POST", "/admin/drain", headers=authorization(key))
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert server.is_ready()
    assert server.stop() == 0, server.log
    assert KEY not in server.log


def authorization(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
