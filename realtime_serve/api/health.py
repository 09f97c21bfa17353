"""Liveness, readiness and metrics, for orchestrators and dashboards.

Liveness says that the process answers at all, and is not at one step for good; readiness, that
models are loaded, and their steps end.
"""

from __future__ import annotations

from flask import Blueprint, Response

from realtime_serve.api.hooks import answer_errors
from realtime_serve.api.json_response import json_response
from realtime_serve.health import Health
from realtime_serve.middleware import MetricsCollector
from realtime_serve.middleware.metrics import CONTENT_TYPE
from realtime_serve.server import InferenceServer


def health_blueprint(server: InferenceServer, metrics: MetricsCollector, name: str) -> Blueprint:
    """Routes /health, /health/live, /health/ready and /metrics.

    Args:
        server: Whose health.
        metrics: Whose figures.
        name: Distinguishes the blueprints of several servers in one app.

    Returns:
        The blueprint.
    """
    blueprint = Blueprint(f"{name}_health", __name__)
    answer_errors(blueprint)

    @blueprint.get("/health/live")
    def live() -> Response:
        if server.health().live:
            return json_response({"status": "live"})
        return json_response({"status": "stuck"}, 503)

    @blueprint.get("/health/ready")
    def ready() -> Response:
        health = server.health()
        return json_response(_readiness(health), _status(health))

    @blueprint.get("/health")
    def health() -> Response:
        health = server.health()
        return json_response(_report(health), _status(health))

    @blueprint.get("/metrics")
    def scrape() -> Response:
        return Response(metrics.render(), content_type=CONTENT_TYPE)

    return blueprint


def _status(health: Health) -> int:
    return 200 if health.ready else 503


def _status_word(health: Health) -> str:
    if health.draining:
        return "draining"
    if health.stuck:
        return "stuck"
    return "ready" if health.ready else "not ready"


def _readiness(health: Health) -> dict[str, object]:
    """Whether requests are served, and the models that are why not."""
    return {
        "status": _status_word(health),
        "models": {name: state.value for name, state in health.models.items()},
        "failures": dict(health.failures),
    }


def _report(health: Health) -> dict[str, object]:
    return {
        **_readiness(health),
        "open_streams": health.open_streams,
        "running": health.running,
        "waiting": health.waiting,
    }
