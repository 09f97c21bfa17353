"""The routes below /admin, for whoever has the admin key. Without one configured, none exist."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from flask import Blueprint, Response, request
from werkzeug.exceptions import MethodNotAllowed

from realtime_serve.api.json_response import json_response
from realtime_serve.api.openai import ALL_METHODS
from realtime_serve.errors import AuthenticationError, InvalidRequestError
from realtime_serve.server import InferenceServer


def admin_blueprint(
    server: InferenceServer, stop_process: Callable[[], None] | None, name: str
) -> Blueprint:
    """Routes below /admin.

    Args:
        server: What they act on; its configuration has the key.
        stop_process: Ends the process in good order, or raises ConflictError; None if that is
            up to somebody else.
        name: Distinguishes the blueprints of several servers in one app.

    Returns:
        The blueprint; the middleware chain is not part of it yet.
    """
    blueprint = Blueprint(f"{name}_admin", __name__)
    key = server.config.admin_api_key
    assert key is not None, "without a key there are no admin routes"

    @blueprint.route("/admin/drain", methods=ALL_METHODS, provide_automatic_options=False)
    def drain() -> Response:
        require_key(key)  # also before telling which methods there are
        if request.method != "POST":
            raise MethodNotAllowed(valid_methods=["POST"])
        _require_no_body()
        if stop_process is not None:
            stop_process()
        server.drain()
        return json_response({"status": "draining"}, 202)

    return blueprint


def require_key(key: str) -> None:
    """Refuse the running request unless it has the key.

    Digests are compared, which are all of one length, in a time that depends on no byte.

    Raises:
        AuthenticationError: It has not.
    """
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    is_same = hmac.compare_digest(_digest(given.strip()), _digest(key))
    if scheme.lower() != "bearer" or not is_same:
        raise AuthenticationError("Send the admin key in the header Authorization: Bearer KEY.")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _require_no_body() -> None:
    if request.content_length or "Transfer-Encoding" in request.headers:
        raise InvalidRequestError("This route takes no body.")
