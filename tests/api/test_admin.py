"""The admin routes: there only with a key, and only for those who have it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from realtime_serve import InferenceServer, RealtimeServe, ServerConfig, create_app
from realtime_serve.errors import ConflictError
from support.scripted_servers import alphabet_server

KEY = "s3cret-key"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
DRAIN = "/admin/drain"


def server_with_key() -> InferenceServer:
    return alphabet_server(ServerConfig(admin_api_key=KEY))


def call(
    server: InferenceServer,
    headers: dict[str, str],
    *,
    method: str = "POST",
    path: str = DRAIN,
    data: Any = None,
    stop_process: Callable[[], None] | None = None,
) -> Any:
    client = create_app(server=server, stop_process=stop_process).test_client()
    return client.open(path, method=method, headers=headers, data=data)


def test_without_a_key_there_are_no_admin_routes() -> None:
    with alphabet_server() as server:
        assert call(server, AUTHORIZED).status_code == 404
        assert server.health().ready


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {KEY}x",
        f"Basic {KEY}",
        KEY,
        "Bearer caf\u00e9",
        "Bearer " + "x" * 7000,
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET", "OPTIONS"])
def test_whoever_has_not_the_key_is_told_so_and_nothing_else(
    given: str | None, method: str
) -> None:
    with server_with_key() as server:
        headers = {} if given is None else {"Authorization": given}
        answer = call(server, headers, method=method)
        assert answer.status_code == 401
        assert answer.json["error"]["code"] == "invalid_api_key"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert server.health().ready


def test_with_the_key_wrong_paths_and_methods_are_told_apart() -> None:
    with server_with_key() as server:
        assert call(server, AUTHORIZED, path="/admin/nothing").status_code == 404
        answer = call(server, AUTHORIZED, method="GET")
        assert (answer.status_code, set(answer.allow)) == (405, {"POST"})
        assert call(server, AUTHORIZED, data=b"{}").status_code == 400
        assert server.health().ready


def test_draining_may_be_asked_for_twice_and_leaves_ready_at_once() -> None:
    stopped: list[str] = []
    with server_with_key() as server:
        for _ in range(2):
            answer = call(server, AUTHORIZED, stop_process=lambda: stopped.append("now"))
            assert (answer.status_code, answer.json) == (202, {"status": "draining"})
        assert server.health().draining
    assert stopped == ["now", "now"]


def test_a_process_that_cannot_be_stopped_is_a_conflict_and_goes_on() -> None:
    def refuse() -> None:
        raise ConflictError("gunicorn's master runs as another user.")

    with server_with_key() as server:
        answer = call(server, AUTHORIZED, stop_process=refuse)
        assert (answer.status_code, answer.json["error"]["code"]) == (409, "conflict")
        assert "another user" in answer.json["error"]["message"]
        assert server.health().ready


def test_an_app_around_ours_has_the_routes_below_its_prefix() -> None:
    with server_with_key() as server:
        app = Flask("host")
        RealtimeServe(server).init_app(app, url_prefix="/ai")
        assert app.test_client().post("/ai" + DRAIN, headers=AUTHORIZED).status_code == 202
        assert server.health().draining


def test_the_key_is_in_no_log_line_and_in_no_representation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with server_with_key() as server:
        call(server, AUTHORIZED)
        call(server, {"Authorization": f"Bearer {KEY}x"})
        assert KEY not in repr(server.config)
    assert caplog.records
    assert KEY not in caplog.text
