"""The echo engine behind HTTP, for servers in processes of their own.

GET /test tells how many tokens were generated, how many requests run, and how many descriptors,
greenlets and streams there are. A request with the header X-Test-Send-Buffer gets a socket that
takes a few kilobytes.

    ECHO_STEP_MS        how long a step takes; 0, the default, is as fast as it goes
    ECHO_TOKENS_A_STEP  tokens that each request gets in a step
    ECHO_PROMPT_TOKENS_A_STEP  tokens of each prompt that are computed in a step; without it, all
    ECHO_MAX_SEQS       seats
    ECHO_LOADS_WITH     a file: the model loads until it is there
"""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, jsonify, request
from gevent import Greenlet

from realtime_serve.api.client import client_socket
from realtime_serve.api.gunicorn import WorkerSignals
from realtime_serve.app import EXTENSION, create_app, log_to_stderr
from realtime_serve.config import load_config
from realtime_serve.worker_processes import is_gunicorn_worker
from support.echo_engine import MAX_MODEL_LEN, MAX_SEQS, EchoEngine, echo_server


def make_app() -> Flask:
    """A new app with a server of its own, as the environment describes it."""
    config = load_config()
    engine = EchoEngine(
        _number("ECHO_STEP_MS", 0) / 1000,
        _number("ECHO_TOKENS_A_STEP", 1),
        prompt_tokens_a_step=_number("ECHO_PROMPT_TOKENS_A_STEP", MAX_MODEL_LEN),
        max_seqs=_number("ECHO_MAX_SEQS", MAX_SEQS),
        reader_lease_s=config.batch_config().reader_lease_s,
    )
    needed = os.environ.get("ECHO_LOADS_WITH", os.curdir)
    server = echo_server(engine, config, may_load=lambda: os.path.exists(needed))
    app = create_app(server=server)

    @app.get("/test")
    def figures() -> Response:
        return jsonify(
            num_generated=engine.stats().generation_tokens_total,
            num_running=engine.num_sequences,
            num_descriptors=len(os.listdir("/proc/self/fd")),
            num_streams=len(server.streams),
            num_greenlets=sum(isinstance(each, Greenlet) for each in gc.get_objects()),
        )

    @app.before_request
    def shrink_buffer() -> None:
        sock = client_socket(request.environ)
        if sock is not None and "X-Test-Send-Buffer" in request.headers:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)

    return app


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


class PassesOn:
    """WSGI middleware that changes nothing, but might."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        return self._app(environ, start_response)


log_to_stderr()
app = make_app()
_signals = WorkerSignals(app, app.extensions[EXTENSION].server)
if is_gunicorn_worker():
    _signals.install()
wrapped = PassesOn(app)
