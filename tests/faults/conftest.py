"""The server whose network fails on demand, shared by the faults that it survives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.unharmed import Guarded, start_faulty

SETTINGS = {
    "REALTIME_SERVE_BODY_TIMEOUT_S": "1",
    "REALTIME_SERVE_KEEP_ALIVE_S": "0.1",
    "REALTIME_SERVE_MAX_BATCH_TOKENS": "64",
    "REALTIME_SERVE_STUCK_AFTER_S": "0.2",
    "REALTIME_SERVE_DEAD_AFTER_S": "0.4",
}


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One server for all tests; each sees that it leaves the server as it was."""
    log = tmp_path_factory.mktemp("faulty") / "log"
    server = start_faulty(log, "--keep-alive=1000", environ=SETTINGS)
    try:
        yield Guarded(server)
        assert server.stop() == 0, server.log
    finally:
        server.kill()
