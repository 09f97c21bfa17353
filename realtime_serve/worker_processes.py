"""What gunicorn has made of this process: a worker, and one of how many.

Known by the owner of a signal handler: a worker installs its own before it imports the app, which
may replace some of them.
"""

from __future__ import annotations

import os
import signal
from typing import Any

_SIGNALS = (signal.SIGUSR1, signal.SIGABRT, signal.SIGWINCH)
"""Those that a worker handles itself. Not SIGTERM: we wrap that one (api/gunicorn.py)."""


def is_gunicorn_worker() -> bool:
    """Whether this is one of gunicorn's workers. Any thread."""
    return _gunicorn_worker() is not None


def num_worker_processes() -> int:
    """How many processes share this machine's memory as this one does. Any thread.

    Returns:
        The workers that gunicorn was told to start, whatever TTIN and TTOU have made of that;
        1 in any other process, whose siblings, if it has some, cannot be known.
    """
    worker = _gunicorn_worker()
    return 1 if worker is None else int(worker.cfg.workers)


def graceful_timeout_s() -> float | None:
    """How long gunicorn lets this worker go on after SIGTERM; None in any other process."""
    worker = _gunicorn_worker()
    return None if worker is None else float(worker.cfg.graceful_timeout)


def is_retiring() -> bool:
    """Whether gunicorn has told this worker to go, or it has done its max_requests. Any thread."""
    worker = _gunicorn_worker()
    return worker is not None and not worker.alive


def listening_addresses() -> list[Any]:
    """The addresses, as of getsockname(), on which gunicorn has this worker accept."""
    worker = _gunicorn_worker()
    return [] if worker is None else [sock.getsockname() for sock in worker.sockets]


def stop_all_workers() -> None:
    """Have gunicorn stop with all its workers, as SIGTERM does; elsewhere, nothing. Any thread.

    Raises:
        PermissionError: gunicorn's master runs as another user.
    """
    worker = _gunicorn_worker()
    if worker is not None:
        os.kill(worker.ppid, signal.SIGTERM)


def is_called_by_gunicorn(app: object) -> bool:
    """Whether gunicorn calls this WSGI app itself, with nothing of anybody else's around it."""
    worker = _gunicorn_worker()
    return worker is not None and getattr(worker, "wsgi", None) is app


def _gunicorn_worker() -> Any | None:
    owners = (getattr(signal.getsignal(number), "__self__", None) for number in _SIGNALS)
    workers = (each for each in owners if hasattr(each, "cfg") and hasattr(each, "load_wsgi"))
    return next(workers, None)
