"""How a running level of a load test is doing, on standard error."""

from __future__ import annotations

import asyncio
import sys
import time

from measurement import Measurement

REDRAW_S = 0.5
PLAIN_LINE_S = 5.0
"""A log file gets a line this often, a terminal is redrawn every REDRAW_S."""


class Progress:
    """Says on stderr how a level is doing: one line redrawn on a terminal, lines elsewhere.

    Args:
        concurrency: Streams of the level.
        num_requests: How many there will be; None where the clock ends the level.
        visible: False only counts.
    """

    def __init__(self, concurrency: int, num_requests: int | None, *, visible: bool = True) -> None:
        self._visible = visible
        self._concurrency = concurrency
        self._of = "" if num_requests is None else f"/{num_requests}"
        self._on_terminal = sys.stderr.isatty()
        self._start_at_s = time.perf_counter()
        self.num_done = 0
        self.num_failed = 0
        self.num_tokens = 0

    def add_token(self) -> None:
        """Count an event that carried text."""
        self.num_tokens += 1

    def add_request(self, measurement: Measurement) -> None:
        """Count a finished request."""
        self.num_done += 1
        self.num_failed += measurement.failure is not None

    def show(self) -> None:
        """Print the state now."""
        if not self._visible:
            return
        elapsed_s = time.perf_counter() - self._start_at_s
        line = (
            f"concurrency {self._concurrency}: {self.num_done}{self._of} requests, "
            f"{self.num_failed} failed, {self.num_tokens} tokens, "
            f"{self.num_tokens / elapsed_s:.1f} tok/s, {elapsed_s:.0f} s"
        )
        start, end = ("\r\x1b[K", "") if self._on_terminal else ("", "\n")
        print(f"{start}{line}", end=end, file=sys.stderr, flush=True)

    async def keep_showing(self) -> None:
        """Show it again and again until cancelled."""
        while True:
            await asyncio.sleep(REDRAW_S if self._on_terminal else PLAIN_LINE_S)
            self.show()

    def finish(self) -> None:
        """Show the last state and leave the line."""
        self.show()
        if self._visible and self._on_terminal:
            print(file=sys.stderr)
