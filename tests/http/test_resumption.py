"""Streams that are cut and resumed, against real gunicorn processes and raw sockets."""

from __future__ import annotations

import json
import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from support.echo_process import figures
from support.live_server import MODEL, LiveServer, start_server
from support.raw_stream import RawStream, came_directly, stream_request
from support.resumable import (
    ENDLESS,
    NUM_TOKENS,
    PROMPT,
    RESUMABLE,
    ResumingClient,
    begin,
    client_of,
    complete_events,
    echo_bytes,
    resume,
    resume_request,
    text_of,
)
from support.resumable_servers import WORKERS, Servers, metric

pytestmark = pytest.mark.not_under_gevent("the servers are processes of their own")


@pytest.fixture(scope="module", params=WORKERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """One of each kind that has several connections at once."""
    with Servers(tmp_path_factory.mktemp("resume")) as servers:
        yield servers.start(request.param)


@pytest.fixture(scope="module")
def gevent_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with Servers(tmp_path_factory.mktemp("resume")) as servers:
        yield servers.start()


def without_times(events: list[bytes]) -> list[bytes]:
    return [re.sub(rb'"id":"[^"]*"|"created":\d+', b"", event) for event in events]


def undisturbed(server: LiveServer, **fields: Any) -> list[bytes]:
    """The events of the same request, of which none is cut or can be resumed."""
    with RawStream(server.port) as stream:
        stream.send(stream_request(PROMPT, **{"max_tokens": NUM_TOKENS, **fields}))
        body = stream.read_answer()[1]
    return [block for block in body.split(b"\n\n")[:-1] if not block.startswith(b":")]


# --- the same events ----------------------------------------------------------


def test_a_stream_that_nobody_cuts_has_the_events_of_any_other(server: LiveServer) -> None:
    client = client_of(server)
    client.read()
    assert client.is_done
    assert without_times(client.events) == without_times(undisturbed(server))
    assert text_of(client.events) == echo_bytes(PROMPT, NUM_TOKENS)


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_that_is_cut_anywhere_loses_and_repeats_nothing(
    server: LiveServer, seed: int
) -> None:
    expected = without_times(undisturbed(server))
    chance = random.Random(seed)
    client = client_of(server)
    num_cuts = 0
    while not client.is_done:
        client.read(chance.randint(0, 9000), reset=chance.random() < 0.5)
        num_cuts += 1
    assert num_cuts > 5
    assert without_times(client.events) == expected


def test_a_stream_resumed_from_nowhere_comes_from_its_beginning(server: LiveServer) -> None:
    client = client_of(server)
    client.read(2000)
    again = ResumingClient(server.port, PROMPT, stream_id=client.stream_id)
    again.read()
    assert text_of(again.events) == echo_bytes(PROMPT, NUM_TOKENS)
    client.read_all()
    assert client.events == again.events


def test_a_new_eventsource_says_its_last_event_in_the_query(server: LiveServer) -> None:
    client = client_of(server)
    client.read(2000)
    with RawStream(server.port) as stream:
        path = f"{client.stream_id}?last_event_id={client.last_event_id}"
        stream.send(resume_request(path))
        first, *_ = complete_events(stream.read_answer()[1])
        assert first[1] == len(client.events)


def test_token_counts_stop_strings_and_odd_texts_are_replayed(server: LiveServer) -> None:
    fields = {"stream_options": {"resumable": True, "include_usage": True}, "stop": ["and a"]}
    client = client_of(server, **fields)
    client.read(700)
    client.read_all()
    expected = undisturbed(server, stream_options={"include_usage": True}, stop=["and a"])
    assert without_times(client.events) == without_times(expected)


def test_everything_is_read_through_the_smallest_buffers(gevent_server: LiveServer) -> None:
    small = "X-Test-Send-Buffer: 1\r\n"
    client = client_of(gevent_server)
    client.read(2000)
    assert client.stream_id is not None
    with RawStream(gevent_server.port, receive_buffer=1) as stream:
        stream.send(resume_request(client.stream_id, headers=small))
        sizes, body = stream.read_answer()
    assert came_directly(sizes)
    assert text_of([data for _, _, data in complete_events(body)]) == echo_bytes(PROMPT, NUM_TOKENS)


# --- while nobody is connected ------------------------------------------------


def test_a_stream_goes_on_without_a_client(server: LiveServer) -> None:
    before = figures(server)["num_generated"]
    client = begin(server)
    server.wait_until(
        lambda: figures(server)["num_generated"] >= before + NUM_TOKENS, "generated to the end"
    )
    assert text_of(client.read_all()) == echo_bytes(PROMPT, NUM_TOKENS)


@pytest.mark.parametrize("worker", WORKERS)
def test_without_a_client_it_ends_in_time_and_is_forgotten(worker: str, servers: Servers) -> None:
    server = servers.start(worker, REALTIME_SERVE_RESUME_TTL_S="1")
    before = figures(server)["num_descriptors"]
    client = begin(server, **ENDLESS)
    assert figures(server)["num_running"] == 1
    finished = begin(server, max_tokens=30)
    assert finished.read_all()
    server.wait_until(lambda: figures(server)["num_running"] == 0, "free")
    server.wait_until(lambda: kept_streams(server) == 0, "forgotten")
    for each in (client, finished):
        answer = resume(server, each)
        assert answer.status == 404
        assert answer.error["code"] == "stream_not_found"
    server.wait_until(lambda: figures(server)["num_descriptors"] <= before, "closed")


def kept_streams(server: LiveServer) -> float:
    return metric(server, "realtime_serve:resumable_streams")


def test_a_client_that_stays_is_not_subject_to_the_time_without_one(servers: Servers) -> None:
    server = servers.start(ECHO_STEP_MS="10", REALTIME_SERVE_RESUME_TTL_S="0.3")
    client = client_of(server, max_tokens=124)
    client.read()
    assert text_of(client.events) == echo_bytes(PROMPT, 124)


def test_a_queued_stream_is_resumed_as_any_other(servers: Servers) -> None:
    server = servers.start(ECHO_MAX_SEQS="1", REALTIME_SERVE_KEEP_ALIVE_S="0.05")
    with RawStream(server.port) as seated:
        seated.send(stream_request("x", **ENDLESS))
        assert next(seated.chunks()) if seated.read_head()[0] == 200 else None
        queued = client_of(server)
        queued.read(1)
        with RawStream(server.port) as stream:
            stream.send(queued.request())
            assert stream.read_head()[0] == 200
            comments = [next(stream.chunks())[1] for _ in range(3)]
            assert set(comments) == {b": queued 1\n\n"}
        assert queued.events == []
    assert text_of(queued.read_all()) == echo_bytes(PROMPT, NUM_TOKENS)


# --- how a stream ends --------------------------------------------------------


def ending_of(client: ResumingClient) -> dict[str, Any]:
    """The error with which a stream has ended, read by whoever comes back."""
    *_, error, done = client.read_all()
    assert done == b"data: [DONE]"
    payload: dict[str, Any] = json.loads(error.removeprefix(b"data: "))
    assert payload["usage"]["completion_tokens"] > 0
    return dict(payload["error"])


def test_a_stream_without_a_client_is_cancelled_by_its_id(server: LiveServer) -> None:
    with RawStream(server.port) as stream:
        headers = "X-Request-ID: my-own-name\r\n"
        stream.send(stream_request(PROMPT, headers=headers, **RESUMABLE, **ENDLESS))
        stream_id = stream.read_head()[1]["x-stream-id"]
        next(chunk for chunk in stream.chunks() if b"id: " in chunk[1])
    client = ResumingClient(server.port, PROMPT, stream_id=stream_id)
    assert server.request("DELETE", "/v1/requests/my-own-name").status == 200
    assert ending_of(client)["code"] == "cancelled"


def test_its_deadline_passes_without_a_client_too(server: LiveServer) -> None:
    with RawStream(server.port) as stream:
        headers = "X-Request-Timeout: 0.5\r\n"
        stream.send(stream_request(PROMPT, headers=headers, **RESUMABLE, **ENDLESS))
        stream_id = stream.read_head()[1]["x-stream-id"]
    server.wait_until(lambda: figures(server)["num_running"] == 0, "over")
    client = ResumingClient(server.port, PROMPT, stream_id=stream_id)
    assert ending_of(client)["code"] == "deadline_exceeded"


def test_at_the_end_of_the_server_a_resumed_stream_says_so(tmp_path: Path) -> None:
    environ = {"REALTIME_SERVE_DRAIN_DELAY_S": "1"}  # so that somebody can come back
    server = start_server(tmp_path / "log", "--graceful-timeout=4", environ=environ)
    client, left = (
        client_of(server, model=MODEL, max_tokens=8000, ignore_eos=True) for _ in range(2)
    )
    for each in (client, left):
        each.read(1500)
    server.process.send_signal(signal.SIGTERM)
    *_, error, done = client.read_all()
    payload = json.loads(error.removeprefix(b"data: "))
    assert payload["error"]["code"] == "draining"
    assert payload["usage"]["completion_tokens"] > 0
    assert done == b"data: [DONE]"
    assert server.process.wait(60) == 0, server.log
    assert "Traceback" not in server.log


# --- who may read, and from where ---------------------------------------------


def test_past_its_end_there_is_nothing(server: LiveServer) -> None:
    client = client_of(server, max_tokens=31)
    client.read()
    answer = resume(server, client, client.last_event_id)
    assert (answer.status, answer.body) == (204, b"")
    assert "content-type" not in answer.headers
    assert complete_events(resume(server, client, f"{client.stream_id}:0").body)[0][1] == 1


def test_an_event_of_no_stream_or_of_another_one_is_refused(server: LiveServer) -> None:
    client, other = begin(server), begin(server)
    foreign = other.last_event_id
    unsent = f"{client.stream_id}:999999999"
    for given in ("0", "x:y", f"{client.stream_id}:", f"{client.stream_id}:-1", foreign, unsent):
        answer = resume(server, client, given)
        assert answer.status == 400, given
        assert answer.error["param"] == "Last-Event-ID"


@pytest.mark.parametrize("stream_id", ["0" * 32, "x", "%00", "a/b"])
def test_an_unknown_stream_is_not_found(server: LiveServer, stream_id: str) -> None:
    answer = server.request("GET", f"/v1/streams/{stream_id}")
    assert answer.status == 404
    assert answer.error["code"] in {"stream_not_found", "not_found"}


def test_only_a_stream_that_was_to_be_resumable_has_ids(server: LiveServer) -> None:
    for options in (None, {}, {"resumable": False}, {"resumable": None}):
        fields: dict[str, Any] = {"stream_options": options, "max_tokens": 31}
        with RawStream(server.port) as stream:
            stream.send(stream_request(PROMPT, **fields))
            status, headers = stream.read_head()
            assert status == 200
            assert "x-stream-id" not in headers
            assert b"id: " not in b"".join(content for _, content in stream.chunks())


def test_the_configuration_makes_streams_resumable_that_do_not_say_otherwise(
    servers: Servers,
) -> None:
    server = servers.start(REALTIME_SERVE_RESUMABLE_STREAMS="true")
    client = client_of(server, stream_options=None)
    client.read(1500)
    assert text_of(client.read_all()) == echo_bytes(PROMPT, NUM_TOKENS)
    with RawStream(server.port) as stream:
        stream.send(stream_request("x", max_tokens=5, stream_options={"resumable": False}))
        assert "x-stream-id" not in stream.read_head()[1]


def test_several_workers_refuse_with_the_reason(servers: Servers) -> None:
    server = servers.start("gevent", "--workers=2", REALTIME_SERVE_RESUMABLE_STREAMS="true")
    body = {"model": "echo", "prompt": "x", "max_tokens": 3, "stream": True}
    for answer in (
        server.post("/v1/completions", body | RESUMABLE),
        server.request("GET", f"/v1/streams/{'0' * 32}"),
    ):
        assert answer.status == 409
        assert "2" in answer.error["message"]
    plain = server.post("/v1/completions", body)
    assert plain.status == 200
    assert "x-stream-id" not in plain.headers


# --- two readers --------------------------------------------------------------


def error_code(body: bytes) -> str:
    """The code of an error event that is no part of a stream: it has no id."""
    *_, error, done = body.split(b"\n\n")[:-1]
    assert done == b"data: [DONE]"
    return str(json.loads(error.removeprefix(b"data: "))["error"]["code"])


def test_a_second_reader_takes_over_from_the_first(server: LiveServer) -> None:
    client = begin(server)
    with RawStream(server.port) as first:
        first.send(client.request())
        assert first.read_head()[0] == 200
        chunks = first.chunks()
        body = next(chunks)[1]
        second = ResumingClient(server.port, PROMPT, stream_id=client.stream_id)
        second.read()
        body += b"".join(content for _, content in chunks)
    assert error_code(body) == "taken_over"
    assert text_of(second.events) == echo_bytes(PROMPT, NUM_TOKENS)


@pytest.mark.parametrize("worker", WORKERS)
def test_a_client_that_stalls_is_given_up_and_its_stream_is_not(
    worker: str, servers: Servers
) -> None:
    num_tokens = 31 * 1000
    server = servers.start(worker, ECHO_TOKENS_A_STEP="20", REALTIME_SERVE_STALL_TIMEOUT_S="0.5")
    client = client_of(server, max_tokens=num_tokens)
    with RawStream(server.port, receive_buffer=4096) as stalled:
        stalled.send(client.request())
        client.stream_id = stalled.read_head()[1]["x-stream-id"]
        server.wait_until(lambda: '"sent_bytes"' in server.log, "given up")
        assert text_of(client.read_all()) == echo_bytes(PROMPT, num_tokens)
        received = stalled.reader.read()
    assert b'"finish_reason":"length"' not in received


# --- the SDK ------------------------------------------------------------------


def test_the_sdk_reads_and_resumes_such_a_stream(live_server: LiveServer) -> None:
    fields: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
    }
    with openai.OpenAI(base_url=f"{live_server.url}/v1", api_key="none") as client:
        plain = client.chat.completions.create(**fields).choices[0].message.content
        stream = client.chat.completions.create(**fields, stream=True, extra_body=RESUMABLE)
        stream_id = stream.response.headers["x-stream-id"]
        chunks = list(stream)
        rest = client.get(
            f"/streams/{stream_id}",
            options={"headers": {"Last-Event-ID": f"{stream_id}:2"}},
            cast_to=ChatCompletionChunk,
            stream=True,
            stream_cls=openai.Stream[ChatCompletionChunk],
        )
        assert list(rest) == chunks[3:]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == plain
