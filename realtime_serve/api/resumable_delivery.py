"""One connection's part of a resumable stream: from some event to the end, or to its own.

As in event_response.py, the pieces go to the WSGI server, or all but the first straight to the
socket. They come from the stream's log, so that it makes no difference who has read what before.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import closing

from realtime_serve.api.hooks import current_context
from realtime_serve.api.sse import DONE, KEEP_ALIVE, error_event, numbered_event, progress_comment
from realtime_serve.disconnect import PROBE_INTERVAL_S, DisconnectWatch
from realtime_serve.errors import ConflictError, RequestCancelledError, ServeError
from realtime_serve.event_log import Event
from realtime_serve.native import GeventParker
from realtime_serve.resumable_stream import ResumableStream, StreamReader
from realtime_serve.send_watch import SendWatch
from realtime_serve.socket_drain import SocketSink
from realtime_serve.types import ServerConfig

logger = logging.getLogger("realtime_serve.api")


class ResumableDelivery:
    """The events of one stream on their way to one client; see event_response.Delivery.

    Args:
        stream: What to send.
        number: The first event to send.
        sock: The client's socket, if the WSGI server shows it.
        config: What becomes of clients that are slow or silent: keep_alive_s, stall_timeout_s and
            half_close.
        sends: Watches what goes through the WSGI server.
    """

    def __init__(
        self,
        stream: ResumableStream,
        number: int,
        sock: socket.socket | None,
        config: ServerConfig,
        sends: SendWatch,
    ) -> None:
        self.socket: socket.socket | None = None
        self._stream = stream
        self._number = number
        self._client_socket = sock
        self._config = config
        self._sends = sends
        self._context = current_context()
        self._failure: Exception | None = None

    def counted_pieces(self) -> Iterator[bytes]:
        """Yield what has to go through the server, and send the rest directly.

        Only now the client takes over the stream: an answer that is never sent takes nothing.
        """
        reader = self._stream.attach(self._number)
        try:
            with closing(self._pieces(reader)) as pieces:
                for piece in pieces:
                    self._stream.statistics.num_yielded_bytes += len(piece)
                    yield piece
        finally:
            reader.leave()
            self._context.end_delivery()

    def abandon(self) -> None:
        """See event_response.Delivery; a client that was never told of the stream cannot resume."""
        if not self._stream.was_read:
            self._stream.cancel()

    def _pieces(self, reader: StreamReader) -> Generator[bytes, None, None]:
        pieces = self._events(reader)
        yield next(pieces, KEEP_ALIVE)  # sends the headers now, not with a token
        sink = self._open_sink(reader)
        if sink is None:
            with self._sends.open(self._client_socket, reader) as sends:
                yield from sends.through(self._answer(reader, pieces))
            return
        with sink:
            for piece in pieces:
                sink.write(piece)
                reader.wait_until(sink.is_clear)
            sink.finish(b"".join(self._ending(reader)))

    def _answer(
        self, reader: StreamReader, pieces: Iterator[bytes]
    ) -> Generator[bytes, None, None]:
        yield from pieces
        yield from self._ending(reader)

    def _open_sink(self, reader: StreamReader) -> SocketSink | None:
        if self.socket is None or not isinstance(reader.parker, GeventParker):
            return None
        try:
            sink = SocketSink(
                reader.parker, None, self.socket.fileno(), reader, self._config.stall_timeout_s
            )
        except OSError:  # no descriptor left: the server's own will do
            return None
        self._stream.statistics.add_socket(sink.source)
        return sink

    def _events(self, reader: StreamReader) -> Iterator[bytes]:
        try:
            for events in self._reads(reader):
                yield self._framed(events) or progress_comment(self._stream.progress)
        except Exception as error:  # the status is out: an event has to say it
            if not isinstance(error, ServeError):
                logger.exception("A resumable stream could not be read")
            self._failure = error

    def _reads(self, reader: StreamReader) -> Iterator[list[tuple[int, Event]]]:
        """Read to the end; leave as soon as the client has gone.

        Yields:
            Events with their numbers: what there is, at once, and then what comes; none after
            keep_alive_s without any.
        """
        watch = DisconnectWatch(self._client_socket, reader.leave, self._config.half_close)
        idle_s = self._config.keep_alive_s
        quiet_since_s = time.monotonic()
        try:
            yield reader.read(0)
            while not reader.is_over:
                wait_s = quiet_since_s + idle_s - time.monotonic()
                events = reader.read(wait_s if watch.watched else min(wait_s, PROBE_INTERVAL_S))
                if events or time.monotonic() >= quiet_since_s + idle_s:
                    quiet_since_s = time.monotonic()
                    yield events
                if not watch.watched and watch.gone():
                    reader.leave()
        finally:
            watch.close()

    def _framed(self, events: list[tuple[int, Event]]) -> bytes:
        stream = self._stream
        return b"".join(
            numbered_event(
                stream.id, number, stream.frame(event) if isinstance(event, str) else event
            )
            for number, event in events
        )

    def _ending(self, reader: StreamReader) -> list[bytes]:
        """What is said in place of the stream's own end; without a number, as no part of it."""
        if reader.is_complete:
            return []
        error = self._failure or reader.error
        if error is None:
            error = _taken_over() if reader.was_replaced else _disconnected()
        return [error_event(error), DONE]


def _taken_over() -> ServeError:
    message = "Another connection has taken over this stream."
    return ConflictError(message, code="taken_over")


def _disconnected() -> ServeError:
    """For a client that has closed its own side only."""
    message = "The client has closed its side of the connection; the stream can be resumed."
    return RequestCancelledError(message, code="disconnected")
