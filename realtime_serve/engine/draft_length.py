"""How many tokens to guess for one sequence, from how the last guesses fared.

A guess costs a row of a step, an accepted one saves a step. The balance of the two is kept in
rows. While it holds, guesses become longer when all were right and shorter when most were not.
When it is used up, guessing pauses, longer each time, and then tries again with little to lose.
So a text that cannot be guessed costs a fixed sum and hardly anything per token after that.
"""

from __future__ import annotations

ROWS_PER_STEP = 8
"""Rows of guesses that cost about as much as a step. Measured: eight more rows beside one
lengthen a step by a fifth to a half, depending on dtype and CPU. The rest pays for looking up."""

FIRST_LENGTH = 2
"""Short guesses are the cheapest way to find out."""

MAX_BALANCE = 2 * ROWS_PER_STEP
"""Also the first one. What was gained long ago does not pay for failing now."""

RETRY_BALANCE = 4
"""Three short guesses that are all wrong use it up."""

FIRST_PAUSE_STEPS = 8

MAX_PAUSE_STEPS = 256
"""Trying again then costs less than half a percent."""


class DraftLength:
    """Grows with success and backs off without it. Knows neither time nor chance.

    Args:
        max_tokens: Most tokens to guess at once, at least one.
    """

    __slots__ = ("_balance", "_length", "_max_tokens", "_num_pausing", "_pause_steps")

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._length = min(FIRST_LENGTH, max_tokens)
        self._balance = MAX_BALANCE
        self._num_pausing = 0
        self._pause_steps = FIRST_PAUSE_STEPS

    def next_step(self) -> int:
        """Begin a step.

        Returns:
            How many tokens to guess in it; 0 while guessing pauses.
        """
        if self._num_pausing > 0:
            self._num_pausing -= 1
            return 0
        return self._length

    def observe(self, num_draft_tokens: int, num_accepted_tokens: int) -> None:
        """Learn from a step's guesses.

        Args:
            num_draft_tokens: How many there were, at least one.
            num_accepted_tokens: How many of them were right.
        """
        gain = ROWS_PER_STEP * num_accepted_tokens - num_draft_tokens
        self._balance = min(self._balance + gain, MAX_BALANCE)
        if num_accepted_tokens == num_draft_tokens:
            self._length = min(2 * self._length, self._max_tokens)
        elif 2 * num_accepted_tokens < num_draft_tokens:
            self._length = max(self._length // 2, min(FIRST_LENGTH, self._max_tokens))
        if self._balance < 0:
            self._pause()
        elif self._balance == MAX_BALANCE:
            self._pause_steps = FIRST_PAUSE_STEPS

    def _pause(self) -> None:
        self._num_pausing = self._pause_steps
        self._pause_steps = min(2 * self._pause_steps, MAX_PAUSE_STEPS)
        self._length = min(FIRST_LENGTH, self._max_tokens)
        self._balance = RETRY_BALANCE
