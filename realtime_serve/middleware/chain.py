r"""The four hooks and the chain that calls them.

Flask's after_request runs when the response object is returned, which for a
stream is before its first token. So a middleware has a fourth hook for the end
of the stream, and whoever counts or charges tokens does it there:

    before_request -> [view] -> after_request ... tokens ... -> on_stream_end
                 \-> on_error (a refusal, or a failure in mid-stream)

Nothing here imports Flask; the API layer calls the chain from Flask's hooks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from realtime_serve.errors import ServeError
from realtime_serve.stream import TokenStream

logger = logging.getLogger("realtime_serve.middleware")


@dataclass(slots=True, kw_only=True)
class RequestContext:
    """What is known of one HTTP request; lives until its answer, or its stream, has ended.

    Args:
        request_id: Echoed in `x-request-id` and in every log line.
        client_id: The caller's address; whom to limit and charge.
        method: HTTP method.
        route: The route's pattern, never the caller's raw path.
        started_at_s: When it arrived.
        streamed: Whether the answer is an event stream.
        status: HTTP status, once it is known.
        error: What it was refused with or failed of.
        stream: The generation it started, if any.
        headers: Headers to add to the answer.
        delivering: Whether a streamed body is on its way, after the stream has ended, too.
    """

    request_id: str
    client_id: str
    method: str
    route: str
    started_at_s: float
    streamed: bool = False
    status: int | None = None
    error: ServeError | None = None
    stream: TokenStream | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delivering: bool = False
    _when_delivered: list[Callable[[], None]] = field(default_factory=list)

    def when_delivered(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once no byte of the answer is on its way any more."""
        if self.delivering:
            self._when_delivered.append(callback)
        else:
            callback()

    def end_delivery(self) -> None:
        """Say that a streamed body has been sent, or never will be. May be called again."""
        self.delivering = False
        callbacks, self._when_delivered = self._when_delivered, []
        for callback in callbacks:
            _guard(callback)


class Middleware:
    """Base of all middleware; override the hooks you need.

    Under gevent the hooks run in the hub, else in the request's thread, several at once:
    guard shared state with native.Lock, and do not wait.
    """

    def before_request(self, context: RequestContext) -> None:
        """Run before the view.

        Raises:
            ServeError: Refuses the request with this error.
        """

    def after_request(self, context: RequestContext) -> None:
        """Run when the status and headers are known; may add to `context.headers`."""

    def on_error(self, context: RequestContext, error: ServeError) -> None:
        """Run when the request is refused or its stream fails."""

    def on_stream_end(self, context: RequestContext, stream: TokenStream) -> None:
        """Run once when the request's generation has ended, however it ended.

        A stream that can be resumed may have outlived its request's connection by then.
        """


class MiddlewareChain:
    """Calls the hooks of several middleware: in order before, in reverse order after.

    Args:
        middleware: The members, outermost first.
    """

    def __init__(self, middleware: Sequence[Middleware] = ()) -> None:
        self._middleware = tuple(middleware)
        self._reversed = self._middleware[::-1]

    def before_request(self, context: RequestContext) -> None:
        """Call every before_request until one refuses.

        Raises:
            ServeError: The refusal.
        """
        for member in self._middleware:
            member.before_request(context)

    def after_request(self, context: RequestContext) -> None:
        """Call every after_request."""
        for member in self._reversed:
            _guard(partial(member.after_request, context))

    def on_error(self, context: RequestContext, error: ServeError) -> None:
        """Note the error in the context and call every on_error."""
        context.error = error
        for member in self._reversed:
            _guard(partial(member.on_error, context, error))

    def on_stream_end(self, context: RequestContext, stream: TokenStream) -> None:
        """Call every on_stream_end."""
        for member in self._reversed:
            _guard(partial(member.on_stream_end, context, stream))


def _guard(hook: Callable[[], None]) -> None:
    """One member's mistake may not cost the answer or the others' hooks."""
    try:
        hook()
    except Exception:
        logger.exception("A middleware hook failed")
