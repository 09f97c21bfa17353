"""The wall clock jumps by an hour, as when it is set; nothing here goes by it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from support.c_programs import compile_c
from support.live_server import LiveServer
from support.raw_stream import RawStream, stream_request, text_of
from support.unharmed import MODEL, NEIGHBOUR, Guarded, start_faulty

pytestmark = pytest.mark.not_under_gevent("the server is a process of its own")

BURST = 1_000_000

REMAINING = "x-ratelimit-remaining-requests"

SLOW = "S"
"""See support.fault_app."""


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that says by how much the server's clock is wrong."""
    clock = tmp_path_factory.mktemp("clock") / "offset"
    clock.write_text("+0", encoding="ascii")
    return clock


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, clock: Path) -> Iterator[Guarded]:
    """A server with all that counts time: limits, deadlines, keep-alive."""
    folder = tmp_path_factory.mktemp("clock_server")
    environ = {
        **faked_by(clock, folder),
        "REALTIME_SERVE_RATE_LIMIT_RPM": "1",
        "REALTIME_SERVE_RATE_LIMIT_BURST": str(BURST),
    }
    server = start_faulty(folder / "log", "--keep-alive=1000", environ=environ)
    try:
        yield Guarded(server)
        assert server.stop() == 0, server.log
    finally:
        server.kill()


def faked_by(clock: Path, folder: Path) -> dict[str, str]:
    """What has Debian's faketime read a file, once a second.

    Its other library, for programs with threads, makes each of them wait for the others.
    """
    libraries = list(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not libraries:
        pytest.skip("faketime is missing: apt-get install faketime")
    real_sleep = folder / "real_sleep.so"
    compile_c(real_sleep, [Path(__file__).with_name("real_sleep.c")], "-shared", "-fPIC")
    return {
        "LD_PRELOAD": os.pathsep.join(map(str, [real_sleep, *libraries])),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def error_s(server: LiveServer) -> float:
    """By how much the server's clock is wrong."""
    date = server.request("GET", "/health/live").headers["date"]
    return parsedate_to_datetime(date).timestamp() - time.time()


def num_remaining(server: LiveServer) -> int:
    """How many requests we may still make at once."""
    return int(server.request("GET", "/v1/models").headers[REMAINING])


@pytest.mark.parametrize("hours", [1, -1])
def test_no_timeout_fires_and_no_bucket_is_filled_or_emptied(
    guarded: Guarded, clock: Path, hours: int
) -> None:
    server = guarded.server
    whole = stream_request("waits", **NEIGHBOUR)
    slow = stream_request(SLOW, model=MODEL, max_tokens=100, headers="X-Request-Timeout: 600\r\n")
    with guarded.unharmed(), ExitStack() as stack:
        used, half, running = (stack.enter_context(RawStream(server.port)) for _ in range(3))
        used.send(whole)
        text = text_of(used.read_answer()[1])
        half.send(whole[:-5])
        running.send(slow)
        before = num_remaining(server)
        clock.write_text(f"{hours:+d}h", encoding="ascii")
        server.wait_until(lambda: abs(error_s(server) - 3600 * hours) < 600, "at another hour")
        assert BURST / 2 < num_remaining(server) < before
        half.send(whole[-5:])
        used.send(whole)
        assert [text_of(each.read_answer()[1]) for each in (half, used)] == [text, text]
        assert len(text_of(running.read_answer()[1])) == 100
