"""Clients that leave, or cancel, at any moment: nothing is computed for them any more."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from support.live_server import LiveServer
from support.raw_stream import RawStream, payloads, stream_request
from support.unharmed import MODEL, Guarded

pytestmark = pytest.mark.not_under_gevent("the server is a process of its own")

ENDLESS: dict[str, Any] = {"model": MODEL, "max_tokens": 4000}

CANCELLED = re.compile(
    r'^vllm:request_success_total\{[^}]*finished_reason="cancelled"[^}]*\} (\S+)$', re.MULTILINE
)


def num_cancelled(server: LiveServer) -> int:
    """Requests that were cancelled, as the metrics count them."""
    text = server.request("GET", "/metrics").body.decode()
    return sum(int(float(value)) for value in CANCELLED.findall(text))


def num_computed(server: LiveServer, letter: str) -> int:
    """Tokens that the engine has computed of sequences that begin with a letter."""
    computed: dict[str, int] = server.request("GET", "/test").json()["num_computed"]
    return computed.get(letter, 0)


# --- ways to leave --------------------------------------------------------------


def close(stream: RawStream) -> None:
    """FIN, and a reset once something comes that nobody reads."""
    stream.__exit__(None, None, None)


def reset(stream: RawStream) -> None:
    stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    close(stream)


def half_close(stream: RawStream) -> None:
    stream.sock.shutdown(socket.SHUT_WR)


LEAVING = {"FIN": close, "RST": reset, "half a close": half_close}


@pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING)
@pytest.mark.parametrize("version", ["1.1", "1.0"], ids=["direct", "yielded"])
def test_a_client_that_leaves_in_mid_stream_is_cancelled_and_counted(
    guarded: Guarded, version: str, leave: Callable[[RawStream], None]
) -> None:
    server = guarded.server
    before = num_cancelled(server)
    with guarded.unharmed(), RawStream(server.port) as stream:
        stream.send(stream_request("leaves", version=version, **ENDLESS))
        while b'"text":"' not in stream.reader.readline():
            pass
        leave(stream)
        server.wait_until(lambda: num_cancelled(server) > before, "cancelled")
    assert num_cancelled(server) == before + 1


# --- before the first token -----------------------------------------------------


def num_waiting(server: LiveServer) -> int:
    return int(server.request("GET", "/health").json()["waiting"])


@pytest.mark.parametrize("leave", [close, reset], ids=["FIN", "RST"])
def test_who_leaves_the_queue_is_never_prefilled(
    guarded: Guarded, leave: Callable[[RawStream], None]
) -> None:
    server = guarded.server
    with guarded.unharmed(), guarded.stuck(), ExitStack() as stack:
        neighbours = num_waiting(server)
        clients = [stack.enter_context(RawStream(server.port)) for _ in range(6)]
        for number, client in enumerate(clients):
            client.send(stream_request("Queued", **ENDLESS, stream=number % 2 == 0))
        server.wait_until(lambda: num_waiting(server) >= neighbours + len(clients), "queued")
        for client in clients:
            leave(client)
        server.wait_until(lambda: num_waiting(server) <= neighbours, "out of the queue")
    assert num_computed(server, "Q") == 0


def test_who_leaves_before_the_first_token_is_not_computed_to_the_end(guarded: Guarded) -> None:
    prompt = "S" * 3900  # some fifty steps
    with guarded.unharmed(), RawStream(guarded.server.port) as client:
        client.send(stream_request(prompt, model=MODEL))
        while b": prefill " not in client.reader.readline():
            pass
        close(client)
    assert 0 < num_computed(guarded.server, "S") < len(prompt)


# --- two ends at once -------------------------------------------------------------


class Race:
    """A stream that is cancelled by two at once, about when it ends by itself.

    Args:
        server: Who answers.
        max_tokens: How long it is.
        num_heard: They cancel it after so many of its events.
    """

    def __init__(self, server: LiveServer, max_tokens: int, num_heard: int) -> None:
        self._server = server
        self.statuses: list[int] = []
        with RawStream(server.port) as stream:
            stream.send(stream_request("races", model=MODEL, max_tokens=max_tokens))
            _, headers = stream.read_head()
            self.request_id = headers["x-request-id"]
            body, cancelling = b"", [threading.Thread(target=self._cancel) for _ in range(2)]
            for _, content in stream.chunks():
                body += content
                if body.count(b"data: ") >= num_heard and cancelling[0].ident is None:
                    for thread in cancelling:
                        thread.start()
            for thread in cancelling:
                thread.join()
        self.payloads = payloads(body)

    def _cancel(self) -> None:
        answer = self._server.request("DELETE", f"/v1/requests/{self.request_id}")
        self.statuses.append(answer.status)

    def ends(self) -> list[str]:
        """Every reason that the stream gave for its end."""
        return [reason for payload in self.payloads[:-1] if (reason := _reason(payload))]

    def logged_ends(self) -> list[str]:
        """Every reason that the log gives for it."""
        lines = [line for line in self._server.log.splitlines() if '"route":"/v1/comp' in line]
        own = [line for line in lines if f'"{self.request_id}"' in line]
        return [json.loads(line[line.index("{") :])["finish_reason"] for line in own]


def _reason(payload: dict[str, Any]) -> str | None:
    reason = payload.get("error", {}).get("code") or payload["choices"][0]["finish_reason"]
    return None if reason is None else str(reason)


def test_a_stream_that_is_cancelled_as_it_finishes_ends_once(guarded: Guarded) -> None:
    with guarded.unharmed():
        races = [Race(guarded.server, 30, num_heard) for num_heard in [*range(31)] * 2]
        races += [Race(guarded.server, 300, 1), Race(guarded.server, 30, 32)]  # not close at all
    for race in races:
        guarded.server.wait_until(race.logged_ends, "logged")
        assert race.payloads.count("[DONE]") == 1
        assert race.payloads[-1] == "[DONE]"
        assert race.ends() in (["length"], ["cancelled"])
        assert race.logged_ends() == race.ends()
        assert set(race.statuses) <= {200, 404}
    assert {end for race in races for end in race.ends()} == {"length", "cancelled"}
