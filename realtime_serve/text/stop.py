"""Stop strings in a stream, found wherever the stream happens to be cut.

The one idea: each stop string is followed by a Knuth-Morris-Pratt automaton, whose state
is how much of that string the text so far ends with. The largest state is exactly what
has to be held back; the rest can be delivered, and no character is looked at twice.

Which match wins: the one that is complete first, since generation ends there; of several
that end at the same character, the longest. Both are facts about the text alone, so the
outcome does not depend on how the text was cut into pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class StopResult(NamedTuple):
    """What one piece of text led to.

    Attributes:
        text: Text that is safe to deliver now.
        matched: The stop string that was found, or None. From then on text is dropped.
    """

    text: str
    matched: str | None


class _StopAutomaton:
    """Follows one stop string; `num_matched` characters of it end the text so far."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.num_matched = 0
        self._borders = _borders(stop)

    def advance(self, char: str) -> bool:
        """Take one character; True when it completes the stop string."""
        matched = self.num_matched
        while matched and self.stop[matched] != char:
            matched = self._borders[matched - 1]
        if self.stop[matched] == char:
            matched += 1
        self.num_matched = matched
        return matched == len(self.stop)


def _borders(stop: str) -> list[int]:
    """Per prefix of `stop`, the length of its longest proper prefix that is its suffix too."""
    borders = [0]
    for char in stop[1:]:
        length = borders[-1]
        while length and stop[length] != char:
            length = borders[length - 1]
        borders.append(length + (stop[length] == char))
    return borders


class StopMatcher:
    """Cuts a stream of text at the first stop string in it.

    One instance follows one choice of one stream; it is not thread-safe.

    Args:
        stops: Non-empty stop strings; none is allowed and lets everything pass.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._automata = [_StopAutomaton(stop) for stop in stops]
        self._first_chars = frozenset(stop[0] for stop in stops)
        self._held = ""
        self._matched: str | None = None

    def feed(self, text: str) -> StopResult:
        """Take the next piece of text.

        Args:
            text: Any piece, empty ones included.

        Returns:
            The text that can be delivered, and the stop string once one is complete.
            After a match everything is dropped and the match is repeated.
        """
        if self._matched is not None:
            return StopResult("", self._matched)
        if not self._held and self._first_chars.isdisjoint(text):
            return StopResult(text, None)
        return self._scan(text)

    def finish(self) -> str:
        """End the stream.

        Returns:
            The text that was held back because a stop string could have begun in it.
        """
        held, self._held = self._held, ""
        return held

    def _scan(self, text: str) -> StopResult:
        for end, char in enumerate(text, start=1):
            complete = [automaton.stop for automaton in self._automata if automaton.advance(char)]
            if complete:
                return self._cut(self._held + text[:end], max(complete, key=len))
        return self._hold_back(self._held + text)

    def _cut(self, text: str, stop: str) -> StopResult:
        self._held, self._matched = "", stop
        return StopResult(text[: -len(stop)], stop)

    def _hold_back(self, text: str) -> StopResult:
        num_held = max(automaton.num_matched for automaton in self._automata)
        safe = len(text) - num_held
        self._held = text[safe:]
        return StopResult(text[:safe], None)
