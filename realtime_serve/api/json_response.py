"""JSON answers, independent of how the surrounding app has set up its JSON provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response

from realtime_serve.api.responses import encode_json


def json_response(value: Mapping[str, Any], status: int = 200) -> Response:
    """A compact UTF-8 JSON answer.

    Args:
        value: What to send.
        status: HTTP status.

    Returns:
        The response, of type application/json.
    """
    return Response(encode_json(value), status, content_type="application/json")
