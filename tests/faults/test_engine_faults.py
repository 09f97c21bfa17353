"""What fails in the engine, or stands still there, in the middle of everybody's steps."""

from __future__ import annotations

from typing import Any

import pytest

from support.event_stream import DONE, EventStream
from support.raw_stream import RawStream, stream_request
from support.unharmed import MODEL, NEIGHBOUR, Guarded, ask, text_of

pytestmark = pytest.mark.not_under_gevent("the server is a process of its own")

PROMPT = "patient"

DECODED_IN_PYTHON = {"stop": ["NO SUCH TEXT"]}

FAULTS: dict[str, dict[str, Any]] = {
    "an exception": {"prompt": "E"},
    "no memory": {"prompt": "M"},
    "no numbers": {"prompt": "N"},
    "a token that cannot be decoded": {"prompt": "D", **DECODED_IN_PYTHON},
}
"""See support.fault_app: they come once some tokens are out."""


def assert_failed_in_the_middle(payloads: list[Any]) -> None:
    *chunks, last, done = payloads
    assert done == DONE
    assert last["error"]["code"] == "engine_error"
    assert 0 < last["usage"]["completion_tokens"] < NEIGHBOUR["max_tokens"]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks)


@pytest.mark.parametrize("fields", FAULTS.values(), ids=FAULTS)
def test_only_the_request_that_it_is_about_fails(guarded: Guarded, fields: dict[str, Any]) -> None:
    with guarded.unharmed():
        with EventStream(guarded.server, {**NEIGHBOUR, **fields}) as stream:
            assert_failed_in_the_middle(stream.rest())
        whole = guarded.server.post("/v1/completions", {**NEIGHBOUR, **fields})
        assert (whole.status, whole.error["code"]) == (500, "engine_error")


def test_of_many_faults_at_once_each_is_its_own(guarded: Guarded) -> None:
    bodies = [{**NEIGHBOUR, **fields} for fields in FAULTS.values()] * 3
    with guarded.unharmed():
        streams = [EventStream(guarded.server, body) for body in bodies]
        for stream in streams:
            with stream:
                assert_failed_in_the_middle(stream.rest())


# --- what stands still ----------------------------------------------------------


def status(guarded: Guarded, path: str) -> int:
    return guarded.server.request("GET", path).status


def test_a_stuck_step_is_told_while_streams_are_kept_alive_and_go_on_after_it(
    guarded: Guarded,
) -> None:
    server = guarded.server
    with guarded.unharmed(), RawStream(server.port) as stream:
        with guarded.stuck():
            stream.send(stream_request("kept alive", model=MODEL, max_tokens=20))
            assert stream.read_head()[0] == 200
            chunks = stream.chunks()
            assert status(guarded, "/health/ready") == 503
            server.wait_until(lambda: status(guarded, "/health/live") == 503, "given up")
            comments = [next(chunks)[1] for _ in range(5)]
            assert all(comment.startswith(b": ") for comment in comments)
        assert b"".join(content for _, content in chunks).endswith(b"data: [DONE]\n\n")
        server.wait_until(lambda: status(guarded, "/health/ready") == 200, "ready")
        assert status(guarded, "/health/live") == 200


def test_a_hub_that_stands_still_for_seconds_goes_on_where_it_was(guarded: Guarded) -> None:
    """A C function that keeps the GIL stops everything in the process, the engine included."""
    with guarded.unharmed():
        with EventStream(guarded.server, {**NEIGHBOUR, "prompt": PROMPT}) as stream:
            first = stream.first_text()
            answer = guarded.server.request("POST", "/test/hold-gil?seconds=5")
            assert answer.json() == {"held": True}
            assert first + text_of(stream.rest()) == ask(guarded.server, PROMPT)
        assert status(guarded, "/health/live") == 200
