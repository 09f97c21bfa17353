"""One JSON line for each request, written when it has really ended.

For a stream that is when its last byte has been sent, or never will be; for everything else, the
answer. Under gevent the lines of some milliseconds are made and written together, by a greenlet of
their own: one after the other they cost a quarter of what they do between requests, and a log that
is slow to write holds up no answer.
"""

from __future__ import annotations

import json
import logging
import time
import weakref
from collections import deque
from functools import partial
from typing import Any, NamedTuple

from realtime_serve.middleware.chain import Middleware, RequestContext
from realtime_serve.native import spawn_later
from realtime_serve.stream import TokenStream

logger = logging.getLogger("realtime_serve.access")

WRITE_DELAY_S = 0.02
"""Shorter than anybody who reads the log would notice, longer than some requests of a busy hub."""

MAX_UNWRITTEN = 4096
"""Requests whose lines a log that hangs may owe; their streams' memory stays until then."""

_encode = json.JSONEncoder(separators=(",", ":")).encode


class _Ended(NamedTuple):
    """A request whose line has to be written."""

    context: RequestContext
    at_s: float


class RequestLogger(Middleware):
    """Writes to the logger `realtime_serve.access` at level INFO.

    Args:
        log: Where to log; None takes that logger.

    Attributes:
        num_dropped: Lines that were not written because the log takes too long.
    """

    def __init__(self, log: logging.Logger | None = None) -> None:
        self._log = log if log is not None else logger
        self._ended: deque[_Ended] = deque()
        self._will_write = False
        self.num_dropped = 0
        weakref.finalize(self, _write_all, self._log, self._ended)  # at exit, too

    def after_request(self, context: RequestContext) -> None:
        """Log every answer that is complete now."""
        if context.stream is None or not context.streamed:
            self._note(context)

    def on_stream_end(self, context: RequestContext, stream: TokenStream) -> None:
        """Log the answers that are streamed, when they have been sent."""
        if context.streamed:
            context.when_delivered(partial(self._note, context))

    def flush(self) -> None:
        """Write the lines of all requests that have ended. Any thread may call."""
        try:
            _write_all(self._log, self._ended)
        finally:
            self._will_write = False

    def _note(self, context: RequestContext) -> None:
        if len(self._ended) >= MAX_UNWRITTEN:
            self.num_dropped += 1
            return
        self._ended.append(_Ended(context, time.monotonic()))
        if not self._will_write:
            self._will_write = spawn_later(WRITE_DELAY_S, self.flush)
            if not self._will_write:
                self.flush()


def _write_all(log: logging.Logger, ended: deque[_Ended]) -> None:
    while ended:
        try:
            line = _line(ended.popleft())
        except IndexError:  # another thread was faster
            return
        log.info("%s", _encode(line))


def _line(ended: _Ended) -> dict[str, Any]:
    context = ended.context
    line = _request(context, ended.at_s)
    if context.stream is not None:
        line |= _generation(context.stream)
        if context.streamed:
            line |= _delivery(context.stream)
    return line


def _request(context: RequestContext, ended_at_s: float) -> dict[str, Any]:
    error = context.error
    return {
        "request_id": context.request_id,
        "client": context.client_id,
        "method": context.method,
        "route": context.route,
        "status": context.status,
        "streamed": context.streamed,
        "duration_ms": ms(ended_at_s - context.started_at_s),
        "error": None if error is None else error.code or error.type,
    }


def _generation(stream: TokenStream) -> dict[str, Any]:
    statistics, usage = stream.statistics, stream.usage
    gaps = usage.completion_tokens - 1
    return {
        "model": stream.request.model,
        "priority": stream.request.priority.name,
        "finish_reason": None if stream.finish_reason is None else stream.finish_reason.value,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "queue_ms": ms(statistics.queue_s),
        "ttft_ms": ms(statistics.ttft_s),
        "mean_itl_ms": ms(statistics.inter_token_sum_s / gaps) if gaps > 0 else None,
        "itl_p50_ms": ms(statistics.inter_token_quantile_s(0.5)),
        "itl_p99_ms": ms(statistics.inter_token_quantile_s(0.99)),
    }


def _delivery(stream: TokenStream) -> dict[str, Any]:
    """How its client took it."""
    return {
        "sent_bytes": stream.statistics.num_sent_bytes,
        "unsent_bytes": stream.statistics.num_unsent_bytes,
        "paused_ms": ms(stream.statistics.paused_s),
    }


def ms(seconds: float | None) -> float | None:
    """Milliseconds as they are reported; None for what has not happened."""
    return None if seconds is None else round(seconds * 1000, 3)
