"""The server of bad_clients.py: gunicorn -k gevent bad_clients_app:app.

A model that costs nothing, as in streaming/own_app.py, and GET /ends, which tells by request id
when the server had seen that a stream was over, in seconds of the machine's monotonic clock.
"""

from __future__ import annotations

from flask import Response, jsonify

from realtime_serve import Middleware, RequestContext, TokenStream, create_app
from realtime_serve.app import EXTENSION
from streaming.clock_server import clock_server


class EndTimes(Middleware):
    """Notes when streams have ended."""

    def __init__(self) -> None:
        self.by_request_id: dict[str, float | None] = {}

    def on_stream_end(self, context: RequestContext, stream: TokenStream) -> None:
        """Note one."""
        self.by_request_id[context.request_id] = stream.statistics.finished_at_s


end_times = EndTimes()
app = create_app(server=clock_server(), middleware=[end_times])


@app.get("/ends")
def ends() -> Response:
    """When streams have ended."""
    return jsonify(end_times.by_request_id)


app.extensions[EXTENSION].start()
