"""One JSON line for each request, written when it has really ended.

For a stream that is when its last byte has been sent, or never will be; for everything else, the
answer.
"""

from __future__ import annotations

import json
import logging
import time
from functools import partial
from typing import Any

from realtime_serve.middleware.chain import Middleware, RequestContext
from realtime_serve.stream import TokenStream

logger = logging.getLogger("realtime_serve.access")


class RequestLogger(Middleware):
    """Writes to the logger `realtime_serve.access` at level INFO.

    Args:
        log: Where to log; None takes that logger.
    """

    def __init__(self, log: logging.Logger | None = None) -> None:
        self._log = log if log is not None else logger

    def after_request(self, context: RequestContext) -> None:
        """Log every answer that is complete now."""
        stream = context.stream
        if stream is None:
            self._write(_line(context))
        elif not context.streamed:
            self._write(_line(context) | _generation(stream))

    def on_stream_end(self, context: RequestContext, stream: TokenStream) -> None:
        """Log the answers that are streamed, when they have been sent."""
        if context.streamed:
            context.when_delivered(partial(self._write_streamed, context, stream))

    def _write_streamed(self, context: RequestContext, stream: TokenStream) -> None:
        self._write(_line(context) | _generation(stream) | _delivery(stream))

    def _write(self, line: dict[str, Any]) -> None:
        self._log.info("%s", json.dumps(line, separators=(",", ":")))


def _line(context: RequestContext) -> dict[str, Any]:
    error = context.error
    return {
        "request_id": context.request_id,
        "client": context.client_id,
        "method": context.method,
        "route": context.route,
        "status": context.status,
        "streamed": context.streamed,
        "duration_ms": ms(time.monotonic() - context.started_at_s),
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
