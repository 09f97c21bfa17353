"""This server with a model that costs nothing: gunicorn -k gevent streaming.own_app:app.

Everything but the engine is the product's: the routes, the checks, the middleware and the log, too.
As realtime_serve/wsgi.py, it starts its model when a gunicorn worker imports it.
"""

from __future__ import annotations

import sys

from realtime_serve import create_app
from realtime_serve.api.gunicorn import WorkerSignals
from realtime_serve.app import EXTENSION, log_to_stderr
from streaming.clock_server import clock_server

SWITCH_INTERVAL_S = 0.0005
"""As wsgi.py sets it in a server."""


sys.setswitchinterval(SWITCH_INTERVAL_S)
log_to_stderr()
server = clock_server()
app = create_app(server=server)
signals = WorkerSignals(app, server)
signals.install()
app.extensions[EXTENSION].start()
