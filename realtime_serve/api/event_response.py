"""Answers that are streams of events, and the two ways that they take.

    yielded   piece by piece to the WSGI server: all events that are ready in one piece
    direct    the server sends the headers and the first event; then the chunks go straight to
              the socket, and at the end the server writes the last, empty one

Which one it is makes no difference to the client: the bytes are the same.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any, Protocol

from flask import Response, request
from flask.globals import app_ctx

from realtime_serve._event_streams import EventStream
from realtime_serve.api.client import client_socket, read_while_connected
from realtime_serve.api.direct import direct_socket
from realtime_serve.api.hooks import current_context, follow_body
from realtime_serve.api.sse import (
    CONTENT_TYPE,
    DONE,
    KEEP_ALIVE,
    ChunkWriter,
    error_event,
    progress_comment,
)
from realtime_serve.errors import DrainingError
from realtime_serve.native import GeventParker
from realtime_serve.send_watch import SendWatch
from realtime_serve.socket_drain import SocketSink
from realtime_serve.stream import TokenStream
from realtime_serve.stream_interface import EventSource
from realtime_serve.types import ServerConfig

logger = logging.getLogger("realtime_serve.api")

STREAM_HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx: pass each event on at once
}


def event_response(
    stream: TokenStream, writer: ChunkWriter, config: ServerConfig, sends: SendWatch
) -> Response:
    """Answer with the events of a stream.

    Args:
        stream: What to send; closed at the end.
        writer: Formats the events.
        config: What becomes of clients that are slow or silent: keep_alive_s, stall_timeout_s and
            half_close.
        sends: Watches what goes through the WSGI server.

    Returns:
        The answer to the request that is being handled.
    """
    delivery = _Delivery(stream, writer, dict(request.environ), config, sends)
    response = EventResponse(delivery)
    response.call_on_close(stream.close)  # also when the body is never iterated, as for HEAD
    return response


def end_events(writer: ChunkWriter, stream: TokenStream, failure: Exception | None) -> list[bytes]:
    """Format the events that end a stream.

    Args:
        writer: The stream's.
        stream: One that has ended.
        failure: What has kept its events from being made, if something has.

    Returns:
        The finish reason and the token counts, or an error; then DONE.
    """
    error = failure or stream.error
    if error is not None:
        return [error_event(error, stream.usage), DONE]
    assert stream.finish_reason is not None
    events = [writer.finish(stream.finish_reason), writer.usage(stream.usage), DONE]
    return [event for event in events if event]


class Delivery(Protocol):
    """The events of one stream on their way to a client.

    Attributes:
        socket: Where the chunks may go directly, or None; set before the first piece.
    """

    socket: socket.socket | None

    def counted_pieces(self) -> Iterator[bytes]:
        """Yield what has to go through the server, and send the rest directly."""

    def abandon(self) -> None:
        """Give up what nobody will send. May be called after the delivery, too."""


class EventResponse(Response):
    """Finds out, at the last moment before its body is sent, which way that goes."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._body = delivery.counted_pieces()
        self._app = app_ctx.app
        follow_body(self._body, delivery.abandon)
        super().__init__(self._body, headers=STREAM_HEADERS, content_type=CONTENT_TYPE)

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer; only here it is known what the server does with the body."""
        body = super().__call__(environ, start_response)
        if self.response is self._body:
            self._delivery.socket = direct_socket(self._app, self, start_response)
        return body


class _Delivery:
    """One stream on its way to its client.

    Args:
        stream: What to send.
        writer: Formats its events.
        environ: The request's WSGI environment.
        config: As for event_response.
        sends: As for event_response.

    Attributes:
        socket: Where the chunks may go directly, or None; to be set before the first piece.
    """

    def __init__(
        self,
        stream: TokenStream,
        writer: ChunkWriter,
        environ: Mapping[str, Any],
        config: ServerConfig,
        sends: SendWatch,
    ) -> None:
        self.socket: socket.socket | None = None
        self._stream = stream
        self._writer = writer
        self._environ = environ
        self._config = config
        self._sends = sends
        self._context = current_context()
        self._failure: Exception | None = None

    def counted_pieces(self) -> Iterator[bytes]:
        """Yield what has to go through the server, and send the rest directly."""
        try:
            with closing(self._pieces()) as pieces:
                for piece in pieces:
                    self._stream.statistics.num_yielded_bytes += len(piece)
                    yield piece
        finally:
            self._context.end_delivery()

    def abandon(self) -> None:
        """See Delivery."""
        self._stream.close()

    def _pieces(self) -> Generator[bytes, None, None]:
        yield self._writer.start() or KEEP_ALIVE  # sends the headers now, not with a token
        events = self._stream.new_events(*self._writer.frame)
        sink = self._open_sink(events)
        if sink is None:
            with self._sends.open(client_socket(self._environ), self._stream) as sends:
                yield from sends.through(self._answer(self._reader(events)))
            return
        with sink:
            for piece in self._events(self._reader(None if events is None else sink)):
                sink.write(piece)
                self._stream.wait_until(sink.is_clear)
            is_last_moment = isinstance(self._stream.error, DrainingError)
            sink.finish(self._ending(), may_wait=not is_last_moment)

    def _answer(self, read: Callable[[float], bytes]) -> Generator[bytes, None, None]:
        yield from self._events(read)
        yield self._ending()

    def _open_sink(self, events: EventStream | None) -> SocketSink | None:
        parker = self._stream.feed.parker
        if self.socket is None or not isinstance(parker, GeventParker):
            return None
        try:
            sink = SocketSink(
                parker,
                events,
                self.socket.fileno(),
                self._stream,
                self._config.stall_timeout_s,
                max_flush_delay_s=self._config.max_flush_delay_ms / 1000,
            )
        except OSError:  # no descriptor left: the server's own will do
            return None
        self._stream.statistics.socket = sink.source
        return sink

    def _reader(self, source: EventSource | None) -> Callable[[float], bytes]:
        """What waits for the next events; they are made here if there is no source of them."""
        if source is not None:
            return partial(self._stream.read_events, source)
        return lambda timeout_s: b"".join(
            [self._writer.text(token.text) for token in self._stream.read(timeout_s) if token.text]
        )

    def _events(self, read: Callable[[float], bytes]) -> Iterator[bytes]:
        try:
            reads = read_while_connected(
                self._stream,
                self._environ,
                self._config.keep_alive_s,
                read,
                half_close=self._config.half_close,
            )
            for events in reads:
                yield events or progress_comment(self._stream.progress)
        except Exception as error:  # the status is out: an event has to say it
            logger.exception("A stream failed")
            self._failure = error

    def _ending(self) -> bytes:
        return b"".join(end_events(self._writer, self._stream, self._failure))
