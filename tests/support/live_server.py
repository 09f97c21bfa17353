"""Real servers for the tests: gunicorn in a process of its own, on a free loopback port."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

START_TIMEOUT_S = 120.0
"""Only a hung start takes this long; a loaded machine may need more than the usual 8 s."""

MODEL = "SmolLM2-135M-Instruct"

MAX_MODEL_LEN = 1024
"""Context of the shared server."""


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error of our envelope; fails if the answer is not one."""
        assert self.headers["content-type"] == "application/json"
        error = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error, dict)
        return error


@dataclass(frozen=True)
class LiveServer:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int
    log_path: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            lowered = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, lowered, response.read())
        finally:
            connection.close()

    def post(self, path: str, value: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """POST a JSON value, or bytes as they are."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.request(
            "POST", path, body, {"Content-Type": "application/json", **(headers or {})}
        )

    def wait_until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until `holds()` is true of the server; its hang is a failure, not its pace."""
        give_up_at_s = time.monotonic() + START_TIMEOUT_S
        while not holds():
            assert self.process.poll() is None, f"the server ended:\n{self.log}"
            assert time.monotonic() < give_up_at_s, f"never {what}:\n{self.log}"
            time.sleep(0.02)

    def is_ready(self) -> bool:
        try:
            return self.request("GET", "/health/ready").status == 200
        except OSError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the master and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(START_TIMEOUT_S)

    def kill(self) -> None:
        """End the process, if it has not ended."""
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(
    log_path: Path, *options: str, environ: Mapping[str, str] | None = None, wait: bool = True
) -> LiveServer:
    """Start gunicorn with the default model, from an empty directory."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--worker-class=gevent", "--no-control-socket"]
    command += [f"--bind=127.0.0.1:{port}", *options, "realtime_serve.wsgi:app"]
    return start_program(command, port, log_path, environ=environ, wait=wait)


def start_program(
    command: Sequence[str],
    port: int,
    log_path: Path,
    *,
    environ: Mapping[str, str] | None = None,
    wait: bool = True,
) -> LiveServer:
    """Start any program that serves on a port, in its log's directory."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=log_path.parent,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    server = LiveServer(process, port, log_path)
    if wait:
        try:
            server.wait_until(server.is_ready, "ready")
        except BaseException:
            server.kill()
            raise
    return server


def metric(server: LiveServer, name: str, **labels: str) -> float:
    """Sum of a metric's samples that carry the labels; 0 when there is none."""
    text = server.request("GET", "/metrics").body.decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
