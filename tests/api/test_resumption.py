"""Resumable streams of a real engine, in any Flask app: what they hold, and when they let go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from realtime_serve import InferenceServer, RealtimeServe, ServerConfig, create_app
from realtime_serve.api.sse import numbered_event
from support.resumable import RESUMABLE, complete_events
from support.scripted_servers import (
    EndlessAlphabet,
    Gate,
    GatedAlphabet,
    alphabet_server,
    serve,
    wait_until,
)

BODY: dict[str, Any] = {"model": "alphabet", "prompt": "a", "temperature": 0, "stream": True}
ENDLESS: dict[str, Any] = {**BODY, **RESUMABLE, "max_tokens": 50_000}


def ask(app: Flask, body: dict[str, Any], prefix: str = "") -> TestResponse:
    answer = app.test_client().post(f"{prefix}/v1/completions", json=body)
    assert answer.status_code == 200
    return answer


def resume(app: Flask, stream_id: str, last_event_id: str = "", prefix: str = "") -> TestResponse:
    headers = {"Last-Event-ID": last_event_id}
    return app.test_client().get(f"{prefix}/v1/streams/{stream_id}", headers=headers)


def pieces_of(answer: TestResponse) -> Iterator[bytes]:
    pieces: Iterator[Any] = iter(answer.response)
    return pieces


def leave_after_the_first_events(answer: TestResponse) -> str:
    """Read a little, close, and return the stream's id."""
    pieces = pieces_of(answer)
    while not complete_events(next(pieces)):
        pass
    answer.close()
    return answer.headers["x-stream-id"]


def test_in_another_app_it_is_resumed_below_its_prefix() -> None:
    with alphabet_server() as server:
        app = Flask("somebody's")
        RealtimeServe(server).init_app(app, url_prefix="/ai")
        answer = ask(app, BODY | RESUMABLE, "/ai")
        events = complete_events(answer.get_data())
        assert [number for _, number, _ in events] == list(range(len(events)))
        (stream_id,) = {stream_id for stream_id, _, _ in events}
        assert answer.headers["x-stream-id"] == stream_id
        rest = resume(app, stream_id, f"{stream_id}:9", "/ai")
        assert complete_events(rest.get_data()) == events[10:]


def test_without_a_client_it_gives_back_its_seat_and_its_blocks() -> None:
    config = ServerConfig(resume_ttl_s=1.0, enable_prefix_caching=False)
    with serve(EndlessAlphabet, config) as server:
        app = create_app(server=server)
        stream_id = leave_after_the_first_events(ask(app, ENDLESS))
        assert blocks_used(server) > 0
        assert server.registry.resolve(None).num_running == 1
        wait_until(lambda: blocks_used(server) == 0)
        wait_until(lambda: server.registry.resolve(None).num_running == 0)
        wait_until(lambda: len(server.streams) == 0)
        wait_until(lambda: len(server.resumable_streams) == 0)
        assert resume(app, stream_id).status_code == 404


def blocks_used(server: InferenceServer) -> int:
    stats = server.registry.resolve(None).stats
    return 0 if stats is None else stats.kv_blocks_used


def test_it_goes_on_while_nobody_reads() -> None:
    with serve(EndlessAlphabet) as server:
        app = create_app(server=server)
        stream_id = leave_after_the_first_events(ask(app, {**ENDLESS, "max_tokens": 2000}))
        wait_until(lambda: len(server.streams) == 0)
        events = complete_events(resume(app, stream_id).get_data())
        assert len(events) == 2000 + 2  # the finish reason and [DONE]


def test_an_answer_that_is_never_read_is_forgotten_too() -> None:
    with serve(EndlessAlphabet, ServerConfig(resume_ttl_s=0.1)) as server:
        app = create_app(server=server)
        with app.test_request_context("/v1/completions", method="POST", json=ENDLESS):
            answer = app.full_dispatch_request()
            assert answer.status_code == 200
            assert len(server.resumable_streams) == 1
            wait_until(lambda: len(server.resumable_streams) == 0)
            answer.close()


def test_a_stream_whose_prompt_is_not_computed_yet_is_resumed() -> None:
    gate = Gate()
    with serve(lambda: GatedAlphabet(gate)) as server:
        app = create_app(server=server)
        with gate:
            answer = ask(app, {**ENDLESS, "max_tokens": 5})
            answer.close()
            stream_id = answer.headers["x-stream-id"]
            again = resume(app, stream_id)
            assert again.status_code == 200
        assert len(complete_events(again.get_data())) == 7


def test_to_look_whether_a_stream_is_there_takes_nothing_over() -> None:
    with serve(EndlessAlphabet) as server:
        app = create_app(server=server)
        answer = ask(app, ENDLESS)
        pieces = pieces_of(answer)
        next(pieces)
        path = f"/v1/streams/{answer.headers['x-stream-id']}"
        head = app.test_client().head(path)
        assert (head.status_code, head.data) == (200, b"")
        assert b"taken_over" not in b"".join(next(pieces) for _ in range(20))
        assert app.test_client().post(path).status_code == 405
        answer.close()


@pytest.mark.parametrize("value", [1, "true", {}])
def test_whether_it_is_resumable_is_true_or_false(value: object) -> None:
    with alphabet_server() as server:
        body = {**BODY, "stream_options": {"resumable": value}}
        answer: Any = create_app(server=server).test_client().post("/v1/completions", json=body)
        assert answer.status_code == 400
        assert answer.json["error"]["param"] == "stream_options.resumable"


def test_it_is_only_for_streams() -> None:
    config = ServerConfig(resumable_streams=True)
    with alphabet_server(config) as server:
        app = create_app(server=server)
        whole = ask(app, {**BODY, "stream": False})
        assert "x-stream-id" not in whole.headers
        assert "x-stream-id" in ask(app, BODY).headers
        refused: Any = app.test_client().post(
            "/v1/completions", json={**BODY, **RESUMABLE, "stream": False}
        )
        assert refused.json["error"]["param"] == "stream_options"


def test_the_metrics_tell_how_many_are_kept_and_how_full_it_is() -> None:
    with alphabet_server() as server:
        app = create_app(server=server)
        ask(app, BODY | RESUMABLE).get_data()
        text = app.test_client().get("/metrics").get_data(as_text=True)
        figures = dict(line.split(" ") for line in text.splitlines() if line[:1] != "#")
        assert float(figures["realtime_serve:resumable_streams"]) == 1
        assert 0 < float(figures["realtime_serve:resumable_usage_perc"]) < 0.01


def test_an_id_stands_before_its_event() -> None:
    assert numbered_event("ab", 7, b"data: x\n\n") == b"id: ab:7\ndata: x\n\n"
