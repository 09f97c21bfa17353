"""One JSON line for each request, written when it has really ended.

For a generation that is the end of its stream; for everything else, the answer.
"""

from __future__ import annotations

import json
import logging
import time
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
        """Log the answers that have been streamed."""
        if context.streamed:
            self._write(_line(context) | _generation(stream))

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
        "duration_ms": _ms(time.monotonic() - context.started_at_s),
        "error": None if error is None else error.code or error.type,
    }


def _generation(stream: TokenStream) -> dict[str, Any]:
    statistics, usage = stream.statistics, stream.usage
    start_s = statistics.submitted_at_s
    gaps = usage.completion_tokens - 1
    return {
        "model": stream.request.model,
        "priority": stream.request.priority.name,
        "finish_reason": None if stream.finish_reason is None else stream.finish_reason.value,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "queue_ms": _since(start_s, statistics.scheduled_at_s),
        "ttft_ms": _since(start_s, statistics.first_token_at_s),
        "mean_itl_ms": _ms(statistics.inter_token_sum_s / gaps) if gaps > 0 else None,
    }


def _since(start_s: float, end_s: float | None) -> float | None:
    return None if end_s is None else _ms(end_s - start_s)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
