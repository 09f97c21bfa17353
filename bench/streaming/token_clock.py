"""The text of every token that is measured here: the instant at which it was made.

A token is six digits, the ticks of the monotonic clock modulo NUM_TICKS, so that each instant is an
entry of a vocabulary of ordinary size. All processes of a machine read the same clock, and the
client learns from the text how late the token came. token_clock.h says the same in C.
"""

from __future__ import annotations

import time

TICK_NS = 20_000

NUM_TICKS = 250_000
"""The clock comes round after 5 s: more than a first token takes to arrive."""


def tick_now() -> int:
    """The tick of this instant."""
    return time.monotonic_ns() // TICK_NS % NUM_TICKS


def token_text(tick: int) -> str:
    """What a token says that was made in that tick."""
    return f"{tick:06d}"


MAX_BEHIND_S = 0.1
"""A model that was kept from its steps for longer has lost them: it makes up for no more."""


class Pace:
    """When the steps of a model end: one after the other on a grid, however late the last one was.

    Args:
        step_s: Length of a step; 0 for a model that takes no time.
    """

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._due_at_s = 0.0

    def begin(self) -> None:
        """Begin a step now: there was nothing to do before."""
        self._due_at_s = time.monotonic()

    def wait_s(self) -> float:
        """How long the present step takes from now; the next one begins at its end."""
        now_s = time.monotonic()
        self._due_at_s = max(self._due_at_s + self._step_s, now_s - MAX_BEHIND_S)
        return max(0.0, self._due_at_s - now_s)
