"""The Flask side in one object: RealtimeServe joins a server, its middleware and its routes.

It is a Flask extension, so it can be put into somebody's app; create_app makes an
app that holds nothing else. Neither starts a thread: that happens at the first
request, or when the worker process calls start(), so that an app may be built
before a fork.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from functools import partial

from flask import Blueprint, Flask, request

from realtime_serve.api.admin import admin_blueprint
from realtime_serve.api.client import deadline_at_s
from realtime_serve.api.direct import DIRECT_STREAMS
from realtime_serve.api.health import health_blueprint
from realtime_serve.api.hooks import answer_errors, run_chain, run_chain_for_unknown_paths
from realtime_serve.api.openai import openai_blueprint
from realtime_serve.api.stats import stats_blueprint
from realtime_serve.config import load_config
from realtime_serve.log_lines import log_to_stderr as log_to_stderr
from realtime_serve.log_lines import num_dropped_lines
from realtime_serve.middleware import (
    MetricsCollector,
    Middleware,
    MiddlewareChain,
    RateLimiter,
    RequestLogger,
)
from realtime_serve.model_opening import ModelOpening
from realtime_serve.server import InferenceServer
from realtime_serve.types import ServerConfig

EXTENSION = "realtime_serve"


class RealtimeServe:
    """Flask extension that serves models under somebody's own app.

    Args:
        server: The server, with models registered or not; None makes one.
        config: Configuration of the server that is made; None loads it from the file and
            the environment.
        middleware: Your own middleware, inside ours.
        app: Calls init_app with it.
        url_prefix: As for init_app.
        stop_process: Ends the process in good order once /admin/drain has been called; None
            leaves that to others.

    Raises:
        ConfigError: The configuration is wrong, or both a server and a config are given.
    """

    def __init__(
        self,
        server: InferenceServer | None = None,
        *,
        config: ServerConfig | None = None,
        middleware: Sequence[Middleware] = (),
        app: Flask | None = None,
        url_prefix: str | None = None,
        stop_process: Callable[[], None] | None = None,
    ) -> None:
        if server is None:
            server = InferenceServer(config if config is not None else load_config())
        self.server = server
        self._request_log = RequestLogger()
        self.metrics = MetricsCollector(
            server.registry.all,
            server.streams,
            resumable_streams=server.resumable_streams,
            num_dropped_lines=self._num_dropped_lines,
        )
        self.chain = MiddlewareChain([*self._own_middleware(), *middleware])
        self._opening = ModelOpening(server)
        self._stop_process = stop_process
        if app is not None:
            self.init_app(app, url_prefix=url_prefix)

    def init_app(self, app: Flask, *, url_prefix: str | None = None, name: str = EXTENSION) -> None:
        """Add the routes to an app.

        Args:
            app: Any Flask app.
            url_prefix: Where the routes go, such as "/ai"; None is the root.
            name: Key in `app.extensions`; a second server in one app needs another.
        """
        for blueprint in self.blueprints(name):
            app.register_blueprint(blueprint, url_prefix=url_prefix)
        app.extensions[name] = self

    def blueprints(self, name: str = EXTENSION) -> list[Blueprint]:
        """Fresh blueprints of all routes, for apps that register them by themselves."""
        openai = openai_blueprint(self.server, name)
        run_chain(openai, self.chain, self._require_model)
        health = health_blueprint(self.server, self.metrics, name)
        health.before_request(self._opening.start_aside)
        return [openai, health, stats_blueprint(self.server, name), *self._admin(name)]

    def start(self) -> None:
        """Start loading the configured model, unless models are registered already.

        The app's first request does this too. Cheap when done, and right after a fork.

        Raises:
            ServeError: The model's files cannot be used.
        """
        self._opening.start()

    def _require_model(self) -> None:
        """Have a model registered if there is none, and wait for that."""
        if len(self.server.registry) == 0:
            self._opening.require(deadline_at_s(request.headers, streamed=True))

    def _admin(self, name: str) -> list[Blueprint]:
        """The blueprint below /admin; none unless there is a key for it."""
        if self.server.config.admin_api_key is None:
            return []
        admin = admin_blueprint(self.server, self._stop_process, name)
        run_chain(admin, self.chain)
        return [admin]

    def _num_dropped_lines(self) -> int:
        """Those that could not be written, and those for which there was no time."""
        return num_dropped_lines() + self._request_log.num_dropped

    def _own_middleware(self) -> list[Middleware]:
        config = self.server.config
        members: list[Middleware] = [self._request_log, self.metrics]
        if config.rate_limit_rpm is not None:
            members.append(RateLimiter(config.rate_limit_rpm, config.rate_limit_burst))
        return members


def create_app(
    config: ServerConfig | None = None,
    *,
    server: InferenceServer | None = None,
    middleware: Sequence[Middleware] = (),
    stop_process: Callable[[], None] | None = None,
) -> Flask:
    """Make a Flask app that serves models and nothing else.

    Args:
        config: Configuration; None loads it from the file and the environment.
        server: A server of your own instead.
        middleware: Your own middleware, inside ours.
        stop_process: See RealtimeServe.

    Returns:
        The app; `app.extensions["realtime_serve"]` is its RealtimeServe.

    Raises:
        ConfigError: The configuration is wrong.
    """
    app = Flask("realtime_serve", static_folder=None)
    # Werkzeug would answer `//` in a path with a redirect to wherever the Host header says.
    app.url_map.merge_slashes = False
    app.config[DIRECT_STREAMS] = True  # nobody else's middleware expects to see their bodies
    answer_errors(app)
    serve = RealtimeServe(
        server, config=config, middleware=middleware, app=app, stop_process=stop_process
    )
    run_chain_for_unknown_paths(app, serve.chain)
    return app


def run(server: InferenceServer, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve an InferenceServer over HTTP from this process until SIGINT or SIGTERM.

    At SIGTERM what runs may go on for drain_timeout_s; SIGINT ends it at once.

    Uses gevent's own WSGI server and patches nothing. For production, prefer gunicorn,
    whose master survives a crash of the worker.

    Args:
        server: With models registered, or the configured one is loaded.
        host: Address to bind.
        port: Port to bind.

    Raises:
        OSError: The address cannot be bound.
    """
    from realtime_serve.api.pywsgi import serve_forever

    log_to_stderr()
    app = create_app(server=server, stop_process=partial(os.kill, os.getpid(), signal.SIGTERM))
    serve_forever(app, server, host, port)
    server.shutdown()
