"""A server that is told to stop: what runs ends well, whatever else clients are up to."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from support.echo_process import start_echo
from support.event_stream import DONE, EventStream
from support.live_server import MODEL, LiveServer, start_server
from support.processes import children, is_running
from support.raw_stream import RawStream, payloads, stream_request

pytestmark = pytest.mark.not_under_gevent("the server is a process of its own")

SHORT = {"model": MODEL, "max_tokens": 200, "ignore_eos": True}
LONG: dict[str, Any] = {"model": MODEL, "max_tokens": 8000, "ignore_eos": True}
"""Takes far longer than any server here is given."""

PATIENT = ("--graceful-timeout=1000", "--keep-alive=1000")
"""Who waits for anything but what runs would hang."""

HURRIED = ("--graceful-timeout=3", "--keep-alive=1000")

TROUBLE = re.compile(
    "Traceback|SIGKILL|Worker graceful timeout|exited with code|abort|core dumped|"
    "terminate called|Segmentation|Fatal Python"
)


def start(tmp_path: Path, *options: str, **settings: str) -> LiveServer:
    environ = {f"REALTIME_SERVE_{name.upper()}": value for name, value in settings.items()}
    return start_server(tmp_path / "log", *options, environ=environ)


def stop(server: LiveServer, number: int = signal.SIGTERM) -> None:
    """Stop it, and see that nobody had to use force."""
    workers = children(server.process.pid)
    server.process.send_signal(number)
    end(server)
    assert not any(is_running(worker) for worker in workers)


def end(server: LiveServer) -> None:
    assert server.process.wait(120) == 0, server.log
    assert not TROUBLE.search(server.log), server.log


def num_paused(server: LiveServer) -> int:
    return int(server.request("GET", "/stats/streams").json()["states"]["paused"])


def assert_cut(payloads: list[Any]) -> None:
    """The stream was ended in its middle, and says so."""
    *_, last, done = payloads
    assert done == DONE
    assert last["error"]["code"] == "draining"
    assert last["error"]["type"] == "overloaded_error"
    usage = last["usage"]
    assert usage["completion_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def assert_whole(payloads: list[Any]) -> None:
    """The stream has all that was asked for."""
    *_, last, done = payloads
    assert done == DONE
    assert last["choices"][0]["finish_reason"] == "length"


def test_a_short_stream_goes_on_to_its_end(tmp_path: Path) -> None:
    server = start(tmp_path, *PATIENT)
    with EventStream(server, SHORT) as stream:
        stream.first_text()
        server.process.send_signal(signal.SIGTERM)
        assert_whole(stream.rest())
    end(server)


def test_a_long_stream_is_cut_with_an_error_event_its_usage_and_a_proper_end(
    tmp_path: Path,
) -> None:
    server = start(tmp_path, *HURRIED)
    with EventStream(server, LONG) as stream:
        stream.first_text()
        server.process.send_signal(signal.SIGTERM)
        assert_cut(stream.rest())
    end(server)
    (line,) = [line for line in server.log.splitlines() if '"route":"/v1/completions"' in line]
    assert '"error":"draining"' in line  # it ran to its end in the server, too


def test_a_client_that_does_not_read_finds_the_same_end_when_the_server_has_gone(
    tmp_path: Path,
) -> None:
    server = start(tmp_path, *HURRIED, ring_capacity="16")
    with RawStream(server.port, receive_buffer=4096) as late:
        late.send(stream_request("Once upon a time", **LONG))
        server.wait_until(lambda: num_paused(server) == 1, "paused")
        server.process.send_signal(signal.SIGTERM)
        end(server)
        assert_cut(payloads(late.read_answer()[1]))


@pytest.mark.parametrize(
    "options",
    [
        ("--preload",),
        ("--worker-class=gthread", "--threads=4"),
        ("--worker-class=gthread", "--threads=4", "--preload"),
        ("--worker-class=sync",),
    ],
    ids=["preload", "gthread", "gthread preload", "sync"],
)
def test_other_ways_to_serve_the_app_drain_as_well(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    server = start(tmp_path, *HURRIED, *options)
    with EventStream(server, LONG) as stream:
        stream.first_text()
        server.process.send_signal(signal.SIGTERM)
        assert_cut(stream.rest())
    end(server)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["INT", "QUIT"])
def test_who_is_in_a_hurry_waits_for_no_stream_but_each_says_how_it_ends(
    number: int, tmp_path: Path
) -> None:
    server = start(tmp_path, *PATIENT)
    with EventStream(server, LONG) as stream:
        stream.first_text()
        server.process.send_signal(number)
        assert_cut(stream.rest())
    end(server)


@pytest.mark.parametrize("options", [(), ("--worker-class=gthread", "--threads=4")])
def test_a_worker_that_has_done_its_requests_cuts_what_runs_as_one_that_is_told_to_stop(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    """With one worker this is a bad idea, since it takes new ones only once the old one is gone."""
    server = start_echo(
        tmp_path / "log",
        *(options or ("--worker-class=gevent",)),
        *HURRIED,
        "--max-requests=50",
        environ={"ECHO_STEP_MS": "10"},
    )
    (worker,) = children(server.process.pid)
    with RawStream(server.port) as stream:
        stream.send(stream_request("x", max_tokens=100_000))
        assert stream.read_head()[0] == 200
        while "Autorestarting" not in server.log:
            assert server.request("GET", "/health/live").status == 200
        assert_cut(payloads(b"".join(content for _, content in stream.chunks())))
    server.wait_until(lambda: children(server.process.pid) not in ([], [worker]), "replaced")
    server.wait_until(server.is_ready, "ready again")
    stop(server)


def test_connections_on_which_nothing_happens_hold_up_nobody(tmp_path: Path) -> None:
    """One was used, one never was, and one sends a request that will never be whole."""
    server = start(tmp_path, *PATIENT)
    used = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    used.request("GET", "/health/live")
    assert used.getresponse().read()
    with open_socket(server), open_socket(server, b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"):
        assert server.request("GET", "/health/live").status == 200  # they are accepted by now
        stop(server)
    used.close()


def test_a_body_that_never_comes_is_cut_off_in_the_end(tmp_path: Path) -> None:
    server = start(tmp_path, *HURRIED)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with open_socket(server, head + b"Content-Length: 1000\r\n\r\n{"):
        assert server.request("GET", "/health/live").status == 200
        stop(server)


def open_socket(server: LiveServer, data: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    client.sendall(data)
    return client


def test_before_the_listener_closes_it_is_not_ready_and_serves_new_requests(
    tmp_path: Path,
) -> None:
    """SIGINT cuts the delay short."""
    server = start(tmp_path, *PATIENT, drain_delay_s="1000")
    server.process.send_signal(signal.SIGTERM)
    server.wait_until(lambda: not server.is_ready(), "not ready")
    answer = server.request("GET", "/health/ready")
    assert (answer.status, answer.json()["status"]) == (503, "draining")
    body = {"model": MODEL, "prompt": "Hi", "max_tokens": 2}
    assert server.post("/v1/completions", body).status == 200
    assert server.request("GET", "/health/live").status == 200
    stop(server, signal.SIGINT)


def test_the_listener_closes_after_the_delay(tmp_path: Path) -> None:
    server = start(tmp_path, *PATIENT, drain_delay_s="0.5")
    stop(server)


def test_a_worker_that_is_killed_leaves_its_place_to_a_new_one(tmp_path: Path) -> None:
    server = start(tmp_path)
    (worker,) = children(server.process.pid)
    with EventStream(server, LONG) as stream:
        stream.first_text()
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(http.client.IncompleteRead):
            stream.rest()
    server.wait_until(lambda: children(server.process.pid) not in ([], [worker]), "replaced")
    server.wait_until(server.is_ready, "ready again")
    with EventStream(server, SHORT) as stream:
        assert_whole(stream.rest())
    assert len(children(server.process.pid)) == 1
    assert server.stop() == 0, server.log
