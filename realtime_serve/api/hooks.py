"""Runs the middleware chain as Flask before and after hooks of a blueprint.

The request's context travels in flask.g; a stream keeps it alive past Flask's own
after_request, until the stream's end.
"""

from __future__ import annotations

import logging
import re
import time
import weakref
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

from flask import Blueprint, Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from realtime_serve.api.envelope import error_envelope, error_headers, internal_error
from realtime_serve.api.json_response import json_response
from realtime_serve.errors import (
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    ServeError,
)
from realtime_serve.middleware import MiddlewareChain, RequestContext
from realtime_serve.server import new_request_id
from realtime_serve.stream import TokenStream

logger = logging.getLogger("realtime_serve.api")

_PRINTABLE_ID = re.compile(r"[\x21-\x7e]{1,128}")
"""A client's request id is echoed only if no log or header can be split by it."""


def current_context() -> RequestContext:
    """The running request's context; made by the before hook of `run_chain`."""
    return cast(RequestContext, g.realtime_serve_context)


def run_chain(
    blueprint: Blueprint, chain: MiddlewareChain, start: Callable[[], None] = lambda: None
) -> None:
    """Have `blueprint` run the chain around its requests, and answer errors in our envelope.

    Args:
        blueprint: Whose requests.
        chain: Its middleware.
        start: Called before every request; starts what is not running yet.
    """

    def before_request() -> None:
        _begin(chain)
        start()
        chain.before_request(current_context())

    blueprint.before_request(before_request)
    blueprint.after_request(_finish)
    blueprint.teardown_request(_abandon_lost_answer)
    answer_errors(blueprint)


def run_chain_for_unknown_paths(app: Flask, chain: MiddlewareChain) -> None:
    """Have an app of our own run the chain around requests that match no route at all.

    Args:
        app: The app, whose blueprints run the chain for their own routes.
        chain: Its middleware.
    """

    def before_request() -> None:
        if request.url_rule is None:
            _begin(chain)
            chain.before_request(current_context())

    def after_request(response: Response) -> Response:
        return _finish(response) if request.url_rule is None else response

    app.before_request(before_request)
    app.after_request(after_request)


def _begin(chain: MiddlewareChain) -> None:
    g.realtime_serve_context = _new_context()
    g.realtime_serve_chain = chain


def _finish(response: Response) -> Response:
    context: RequestContext | None = g.get("realtime_serve_context")
    if context is None:  # a hook of the surrounding app has answered before ours
        return response
    context.status = response.status_code
    g.realtime_serve_chain.after_request(context)
    response.headers.update(context.headers)
    response.headers["x-request-id"] = context.request_id
    if context.streamed and context.stream is not None:
        context.delivering = True
        response.call_on_close(context.end_delivery)
    return response


def follow_stream(context: RequestContext, stream: TokenStream) -> None:
    """Have the chain told when the stream of a request has ended."""
    chain: MiddlewareChain = g.realtime_serve_chain
    context.stream = stream

    def on_end(ended: TokenStream) -> None:
        if ended.error is not None:
            _log_cause(context, ended.error)
            chain.on_error(context, ended.error)
        chain.on_stream_end(context, ended)

    stream.add_end_callback(on_end)


def follow_body(body: Iterator[bytes], abandon: Callable[[], None]) -> None:
    """Have the stream of a request given up if nobody is left to send its events.

    Args:
        body: The events of the request's stream.
        abandon: Called at the request's end if the answer was lost on its way to the server: to a
            hook of the surrounding app that has failed, or that answers in its place.
    """
    g.realtime_serve_answer = _Answer(weakref.ref(body), abandon)


class _Answer(NamedTuple):
    """A streamed answer; whoever has its body may send it."""

    body: weakref.ref[Iterator[bytes]]
    abandon: Callable[[], None]


def _abandon_lost_answer(error: BaseException | None) -> None:
    context: RequestContext | None = g.get("realtime_serve_context")
    answer: _Answer | None = g.get("realtime_serve_answer")
    if context is None or context.stream is None:
        return
    if answer is None:  # it is complete, or there was an error before there were events
        context.stream.close()
    elif error is not None or answer.body() is None:
        answer.abandon()
        context.end_delivery()


def answer_errors(scope: Blueprint | Flask) -> None:
    """Answer every error that is raised in `scope` with our JSON envelope."""
    scope.register_error_handler(ServeError, _answer_serve_error)
    scope.register_error_handler(HTTPException, _answer_http_exception)
    scope.register_error_handler(Exception, _answer_unexpected)


def _new_context() -> RequestContext:
    return RequestContext(
        request_id=_request_id(),
        client_id=_client_id(),
        method=request.method,
        route="" if request.url_rule is None else request.url_rule.rule,
        started_at_s=time.monotonic(),
    )


def _request_id() -> str:
    given = request.environ.get("HTTP_X_REQUEST_ID", "")
    return given if _PRINTABLE_ID.fullmatch(given) else new_request_id()


def _client_id() -> str:
    """The address: a key that nobody has checked could be another one in each request."""
    return request.remote_addr or "unknown"


def _log_cause(context: RequestContext, error: ServeError) -> None:
    if error.__cause__ is not None:
        logger.error("Request %s failed", context.request_id, exc_info=error.__cause__)


def _answer_serve_error(error: ServeError) -> Response:
    context: RequestContext | None = g.get("realtime_serve_context")
    # A stream's own error was reported when the stream ended.
    if context is not None and context.error is not error:
        g.realtime_serve_chain.on_error(context, error)
    response = json_response(error_envelope(error), error.status)
    response.headers.update(error_headers(error))
    return response


def _answer_http_exception(error: HTTPException) -> Response:
    if error.code is not None and error.code < 400:  # a redirect is an answer, not an error
        return cast(Response, error.get_response())
    response = _answer_serve_error(_as_serve_error(error))
    for name, value in error.get_headers():
        if name.lower() == "allow":
            response.headers[name] = value
    response.status_code = error.code or 500
    return response


def _as_serve_error(error: HTTPException) -> ServeError:
    match error.code:
        case 404:
            return NotFoundError(f"There is no {request.method} {_short(request.path)}.")
        case 405:
            return MethodNotAllowedError(
                f"{request.method} is not allowed here; see the Allow header."
            )
        case code if code is not None and code < 500:
            return InvalidRequestError(error.description or error.name)
        case _:
            return internal_error()


def _answer_unexpected(error: Exception) -> Response:
    context: RequestContext | None = g.get("realtime_serve_context")
    logger.exception("Request %s failed", None if context is None else context.request_id)
    return _answer_serve_error(internal_error())


def _short(path: str) -> str:
    return path if len(path) <= 100 else path[:100] + "..."
