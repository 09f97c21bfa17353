"""Clients that read slowly or not at all, against real servers, on each way that a stream takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.echo_process import RING, figures, start_echo
from support.live_server import MODEL, LiveServer, metric, start_server
from support.raw_stream import RawStream, came_directly, echo, payloads, stream_request, text_of

pytestmark = pytest.mark.not_under_gevent("the servers are processes of their own")

PROMPT = 'a "quoted" line\nand another. '
ENDLESS: dict[str, Any] = {"max_tokens": 10**6}
STALL_TIMEOUT_S = 2.0
RECEIVE_BUFFER = 4096
"""What the clients' kernels are told to take; they take several times that."""


@pytest.fixture(
    scope="module",
    params=[("gevent", "app"), ("gevent", "wrapped"), ("gthread", "app"), ("gevent_pywsgi", "app")],
    ids=["direct", "gevent", "gthread", "pywsgi"],
)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """Streams go directly to their sockets, or through a server of greenlets or of threads."""
    worker, app = request.param
    log = tmp_path_factory.mktemp("echo") / "server.log"
    server = start_with(log, worker, app)
    yield server
    assert server.stop() == 0, server.log


def start_with(log: Path, worker: str, app: str = "app", **settings: Any) -> LiveServer:
    settings = {"STALL_TIMEOUT_S": STALL_TIMEOUT_S, **settings}
    environ = {f"REALTIME_SERVE_{name}": str(value) for name, value in settings.items()}
    options = [f"--worker-class={worker}", "--threads=16"]
    return start_echo(log, *options, app=app, environ={"ECHO_STEP_MS": "1", **environ})


def ask(server: LiveServer, prompt: str) -> str:
    with RawStream(server.port) as stream:
        stream.send(stream_request(prompt, max_tokens=500))
        return text_of(stream.read_answer()[1])


def is_as_before(now: dict[str, int], before: dict[str, int]) -> bool:
    names = ("num_running", "num_streams", "num_descriptors", "num_greenlets")
    return all(now[name] <= before[name] for name in names)


def num_dropped(server: LiveServer) -> float:
    return metric(server, "realtime_serve:streams_dropped_total", reason="stalled_reader")


def test_readers_that_stall_are_dropped_and_cost_the_others_nothing(server: LiveServer) -> None:
    before, dropped_before = figures(server), num_dropped(server)
    with ExitStack() as stack:
        for _ in range(3):
            stalled = stack.enter_context(RawStream(server.port, RECEIVE_BUFFER))
            stalled.send(stream_request(PROMPT, **ENDLESS))
            assert stalled.read_head()[0] == 200
        prompts = [f"<{number}>" for number in range(4)]
        with ThreadPoolExecutor(len(prompts)) as threads:
            heard = list(threads.map(lambda prompt: ask(server, prompt), prompts))
        assert heard == [echo(prompt, 500) for prompt in prompts]
        server.wait_until(lambda: num_dropped(server) == dropped_before + 3, "dropped")
        server.wait_until(lambda: is_as_before(figures(server), before), "as before")
    assert server.log.count('"error":"stalled_reader"') >= 3
    assert "Traceback" not in server.log


def test_a_reader_that_is_slow_but_steady_hears_everything(server: LiveServer) -> None:
    num_tokens = 3000
    with RawStream(server.port, RECEIVE_BUFFER) as slow:
        slow.send(stream_request(PROMPT, max_tokens=num_tokens))
        assert slow.read_head()[0] == 200
        body = b""
        slow_until_s = time.monotonic() + 2.5 * STALL_TIMEOUT_S
        for _, content in slow.chunks():
            body += content
            if time.monotonic() < slow_until_s:
                time.sleep(len(content) / 60_000)
        assert time.monotonic() > slow_until_s, "it was never slow"
    assert text_of(body) == echo(PROMPT, num_tokens)


def test_whoever_reads_after_a_direct_stream_was_dropped_hears_why(tmp_path: Path) -> None:
    server = start_with(tmp_path / "log", "gevent", STALL_TIMEOUT_S=0.5)
    with RawStream(server.port, RECEIVE_BUFFER) as late:
        late.send(stream_request(PROMPT, **ENDLESS))
        server.wait_until(lambda: figures(server)["num_running"] > 0, "running")
        server.wait_until(lambda: num_dropped(server) == 1, "dropped")
        sizes, body = late.read_answer()
        assert came_directly(sizes)
        *tokens, error, done = payloads(body)
        assert len(tokens) > RING
        assert error["error"]["code"] == "stalled_reader"
        assert error["usage"]["completion_tokens"] == len(tokens)
        assert done == "[DONE]"
        assert late.reader.read() == b"", "the connection ends there"
    assert server.stop() == 0, server.log


@pytest.mark.parametrize("worker", ["gevent", "gthread"])
def test_the_policy_drop_ends_a_stream_whose_ring_is_full_and_no_other(
    worker: str, tmp_path: Path
) -> None:
    server = start_with(tmp_path / "log", worker, SLOW_READER_POLICY="drop", STALL_TIMEOUT_S=600)
    with RawStream(server.port, RECEIVE_BUFFER) as stalled:
        stalled.send(stream_request(PROMPT, **ENDLESS))
        assert ask(server, "abc") == echo("abc", 500)
        server.wait_until(lambda: figures(server)["num_running"] == 0, "dropped")
        *tokens, error, done = payloads(stalled.read_answer()[1])
        assert len(tokens) > RING
        assert error["error"]["code"] == "stalled_reader"
        assert done == "[DONE]"
    assert server.stop() == 0, server.log


def test_with_a_model_its_blocks_are_back_and_the_neighbours_tokens_are_the_same(
    tmp_path: Path,
) -> None:
    environ = {
        "REALTIME_SERVE_STALL_TIMEOUT_S": "1",
        "REALTIME_SERVE_RING_CAPACITY": "16",
        "REALTIME_SERVE_MAX_MODEL_LEN": "4096",
    }
    server = start_server(tmp_path / "log", environ=environ)
    greedy: dict[str, Any] = {"model": MODEL, "temperature": 0, "ignore_eos": True}

    def answer() -> Any:
        body = {**greedy, "prompt": "The capital of France is", "max_tokens": 150}
        return server.post("/v1/completions", body).json()["choices"]

    undisturbed = answer()
    used_before = metric(server, "vllm:kv_cache_usage_perc")
    with RawStream(server.port, RECEIVE_BUFFER) as stalled:
        stalled.send(stream_request("Once upon a time", max_tokens=4000, **greedy))
        assert stalled.read_head()[0] == 200
        assert answer() == undisturbed
        server.wait_until(lambda: num_dropped(server) == 1, "dropped")
        assert answer() == undisturbed
    assert metric(server, "vllm:num_requests_running") == 0
    assert metric(server, "vllm:kv_cache_usage_perc") == used_before
    assert server.stop() == 0, server.log
