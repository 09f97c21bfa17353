"""The floor and the load client, compiled under sanitizers and run against each other."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from peers.processes import Launch, ServerProcess, free_port, started
from streaming.programs import (
    FLOOR_SOURCES,
    LOAD_SOURCES,
    LoadError,
    compile_program,
    run_load,
)
from streaming.results import EXPECTED_EVENT_BYTES
from streaming.token_clock import NUM_TICKS, TICK_NS, tick_now, token_text
from support.c_programs import sanitizer_flags, sanitizer_prefix
from support.scripted_http import Reply, ScriptedServer, event

HANG_TIMEOUT_S = 60.0
SANITIZERS = "address,undefined"


class Tools:
    """The programs and how to run them."""

    def __init__(self, folder: Path) -> None:
        self.prefix = sanitizer_prefix(SANITIZERS)
        self.folder = folder
        self.floor, self.load = folder / "floor", folder / "load"
        compile_program(FLOOR_SOURCES, self.floor, *sanitizer_flags(SANITIZERS))
        compile_program(LOAD_SOURCES, self.load, *sanitizer_flags(SANITIZERS))

    def floor_launch(self, port: int, step_us: int) -> Launch:
        arguments = ["--port", str(port), "--step-us", str(step_us)]
        return Launch(
            command=[*self.prefix, str(self.floor), *arguments], environ={}, ready_path="/"
        )

    def run(self, port: int, max_tokens: int, *arguments: str) -> dict[str, Any]:
        body = json.dumps({"max_tokens": max_tokens}, separators=(",", ":"))
        command = [*self.prefix, str(self.load), "--port", str(port), "--body", body]
        return run_load([*command, "--settle-s", "0", "--window-s", "0.3", *arguments])


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return Tools(tmp_path_factory.mktemp("programs"))


@pytest.fixture(params=[2000, 0], ids=["paced", "free"])
def floor(tools: Tools, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    port = free_port()
    with started(tools.floor_launch(port, request.param), port, tmp_path) as server:
        server.wait_until_ready(HANG_TIMEOUT_S)
        yield server
        assert server.log_end() == ""  # of a sanitizer


def test_endless_streams_of_the_floor_are_counted(tools: Tools, floor: ServerProcess) -> None:
    pids = str(floor.session_id)
    seen = tools.run(floor.port, 1_000_000_000, "--streams", "3", "--pids", pids)
    assert seen["num_tokens"] > 0
    assert seen["num_answers"] == 0
    assert seen["num_event_bytes"] > 0
    assert seen["window_s"] >= 0.3
    assert seen["server_cpu_s"] > 0
    assert seen["client_cpu_s"] > 0
    assert 0 <= seen["lateness_p50_us"] <= seen["lateness_p99_us"]
    assert 0 < seen["first_token_p50_us"] <= seen["first_token_p99_us"]


def test_answers_of_the_floor_end_and_begin_anew(tools: Tools, floor: ServerProcess) -> None:
    seen = tools.run(floor.port, 3, "--streams", "2")
    assert seen["num_answers"] > 0
    # 3 tokens and [DONE] an answer; the window cuts the first and the last of each connection.
    assert abs(seen["num_events"] - 4 * seen["num_answers"]) <= 2 * 4
    assert abs(seen["num_tokens"] - 3 * seen["num_answers"]) <= 2 * 3


def test_a_warm_up_comes_first_and_is_not_counted(tools: Tools, floor: ServerProcess) -> None:
    warm_up = ["--warm-up-body", '{"max_tokens":2}']
    seen = tools.run(floor.port, 1_000_000_000, "--streams", "2", *warm_up)
    assert seen["num_answers"] == 0
    assert seen["num_tokens"] > 0


def test_events_of_the_floor_have_the_size_that_all_events_have(
    tools: Tools, floor: ServerProcess
) -> None:
    seen = tools.run(floor.port, 1_000_000_000, "--streams", "1")
    # The window may end between the two lines of an event.
    assert abs(seen["num_event_bytes"] - EXPECTED_EVENT_BYTES * seen["num_events"]) <= 1


# --- against what a test wrote down ---------------------------------------------


def token_event(text: str) -> bytes:
    return event(json.dumps({"choices": [{"delta": {"content": text}}]}, separators=(",", ":")))


def port_of(server: ScriptedServer) -> int:
    port = urlsplit(server.base_url).port
    assert port is not None
    return port


def test_lateness_is_from_the_instant_that_a_token_tells(
    tools: Tools, scripted_server: ScriptedServer
) -> None:
    late_s = 0.2

    def reply(body: dict[str, Any]) -> Reply:
        made = (tick_now() - round(late_s * 1e9 / TICK_NS)) % NUM_TICKS
        return Reply([token_event(token_text(made)), event("[DONE]")])

    scripted_server.script = reply
    seen = tools.run(port_of(scripted_server), 1, "--streams", "1")
    assert seen["lateness_p50_us"] >= 1e6 * late_s
    assert seen["first_token_p50_us"] < seen["lateness_p50_us"]


def test_a_token_is_never_made_before_the_one_before_it(
    tools: Tools, scripted_server: ScriptedServer
) -> None:
    """The first was made just now; the second text can only mean a time round the clock later."""

    def reply(body: dict[str, Any]) -> Reply:
        now = tick_now()
        texts = [token_text(now), token_text((now - NUM_TICKS // 2) % NUM_TICKS)]
        return Reply([*map(token_event, texts), event("[DONE]")])

    scripted_server.script = reply
    seen = tools.run(port_of(scripted_server), 1, "--streams", "1")
    # A token of the future is not late; one from half a round ago would be 2.5 s late.
    assert seen["lateness_p99_us"] < NUM_TICKS // 2 * TICK_NS / 1000


def test_several_tokens_of_one_event_all_count(
    tools: Tools, scripted_server: ScriptedServer
) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        now = tick_now()
        text = token_text(now) + token_text((now + 1) % NUM_TICKS)
        return Reply([token_event(""), token_event(text), event("[DONE]")])

    scripted_server.script = reply
    seen = tools.run(port_of(scripted_server), 1, "--streams", "1")
    assert seen["num_answers"] > 0
    assert abs(seen["num_tokens"] - 2 * seen["num_answers"]) <= 2


def test_whole_answers_are_counted(tools: Tools, scripted_server: ScriptedServer) -> None:
    scripted_server.script = lambda body: Reply([b"{}"], content_type="application/json")
    seen = tools.run(port_of(scripted_server), 1, "--streams", "2", "--whole")
    assert seen["num_answers"] > 0
    assert seen["num_tokens"] == 0
    assert seen["lateness_p50_us"] is None


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply([b"busy"], status=503), "HTTP 503: busy"),
        (Reply([token_event("000001")]), r"without \[DONE\]"),
        (Reply([token_event("000001")], cut_off=True), "closed a connection"),
        (Reply([event('{"error":{"message":"no"}}')]), "error event: .*no"),
    ],
    ids=["status", "no-done", "cut-off", "error-event"],
)
def test_a_server_that_fails_gives_no_figures(
    tools: Tools, scripted_server: ScriptedServer, reply: Reply, reason: str
) -> None:
    scripted_server.script = lambda body: reply
    with pytest.raises(LoadError, match=reason):
        tools.run(port_of(scripted_server), 1, "--streams", "1")


def test_a_server_that_is_not_there_is_told(tools: Tools) -> None:
    with pytest.raises(LoadError, match="connect: Connection refused"):
        tools.run(free_port(), 1, "--streams", "1")


def test_options_that_make_no_sense_are_refused(tools: Tools) -> None:
    done = subprocess.run([*tools.prefix, str(tools.load)], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"--port, --streams and --body are needed" in done.stderr
