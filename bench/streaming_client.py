"""A small HTTP/1.1 client for event streams that costs next to nothing.

Bytes are parsed where they arrive, in `data_received`, stamped with one clock reading for each
read of the socket; no task wakes up before an answer is over. Only the standard library is used.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

OnEvent = Callable[[bytes, float], None]
"""Takes the data of one event and the time of its arrival, on time.perf_counter()'s clock."""


class RequestError(Exception):
    """A request did not give what it should; the message is the reason that is shown."""


class NoAnswerError(RequestError):
    """The connection closed before the first byte of an answer."""


def parse_object(payload: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        RequestError: It is none.
    """
    with suppress(ValueError):
        value = json.loads(payload)
        if isinstance(value, dict):
            return value
    raise RequestError(f"not a JSON object: {payload[:80]!r}")


def error_message(body: dict[str, Any]) -> str:
    """The message in an error body, whichever of the usual shapes it has."""
    error = body.get("error", body)
    return str(error.get("message", error) if isinstance(error, dict) else error)


# --- HTTP and events: bytes in, payloads out, no I/O ----------------------------


class ChunkedDecoder:
    """Undoes HTTP/1.1's chunked transfer coding."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.complete = False

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; return the content of the chunks that are whole now."""
        self._buffer += data
        content = bytearray()
        while not self.complete and (line_end := self._buffer.find(b"\r\n")) >= 0:
            size = self._chunk_size(line_end)
            chunk_end = line_end + 2 + size
            if len(self._buffer) < chunk_end + 2:
                break
            content += self._buffer[line_end + 2 : chunk_end]
            del self._buffer[: chunk_end + 2]
            self.complete = size == 0
        return bytes(content)

    def _chunk_size(self, line_end: int) -> int:
        text = bytes(self._buffer[:line_end]).partition(b";")[0]
        try:
            return int(text, 16)
        except ValueError:
            raise RequestError(f"bad chunk size {text!r}") from None


class LengthDecoder:
    """Counts a body of known length, or one that lasts until the connection closes."""

    def __init__(self, length: int | None) -> None:
        self._remaining = length
        self.complete = length == 0

    def feed(self, data: bytes) -> bytes:
        """Take what arrived and return it."""
        if self._remaining is not None:
            self._remaining -= len(data)
            self.complete = self._remaining <= 0
        return data


class EventDecoder:
    """Splits a stream of server-sent events; comments and other fields are left out."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, text: bytes) -> list[bytes]:
        """Take what arrived; return the data of the events that are whole now."""
        self._buffer = (self._buffer + text).replace(b"\r\n", b"\n")
        *blocks, self._buffer = self._buffer.split(b"\n\n")
        return [data for block in blocks if (data := self._data_of(block))]

    @staticmethod
    def _data_of(block: bytes) -> bytes:
        lines = (line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:"))
        return b"\n".join(lines)


class Answer:
    """One answer while it arrives.

    Args:
        on_event: Called with the data of each event and the time of its arrival.
    """

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._head = b""
        self._events: EventDecoder | None = None
        self._body: ChunkedDecoder | LengthDecoder | None = None
        self._until_close = False
        self.status = 0
        self.text = b""
        self.reusable = True

    @property
    def complete(self) -> bool:
        """Whether the last byte of the answer is here."""
        return self._body is not None and self._body.complete

    def feed(self, data: bytes, now_s: float) -> None:
        """Take what arrived at `now_s`."""
        if self._body is None:
            self._head += data
            head, separator, data = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            self._body = self._read_head(head.decode("latin-1"))
        content = self._body.feed(data)
        if self._events is None:
            self.text += content
            return
        for payload in self._events.feed(content):
            self._on_event(payload, now_s)

    def end_of_connection(self) -> None:
        """Judge an answer whose connection has closed.

        Raises:
            NoAnswerError: It had not begun.
            RequestError: It was not over.
        """
        if self._body is None and not self._head:
            raise NoAnswerError("the connection closed before an answer")
        if not (self.complete or self._until_close):
            raise RequestError("the connection closed in the middle of the answer")

    def _read_head(self, head: str) -> ChunkedDecoder | LengthDecoder:
        status_line, *lines = head.split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        self.status = parse_status(status_line)
        if self.status == 200 and headers.get("content-type", "").startswith("text/event-stream"):
            self._events = EventDecoder()
        self.reusable = headers.get("connection", "").lower() != "close"
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return ChunkedDecoder()
        length = headers.get("content-length")
        self._until_close = length is None
        return LengthDecoder(None if length is None else parse_length(length))


def parse_status(status_line: str) -> int:
    """Parse `HTTP/1.1 200 OK`.

    Raises:
        RequestError: It does not look like that.
    """
    version, _, rest = status_line.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise RequestError(f"no HTTP answer: {status_line[:80]!r}")
    return int(rest[:3])


def parse_length(text: str) -> int:
    """Parse a Content-Length.

    Raises:
        RequestError: It is no number.
    """
    if not text.isdecimal():
        raise RequestError(f"bad Content-Length {text!r}")
    return int(text)


# --- connections ---------------------------------------------------------------


class Connection(asyncio.Protocol):
    """One keep-alive connection; it carries one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._finished: asyncio.Future[None] | None = None

    @property
    def usable(self) -> bool:
        """Whether another request can go over it."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio; the clock is read here, once, before anything is parsed."""
        now_s = time.perf_counter()
        if self._answer is None:
            return
        try:
            self._answer.feed(data, now_s)
        except RequestError as failure:
            self._finish(failure)
        else:
            if self._answer.complete:
                self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio when the connection is gone."""
        if self._answer is None:
            return
        try:
            self._answer.end_of_connection()
        except RequestError as failure:
            self._finish(failure)
        else:
            self._finish()

    def _finish(self, failure: RequestError | None = None) -> None:
        self._answer = None
        if self._finished is None or self._finished.done():
            return
        if failure is None:
            self._finished.set_result(None)
        else:
            self._finished.set_exception(failure)

    async def exchange(self, request: bytes, answer: Answer) -> None:
        """Send a request and wait until its answer is whole.

        Raises:
            RequestError: It cannot be used, or the connection closed too early.
        """
        assert self._transport is not None
        self._answer = answer
        self._finished = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        completed = False
        try:
            await self._finished
            completed = answer.reusable
        finally:
            if not completed:
                self.close()

    def close(self) -> None:
        """Close it; what is under way is lost."""
        self._answer = None
        if self._transport is not None:
            self._transport.abort()


class Client:
    """Requests to one server over pooled connections.

    Args:
        base_url: Scheme, host and port, such as http://127.0.0.1:8000, without /v1.

    Raises:
        ValueError: The URL is not of that form.
    """

    def __init__(self, base_url: str) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"The URL must look like http://127.0.0.1:8000, not {base_url!r}.")
        self.base_url = base_url
        self._tls = url.scheme == "https"
        self._host = url.hostname
        self._port = url.port or (443 if self._tls else 80)
        self._netloc, self._prefix = url.netloc, url.path.rstrip("/")
        self._idle: list[Connection] = []

    def _pooled(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            Connection, self._host, self._port, ssl=self._tls or None
        )
        return connection

    async def _exchange(self, method: str, path: str, body: bytes, answer: Answer) -> None:
        head = (
            f"{method} {self._prefix}{path} HTTP/1.1\r\nHost: {self._netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        request = head.encode() + body
        # A server may close a pooled connection at any time, even while a request is on its way:
        # only a new connection that closes without a word is a failure.
        while (connection := self._pooled()) is not None:
            with suppress(NoAnswerError):
                return await self._exchange_on(connection, request, answer)
        return await self._exchange_on(await self._connect(), request, answer)

    async def _exchange_on(self, connection: Connection, request: bytes, answer: Answer) -> None:
        await connection.exchange(request, answer)
        if connection.usable:
            self._idle.append(connection)

    async def get(self, path: str) -> dict[str, Any]:
        """GET a JSON object.

        Raises:
            RequestError: The status is not 200 or the body is no JSON object.
            OSError: There is no connection.
        """
        answer = Answer(lambda payload, now_s: None)
        await self._exchange("GET", path, b"", answer)
        check_status(answer)
        return parse_object(answer.text)

    async def post(self, path: str, body: bytes, on_event: OnEvent) -> None:
        """POST a JSON body and hand over the events of the answer as they arrive.

        Args:
            path: Below the base URL.
            body: JSON.
            on_event: Called with the data of each event and the time of its arrival; what it
                raises as RequestError ends the request.

        Raises:
            RequestError: The status is not 200, the answer is malformed or cut off.
            OSError: There is no connection.
        """
        answer = Answer(on_event)
        await self._exchange("POST", path, body, answer)
        check_status(answer)

    async def __aenter__(self) -> Client:
        """Open nothing yet: connections are made when they are needed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the idle connections, and let the event loop see that they are."""
        while self._idle:
            self._idle.pop().close()
        await asyncio.sleep(0)


def check_status(answer: Answer) -> None:
    """Judge the status of a whole answer.

    Raises:
        RequestError: It is not 200.
    """
    if answer.status == 200:
        return
    try:
        reason = error_message(parse_object(answer.text))
    except RequestError:
        reason = answer.text[:80].decode("utf-8", "replace")
    raise RequestError(f"HTTP {answer.status}: {reason}")
