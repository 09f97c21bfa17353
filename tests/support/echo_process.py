"""Servers of the echo app, in processes of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from support.live_server import LiveServer, free_port, start_program

TESTS = Path(__file__).parent.parent

RING = 64
"""Tokens that a stream may run ahead of its reader."""


def start_echo(
    log_path: Path,
    *options: str,
    app: str = "app",
    environ: Mapping[str, str] | None = None,
    wait: bool = True,
) -> LiveServer:
    """Start gunicorn with the echo app.

    Args:
        log_path: Where its output goes.
        options: More for gunicorn; a worker class, for one.
        app: Which one of support.echo_app.
        environ: More variables of the environment.
        wait: Whether to wait until it is ready.
    """
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--keep-alive=10"]
    command += [f"--bind=127.0.0.1:{port}", *options, f"support.echo_app:{app}"]
    return _start(command, port, log_path, environ, wait)


def run_echo(log_path: Path) -> LiveServer:
    """Start the echo app on the server that `run` uses, with its output in a file."""
    port = free_port()
    command = [sys.executable, "-m", "support.echo_program", str(port)]
    return _start(command, port, log_path, None, wait=True)


def _start(
    command: list[str], port: int, log_path: Path, environ: Mapping[str, str] | None, wait: bool
) -> LiveServer:
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    return start_program(
        command,
        port,
        log_path,
        environ={
            "PYTHONPATH": os.pathsep.join(paths),
            "REALTIME_SERVE_RING_CAPACITY": str(RING),
            **(environ or {}),
        },
        wait=wait,
    )


def figures(server: LiveServer) -> dict[str, int]:
    """What the app tells of itself."""
    answer: dict[str, int] = server.request("GET", "/test").json()
    return answer


def settled(value: Callable[[], int], server: LiveServer) -> int:
    """A figure that grows, once it does not grow any more."""
    seen = [0]

    def is_settled() -> bool:
        seen.append(value())
        return len(seen) > 20 and len(set(seen[-20:])) == 1

    server.wait_until(is_settled, "settled")
    return seen[-1]
