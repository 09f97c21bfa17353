"""Servers of the echo app whose streams are resumed, with each kind of worker."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from support.echo_process import start_echo
from support.live_server import LiveServer

WORKERS = {
    "gevent": ("--worker-class=gevent",),
    "gthread": ("--worker-class=gthread", "--threads=8"),
    "gevent_pywsgi": ("--worker-class=gevent_pywsgi",),
}

SETTINGS = {"ECHO_STEP_MS": "1", "REALTIME_SERVE_KEEP_ALIVE_S": "0.2"}


class Servers:
    """Servers that are stopped, in good order, at the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started: list[LiveServer] = []

    def start(self, worker: str = "gevent", *options: str, **settings: str) -> LiveServer:
        log = self._directory / f"{len(self._started)}.log"
        options = (*WORKERS[worker], *options)
        self._started.append(start_echo(log, *options, environ=SETTINGS | settings))
        return self._started[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            for server in self._started:
                assert "Traceback" not in server.log, server.log
        finally:
            for server in self._started:
                server.kill()


def metric(server: LiveServer, name: str) -> float:
    text = server.request("GET", "/metrics").body.decode()
    (line,) = [line for line in text.splitlines() if line.startswith(name + " ")]
    return float(line.split()[1])
