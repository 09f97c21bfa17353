"""From a Flask request to its checked JSON object, reading no byte too many."""

from __future__ import annotations

from typing import Any

from flask import Request

from realtime_serve.api.json_body import parse_json_object
from realtime_serve.errors import (
    BodyTooLargeError,
    InvalidRequestError,
    UnsupportedMediaTypeError,
)


def read_json_object(request: Request, max_body_bytes: int) -> dict[str, Any]:
    """Read and parse the body of a request.

    Args:
        request: The current request.
        max_body_bytes: A longer body is refused unread.

    Returns:
        The JSON object.

    Raises:
        UnsupportedMediaTypeError: Not application/json, or compressed.
        BodyTooLargeError: Too long.
        InvalidRequestError: Cut short, or not a JSON object.
    """
    _require_plain_json(request)
    return parse_json_object(_read(request, max_body_bytes))


def _require_plain_json(request: Request) -> None:
    if request.mimetype != "application/json":
        raise UnsupportedMediaTypeError("Send the body with Content-Type: application/json.")
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaTypeError("Send the body without a Content-Encoding.")


def _read(request: Request, max_body_bytes: int) -> bytes:
    declared = request.content_length
    if declared is not None and declared > max_body_bytes:
        raise _too_large(max_body_bytes)
    body = request.stream.read(max_body_bytes + 1)
    if len(body) > max_body_bytes:
        raise _too_large(max_body_bytes)
    if declared is not None and len(body) < declared:
        raise InvalidRequestError(
            f"The body ended after {len(body)} of the {declared} bytes that Content-Length says."
        )
    return body


def _too_large(max_body_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The body is longer than {max_body_bytes} bytes.")
