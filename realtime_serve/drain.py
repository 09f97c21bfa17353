"""Drain: how all that a server does comes to its end, once, and in good order.

    serving --- begin ---> draining --- the deadline ---> over

A server that drains is no longer ready, so that load balancers turn away from it, but it serves
whoever still comes: when nobody can come any more is up to whoever closes the listener. What
runs may go on until the deadline. What is open then ends with an error that says why, and all
that comes later is refused.
"""

from __future__ import annotations

import logging
import time
from functools import partial

from realtime_serve.errors import DrainingError
from realtime_serve.native import pause, spawn
from realtime_serve.registry import ModelRegistry
from realtime_serve.stream import TokenStream
from realtime_serve.stream_manager import StreamManager
from realtime_serve.worker_processes import graceful_timeout_s

logger = logging.getLogger("realtime_serve")

EXIT_S = 1.5
"""After it a worker of gunicorn has to write the last events, to join the inference threads and
to exit before gunicorn's patience ends and kills it."""


def drain_timeout_s(configured_s: float) -> float:
    """How long what runs may go on: gunicorn's graceful timeout, less what the exit takes.

    Args:
        configured_s: What counts where there is no gunicorn.
    """
    graceful_s = graceful_timeout_s()
    return configured_s if graceful_s is None else max(0.0, graceful_s - EXIT_S)


class Drain:
    """The end of one server. Any thread may call, and so may a signal handler: it has no lock.

    Args:
        registry: The models, which take no requests once it is over.
        streams: The streams, which are ended then.

    Attributes:
        over: Whether the deadline has passed.
    """

    def __init__(self, registry: ModelRegistry, streams: StreamManager) -> None:
        self._registry = registry
        self._streams = streams
        self._deadline_at_s: float | None = None
        self.over = False

    @property
    def begun(self) -> bool:
        """Whether the server drains or has drained."""
        return self._deadline_at_s is not None

    def begin(self, timeout_s: float) -> None:
        """Drain. Where that has begun already, the earlier deadline counts.

        Args:
            timeout_s: Until the deadline; 0 ends all that is open as soon as possible.
        """
        deadline_at_s = time.monotonic() + timeout_s
        if self._deadline_at_s is None or deadline_at_s < self._deadline_at_s:
            self._deadline_at_s = deadline_at_s
            spawn(partial(self._end_at, deadline_at_s))

    def cut_if_over(self, stream: TokenStream) -> None:
        """End a stream that was opened while all the others were being ended."""
        if self.over:
            stream.cancel(_about_to_end())

    def _end_at(self, deadline_at_s: float) -> None:
        remaining_s = max(0.0, deadline_at_s - time.monotonic())
        logger.info("Draining: what runs may go on for %.1f s", remaining_s)
        pause(remaining_s)
        if self.over:
            return
        self.over = True
        for model in self._registry.all():
            model.drain()
        streams = self._streams.all()
        for stream in streams:
            stream.cancel(_about_to_end())
        if streams:
            logger.warning("The time to drain is over: %d streams were cut", len(streams))


def _about_to_end() -> DrainingError:
    """A new one each time: raising an error adds to its traceback."""
    return DrainingError("The server is shutting down. Retry on another one.")
