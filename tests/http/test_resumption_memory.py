"""What streams that can be resumed may take, and who gives way: against real gunicorn processes."""

from __future__ import annotations

import pytest

from support.echo_process import figures, settled
from support.live_server import LiveServer
from support.raw_stream import RawStream, stream_request
from support.resumable import (
    ENDLESS,
    NUM_TOKENS,
    PROMPT,
    RESUMABLE,
    begin,
    client_of,
    complete_events,
    echo_bytes,
    resume,
    text_of,
)
from support.resumable_servers import Servers, metric

pytestmark = pytest.mark.not_under_gevent("the servers are processes of their own")

KIB = 1024


def bounded(servers: Servers, max_bytes: int) -> LiveServer:
    return servers.start(ECHO_TOKENS_A_STEP="10", REALTIME_SERVE_RESUME_MAX_BYTES=str(max_bytes))


def usage(server: LiveServer) -> float:
    return metric(server, "realtime_serve:resumable_usage_perc")


def test_the_longest_ended_are_forgotten_for_the_new(servers: Servers) -> None:
    server = bounded(servers, 40 * KIB)
    clients = [client_of(server, max_tokens=310) for _ in range(12)]
    for client in clients:
        client.read()
        assert client.is_done
        assert 0 < usage(server) <= 1
    oldest, *_, newest = clients
    assert resume(server, oldest).status == 404
    assert resume(server, newest, newest.last_event_id).status == 204


def test_a_stream_that_nobody_reads_gives_way_while_it_runs(servers: Servers) -> None:
    server = bounded(servers, 64 * KIB)
    left = begin(server, **ENDLESS)
    server.wait_until(lambda: figures(server)["num_running"] == 0, "cancelled")
    assert resume(server, left).status == 404
    assert usage(server) <= 1
    assert text_of(client_of(server).read_all()) == echo_bytes(PROMPT, NUM_TOKENS)


def test_a_stream_that_is_read_goes_on_at_the_bound_without_its_beginning(servers: Servers) -> None:
    num_tokens = 31 * 1000
    server = bounded(servers, 64 * KIB)
    with RawStream(server.port) as stream:
        stream.send(stream_request(PROMPT, **RESUMABLE, max_tokens=num_tokens))
        stream_id = stream.read_head()[1]["x-stream-id"]
        events = complete_events(b"".join(content for _, content in stream.chunks()))
        assert usage(server) <= 1
    assert text_of([data for _, _, data in events]) == echo_bytes(PROMPT, num_tokens)
    answer = server.request("GET", f"/v1/streams/{stream_id}")
    assert answer.status == 404
    assert "forgotten" in answer.error["message"]


def test_a_reader_that_stalls_at_the_bound_pauses_its_stream(servers: Servers) -> None:
    num_tokens = 31 * 2000
    server = bounded(servers, 64 * KIB)
    with RawStream(server.port, receive_buffer=4096) as stalled:
        stalled.send(stream_request(PROMPT, **RESUMABLE, max_tokens=num_tokens))
        assert stalled.read_head()[0] == 200
        generated = settled(lambda: figures(server)["num_generated"], server)
        assert generated < num_tokens
        assert usage(server) <= 1.02  # the ring's worth that came last
        events = complete_events(b"".join(content for _, content in stalled.chunks()))
    assert text_of([data for _, _, data in events]) == echo_bytes(PROMPT, num_tokens)


def test_with_all_its_memory_read_the_server_refuses_another_one(servers: Servers) -> None:
    server = bounded(servers, 10 * KIB)
    body = {"model": "echo", "prompt": "x", "max_tokens": 3, "stream": True}
    with RawStream(server.port) as one, RawStream(server.port) as two:
        for stream in (one, two):
            stream.send(stream_request("x", **RESUMABLE, **ENDLESS))
            assert stream.read_head()[0] == 200
        answer = server.post("/v1/completions", body | RESUMABLE)
        assert answer.status == 503
        assert answer.error["code"] == "overloaded"
        assert int(answer.headers["retry-after"]) > 0
        assert server.post("/v1/completions", body).status == 200
