"""What signals do to a gunicorn worker: our part first, then its own.

By itself a worker that gets SIGTERM cuts what runs longer than its graceful timeout, and one
that gets SIGINT or SIGQUIT cuts everything, without a word to any client.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, cast

from flask import Flask

from realtime_serve.api.connections import ClientConnections
from realtime_serve.api.shutdown import Shutdown
from realtime_serve.errors import ConflictError
from realtime_serve.native import Lock, pause, spawn
from realtime_serve.server import InferenceServer
from realtime_serve.worker_processes import (
    is_gunicorn_worker,
    is_retiring,
    listening_addresses,
    stop_all_workers,
)

Handler = Callable[[int, FrameType | None], Any]

RETIRING_POLL_S = 0.25
"""How often a worker is asked whether it goes, where no handler of ours can hear of it."""


def stop_gunicorn() -> None:
    """Have gunicorn stop, with all its workers; elsewhere, do nothing.

    Raises:
        ConflictError: It does not listen to this process.
    """
    try:
        stop_all_workers()
    except PermissionError:
        raise ConflictError(
            "gunicorn's master runs as another user, whom its workers cannot stop. "
            "Send it SIGTERM instead."
        ) from None


class WorkerSignals:
    """Puts our handlers before those of a gunicorn worker, and does nothing anywhere else.

    A worker that goes because it has done its max_requests is told so by no signal; there the
    request that was the last one begins the shutdown.

    Args:
        app: What the worker serves; not serving yet.
        server: What is drained.
    """

    def __init__(self, app: Flask, server: InferenceServer) -> None:
        self._server = server
        self._connections = ClientConnections(app)
        self._lock = Lock()
        self._installed_in: int | None = None
        self._shutdown: Shutdown | None = None
        app.before_request(self._before_request)

    def install(self) -> None:
        """Install the handlers, once in each worker process. Any thread."""
        if self._installed_in == os.getpid():
            return
        with self._lock:
            is_first = self._installed_in != os.getpid()
            self._installed_in = os.getpid()
        if is_first and is_gunicorn_worker():
            self._install()

    def _before_request(self) -> None:
        self.install()  # under --preload there was no worker yet when the app was made
        if self._shutdown is not None and is_retiring():
            self._shutdown.begin()

    def _install(self) -> None:
        self._connections.know_listeners(listening_addresses())
        # Both are left to the worker, by signals that our handlers let pass. The second one is
        # there because it looks only once a second whether it may go, and could be killed first.
        signal_self = partial(os.kill, os.getpid())
        self._shutdown = Shutdown(
            self._server,
            self._connections,
            close_listener=partial(signal_self, signal.SIGTERM),
            end_process=partial(signal_self, signal.SIGQUIT),
        )
        if threading.get_native_id() == os.getpid():
            self._put_handlers(self._shutdown)
        else:
            spawn(partial(_begin_when_retiring, self._shutdown))

    def _put_handlers(self, shutdown: Shutdown) -> None:
        _put_before(signal.SIGTERM, partial(_stop, shutdown))
        for number in (signal.SIGINT, signal.SIGQUIT):
            _put_before(number, partial(_quit, self._server))


def _begin_when_retiring(shutdown: Shutdown) -> None:
    """Do what handlers would, where requests have threads of their own, under --preload.

    Only a main thread can install handlers, and that one never comes to us there.
    """
    while not is_retiring():
        pause(RETIRING_POLL_S)
    shutdown.begin()


def _stop(shutdown: Shutdown, own: Handler, number: int, frame: FrameType | None) -> None:
    shutdown.begin()
    if shutdown.may_close_listener:
        own(number, frame)


def _quit(server: InferenceServer, own: Handler, number: int, frame: FrameType | None) -> None:
    """End all streams with a reason, in the tenth of a second that the worker still lives."""
    server.drain(timeout_s=0.0)
    own(number, frame)


def _put_before(number: int, ours: Callable[[Handler, int, FrameType | None], None]) -> None:
    own = cast(Handler, signal.getsignal(number))
    signal.signal(number, partial(ours, own))
