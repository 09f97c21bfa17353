"""The client at the other end: its socket, its deadline, and its tokens until it goes."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any, TypeVar

from werkzeug.datastructures import Headers

from realtime_serve.disconnect import PROBE_INTERVAL_S, DisconnectWatch
from realtime_serve.errors import InvalidRequestError
from realtime_serve.stream import TokenStream
from realtime_serve.types import HalfClose

T = TypeVar("T", bound=Sized)

PYWSGI_SOCKET = "realtime_serve.socket"
"""Where our handler for gevent's server puts the client's socket."""

SOCKET_KEYS = ("gunicorn.socket", "gunicorn.sock", "werkzeug.socket", PYWSGI_SOCKET)
"""Where WSGI servers show the client's socket."""

TIMEOUT_HEADER = "X-Request-Timeout"
SDK_TIMEOUT_HEADER = "X-Stainless-Read-Timeout"
MAX_TIMEOUT_S = 24 * 3600.0


def client_socket(environ: Mapping[str, Any]) -> socket.socket | None:
    """The socket to the client, if the WSGI server shows it."""
    return next((environ[key] for key in SOCKET_KEYS if key in environ), None)


def deadline_at_s(headers: Headers, *, streamed: bool) -> float | None:
    """When the client stops waiting.

    Args:
        headers: The request's. `X-Request-Timeout` counts for all requests; the openai
            SDK's per-read timeout only where one read gets the whole answer.
        streamed: Whether the answer is a stream.

    Returns:
        The instant on the monotonic clock, or None.

    Raises:
        InvalidRequestError: `X-Request-Timeout` is not a positive number of seconds.
    """
    given = headers.get(TIMEOUT_HEADER)
    timeout_s = _seconds(given)
    if given is not None and timeout_s is None:
        raise InvalidRequestError(
            f"{TIMEOUT_HEADER} must be a number of seconds between 0 and {MAX_TIMEOUT_S:g}.",
            param=TIMEOUT_HEADER,
        )
    if timeout_s is None and not streamed:
        timeout_s = _seconds(headers.get(SDK_TIMEOUT_HEADER))
    return None if timeout_s is None else time.monotonic() + timeout_s


def _seconds(text: str | None) -> float | None:
    try:
        seconds = math.nan if text is None else float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds <= MAX_TIMEOUT_S else None


def read_while_connected(
    stream: TokenStream,
    environ: Mapping[str, Any],
    idle_s: float,
    read: Callable[[float], T],
    *,
    half_close: HalfClose = "cancel",
) -> Iterator[T]:
    """Read a stream until it ends; cancel it as soon as its client has gone.

    Args:
        stream: What to read; closed at the end.
        environ: The request's WSGI environment.
        idle_s: Something empty is yielded after this long without a token.
        read: Waits for what is ready, at most as many seconds as it is told; returns
            something empty if there is nothing.
        half_close: See DisconnectWatch.

    Yields:
        What was read; never empty but for idleness.
    """
    watch = DisconnectWatch(client_socket(environ), stream.cancel, half_close)
    quiet_since_s = time.monotonic()
    try:
        while not stream.ended:
            wait_s = quiet_since_s + idle_s - time.monotonic()
            ready = read(wait_s if watch.watched else min(wait_s, PROBE_INTERVAL_S))
            quiet_since_s = max(quiet_since_s, stream.statistics.last_token_at_s or 0.0)
            if ready or time.monotonic() >= quiet_since_s + idle_s:
                quiet_since_s = time.monotonic()
                yield ready
            if not watch.watched and watch.gone():
                stream.cancel()
    finally:
        watch.close()
        stream.close()
