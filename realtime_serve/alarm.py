"""Alarm: a function that is called after a while, unless what was to be done is done by then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from realtime_serve.native import running_hub


class Alarm:
    """Calls a function once, so long after the `with` block began, unless it has ended before.

    In a hub that costs about two microseconds; where there is none, a thread.

    Args:
        seconds: How long.
        function: Called in the hub or another thread; may not wait.

    Attributes:
        rang: Whether it was called.
    """

    def __init__(self, seconds: float, function: Callable[[], object]) -> None:
        self.rang = False
        self._function = function
        hub = running_hub()
        self._timer: Any = None if hub is None else hub.loop.timer(seconds)
        self._thread = threading.Timer(seconds, self._ring) if hub is None else None

    def __enter__(self) -> Self:
        """Set it."""
        if self._thread is None:
            self._timer.start(self._ring)
        else:
            self._thread.daemon = True
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop it."""
        if self._thread is None:
            self._timer.stop()
            self._timer.close()
        else:
            self._thread.cancel()

    def _ring(self) -> None:
        self.rang = True
        self._function()
