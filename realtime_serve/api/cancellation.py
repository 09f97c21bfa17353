"""Cancelling a request by an id, from another connection than its own.

Its caller knows a request by two ids: the one in `x-request-id`, which the caller may have chosen
and may use for several requests, and the one of the answer, of which there is only one.
"""

from __future__ import annotations

from realtime_serve.api.responses import request_id_in
from realtime_serve.errors import ConflictError, RequestNotFoundError
from realtime_serve.server import InferenceServer
from realtime_serve.stream import TokenStream
from realtime_serve.worker_processes import num_worker_processes

LONGEST_ECHO = 128
"""An id is repeated in an error no longer than this; ours are shorter."""


def cancel_requests(server: InferenceServer, given_id: str, client_id: str) -> None:
    """Have the open requests of an id end as cancelled, if they are the caller's own.

    Args:
        server: Who generates.
        given_id: As in `x-request-id`, or the id of an answer.
        client_id: The caller.

    Raises:
        ConflictError: They may run in another worker process.
        RequestNotFoundError: The caller has none; others may have.
    """
    _require_one_worker()
    # A table by id would be one more to keep. This one is bounded, by seats and queue depth.
    own = [each for each in server.streams.all() if _is_meant(each, given_id, client_id)]
    if not own:
        raise RequestNotFoundError(
            f"You have no open request with the id {given_id[:LONGEST_ECHO]!r}: "
            "it has ended, or never came from this address."
        )
    for stream in own:
        stream.cancel()


def _require_one_worker() -> None:
    num_workers = num_worker_processes()
    if num_workers > 1:
        raise ConflictError(
            f"A request can be cancelled by its id only where one worker process serves, and "
            f"here {num_workers} do: this one knows its own requests only. Close the request's "
            "connection instead."
        )


def _is_meant(stream: TokenStream, given_id: str, client_id: str) -> bool:
    request = stream.request
    is_named = given_id == request.external_id or request_id_in(given_id) == request.request_id
    return is_named and request.client_id == client_id
