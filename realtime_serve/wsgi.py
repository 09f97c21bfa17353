"""The app for WSGI servers: `gunicorn -k gevent realtime_serve.wsgi:app`.

Importing this module inside a gunicorn worker starts loading the model at once.
Anywhere else (gunicorn's master under --preload, another server's parent process)
a thread started now would be lost by the fork, so the first request starts it;
a readiness probe is one.
"""

from __future__ import annotations

import resource
import sys

from realtime_serve.api.gunicorn import WorkerSignals, stop_gunicorn
from realtime_serve.app import EXTENSION, create_app, log_to_stderr
from realtime_serve.worker_processes import is_gunicorn_worker

SWITCH_INTERVAL_S = 0.0005
"""How long the hub may wait for the GIL while the inference thread runs Python: with the
default 5 ms a token's wake-up can be 4 ms late. Set here only, where the process is ours."""

MAX_DESCRIPTORS = 65_536
"""A stream that goes directly has two; many systems allow 1024 unless a process asks for more,
and as many as there are to those that ask."""


def raise_descriptor_limit() -> None:
    """Let this process open as many descriptors as it may, up to MAX_DESCRIPTORS."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


sys.setswitchinterval(SWITCH_INTERVAL_S)
raise_descriptor_limit()
log_to_stderr()
app = create_app(stop_process=stop_gunicorn)
_extension = app.extensions[EXTENSION]
_signals = WorkerSignals(app, _extension.server)
if is_gunicorn_worker():
    _signals.install()
    _extension.start()
