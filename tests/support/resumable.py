"""A client of streams that can be resumed: it knows its stream's id and what it has had."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass, field
from typing import Any

from support.live_server import Answer, LiveServer
from support.raw_stream import RawStream, stream_request

RESUMABLE: dict[str, Any] = {"stream_options": {"resumable": True}}

ENDLESS: dict[str, Any] = {"max_tokens": 10**6}

PROMPT = 'a "quoted" line\nand another é. '
NUM_TOKENS = 300

_EVENT = re.compile(rb"id: ([0-9a-f]{32}):(\d+)\n(data: .*)\n\n")


def resume_request(stream_id: str, last_event_id: str | None = None, headers: str = "") -> bytes:
    """A request for the rest of a stream."""
    if last_event_id is not None:
        headers += f"Last-Event-ID: {last_event_id}\r\n"
    return f"GET /v1/streams/{stream_id} HTTP/1.1\r\nHost: test\r\n{headers}\r\n".encode()


def complete_events(body: bytes) -> list[tuple[str, int, bytes]]:
    """Stream id, number and data of each numbered event that is there to its end.

    Anything else than these and comments is an error of the server.
    """
    blocks = body.split(b"\n\n")[:-1]  # what stands behind the last end has none
    events = [block for block in blocks if not block.startswith(b":")]
    matches = [_EVENT.fullmatch(event + b"\n\n") for event in events]
    assert None not in matches, events
    return [(each[1].decode(), int(each[2]), each[3]) for each in matches if each is not None]


@dataclass
class ResumingClient:
    """Reads a stream over as many connections as it takes.

    Args:
        port: Where the server listens.
        prompt: What to ask.
        fields: More of the request.
    """

    port: int
    prompt: str
    fields: dict[str, Any] = field(default_factory=dict)
    stream_id: str | None = None
    events: list[bytes] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return bool(self.events) and self.events[-1] == b"data: [DONE]"

    @property
    def last_event_id(self) -> str | None:
        return f"{self.stream_id}:{len(self.events) - 1}" if self.events else None

    def request(self) -> bytes:
        """The next one: for the stream, or for the rest of it."""
        if self.stream_id is None:
            return stream_request(self.prompt, **{**RESUMABLE, **self.fields})
        return resume_request(self.stream_id, self.last_event_id)

    def read(self, max_bytes: int | None = None, *, reset: bool = False) -> None:
        """Connect, take so many bytes of the body, framing included, and cut the connection.

        Args:
            max_bytes: None reads to the end of the answer.
            reset: Cut it with a reset.
        """
        with RawStream(self.port) as stream:
            stream.send(self.request())
            status, headers = stream.read_head()
            assert status == 200
            self.stream_id = headers["x-stream-id"]
            if max_bytes is None:
                body = b"".join(content for _, content in stream.chunks())
            else:
                body = _without_framing(_read_raw(stream, max_bytes))
            if reset:
                linger = (1).to_bytes(4, "little") + bytes(4)
                stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._take(body)

    def read_all(self) -> list[bytes]:
        """Read on until the stream is done."""
        while not self.is_done:
            self.read()
        return self.events

    def _take(self, body: bytes) -> None:
        for stream_id, number, data in complete_events(body):
            assert stream_id == self.stream_id
            assert number == len(self.events), "an event is missing, or came twice"
            self.events.append(data)


def _read_raw(stream: RawStream, max_bytes: int) -> bytes:
    """So many bytes of an answer, or all if there are fewer."""
    piece = b""
    while len(piece) < max_bytes and not piece.endswith(b"\r\n0\r\n\r\n"):
        piece += stream.reader.read1(max_bytes - len(piece))
    return piece


def _without_framing(piece: bytes) -> bytes:
    """The content of chunks, the last of which may have been cut anywhere."""
    content = b""
    while piece:
        size_text, separator, piece = piece.partition(b"\r\n")
        size = int(size_text, 16) if separator else 0
        content += piece[:size]
        piece = piece[size + 2 :]
    return content


def client_of(server: LiveServer, **fields: Any) -> ResumingClient:
    return ResumingClient(server.port, PROMPT, {"max_tokens": NUM_TOKENS, **fields})


def text_of(events: list[bytes]) -> str:
    """The text of all events of a stream that ended well."""
    *chunks, done = [event.removeprefix(b"data: ") for event in events]
    assert done == b"[DONE]"
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert choices[-1]["finish_reason"] == "length"
    return "".join(choice["text"] for choice in choices)


def echo_bytes(prompt: str, num_tokens: int) -> str:
    """What the echo model answers to any prompt whose characters are not cut at the end."""
    data = prompt.encode()
    return (data * (num_tokens // len(data) + 1))[:num_tokens].decode()


def begin(server: LiveServer, **fields: Any) -> ResumingClient:
    """A stream of which somebody has read a little, and then gone."""
    client = client_of(server, **fields)
    client.read(1500)
    return client


def resume(server: LiveServer, client: ResumingClient, last_event_id: str | None = None) -> Answer:
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    return server.request("GET", f"/v1/streams/{client.stream_id}", headers=headers)
