"""Streams that can be resumed: who gets one, and whoever comes back to it.

    POST /v1/chat/completions   stream_options {"resumable": true}   x-stream-id: ID, id: ID:0, ...
    GET /v1/streams/ID          Last-Event-ID: ID:41                 id: ID:42, ...

The id of a stream is the right to read it: 128 random bits that only its client has been told.
"""

from __future__ import annotations

import re

from flask import Response, request

from realtime_serve.api.client import client_socket
from realtime_serve.api.event_response import EventResponse, end_events
from realtime_serve.api.hooks import current_context
from realtime_serve.api.protocol import GenerationCall
from realtime_serve.api.resumable_delivery import ResumableDelivery
from realtime_serve.api.sse import ChunkWriter
from realtime_serve.errors import ConflictError, InvalidRequestError
from realtime_serve.resumable_stream import ResumableStream
from realtime_serve.send_watch import SendWatch
from realtime_serve.server import InferenceServer
from realtime_serve.stream import TokenStream
from realtime_serve.worker_processes import num_worker_processes

STREAM_ID_HEADER = "x-stream-id"
LAST_EVENT_HEADER = "Last-Event-ID"
LAST_EVENT_PARAMETER = "last_event_id"
"""For the first request of a browser's EventSource, which can set no header."""

_EVENT_ID = re.compile(r"([0-9a-f]{32}):([0-9]{1,15})")


def is_resumable(server: InferenceServer, call: GenerationCall) -> bool:
    """Whether a call's stream can be resumed; there is room for it then.

    Args:
        server: Who generates.
        call: What is asked for. Where that leaves it open, the configuration decides, but only
            where it is possible.

    Raises:
        ConflictError: It is asked for where several worker processes serve.
        OverloadedError: There is no memory for it.
    """
    wanted = server.config.resumable_streams if call.resumable is None else call.resumable
    if not (wanted and call.stream):
        return False
    if call.resumable is None and num_worker_processes() > 1:
        return False
    _require_one_worker()
    server.resumable_streams.require_room()
    return True


def resumable_response(
    server: InferenceServer, stream: TokenStream, writer: ChunkWriter, sends: SendWatch
) -> Response:
    """Answer with the events of a stream, which goes on when its client has gone.

    Args:
        server: Who generates.
        stream: What to send.
        writer: Formats the events.
        sends: Watches what goes through the WSGI server.

    Returns:
        The answer to the request that is being handled.
    """
    kept = server.resumable_streams.open(
        stream,
        start=writer.start(),
        frame=writer.text,
        end_events=lambda ended, failure: end_events(writer, ended, failure),
    )
    return _events_from(server, kept, 0, sends)


def resumed_response(server: InferenceServer, stream_id: str, sends: SendWatch) -> Response:
    """Answer with the events that a client has missed, and those to come.

    Args:
        server: Who generates.
        stream_id: Which stream.
        sends: Watches what goes through the WSGI server.

    Returns:
        The answer to the request that is being handled; 204 if the client has had all events.

    Raises:
        ConflictError: The stream may be in another worker process.
        StreamNotFoundError: There is no such stream, or it forgets while its client reads.
        InvalidRequestError: The client's last event is none of this stream.
    """
    _require_one_worker()
    kept = server.resumable_streams.find(stream_id)
    number = _next_number(stream_id)
    ended, numbers = kept.ended, kept.numbers  # in this order: its end covers all events
    if number > numbers.stop:
        raise InvalidRequestError(f"The stream has no event {number - 1}.", param=LAST_EVENT_HEADER)
    if ended and number == numbers.stop:
        return _nothing_more()
    kept.read(number)  # refuses what has been forgotten, while there is a status to do so with
    current_context().streamed = True
    return _events_from(server, kept, number, sends)


def _nothing_more() -> Response:
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response


def _next_number(stream_id: str) -> int:
    given = request.headers.get(LAST_EVENT_HEADER) or request.args.get(LAST_EVENT_PARAMETER)
    if not given:
        return 0
    match = _EVENT_ID.fullmatch(given)
    if match is None or match[1] != stream_id:
        raise InvalidRequestError(
            f"{LAST_EVENT_HEADER} must be the id of one of this stream's events.",
            param=LAST_EVENT_HEADER,
        )
    return int(match[2]) + 1


def _events_from(
    server: InferenceServer, kept: ResumableStream, number: int, sends: SendWatch
) -> Response:
    sock = client_socket(request.environ)
    delivery = ResumableDelivery(kept, number, sock, server.config, sends)
    response = EventResponse(delivery)
    response.headers[STREAM_ID_HEADER] = kept.id
    return response


def _require_one_worker() -> None:
    num_workers = num_worker_processes()
    if num_workers > 1:
        raise ConflictError(
            f"A stream can be resumed only where one worker process serves, and here "
            f"{num_workers} do: each knows its own streams only."
        )
