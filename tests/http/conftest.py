"""The servers that HTTP tests talk to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.live_server import MAX_MODEL_LEN, LiveServer, start_server
from support.resumable_servers import Servers


@pytest.fixture(scope="session")
def live_server(tmp_path_factory: pytest.TempPathFactory, gguf_path: str) -> Iterator[LiveServer]:
    """One gunicorn with the default model, for all tests that leave it as it was.

    Its context is shortened, so that a test can fill it quickly.
    """
    assert gguf_path
    environ = {"REALTIME_SERVE_MAX_MODEL_LEN": str(MAX_MODEL_LEN)}
    server = start_server(tmp_path_factory.mktemp("live") / "server.log", environ=environ)
    yield server
    assert server.stop() == 0, server.log


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """Servers of the echo app that are a test's own."""
    with Servers(tmp_path) as servers:
        yield servers
