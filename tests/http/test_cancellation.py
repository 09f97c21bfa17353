"""Cancelling by id against real servers, on each way that a stream takes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from support.echo_process import figures, settled, start_echo
from support.live_server import MODEL, LiveServer
from support.raw_stream import RawStream, payloads, stream_request

pytestmark = pytest.mark.not_under_gevent("the servers are processes of their own")

ENDLESS: dict[str, Any] = {"max_tokens": 10**6}


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """One whose streams go directly to their sockets, and one with a thread for each."""
    log = tmp_path_factory.mktemp("echo") / "server.log"
    options = [f"--worker-class={request.param}", "--threads=8"]
    server = start_echo(log, *options, environ={"ECHO_STEP_MS": "1"})
    yield server
    assert server.stop() == 0, server.log


def cancel(server: LiveServer, given_id: str) -> int:
    return server.request("DELETE", f"/v1/requests/{given_id}").status


def assert_cancelled(body: bytes) -> int:
    """Check how a stream ended; how many tokens it says it had."""
    *_, last, done = payloads(body)
    assert last["error"]["code"] == "cancelled"
    assert done == "[DONE]"
    num_tokens: int = last["usage"]["completion_tokens"]
    return num_tokens


def test_a_chunked_stream_ends_with_the_reason_and_its_connection_goes_on(
    server: LiveServer,
) -> None:
    with RawStream(server.port) as stream:
        for _ in range(2):
            stream.send(stream_request("abc ", **ENDLESS))
            status, headers = stream.read_head()
            chunks = stream.chunks()
            body = b"".join(next(chunks)[1] for _ in range(5))
            assert status == 200
            assert cancel(server, headers["x-request-id"]) == 200
            body += b"".join(content for _, content in chunks)
            assert assert_cancelled(body) > 0
    server.wait_until(lambda: figures(server)["num_running"] == 0, "idle")


def test_a_stream_over_http_1_0_ends_so_too(server: LiveServer) -> None:
    with RawStream(server.port) as stream:
        request = stream_request("abc ", version="1.0", headers="X-Request-ID: old\r\n", **ENDLESS)
        stream.send(request)
        stream.read_head()
        assert cancel(server, "old") == 200
        assert_cancelled(stream.reader.read())


def test_a_client_that_does_not_read_is_told_once_it_reads(server: LiveServer) -> None:
    with RawStream(server.port, receive_buffer=1) as stream:
        headers = "X-Request-ID: stalled\r\nX-Test-Send-Buffer: 1\r\n"
        stream.send(stream_request("abc ", headers=headers, **ENDLESS))
        server.wait_until(lambda: figures(server)["num_running"] == 1, "running")
        settled(lambda: figures(server)["num_generated"], server)
        assert cancel(server, "stalled") == 200
        server.wait_until(lambda: figures(server)["num_running"] == 0, "idle")
        assert_cancelled(stream.read_answer()[1])


def test_a_whole_answer_becomes_an_error(server: LiveServer) -> None:
    body = {"model": "echo", "prompt": "abc ", **ENDLESS}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.post, "/v1/completions", body, {"X-Request-ID": "whole"})
        server.wait_until(lambda: cancel(server, "whole") == 200, "known")
        answer = waiting.result()
    assert (answer.status, answer.error["code"]) == (499, "cancelled")


def test_where_several_processes_serve_a_request_goes_on_and_the_caller_is_told_why(
    tmp_path: Path,
) -> None:
    options = ("--worker-class=gevent", "--workers=2")
    server = start_echo(tmp_path / "server.log", *options, environ={"ECHO_STEP_MS": "1"})
    try:
        with RawStream(server.port) as stream:
            stream.send(stream_request("abc ", max_tokens=100))
            _, headers = stream.read_head()
            for _ in range(4):
                path = f"/v1/requests/{headers['x-request-id']}"
                answer = server.request("DELETE", path)
                assert (answer.status, answer.error["code"]) == (409, "conflict")
                assert "2" in answer.error["message"]
            assert payloads(b"".join(content for _, content in stream.chunks()))[-1] == "[DONE]"
    finally:
        server.kill()


def test_the_sdk_cancels_a_chat_by_the_id_of_its_answer(live_server: LiveServer) -> None:
    with openai.OpenAI(base_url=f"{live_server.url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Count from one to a thousand."}],
            stream=True,
            extra_body={"ignore_eos": True},
        )
        first = next(iter(stream))
        answer = client.delete(f"/requests/{first.id}", cast_to=object)
        assert answer == {"id": first.id, "object": "request", "cancelled": True}
        with pytest.raises(openai.APIError, match="cancelled"):
            list(stream)
