"""The OpenAI-style routes: chat completions, completions, their end, and the list of models.

    bytes -> call -> token ids -> stream -> events, or one answer

Each view reads as these steps; the two kinds of call differ only in how they are
parsed, encoded and formatted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from flask import Blueprint, Response, request
from werkzeug.exceptions import MethodNotAllowed, NotFound

from realtime_serve.api.body import read_json_object
from realtime_serve.api.cancellation import cancel_requests
from realtime_serve.api.client import deadline_at_s
from realtime_serve.api.event_response import event_response
from realtime_serve.api.hooks import current_context, follow_stream
from realtime_serve.api.json_response import json_response
from realtime_serve.api.protocol import (
    GenerationCall,
    parse_chat,
    parse_completion,
)
from realtime_serve.api.responses import (
    cancellation,
    chat_completion,
    chat_head,
    completion_head,
    model_card,
    model_list,
    text_completion,
)
from realtime_serve.api.resumption import is_resumable, resumable_response, resumed_response
from realtime_serve.api.sse import ChatChunkWriter, ChunkWriter, CompletionChunkWriter
from realtime_serve.api.whole_answer import whole_answer
from realtime_serve.model import Model
from realtime_serve.send_watch import SendWatch
from realtime_serve.server import InferenceServer, new_request_id
from realtime_serve.stream import TokenStream
from realtime_serve.types import InferenceRequest

logger = logging.getLogger("realtime_serve.api")

ALL_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

ROUTES = {
    "/v1/chat/completions": ("POST",),
    "/v1/completions": ("POST",),
    "/v1/requests/<path:given_id>": ("DELETE",),
    "/v1/streams/<stream_id>": ("GET", "HEAD"),
    "/v1/models": ("GET", "HEAD"),
    "/v1/models/<path:name>": ("GET", "HEAD"),
}
"""What each route answers; everything else is refused with 405."""


def openai_blueprint(server: InferenceServer, name: str) -> Blueprint:
    """Routes under /v1.

    Args:
        server: Who generates.
        name: Distinguishes the blueprints of several servers in one app.

    Returns:
        The blueprint; the middleware chain is not part of it yet.
    """
    blueprint = Blueprint(f"{name}_openai", __name__)
    config = server.config
    sends = SendWatch(config.stall_timeout_s)

    @blueprint.post("/v1/chat/completions", provide_automatic_options=False)
    def chat_completions() -> Response:
        call = parse_chat(_body(server))
        resumable = is_resumable(server, call)
        stream = _submit(server, call, lambda model: server.encode_chat(model, call.messages))
        if not call.stream:
            return whole_answer(stream, chat_completion, config.half_close)
        writer = ChatChunkWriter(chat_head(**_head(call, stream)))
        return answer_with_events(stream, writer, resumable=resumable)

    @blueprint.post("/v1/completions", provide_automatic_options=False)
    def completions() -> Response:
        call = parse_completion(_body(server))
        resumable = is_resumable(server, call)
        stream = _submit(server, call, lambda model: server.encode_prompt(model, call.prompt))
        if not call.stream:
            return whole_answer(stream, text_completion, config.half_close)
        writer = CompletionChunkWriter(completion_head(**_head(call, stream)))
        return answer_with_events(stream, writer, resumable=resumable)

    def answer_with_events(
        stream: TokenStream, writer: ChunkWriter, *, resumable: bool
    ) -> Response:
        if resumable:
            return resumable_response(server, stream, writer, sends)
        return event_response(stream, writer, config, sends)

    @blueprint.get("/v1/streams/<stream_id>", provide_automatic_options=False)
    def resume(stream_id: str) -> Response:
        return resumed_response(server, stream_id, sends)

    @blueprint.delete("/v1/requests/<path:given_id>", provide_automatic_options=False)
    def cancel(given_id: str) -> Response:
        cancel_requests(server, given_id, current_context().client_id)
        return json_response(cancellation(given_id))

    @blueprint.get("/v1/models", provide_automatic_options=False)
    def models() -> Response:
        return json_response(model_list([_card(model) for model in server.registry.all()]))

    @blueprint.get("/v1/models/<path:name>", provide_automatic_options=False)
    def model(name: str) -> Response:
        return json_response(_card(server.registry.resolve(name)))

    _refuse_the_rest(blueprint)
    return blueprint


def _refuse_the_rest(blueprint: Blueprint) -> None:
    """Answer 405 and 404 below /v1 by ourselves: inside somebody's app, Flask's are theirs."""

    def unknown(rest: str) -> Response:
        raise NotFound

    for rule, allowed in ROUTES.items():
        methods = [method for method in ALL_METHODS if method not in allowed]
        view = partial(_refuse_method, [*allowed, "OPTIONS"])
        _add_rule(blueprint, rule, f"wrong_method:{rule}", view, methods)
    _add_rule(blueprint, "/v1/<path:rest>", "unknown", unknown, ALL_METHODS)


def _refuse_method(allowed: Sequence[str], **_: str) -> Response:
    if request.method != "OPTIONS":
        raise MethodNotAllowed(valid_methods=allowed)
    response = Response(status=204)
    del response.headers["Content-Type"]
    response.allow.update(allowed)
    return response


def _add_rule(
    blueprint: Blueprint,
    rule: str,
    endpoint: str,
    view: Callable[..., Response],
    methods: Sequence[str],
) -> None:
    # Flask's own answer to OPTIONS would list the methods that these views refuse.
    blueprint.add_url_rule(rule, endpoint, view, methods=methods, provide_automatic_options=False)


def _body(server: InferenceServer) -> dict[str, Any]:
    config = server.config
    return read_json_object(request, config.max_body_bytes, config.body_timeout_s)


def _submit(
    server: InferenceServer, call: GenerationCall, encode: Callable[[Model], list[int]]
) -> TokenStream:
    context = current_context()
    context.streamed = call.stream
    deadline = deadline_at_s(request.headers, streamed=call.stream)
    model = server.registry.resolve(call.model)
    model.require_open()
    stream = server.submit(
        InferenceRequest(
            request_id=new_request_id(),
            model=model.name,
            prompt_token_ids=tuple(encode(model)),
            sampling=call.sampling,
            priority=call.priority,
            deadline_at_s=deadline,
            client_id=context.client_id,
            external_id=context.request_id,
        )
    )
    follow_stream(context, stream)
    return stream


def _head(call: GenerationCall, stream: TokenStream) -> dict[str, Any]:
    """What every chunk of the stream repeats."""
    return {
        "request_id": stream.request.request_id,
        "model": stream.request.model,
        "created": int(time.time()),
        "include_usage": call.include_usage,
    }


def _card(model: Model) -> dict[str, Any]:
    return model_card(model.name, created=model.created_at, max_model_len=model.max_model_len)
