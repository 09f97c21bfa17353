"""What a silent stream says, against real gunicorn processes and on each way that it takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.echo_process import start_echo
from support.live_server import LiveServer
from support.raw_stream import RawStream, came_directly, echo, stream_request, text_of

pytestmark = pytest.mark.not_under_gevent("the servers are processes of their own")

PROMPT = "0123456789" * 1000
ENDLESS: dict[str, Any] = {"max_tokens": 10**6}

WAYS: dict[str, dict[str, Any]] = {
    "direct": {},
    "written": {"stop": ["no such text"]},  # takes Python, and then goes directly
    "yielded": {"version": "1.0"},
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    fields: dict[str, Any] = WAYS[request.param]
    return fields


@contextmanager
def running(log: Path, environ: dict[str, str], *, wait: bool = True) -> Iterator[LiveServer]:
    """A server that breaks each silence after a twentieth of a second."""
    settings = {"REALTIME_SERVE_KEEP_ALIVE_S": "0.05", **environ}
    server = start_echo(log, "--worker-class=gevent", environ=settings, wait=wait)
    try:
        yield server
    finally:
        server.kill()


def is_live(server: LiveServer) -> bool:
    try:
        return server.request("GET", "/health/live").status == 200
    except OSError:
        return False


class Listener:
    """One stream, whose comments are heard as they come."""

    def __init__(self, stream: RawStream, prompt: str, way: dict[str, Any], **fields: Any) -> None:
        stream.send(stream_request(prompt, **way, **fields))
        status, self.headers = stream.read_head()
        assert status == 200
        self._reader = stream.reader
        self._chunks = stream.chunks() if "transfer-encoding" in self.headers else None
        self.body = b""
        self.sizes: list[str] = []

    def hear(self, wanted: Callable[[list[str]], bool]) -> list[str]:
        """Listen until the comments so far are what is wanted."""
        while not wanted(self.comments):
            piece = self._next_piece()
            assert piece, f"it ended with {self.body[-500:]!r}"
            self.body += piece
        return self.comments

    def _next_piece(self) -> bytes:
        if self._chunks is None:
            return self._reader.read1()
        size, content = next(self._chunks)
        self.sizes.append(size)
        return content

    def rest(self) -> bytes:
        """The whole body."""
        if self._chunks is None:
            self.body += self._reader.read()
        else:
            self.body += b"".join(content for _, content in self._chunks)
        return self.body

    @property
    def comments(self) -> list[str]:
        """The whole comments so far, but for the one that sends the headers."""
        first, *others = re.findall(r"^: (.*)\n\n", self.body.decode(), re.MULTILINE) or [""]
        assert first in ("", "keep-alive")
        return others


def test_a_stream_says_that_the_model_loads(tmp_path: Path, way: dict[str, Any]) -> None:
    needed = tmp_path / "needed"
    with running(tmp_path / "log", {"ECHO_LOADS_WITH": str(needed)}, wait=False) as server:
        server.wait_until(lambda: is_live(server), "live")
        with RawStream(server.port) as stream:
            listener = Listener(stream, "abc", way, max_tokens=50)
            comments = listener.hear(lambda comments: len(comments) >= 2)
            assert set(comments) == {"loading"}
            assert "version" in way or came_directly(listener.sizes)
            needed.touch()
            assert text_of(listener.rest()) == echo("abc", 50)


def test_a_stream_says_its_place_in_the_queue(tmp_path: Path, way: dict[str, Any]) -> None:
    with (
        running(tmp_path / "log", {"ECHO_MAX_SEQS": "1", "ECHO_STEP_MS": "5"}) as server,
        RawStream(server.port) as seated,
        RawStream(server.port) as next_one,
        RawStream(server.port) as last,
    ):
        first = Listener(seated, "abc", {}, **ENDLESS)
        second = Listener(next_one, "abc", {}, **ENDLESS)
        third = Listener(last, "abc", way, max_tokens=5)
        second.hear(lambda comments: "queued 1" in comments)
        third.hear(lambda comments: "queued 2" in comments)
        assert "queued 1" not in third.comments
        cancel(server, first)
        third.hear(lambda comments: "queued 1" in comments)
        cancel(server, second)
        assert text_of(third.rest()) == echo("abc", 5)


def cancel(server: LiveServer, listener: Listener) -> None:
    path = f"/v1/requests/{listener.headers['x-request-id']}"
    assert server.request("DELETE", path).status == 200


def test_a_stream_says_how_far_its_prompt_is(tmp_path: Path, way: dict[str, Any]) -> None:
    environ = {"ECHO_PROMPT_TOKENS_A_STEP": "10", "ECHO_STEP_MS": "20"}
    with running(tmp_path / "log", environ) as server, RawStream(server.port) as stream:
        listener = Listener(stream, PROMPT, way, max_tokens=5)
        comments = listener.hear(lambda comments: len(set(num_computed(comments))) >= 3)
        counts = num_computed(comments)
        assert counts == sorted(counts)
        assert counts[-1] % 10 == 0


def num_computed(comments: list[str]) -> list[int]:
    """Of how many tokens of a prompt of 10,000 the comments tell."""
    return [int(count) for count in re.findall(r"prefill (\d+)/10000,", ",".join([*comments, ""]))]


def test_between_tokens_there_is_nothing_to_wait_for(tmp_path: Path, way: dict[str, Any]) -> None:
    with (
        running(tmp_path / "log", {"ECHO_STEP_MS": "300"}) as server,
        RawStream(server.port) as stream,
    ):
        listener = Listener(stream, "abc", way, max_tokens=4)
        assert text_of(listener.rest()) == echo("abc", 4)
        after_the_first_token = listener.body.partition(b"data: ")[2]
        assert set(re.findall(rb"^: (.*)\n\n", after_the_first_token, re.MULTILINE)) == {
            b"keep-alive"
        }
