"""Answers in one piece: a stream that is read to its end before anything is said."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from flask import Response, request

from realtime_serve.api.client import read_while_connected
from realtime_serve.api.json_response import json_response
from realtime_serve.native import GeventParker
from realtime_serve.response import text_response
from realtime_serve.stream import TokenStream
from realtime_serve.stream_statistics import StreamStatistics
from realtime_serve.text_collector import TextCollector, text_of
from realtime_serve.types import HalfClose

IDLE_S = 3600.0
"""Nothing is sent while a whole answer is awaited, so idleness needs no notice."""


def whole_answer(
    stream: TokenStream, render: Callable[..., dict[str, Any]], half_close: HalfClose
) -> Response:
    """Answer with all that a stream gives.

    Args:
        stream: What to wait for; closed at the end.
        render: Makes the JSON of an InferenceResponse.
        half_close: What it means that the client has shut down its sending side.

    Raises:
        ServeError: What ended the stream, if that was neither stop nor length.
    """
    text = read_text(stream, request.environ, half_close)
    stream.raise_for_error()
    response = json_response(render(text_response(stream, text), created=int(time.time())))
    response.headers["Server-Timing"] = _server_timing(stream.statistics)
    return response


def read_text(stream: TokenStream, environ: Mapping[str, Any], half_close: HalfClose) -> str:
    """Read a stream to its end, whatever that is; cancel it if its client goes.

    Under gevent C does so for streams that need no Python, and nobody is woken before the end.
    """
    read = partial(read_while_connected, stream, environ, IDLE_S, half_close=half_close)
    events = stream.new_events(b"", b"")
    if events is None:
        return "".join(token.text for tokens in read(stream.read) for token in tokens)
    parker = stream.feed.parker
    if not isinstance(parker, GeventParker):
        return text_of(b"".join(read(partial(stream.read_events, events))))
    with TextCollector(parker, events) as collector:
        _exhaust(read(partial(stream.read_events, collector)))
        return collector.text()


def _exhaust(reads: Iterable[bytes]) -> None:
    for _ in reads:
        pass


def _server_timing(times: StreamStatistics) -> str:
    spans = {
        "queue": (times.submitted_at_s, times.scheduled_at_s),
        "prefill": (times.scheduled_at_s, times.first_token_at_s),
        "decode": (times.first_token_at_s, times.last_token_at_s),
    }
    return ", ".join(
        f"{name};dur={(end_s - start_s) * 1000:.3f}"
        for name, (start_s, end_s) in spans.items()
        if start_s is not None and end_s is not None
    )
