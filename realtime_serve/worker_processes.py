"""What gunicorn has made of this process: a worker, and one of how many.

Known by the owner of a signal handler: a worker installs its own before it imports the app.
"""

from __future__ import annotations

import signal
from typing import Any


def is_gunicorn_worker() -> bool:
    """Whether this is one of gunicorn's workers. Any thread."""
    return _gunicorn_worker() is not None


def num_worker_processes() -> int:
    """How many processes share this machine's memory as this one does. Any thread.

    Returns:
        The workers that gunicorn was told to start; 1 in any other process, whose siblings, if
        it has some, cannot be known.
    """
    worker = _gunicorn_worker()
    return 1 if worker is None else int(worker.cfg.workers)


def _gunicorn_worker() -> Any | None:
    # Not SIGTERM's: we wrap that one (api/idle.py).
    owner = getattr(signal.getsignal(signal.SIGUSR1), "__self__", None)
    return owner if hasattr(owner, "cfg") and hasattr(owner, "load_wsgi") else None
