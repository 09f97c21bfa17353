"""Errors as clients see them: OpenAI's envelope, and when to try again.

Only a ServeError speaks for itself; of any other exception nothing is shown.
"""

from __future__ import annotations

import math
from typing import Any

from realtime_serve.errors import (
    AuthenticationError,
    ConflictError,
    DeadlineExceededError,
    EngineError,
    ModelLoadError,
    NotReadyError,
    OverloadedError,
    RateLimitedError,
    ServeError,
)

DEFAULT_RETRY_AFTER_S = 1.0
"""Told where nothing is known: soon enough for a person, late enough for a queue."""

MAX_RETRY_AFTER_S = 3600.0

_RETRY = (RateLimitedError, OverloadedError, NotReadyError)

_DO_NOT_RETRY = (ConflictError, DeadlineExceededError, EngineError, ModelLoadError)
"""SDKs retry every 409 and 5xx; these would only do the same work again for nothing."""


def error_envelope(error: Exception) -> dict[str, Any]:
    """Give the JSON object of an error.

    Args:
        error: Whatever was raised.

    Returns:
        `{"error": {message, type, param, code}}`, without internals.
    """
    shown = error if isinstance(error, ServeError) else internal_error()
    return {
        "error": {
            "message": shown.message,
            "type": shown.type,
            "param": shown.param,
            "code": shown.code,
        }
    }


def error_headers(error: Exception) -> dict[str, str]:
    """Give the headers that tell a client whether, and when, to try again.

    Args:
        error: Whatever was raised.

    Returns:
        Retry-After (whole seconds, at least 1), retry-after-ms and x-should-retry where
        waiting helps; x-should-retry alone where it does not but an SDK would; how to
        authenticate where that is missing; else none.
    """
    if isinstance(error, _RETRY):
        return {**_retry_after(error.retry_after_s), "x-should-retry": "true"}
    if isinstance(error, _DO_NOT_RETRY):
        return {"x-should-retry": "false"}
    if isinstance(error, AuthenticationError):
        return {"WWW-Authenticate": "Bearer"}
    return {}


def internal_error() -> ServeError:
    """What a client is told of a failure that only the log may describe."""
    return ServeError(
        "The server failed on this request; its log has more under the x-request-id.",
        code="internal_error",
    )


def _retry_after(retry_after_s: float | None) -> dict[str, str]:
    wait_s = DEFAULT_RETRY_AFTER_S if retry_after_s is None else retry_after_s
    wait_s = min(max(wait_s, 0.001), MAX_RETRY_AFTER_S)
    return {
        "Retry-After": str(math.ceil(wait_s)),
        "retry-after-ms": str(math.ceil(wait_s * 1000)),
    }
