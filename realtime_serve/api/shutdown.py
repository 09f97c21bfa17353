"""From "stop" to the last byte, the same under each WSGI server.

    begin --- drain_delay_s --- the listener closes --- the deadline --- all connections are cut
    not ready, all is served    idle ones are closed    streams end      the process may go

Until the listener closes, load balancers have time to see that the server is not ready. After
the deadline only what a client holds up is left: an answer that it does not read, a body that it
does not send.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from realtime_serve.api.connections import ClientConnections
from realtime_serve.drain import drain_timeout_s
from realtime_serve.native import Lock, pause, spawn
from realtime_serve.server import InferenceServer

logger = logging.getLogger("realtime_serve")

PATIENCE_S = 1.0
"""How long an idle connection stays at least: a request may be on its way."""

CUT_AFTER_S = 0.25
"""What the events and answers that end the last streams have until they are written."""


class Shutdown:
    """The end of one serving process; begins once.

    Args:
        server: Is drained.
        connections: Are closed while they are idle, and cut in the end.
        close_listener: Has the WSGI server accept no more; called once, aside.
        end_process: Called likewise once all is cut, for a process that would not notice soon.
    """

    def __init__(
        self,
        server: InferenceServer,
        connections: ClientConnections,
        close_listener: Callable[[], None],
        end_process: Callable[[], None] = lambda: None,
    ) -> None:
        self._server = server
        self._connections = connections
        self._close_listener = close_listener
        self._end_process = end_process
        self._once = Lock()
        self._begun_at_s: float | None = None
        self.timeout_s = drain_timeout_s(server.config.drain_timeout_s)
        self.delay_s = min(server.config.drain_delay_s, self.timeout_s)

    @property
    def may_close_listener(self) -> bool:
        """Whether drain_delay_s has passed since it began."""
        begun_at_s = self._begun_at_s
        return begun_at_s is not None and time.monotonic() >= begun_at_s + self.delay_s

    def begin(self) -> None:
        """Take the first step; the others follow by themselves.

        Any thread may call, and so may a signal handler.
        """
        if self._once.try_acquire():  # and never released
            self._begun_at_s = time.monotonic()
            self._server.drain(self.timeout_s)
            spawn(self._go_on)

    def _go_on(self) -> None:
        try:
            pause(self.delay_s)
            self._close_listener()
            self._close_idle_until_deadline()
            pause(CUT_AFTER_S)
            self._connections.shut_all()
            self._end_process()
        except Exception:
            logger.exception("The server could not stop in good order")

    def _close_idle_until_deadline(self) -> None:
        assert self._begun_at_s is not None
        deadline_at_s = self._begun_at_s + self.timeout_s
        while (remaining_s := deadline_at_s - time.monotonic()) > 0:
            self._connections.shut_idle()
            pause(min(PATIENCE_S, remaining_s))
