"""FlushPace: how often a hub sends, so that sending does not take all of its time.

A pass over many streams costs about the same whether each of them has one token or two. Under load
a hub that sends each step at once has no time left for requests; so after a pass that took d it
waits for d, and tokens that come meanwhile share the next send. A hub with little to send never
waits: its next step comes later than that.
"""

from __future__ import annotations


class FlushPace:
    """When the next pass may begin. No clock inside: the time is passed in.

    Attributes:
        max_delay_s: Tokens wait no longer than this for those of the next step; 0 never lets
            them wait.
    """

    def __init__(self, max_delay_s: float = 0.0) -> None:
        self.max_delay_s = max_delay_s
        self._next_at_s = 0.0

    def wait_s(self, now_s: float) -> float:
        """Seconds until a pass may begin; not above 0 if it may do so now."""
        return self._next_at_s - now_s

    def note_pass(self, begun_at_s: float, ended_at_s: float, *, left_some: bool) -> None:
        """Note a pass.

        Args:
            begun_at_s: When it began.
            ended_at_s: When it ended.
            left_some: Whether a stream has more than one pass takes: its sends are as large as
                they get, and to wait would join nothing.
        """
        duration_s = 0.0 if left_some else ended_at_s - begun_at_s
        self._next_at_s = ended_at_s + min(duration_s, self.max_delay_s)
