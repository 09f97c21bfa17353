"""A server whose model still loads refuses nobody."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.live_server import MODEL, Answer, LiveServer, start_server
from support.processes import children, is_stopped

pytestmark = pytest.mark.not_under_gevent("the server is a process of its own")

BODY = {"model": MODEL, "prompt": "Hi", "max_tokens": 2}


@pytest.fixture
def loading(tmp_path: Path, gguf_path: str) -> Iterator[tuple[LiveServer, int]]:
    """A server whose model is being packed by a process that is stopped midway."""
    cache = tmp_path / "cache"
    environ = {"REALTIME_SERVE_MODEL": gguf_path, "REALTIME_SERVE_CACHE_DIR": str(cache)}
    server = start_server(tmp_path / "log", environ=environ, wait=False)
    server.wait_until((cache / "unfinished").exists, "packing")
    (worker,) = children(server.process.pid)
    (packing,) = children(worker)
    os.kill(packing, signal.SIGSTOP)
    server.wait_until(lambda: is_stopped(packing), "stopped midway")
    yield server, packing
    server.kill()


class Waiting(threading.Thread):
    """A client that waits for its answer."""

    answer: Answer

    def __init__(self, server: LiveServer, **fields: Any) -> None:
        super().__init__()
        self._server = server
        self._body = {**BODY, **fields}
        self.start()

    def run(self) -> None:
        self.answer = self._server.post("/v1/completions", self._body)

    def wait(self) -> Answer:
        self.join()
        return self.answer


def num_waiting(server: LiveServer) -> int:
    return int(server.request("GET", "/health").json()["waiting"])


def test_requests_that_come_while_the_model_loads_wait_for_it(
    loading: tuple[LiveServer, int],
) -> None:
    server, packing = loading
    whole, streamed = Waiting(server), Waiting(server, stream=True)
    server.wait_until(lambda: num_waiting(server) == 2, "waiting")
    assert server.request("GET", "/health/ready").json()["models"] == {MODEL: "loading"}
    os.kill(packing, signal.SIGCONT)
    assert whole.wait().status == 200
    assert whole.answer.json()["usage"]["completion_tokens"] == 2
    assert streamed.wait().status == 200
    assert streamed.answer.body.endswith(b"data: [DONE]\n\n")
    assert server.stop() == 0, server.log


def test_none_of_them_waits_longer_than_its_deadline(loading: tuple[LiveServer, int]) -> None:
    server, _ = loading
    headers = {"X-Request-Timeout": "0.2"}
    whole = server.post("/v1/completions", BODY, headers)
    assert (whole.status, whole.error["code"]) == (504, "deadline_exceeded")
    streamed = server.post("/v1/completions", {**BODY, "stream": True}, headers)
    assert b'"code":"deadline_exceeded"' in streamed.body
    assert num_waiting(server) == 0


def test_they_are_told_when_the_server_stops_before_the_model_is_there(
    loading: tuple[LiveServer, int],
) -> None:
    server, _ = loading
    whole, streamed = Waiting(server), Waiting(server, stream=True)
    server.wait_until(lambda: num_waiting(server) == 2, "waiting")
    assert server.stop(signal.SIGINT) == 0, server.log
    assert (whole.wait().status, whole.answer.error["code"]) == (503, "draining")
    assert b'"code":"draining"' in streamed.wait().body
    assert streamed.answer.body.endswith(b"data: [DONE]\n\n")


def test_a_worker_that_is_killed_while_it_packs_leaves_no_orphan(
    loading: tuple[LiveServer, int],
) -> None:
    server, packing = loading
    (worker,) = children(server.process.pid)
    os.kill(worker, signal.SIGKILL)
    os.kill(packing, signal.SIGCONT)
    server.wait_until(lambda: not Path(f"/proc/{packing}").exists(), "without an orphan")
    server.wait_until(server.is_ready, "ready")
    assert server.post("/v1/completions", BODY).status == 200
    assert server.stop() == 0, server.log
