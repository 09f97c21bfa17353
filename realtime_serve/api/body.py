"""From a Flask request to its checked JSON object, reading no byte too many, and not for ever."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

from flask import Request

from realtime_serve.alarm import Alarm
from realtime_serve.api.client import client_socket
from realtime_serve.api.connections import shut
from realtime_serve.api.json_body import parse_json_object
from realtime_serve.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    InvalidRequestError,
    RequestCancelledError,
    UnsupportedMediaTypeError,
)

JSON_TYPE = "application/json"


def read_json_object(
    request: Request, max_body_bytes: int, body_timeout_s: float
) -> dict[str, Any]:
    """Read and parse the body of a request.

    Args:
        request: The current request.
        max_body_bytes: A longer body is refused unread.
        body_timeout_s: One that takes longer to come is refused, and its connection closed;
            where the WSGI server does not show the socket, that is left to it.

    Returns:
        The JSON object.

    Raises:
        UnsupportedMediaTypeError: Not application/json, or compressed.
        BodyTooLargeError: Too long.
        BodyTimeoutError: Too slow.
        InvalidRequestError: Cut short, or not a JSON object.
    """
    _require_plain_json(request)
    sock = client_socket(request.environ)
    if sock is None:
        return parse_json_object(_read(request, max_body_bytes))
    with Alarm(body_timeout_s, partial(shut, sock, socket.SHUT_RD)) as alarm:
        try:
            body = _read(request, max_body_bytes)
        except InvalidRequestError:
            if alarm.rang:  # it ended early because we have ended it
                raise _too_slow(body_timeout_s) from None
            raise
    return parse_json_object(body)


def _require_plain_json(request: Request) -> None:
    # Nearly all clients say exactly this; to parse what others say takes longer than the body.
    is_plain = request.environ.get("CONTENT_TYPE") == JSON_TYPE
    if not is_plain and request.mimetype != JSON_TYPE:
        raise UnsupportedMediaTypeError(f"Send the body with Content-Type: {JSON_TYPE}.")
    encoding = request.environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaTypeError("Send the body without a Content-Encoding.")


def _read(request: Request, max_body_bytes: int) -> bytes:
    declared = request.content_length
    if declared is not None and declared > max_body_bytes:
        raise _too_large(max_body_bytes)
    body = _receive(request, max_body_bytes + 1)
    if len(body) > max_body_bytes:
        raise _too_large(max_body_bytes)
    if declared is not None and len(body) < declared:
        raise InvalidRequestError(
            f"The body ended after {len(body)} of the {declared} bytes that Content-Length says."
        )
    return body


def _receive(request: Request, num_bytes: int) -> bytes:
    """Read from the client; each WSGI server has its own errors for a body that breaks off."""
    try:
        return request.stream.read(num_bytes)
    except ConnectionError:
        raise RequestCancelledError("The client has gone.") from None
    except Exception:
        raise InvalidRequestError(
            "The body ended early, or its chunks are malformed. Send it whole."
        ) from None


def _too_slow(body_timeout_s: float) -> BodyTimeoutError:
    return BodyTimeoutError(f"The body has not come within {body_timeout_s:g} s.")


def _too_large(max_body_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The body is longer than {max_body_bytes} bytes.")
