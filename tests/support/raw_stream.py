"""A client that sees each byte of a streamed answer: head, chunk sizes, events."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

HANG_S = 60.0
"""Only a hung server is silent for so long."""


def stream_request(prompt: str, *, version: str = "1.1", headers: str = "", **fields: Any) -> bytes:
    """A request for a streamed completion of the echo model."""
    body = json.dumps({"model": "echo", "prompt": prompt, "stream": True, **fields}).encode()
    return (
        f"POST /v1/completions HTTP/{version}\r\nHost: test\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{headers}\r\n"
    ).encode() + body


class RawStream:
    """One connection.

    Args:
        port: Where the server listens on loopback.
        receive_buffer: Size of the socket's receive buffer; None leaves the system's.
    """

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(HANG_S)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.connect(("127.0.0.1", port))
        self.reader = self.sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.reader.close()
        self.sock.close()

    def send(self, request: bytes) -> None:
        self.sock.sendall(request)

    def read_head(self) -> tuple[int, dict[str, str]]:
        """Status and headers, names in small letters."""
        status = int(self.reader.readline().split()[1])
        headers = {}
        while (line := self.reader.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers

    def chunks(self) -> Iterator[tuple[str, bytes]]:
        """Size as it was written, and content, of each chunk up to the last, empty one."""
        while True:
            line = self.reader.readline()
            assert line.endswith(b"\r\n"), f"no chunk size: {line!r}"
            size_text = line[:-2].decode()
            assert re.fullmatch("[0-9a-fA-F]+", size_text), f"no chunk size: {line!r}"
            content = self.reader.read(int(size_text, 16))
            assert self.reader.read(2) == b"\r\n"
            if not content:
                return
            yield size_text, content

    def read_answer(self) -> tuple[list[str], bytes]:
        """The sizes of all chunks as they were written, and the whole body."""
        status, headers = self.read_head()
        assert status == 200
        assert headers["transfer-encoding"] == "chunked"
        chunks = list(self.chunks())
        return [size for size, _ in chunks], b"".join(content for _, content in chunks)


def came_directly(sizes: list[str]) -> bool:
    """Whether chunks came around the server: gunicorn writes sizes in capitals, we do not."""
    letters = {letter for size in sizes for letter in size if letter.isalpha()}
    assert letters, "no size among these shows who wrote it"
    return any(letter.islower() for letter in letters)


def payloads(body: bytes) -> list[Any]:
    """The JSON of each event, whose frame is checked; [DONE] as it is."""
    events = body.decode().split("\n\n")
    assert events.pop() == ""
    data = [event for event in events if not event.startswith(":")]
    assert all(event.startswith("data: ") for event in data)
    texts = [event.removeprefix("data: ") for event in data]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


def text_of(body: bytes) -> str:
    """The text of a stream that ended well."""
    *chunks, done = payloads(body)
    assert done == "[DONE]"
    assert not any("error" in chunk for chunk in chunks), chunks[-1]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


def without_names(body: bytes) -> bytes:
    """A body without what differs from request to request."""
    return re.sub(rb'"id":"[^"]*"|"created":\d+', b"", body)


def echo(prompt: str, num_tokens: int) -> str:
    """What the echo model answers to an ASCII prompt."""
    return (prompt * (num_tokens // len(prompt) + 1))[:num_tokens]
