"""The Flask side: embedded, under the test client, and on servers without gevent."""

from __future__ import annotations

import gc
import http.client
import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from werkzeug.serving import make_server
from werkzeug.test import EnvironBuilder
from werkzeug.wsgi import ClosingIterator

from realtime_serve import (
    InferenceServer,
    Middleware,
    RealtimeServe,
    RequestContext,
    ServerConfig,
    TokenStream,
    create_app,
)
from realtime_serve.errors import ServeError
from realtime_serve.model_opening import REOPEN_AFTER_S
from support.scripted_servers import EndlessAlphabet, alphabet_server, serve, wait_until

COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[InferenceServer]:
    with alphabet_server() as server:
        yield server


@pytest.fixture
def client(server: InferenceServer) -> FlaskClient:
    return create_app(server=server).test_client()


def body(prompt: str = "w", **fields: Any) -> dict[str, Any]:
    return {"model": "alphabet", "prompt": prompt, "temperature": 0, **fields}


def streamed_text(data: bytes) -> str:
    events = [line.removeprefix("data: ") for line in data.decode().split("\n\n")]
    assert events[-2:] == ["[DONE]", ""]
    payloads = [json.loads(event) for event in events[:-2] if not event.startswith(":")]
    return "".join(payload["choices"][0]["text"] for payload in payloads)


# --- the test client ----------------------------------------------------------


def test_the_test_client_gets_whole_and_streamed_answers(client: FlaskClient) -> None:
    whole = client.post(COMPLETIONS, json=body())
    assert whole.json is not None
    assert whole.json["choices"][0]["text"] == "xyz"
    assert streamed_text(client.post(COMPLETIONS, json=body(stream=True)).data) == "xyz"


def test_health_and_metrics_answer(client: FlaskClient) -> None:
    assert client.get("/health/ready").status_code == 200
    assert b"vllm:num_requests_running" in client.get("/metrics").data


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/x", 404), ("PUT", "/health", 405)]
)
def test_errors_of_the_whole_app_are_in_the_envelope(
    client: FlaskClient, method: str, path: str, status: int
) -> None:
    answer = client.open(path, method=method)
    assert answer.status_code == status
    assert answer.json is not None
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}


# --- embedded -----------------------------------------------------------------


def host_app(server: InferenceServer) -> Flask:
    app = Flask("host")

    @app.get("/")
    def home() -> str:
        return "the host's own page"

    @app.after_request
    def brand(response: Response) -> Response:
        response.headers["X-Host"] = "yes"
        return response

    RealtimeServe(server).init_app(app, url_prefix="/ai")
    return app


def test_an_existing_app_serves_below_its_prefix(server: InferenceServer) -> None:
    client = host_app(server).test_client()
    answer = client.post("/ai" + COMPLETIONS, json=body())
    assert answer.json is not None
    assert answer.json["choices"][0]["text"] == "xyz"
    assert answer.headers["X-Host"] == "yes"
    assert client.get("/ai/health/ready").status_code == 200


def test_the_hosts_own_routes_and_errors_stay_its_own(server: InferenceServer) -> None:
    client = host_app(server).test_client()
    assert client.get("/").data == b"the host's own page"
    missing = client.get("/missing")
    assert missing.status_code == 404
    assert missing.mimetype == "text/html"
    assert "x-request-id" not in client.get("/").headers


def test_our_errors_keep_the_envelope_inside_a_host(server: InferenceServer) -> None:
    client = host_app(server).test_client()
    for answer in (
        client.get("/ai/v1/missing"),
        client.get("/ai" + COMPLETIONS),
        client.post("/ai" + COMPLETIONS, json=body(temperature=9)),
    ):
        assert answer.json is not None
        assert set(answer.json["error"]) == {"message", "type", "param", "code"}


def test_two_servers_live_in_one_app_under_two_names(server: InferenceServer) -> None:
    app = host_app(server)
    with serve(EndlessAlphabet) as other:
        RealtimeServe(other).init_app(app, url_prefix="/more", name="more")
        client = app.test_client()
        for prefix, text in (("/ai", "xyz"), ("/more", "xyzab")):
            answer = client.post(prefix + COMPLETIONS, json=body(max_tokens=5))
            assert answer.json is not None
            assert answer.json["choices"][0]["text"] == text


def test_a_hosts_own_refusal_stays_as_it_is(server: InferenceServer) -> None:
    app = host_app(server)

    @app.before_request
    def refuse() -> tuple[str, int]:
        return "the host says no", 401

    answer = app.test_client().post("/ai" + COMPLETIONS, json=body())
    assert (answer.status_code, answer.data) == (401, b"the host says no")


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Whatever is cleaned up is cleaned up by somebody."""
    gc.disable()
    yield
    gc.enable()


def fail(response: Response) -> Response:
    raise RuntimeError("the host's mistake")


def replace(response: Response) -> Response:
    return Response("the host's own answer", status=500)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("lose", [fail, replace])
@pytest.mark.parametrize("options", [{}, {"stream_options": {"resumable": True}}])
def test_a_host_that_loses_the_response_frees_the_seat(
    lose: Callable[[Response], Response], options: dict[str, Any]
) -> None:
    with serve(EndlessAlphabet) as server:
        app = host_app(server)
        recorder = Recorder()
        watched = RealtimeServe(server, middleware=[recorder])
        watched.init_app(app, url_prefix="/watched", name="watched")
        app.after_request(lose)
        request = body(stream=True, max_tokens=90_000, **options)
        answer = app.test_client().post("/watched" + COMPLETIONS, json=request)
        assert answer.status_code == 500
        wait_until(lambda: server.health().running == 0)
        wait_until(lambda: recorder.calls[-2:] == ["error cancelled", "end"])
        assert server.health().open_streams == 0


def test_a_host_that_wraps_the_body_sends_all_of_it(server: InferenceServer) -> None:
    app = host_app(server)

    @app.after_request
    def wrap(response: Response) -> Response:
        return Response(response.iter_encoded(), headers=response.headers)

    answer = app.test_client().post("/ai" + COMPLETIONS, json=body(stream=True))
    assert streamed_text(answer.data) == "xyz"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [(COMPLETIONS, {"POST", "OPTIONS"}), ("/v1/models", {"GET", "HEAD", "OPTIONS"})],
)
def test_options_names_the_methods_that_work(
    client: FlaskClient, path: str, allowed: set[str]
) -> None:
    answer = client.options(path)
    assert answer.status_code == 204
    assert set(answer.allow) == allowed
    refused = client.delete(path)
    assert refused.status_code == 405
    assert set(refused.allow) == allowed


def test_a_model_that_cannot_be_opened_is_503_and_the_app_lives_on(tmp_path: Path) -> None:
    app = create_app(ServerConfig(model=str(tmp_path / "absent.gguf")))
    client = app.test_client()
    assert client.get("/health/live").status_code == 200
    wait_until(lambda: "absent.gguf does not exist" in client.post(COMPLETIONS).text)
    answer = client.post(COMPLETIONS, json=body())
    assert answer.status_code == 503
    assert str(tmp_path) not in answer.text
    assert 1 <= int(answer.headers["Retry-After"]) <= REOPEN_AFTER_S
    assert client.get("/health/ready").status_code == 503


# --- middleware ---------------------------------------------------------------


class Recorder(Middleware):
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.tokens: list[int] = []

    def before_request(self, context: RequestContext) -> None:
        self.calls.append("before")

    def after_request(self, context: RequestContext) -> None:
        self.calls.append(f"after {context.status}")

    def on_error(self, context: RequestContext, error: ServeError) -> None:
        self.calls.append(f"error {error.code}")

    def on_stream_end(self, context: RequestContext, stream: TokenStream) -> None:
        self.calls.append("end")
        self.tokens.append(stream.usage.completion_tokens)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def recorded(server: InferenceServer, recorder: Recorder) -> FlaskClient:
    return create_app(server=server, middleware=[recorder]).test_client()


def test_a_stream_ends_after_the_response_and_once(
    recorded: FlaskClient, recorder: Recorder
) -> None:
    answer = recorded.post(COMPLETIONS, json=body(stream=True), buffered=False)
    assert recorder.calls == ["before", "after 200"]
    assert streamed_text(answer.data) == "xyz"
    answer.close()
    assert recorder.calls == ["before", "after 200", "end"]
    assert recorder.tokens == [4]


def test_a_whole_answer_ends_before_the_response(recorded: FlaskClient, recorder: Recorder) -> None:
    recorded.post(COMPLETIONS, json=body())
    assert recorder.calls == ["before", "end", "after 200"]


def test_a_refusal_reaches_the_error_hook(recorded: FlaskClient, recorder: Recorder) -> None:
    recorded.post(COMPLETIONS, json=body(model="other"))
    assert recorder.calls == ["before", "error model_not_found", "after 404"]


def test_an_abandoned_stream_ends_as_cancelled(recorder: Recorder) -> None:
    with serve(EndlessAlphabet) as server:
        client = create_app(server=server, middleware=[recorder]).test_client()
        answer = client.post(COMPLETIONS, json=body(stream=True, max_tokens=9999), buffered=False)
        next(answer.iter_encoded())
        answer.close()
        assert recorder.calls == ["before", "after 200", "error cancelled", "end"]
        wait_until(lambda: server.health().running == 0)


def test_a_limited_client_gets_429_with_a_time_and_its_headers() -> None:
    with alphabet_server(ServerConfig(rate_limit_rpm=60, rate_limit_burst=2)) as server:
        client = create_app(server=server).test_client()
        statuses = [client.post(COMPLETIONS, json=body()).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        refused = client.post(COMPLETIONS, json=body())
        assert int(refused.headers["Retry-After"]) >= 1
        assert int(refused.headers["retry-after-ms"]) >= 1
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        key = {"Authorization": "Bearer invented"}  # nobody has checked it
        assert client.post(COMPLETIONS, json=body(), headers=key).status_code == 429
        neighbour = {"REMOTE_ADDR": "127.0.0.2"}
        answer = client.post(COMPLETIONS, json=body(), environ_base=neighbour)
        assert answer.status_code == 200
        assert client.get("/health/live").status_code == 200


def logged_lines(caplog: pytest.LogCaptureFixture, request_ids: str) -> list[dict[str, Any]]:
    """The access log of some requests; under gevent lines are written a little later."""

    def lines() -> list[dict[str, Any]]:
        written = [json.loads(record.getMessage()) for record in caplog.records]
        return [line for line in written if line["request_id"] in request_ids.split()]

    wait_until(lambda: len(lines()) == len(request_ids.split()))
    return lines()


def test_each_request_is_one_json_log_line(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "realtime_serve.access"):
        streamed = client.post(COMPLETIONS, json=body(stream=True), headers={"X-Request-ID": "a"})
        assert streamed_text(streamed.data) == "xyz"
        client.post(COMPLETIONS, json=body(), headers={"X-Request-ID": "b"})
        client.get("/v1/models", headers={"X-Request-ID": "c"})
        client.post(COMPLETIONS, json=body(top_p=7), headers={"X-Request-ID": "d"})
        lines = logged_lines(caplog, "a b c d")
    assert [line["request_id"] for line in lines] == ["a", "b", "c", "d"]
    assert [line["status"] for line in lines] == [200, 200, 200, 400]
    assert [line.get("completion_tokens") for line in lines] == [4, 4, None, None]
    assert [line["streamed"] for line in lines] == [True, False, False, False]
    assert lines[3]["error"] == "invalid_request_error"
    assert {"Authorization", "w"}.isdisjoint(str(lines).split())


def test_the_log_line_of_a_stream_says_how_its_client_took_it(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "realtime_serve.access"):
        ids = [{"X-Request-ID": "streamed"}, {"X-Request-ID": "whole"}]
        received = client.post(COMPLETIONS, json=body(stream=True), headers=ids[0]).data
        client.post(COMPLETIONS, json=body(), headers=ids[1])
        streamed, whole = logged_lines(caplog, "streamed whole")
    assert streamed["sent_bytes"] == len(received)
    assert (streamed["unsent_bytes"], streamed["paused_ms"]) == (0, 0)
    for line in (streamed, whole):
        assert 0 < line["itl_p50_ms"] <= line["itl_p99_ms"]
    assert "sent_bytes" not in whole


def test_a_stream_whose_body_nobody_iterates_is_logged_when_it_is_closed(
    server: InferenceServer, caplog: pytest.LogCaptureFixture
) -> None:
    builder = EnvironBuilder(
        path=COMPLETIONS,
        method="POST",
        json=body(stream=True),
        headers=[("X-Request-ID", "closed")],
    )
    answer = create_app(server=server)(builder.get_environ(), lambda *_: lambda _: None)
    with caplog.at_level(logging.INFO, "realtime_serve.access"):
        assert isinstance(answer, ClosingIterator)
        answer.close()
        answer.close()
        (line,) = logged_lines(caplog, "closed")
    assert (line["finish_reason"], line["sent_bytes"]) == ("cancelled", 0)


# --- Flask's own threaded server ----------------------------------------------


@pytest.fixture
def threaded_port() -> Iterator[tuple[int, InferenceServer]]:
    with serve(EndlessAlphabet) as server:
        http_server = make_server("127.0.0.1", 0, create_app(server=server), threaded=True)
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield http_server.server_port, server
        http_server.shutdown()
        thread.join()
        http_server.server_close()


def open_stream(port: int, max_tokens: int) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    request = json.dumps(body("a", stream=True, max_tokens=max_tokens))
    connection.request("POST", COMPLETIONS, request, {"Content-Type": "application/json"})
    return connection


def test_flasks_threaded_server_streams_to_many_at_once(
    threaded_port: tuple[int, InferenceServer],
) -> None:
    port, _ = threaded_port
    connections = [open_stream(port, 52) for _ in range(8)]
    for connection in connections:
        data = connection.getresponse().read()
        assert streamed_text(data) == "bcdefghijklmnopqrstuvwxyza" * 2
        connection.close()


def test_flasks_threaded_server_notices_a_client_that_goes(
    threaded_port: tuple[int, InferenceServer],
) -> None:
    port, server = threaded_port
    connection = open_stream(port, 90_000)
    connection.getresponse().read(100)
    connection.close()
    wait_until(lambda: server.health().running == 0)
