"""A server whose workers are replaced or whose logs are reopened refuses nobody."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.event_stream import DONE, EventStream
from support.live_server import MODEL, LiveServer, start_server
from support.processes import children

pytestmark = pytest.mark.not_under_gevent("the server is a process of its own")

BODY = {"model": MODEL, "prompt": "Hi", "max_tokens": 2}
STREAM = {"model": MODEL, "max_tokens": 300, "ignore_eos": True}


class Trickle:
    """A client that asks again and again, each time on a new connection."""

    def __init__(self, server: LiveServer) -> None:
        self.statuses: list[int] = []
        self.failures: list[Exception] = []
        self._server = server
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._enough.is_set():
            try:
                self.statuses.append(self._server.post("/v1/completions", BODY).status)
            except Exception as error:
                self.failures.append(error)

    @contextmanager
    def flowing(self) -> Iterator[None]:
        self._thread.start()
        try:
            self._server.wait_until(lambda: len(self.statuses) > 0, "answering")
            yield
        finally:
            self._enough.set()
            self._thread.join()


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
def test_a_reload_fails_no_request_and_cuts_no_stream(
    preload: tuple[str, ...], tmp_path: Path
) -> None:
    server = start_server(tmp_path / "log", "--graceful-timeout=60", *preload)
    (old,) = children(server.process.pid)
    trickle = Trickle(server)
    with trickle.flowing(), EventStream(server, STREAM) as stream:
        stream.first_text()
        server.process.send_signal(signal.SIGHUP)
        *_, last, done = stream.rest()
        assert (last["choices"][0]["finish_reason"], done) == ("length", DONE)
        server.wait_until(lambda: old not in children(server.process.pid), "reloaded")
        num_answers = len(trickle.statuses)
        server.wait_until(lambda: len(trickle.statuses) > num_answers + 3, "answering still")
    assert trickle.failures == []
    assert set(trickle.statuses) == {200}
    assert server.stop() == 0, server.log
    assert "Traceback" not in server.log


def test_reopened_logs_cost_no_request(tmp_path: Path) -> None:
    log = tmp_path / "errors"
    server = start_server(tmp_path / "log", f"--error-logfile={log}")
    with EventStream(server, STREAM) as stream:
        stream.first_text()
        log.rename(tmp_path / "errors.1")
        server.process.send_signal(signal.SIGUSR1)
        server.wait_until(log.exists, "reopened")
        assert server.post("/v1/completions", BODY).status == 200
        assert stream.rest()[-1] == DONE
    assert server.stop() == 0
    assert "Worker exiting" in log.read_text(encoding="utf-8")
