"""The examples as a user starts them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.live_server import LiveServer, free_port, start_program

pytestmark = pytest.mark.not_under_gevent("each example is a process of its own")

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def own_model(tmp_path: Path) -> Iterator[LiveServer]:
    """examples/serve_model.py, running."""
    port = free_port()
    command = [sys.executable, str(EXAMPLES / "serve_model.py"), "--port", str(port)]
    server = start_program(command, port, tmp_path / "log")
    yield server
    server.kill()


def test_a_model_of_ones_own_is_served_and_stopped(own_model: LiveServer) -> None:
    body = {"model": "alphabet", "prompt": "a", "max_tokens": 30, "temperature": 0}
    answer = own_model.post("/v1/completions", body).json()
    assert answer["choices"][0]["text"] == "bcdefghijklmnopqrstuvwxyz"
    streamed = own_model.post("/v1/completions", {**body, "stream": True})
    assert streamed.body.count(b"data: ") == 25 + 2  # the letters, the end, [DONE]
    assert streamed.headers["transfer-encoding"] == "chunked"
    assert own_model.stop(signal.SIGINT) == 0, own_model.log
    assert "Traceback" not in own_model.log


def test_the_benchmark_client_measures_a_server(live_server: LiveServer, tmp_path: Path) -> None:
    result = subprocess.run(
        [
            sys.executable,
            str(EXAMPLES / "benchmark_client.py"),
            live_server.url,
            "2",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Output token throughput (tok/s):" in result.stdout
    assert "Mean TTFT (ms):" in result.stdout
