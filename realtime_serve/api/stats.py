"""GET /stats/streams: what each open stream is doing.

How many there are, anybody may know, as from /metrics. Which ones, and how fast each client
reads, is for whoever has the admin key; without one configured, nobody has it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from flask import Blueprint, Response, request

from realtime_serve.api.admin import require_key
from realtime_serve.api.hooks import answer_errors
from realtime_serve.api.json_response import json_response
from realtime_serve.middleware.request_log import ms
from realtime_serve.server import InferenceServer
from realtime_serve.stream import TokenStream
from realtime_serve.stream_statistics import StreamState

MAX_LISTED_STREAMS = 1000
"""The oldest ones. A stream takes 250 bytes: the answer stays below 256 KiB."""


def stats_blueprint(server: InferenceServer, name: str) -> Blueprint:
    """The route /stats/streams.

    Args:
        server: Whose streams.
        name: Distinguishes the blueprints of several servers in one app.

    Returns:
        The blueprint.
    """
    blueprint = Blueprint(f"{name}_stats", __name__)
    answer_errors(blueprint)

    @blueprint.get("/stats/streams")
    def streams() -> Response:
        open_streams = server.streams.all()
        report = _counts(open_streams)
        if _may_see_each(server.config.admin_api_key):
            report["streams"] = [_figures(stream) for stream in open_streams[:MAX_LISTED_STREAMS]]
        return json_response(report)

    return blueprint


def _may_see_each(key: str | None) -> bool:
    """Whether the request has the admin key; it need not have one.

    Raises:
        AuthenticationError: It has a wrong one.
    """
    if key is None or "Authorization" not in request.headers:
        return False
    require_key(key)
    return True


def _counts(streams: list[TokenStream]) -> dict[str, Any]:
    by_state = Counter(stream.statistics.state for stream in streams)
    return {"open": len(streams), "states": {state.value: by_state[state] for state in StreamState}}


def _figures(stream: TokenStream) -> dict[str, Any]:
    statistics = stream.statistics
    return {
        "id": stream.request.request_id,
        "model": stream.request.model,
        "state": statistics.state.value,
        "tokens": statistics.num_tokens,
        "sent_bytes": statistics.num_sent_bytes,
        "unsent_bytes": statistics.num_unsent_bytes,
        "paused_ms": ms(statistics.paused_s),
        "ttft_ms": ms(statistics.ttft_s),
        "itl_p50_ms": ms(statistics.inter_token_quantile_s(0.5)),
        "itl_p99_ms": ms(statistics.inter_token_quantile_s(0.99)),
    }
