"""Admission: which waiting requests enter the engine, and when.

One long queue per model. The engine takes only as many requests as it has free
seats, so a late HIGH request overtakes everything that is not seated. Within a
class the tag computed at put orders them; today it is the arrival number.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from realtime_serve._batch_queue import BatchQueue, QueueClosed, QueueFull
from realtime_serve.errors import NotReadyError, OverloadedError
from realtime_serve.types import BatchConfig, Loading, Queued, RequestPriority

SMOOTHING = 0.1
"""Weight of the newest interval in the service rate: about the last ten requests."""

LONGEST_RETRY_S = 60.0


class BatchScheduler:
    """The waiting queue of one engine.

    `put`, `remove` and the counters may be called by any thread; `take` and
    `note_finished` belong to the inference thread.

    Args:
        config: `max_queue_depth` bounds the queue.
        clock: Monotonic seconds.
    """

    def __init__(self, config: BatchConfig, clock: Callable[[], float]) -> None:
        self._queue = BatchQueue(config.max_queue_depth)
        self._tags = itertools.count()
        self._clock = clock
        self._is_served = False  # not before the engine has loaded
        self._service_interval_s: float | None = None
        self._last_finish_at_s: float | None = None

    def __len__(self) -> int:
        """Requests waiting."""
        return len(self._queue)

    def put(self, item: Any, priority: RequestPriority) -> int:
        """Queue a request.

        Args:
            item: What `take` will hand out.
            priority: Its class.

        Returns:
            A handle for `remove`.

        Raises:
            OverloadedError: The queue is full; `retry_after_s` estimates when it is not.
            NotReadyError: The queue is closed.
        """
        try:
            return self._queue.put(item, int(priority), next(self._tags))
        except QueueFull:
            raise OverloadedError(
                f"The server is overloaded: {self._queue.capacity} requests are waiting. "
                "Retry later.",
                retry_after_s=self.expected_wait_s(),
            ) from None
        except QueueClosed:
            raise NotReadyError("The model is shutting down. Retry later.") from None

    def take(self, max_items: int, timeout_s: float | None) -> list[Any]:
        """Take the best waiting requests, waiting without the GIL if there are none.

        Args:
            max_items: Free seats; 0 waits for `kick` or `close` alone.
            timeout_s: Longest wait; 0 does not wait, None has no limit.

        Returns:
            At most `max_items` items, best first; empty after a timeout, kick or close.
        """
        self._is_served = True
        return self._queue.take(max_items, timeout_s)

    def remove(self, handle: int) -> bool:
        """Take one request out before it is seated; False if it was seated already."""
        return self._queue.remove(handle) is not None

    def progress(self, handle: int) -> Loading | Queued | None:
        """What a request waits for; None once it is seated. O(n), to be asked now and then."""
        if not self._is_served:
            return Loading()
        num_ahead = self._queue.position(handle)
        return None if num_ahead is None else Queued(position=num_ahead + 1)

    def kick(self) -> None:
        """Wake the inference thread: a ring has room again, or a stream was cancelled."""
        self._queue.kick()

    def close(self) -> list[Any]:
        """Refuse new requests, wake the inference thread, and return those still waiting."""
        return self._queue.close()

    def note_finished(self) -> None:
        """Count one finished request into the service rate.

        Only while others wait: between requests of an idle server, the interval is the
        clients' rate and not ours.
        """
        now_s = self._clock()
        if len(self._queue) == 0:
            self._last_finish_at_s = None
            return
        if self._last_finish_at_s is not None:
            self._smooth(now_s - self._last_finish_at_s)
        self._last_finish_at_s = now_s

    def _smooth(self, interval_s: float) -> None:
        previous_s = self._service_interval_s
        if previous_s is None:
            self._service_interval_s = interval_s
        else:
            self._service_interval_s = previous_s + SMOOTHING * (interval_s - previous_s)

    def expected_wait_s(self) -> float:
        """Seconds until a request put now would be seated, from depth and service rate."""
        wait_s = len(self._queue) * (self._service_interval_s or 0.0)
        return min(max(wait_s, 1.0), LONGEST_RETRY_S)
