"""The product's own app, with one more route: gunicorn -k gevent soak_app:app.

GET /soak/greenlets says how many greenlets the worker has, which is nobody's business elsewhere.
"""

from __future__ import annotations

import gc

from flask import Response, jsonify
from gevent import Greenlet

from realtime_serve.wsgi import app as app


@app.get("/soak/greenlets")
def greenlets() -> Response:
    """How many there are, this request's own included."""
    return jsonify(sum(issubclass(type(each), Greenlet) for each in gc.get_objects()))
