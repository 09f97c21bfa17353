"""Cancelling by id: the caller's own requests end as cancelled, and nobody else's do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from realtime_serve import InferenceServer, RealtimeServe, create_app
from support.scripted_servers import (
    ONE_SEAT,
    TEXT,
    EndlessAlphabet,
    Gate,
    GatedAlphabet,
    alphabet_server,
    serve,
    wait_until,
)

NEIGHBOUR = {"REMOTE_ADDR": "127.0.0.2"}
BODY = {"model": "alphabet", "prompt": "a", "temperature": 0, "max_tokens": 50_000}


@pytest.fixture
def server() -> Iterator[InferenceServer]:
    """Its model goes on for ever."""
    with serve(EndlessAlphabet) as server:
        yield server


@pytest.fixture
def client(server: InferenceServer) -> FlaskClient:
    return create_app(server=server).test_client()


def post(client: FlaskClient, request_id: str = "", **fields: Any) -> TestResponse:
    headers = {"X-Request-ID": request_id} if request_id else {}
    return client.post("/v1/completions", json={**BODY, **fields}, headers=headers, buffered=False)


class OpenStream:
    """A streamed completion, read piece by piece in the test's own thread."""

    def __init__(self, client: FlaskClient, request_id: str = "", **fields: Any) -> None:
        answer = post(client, request_id, stream=True, **fields)
        assert answer.status_code == 200
        self.request_id = answer.headers["x-request-id"]
        self._pieces = answer.iter_encoded()
        self._events: list[bytes] = []

    def read(self) -> dict[str, Any]:
        """The first chunk."""
        while not self._events:
            self._events = data_events(next(self._pieces))
        chunk: dict[str, Any] = json.loads(self._events[0])
        return chunk

    def rest(self) -> list[bytes]:
        """Data of all events to the end."""
        return [event for piece in self._pieces for event in data_events(piece)]


def data_events(piece: bytes) -> list[bytes]:
    lines = piece.split(b"\n\n")
    return [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]


def delete(client: FlaskClient, given_id: str, **options: Any) -> Any:
    return client.delete(f"/v1/requests/{given_id}", **options)


def assert_cancelled(events: list[bytes]) -> dict[str, int]:
    """Check how a stream ended; its usage."""
    *_, last, done = events
    end = json.loads(last)
    assert done == b"[DONE]"
    assert end["error"]["code"] == "cancelled"
    usage: dict[str, int] = end["usage"]
    return usage


# --- whose request is meant ---------------------------------------------------


def test_a_stream_is_cancelled_by_its_x_request_id(client: FlaskClient) -> None:
    stream = OpenStream(client)
    stream.read()
    answer = delete(client, stream.request_id)
    assert answer.status_code == 200
    assert answer.json == {"id": stream.request_id, "object": "request", "cancelled": True}
    assert_cancelled(stream.rest())


def test_a_stream_is_cancelled_by_the_id_of_its_answer(client: FlaskClient) -> None:
    stream = OpenStream(client, "mine")
    answer_id = stream.read()["id"]
    assert delete(client, answer_id).json["id"] == answer_id
    assert_cancelled(stream.rest())


@pytest.mark.parametrize("given_id", ["a/b", "x?y", "%2F", "chatcmpl-mine", "chatcmpl-"])
def test_an_id_that_the_caller_chose_may_be_anything_printable(
    client: FlaskClient, given_id: str
) -> None:
    stream = OpenStream(client, given_id)
    quoted = given_id.replace("%", "%25").replace("?", "%3F")
    assert delete(client, quoted).json["id"] == given_id
    assert_cancelled(stream.rest())


def test_all_requests_that_share_an_id_are_cancelled_and_no_others(client: FlaskClient) -> None:
    same = [OpenStream(client, "same") for _ in range(2)]
    other = OpenStream(client, "other")
    assert delete(client, "same").status_code == 200
    for stream in same:
        assert_cancelled(stream.rest())
    assert other.read()["choices"]
    assert delete(client, "other").status_code == 200


@pytest.mark.parametrize("named_by", ["x-request-id", "answer"])
def test_another_callers_request_is_as_unknown_as_none_at_all(
    client: FlaskClient, named_by: str
) -> None:
    stream = OpenStream(client)
    given_id = stream.read()["id"] if named_by == "answer" else stream.request_id
    refusals = [
        delete(client, given_id, environ_base=NEIGHBOUR),
        delete(client, "0" * len(given_id)),
    ]
    for answer in refusals:
        assert answer.status_code == 404
        assert answer.json["error"]["code"] == "request_not_found"
    messages = [answer.json["error"]["message"] for answer in refusals]
    assert messages[0].replace(given_id, "0" * len(given_id)) == messages[1]
    assert delete(client, given_id).status_code == 200


def test_what_the_servers_own_program_generates_is_nobodys_to_cancel(
    server: InferenceServer, client: FlaskClient
) -> None:
    with server.generate("a") as stream:
        assert delete(client, stream.request.request_id).status_code == 404
        assert not stream.ended


def test_a_long_id_is_not_repeated_in_full(client: FlaskClient) -> None:
    answer = delete(client, "x" * 5000)
    assert answer.status_code == 404
    assert len(answer.data) < 500


# --- what becomes of it -------------------------------------------------------


def test_the_usage_of_a_cancelled_stream_counts_what_it_gave(client: FlaskClient) -> None:
    stream = OpenStream(client)
    stream.read()
    delete(client, stream.request_id)
    events = stream.rest()
    texts = [json.loads(event)["choices"][0]["text"] for event in events[:-2]]
    usage = assert_cancelled(events)
    assert usage["prompt_tokens"] == 1
    assert usage["completion_tokens"] == usage["total_tokens"] - 1 >= len("".join(texts))


def test_a_whole_answer_that_is_cancelled_is_an_error(
    server: InferenceServer, client: FlaskClient
) -> None:
    answers: list[TestResponse] = []

    def ask() -> None:
        answers.append(post(client.application.test_client(), "whole"))

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: server.health().running == 1)
    assert delete(client, "whole").status_code == 200
    thread.join()
    (answer,) = answers
    assert answer.status_code == 499
    assert answer.json is not None
    assert answer.json["error"]["code"] == "cancelled"


def test_a_request_that_waits_in_the_queue_is_never_computed() -> None:
    gate = Gate()
    with serve(lambda: GatedAlphabet(gate), ONE_SEAT) as server:
        client = create_app(server=server).test_client()
        seated = OpenStream(client)
        seated.read()
        queued = OpenStream(client, "queued", prompt="qqq")
        assert server.health().waiting == 1
        assert delete(client, "queued").status_code == 200
        assert server.health().waiting == 0
        assert assert_cancelled(queued.rest())["completion_tokens"] == 0
        assert delete(client, seated.request_id).status_code == 200
        assert_cancelled(seated.rest())
        wait_until(lambda: server.health().running == 0)
    assert gate.steps
    assert TEXT.tokenizer.encode("qqq") not in gate.steps


def test_nothing_is_left_of_a_cancelled_request(
    server: InferenceServer, client: FlaskClient
) -> None:
    stream = OpenStream(client)
    stream.read()
    delete(client, stream.request_id)
    stream.rest()
    assert len(server.streams) == 0
    wait_until(lambda: server.health().running == 0)
    assert delete(client, stream.request_id).status_code == 404


def test_a_request_that_has_ended_is_unknown() -> None:
    with alphabet_server() as server:
        client = create_app(server=server).test_client()
        ended = post(client, "ended")
        assert ended.status_code == 200
        assert delete(client, "ended").status_code == 404
        assert ended.json is not None
        assert delete(client, ended.json["id"]).status_code == 404


# --- the route ----------------------------------------------------------------


def test_other_methods_are_refused_with_the_one_that_there_is(client: FlaskClient) -> None:
    for method in ("GET", "HEAD", "POST", "PUT"):
        answer = client.open("/v1/requests/x", method=method)
        assert (answer.status_code, set(answer.allow)) == (405, {"DELETE", "OPTIONS"})
    options = client.options("/v1/requests/x")
    assert (options.status_code, set(options.allow)) == (204, {"DELETE", "OPTIONS"})


def test_an_app_around_ours_has_the_route_below_its_prefix(server: InferenceServer) -> None:
    app = Flask("host")
    RealtimeServe(server).init_app(app, url_prefix="/ai")
    answer = app.test_client().delete("/ai/v1/requests/x")
    assert answer.status_code == 404
    assert answer.json is not None
    assert answer.json["error"]["code"] == "request_not_found"
