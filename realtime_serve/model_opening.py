"""ModelOpening: the configured model is opened once in a process, and again where that failed.

Whoever needs the model starts it aside. Requests then wait until it is registered and has a
queue to wait in, here no more of them than there. Its files may appear at any time, so what has
failed is tried again; but not for each request or probe that comes, for to read them and to fail
may take long.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from realtime_serve.errors import (
    DeadlineExceededError,
    NotReadyError,
    OverloadedError,
    ServeError,
)
from realtime_serve.native import Lock, Parker, new_parker
from realtime_serve.public_reason import public_reason, without_directories
from realtime_serve.server import InferenceServer

logger = logging.getLogger("realtime_serve")

OPENING_RETRY_S = 2.0
"""Opening the default model takes about a second."""

REOPEN_AFTER_S = 5.0
"""After a failure: seldom enough to cost nothing, and often enough for whoever puts it right."""


class _Failure(NamedTuple):
    """The last attempt: why it failed, as anybody may read, and when another one may follow."""

    reason: str
    reopen_at_s: float


class ModelOpening:
    """Opens the configured model of a server, unless models are registered already.

    Any thread may call any method. It starts no thread before it is asked to, so that it may be
    made before a fork.

    Args:
        server: Where the model is registered.
        clock: Seconds that only grow.
    """

    def __init__(
        self, server: InferenceServer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._server = server
        self._clock = clock
        self._lock = Lock()
        self._claimed_by: int | None = None
        self._failure: _Failure | None = None
        self._waiting: dict[int, Parker] = {}

    def start(self) -> None:
        """Open the model and start loading it, however lately that has failed.

        Raises:
            ServeError: The model's files cannot be used.
        """
        if self._claim(math.inf):
            self._register()

    def start_aside(self) -> None:
        """As `start`, in a thread or greenlet of its own, and not soon after a failure."""
        if not self._claim(self._clock()):
            return
        try:
            threading.Thread(target=self._register_and_log, daemon=True).start()
        except RuntimeError as error:  # this process may have no more threads
            self._note_failure(error)
            self._wake()
            logger.exception("The model cannot be served")

    def require(self, deadline_at_s: float | None = None) -> None:
        """Start aside if that is to be done, and wait until a model is registered.

        Args:
            deadline_at_s: When to give up, on the monotonic clock; None waits for the outcome.

        Raises:
            NotReadyError: It could not be opened; the message says why.
            OverloadedError: Too many wait for it.
            DeadlineExceededError: The deadline passed first.
        """
        self.start_aside()
        if self._is_opening():
            self._require_room()
            self._wait(deadline_at_s)
        if len(self._server.registry) == 0:
            raise self._not_ready()

    def _is_opening(self) -> bool:
        return self._claimed_by == os.getpid() and len(self._server.registry) == 0

    def _require_room(self) -> None:
        if len(self._waiting) >= self._server.config.max_queue_depth:
            raise OverloadedError(
                "The server is overloaded: the model's files are being opened, and "
                f"{len(self._waiting)} requests wait for that. Retry later.",
                retry_after_s=OPENING_RETRY_S,
            )

    def _wait(self, deadline_at_s: float | None) -> None:
        parker = new_parker()
        self._waiting[id(parker)] = parker
        try:
            while self._is_opening():
                remaining_s = None if deadline_at_s is None else deadline_at_s - time.monotonic()
                if remaining_s is not None and remaining_s <= 0:
                    raise DeadlineExceededError("The deadline passed while the model was opened.")
                parker.park(remaining_s)
        finally:
            del self._waiting[id(parker)]

    def _not_ready(self) -> NotReadyError:
        failure = self._failure
        assert failure is not None, "what is neither opened nor being opened has failed before"
        return NotReadyError(
            f"The model cannot be served: {failure.reason} Retry later.",
            retry_after_s=max(OPENING_RETRY_S, failure.reopen_at_s - self._clock()),
        )

    def _claim(self, now_s: float) -> bool:
        """True for the one caller in this process that has to register the model.

        Args:
            now_s: When; of those who come before another attempt may follow, nobody has to.
        """
        if self._claimed_by == os.getpid() or len(self._server.registry) > 0:
            return False
        with self._lock:  # whoever gives the claim back has noted the failure before
            is_free = self._claimed_by != os.getpid()
            claimed = is_free and (self._failure is None or now_s >= self._failure.reopen_at_s)
            if claimed:
                self._claimed_by = os.getpid()
        return claimed

    def _register(self) -> None:
        try:
            self._server.register_model(wait=False)
        except Exception as error:
            self._note_failure(error)
            raise
        except BaseException:  # whoever opened it was ended, not the attempt
            self._give_back(_Failure("Opening it was interrupted.", self._clock()))
            raise
        finally:
            self._wake()

    def _note_failure(self, error: Exception) -> None:
        """Leave the next attempt to whoever comes when it is due."""
        reason = without_directories(public_reason(error), self._server.config.model)
        self._give_back(_Failure(reason, self._clock() + REOPEN_AFTER_S))

    def _give_back(self, failure: _Failure) -> None:
        self._failure = failure
        self._claimed_by = None

    def _register_and_log(self) -> None:
        try:
            self._register()
        except ServeError as error:
            logger.error("The model cannot be served: %s", error.message)
        except Exception:
            logger.exception("The model cannot be served")

    def _wake(self) -> None:
        for parker in list(self._waiting.values()):  # atomic: others come and go meanwhile
            parker.waker.add(parker)
            parker.waker.flush()
