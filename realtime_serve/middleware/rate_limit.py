"""A token bucket for each client.

A bucket refills at the configured rate and holds at most the burst; a request
takes one token or is refused with 429 and the time until the next one.
The table of clients is bounded: the client unseen for longest is forgotten
first, and by then its bucket has usually refilled.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from realtime_serve.errors import RateLimitedError
from realtime_serve.middleware.chain import Middleware, RequestContext
from realtime_serve.native import Lock

MAX_CLIENTS = 10_000
"""About 2 MB of buckets."""


class _Bucket:
    __slots__ = ("level", "refilled_at_s")

    def __init__(self, level: float, now_s: float) -> None:
        self.level = level
        self.refilled_at_s = now_s


class RateLimiter(Middleware):
    """Limits the requests of each client.

    Args:
        requests_per_minute: Rate at which a client's allowance refills.
        burst: Requests a client may make at once; None is one minute's worth.
        max_clients: Bound of the table.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        requests_per_minute: float,
        burst: int | None = None,
        *,
        max_clients: int = MAX_CLIENTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate_per_s = requests_per_minute / 60.0
        self._burst = burst if burst is not None else max(1, math.ceil(requests_per_minute))
        self._max_clients = max_clients
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._lock = Lock()

    def before_request(self, context: RequestContext) -> None:
        """Take one token from the client's bucket.

        Raises:
            RateLimitedError: The bucket is empty.
        """
        with self._lock:
            bucket = self._refilled(context.client_id)
            allowed = bucket.level >= 1.0
            if allowed:
                bucket.level -= 1.0
            level = bucket.level
        context.headers.update(self._headers(level))
        if not allowed:
            wait_s = (1.0 - level) / self._rate_per_s
            raise RateLimitedError(
                f"Rate limit reached: {self._burst} requests at once and "
                f"{self._rate_per_s * 60:g} a minute. Retry in {wait_s:.1f} s.",
                retry_after_s=wait_s,
            )

    def _refilled(self, client_id: str) -> _Bucket:
        now_s = self._clock()
        bucket = self._buckets.get(client_id)
        if bucket is None:
            bucket = self._buckets[client_id] = _Bucket(float(self._burst), now_s)
            if len(self._buckets) > self._max_clients:
                self._buckets.popitem(last=False)
            return bucket
        self._buckets.move_to_end(client_id)
        gained = (now_s - bucket.refilled_at_s) * self._rate_per_s
        bucket.level = min(float(self._burst), bucket.level + gained)
        bucket.refilled_at_s = now_s
        return bucket

    def _headers(self, level: float) -> dict[str, str]:
        """OpenAI's form; the reset is the time until the bucket is full again."""
        return {
            "x-ratelimit-limit-requests": str(self._burst),
            "x-ratelimit-remaining-requests": str(int(level)),
            "x-ratelimit-reset-requests": _duration((self._burst - level) / self._rate_per_s),
        }


def _duration(seconds: float) -> str:
    """As OpenAI writes it: 20ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s"
