"""How many prompt tokens a step may take while other sequences wait for their next token.

Every sequence in a step gets its token when the whole step is done, so a prompt that joins it
makes all others wait. How long depends on machine, model and context, and is learnt from the
durations of recent steps:

    duration = base(rows of decoding sequences) + cost per prompt token * prompt tokens

The base is learnt from steps without prompts; the cost per prompt token is what remains of
steps with them. Where the base is wrong, the error goes into the cost per token and the next
prediction at about the same size is right again. What is learnt is a high value of the last
few, not their mean: the target is to hold for nearly all steps. It is not the highest, so that
one step during which the system took the CPU away means nothing.

The target is a bound, not a wish. Where few prompts wait, they are spread over NUM_STEPS steps
that stay well below it: each of these costs the prompt the base once more, and spares all who
decode a wait of several bases. Where many wait, the steps are as long as the target allows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

MIN_PROMPT_TOKENS = 16
"""A step takes so many at least: prompts progress however slow the machine is."""

NUM_STEPS = 8
"""Over so many steps a prompt is spread, if the target does not ask for more."""

MIN_SPREAD_TOKENS = 64
"""Less is not worth a step of its own while the target leaves room."""

NUM_RECENT = 8
"""Enough to leave the highest out, few enough to follow a growing context."""

AIM = 0.9
"""The share of the target that is aimed at: steps of one size differ by some percent."""

MIN_SHARE = 0.25
"""A prompt token is taken to cost at least this share of a step's time per token. A base that
was learnt too high cannot make prompts look free, and no step is more than four times what was
seen to be good."""


class PrefillBudget:
    """Learns what steps cost, and bounds their prompts by a target. Has no clock of its own.

    Args:
        target_s: Longest duration of a step in which sequences decode.
    """

    def __init__(self, target_s: float) -> None:
        self._target_s = target_s
        self._with_prompts: deque[_Step] = deque(maxlen=NUM_RECENT)
        self._base_s: dict[int, deque[float]] = {}

    def max_prompt_tokens(self, num_decoding: int, num_waiting_tokens: int) -> int:
        """Most prompt tokens that a step should take.

        Args:
            num_decoding: Sequences that get their next token in it, at least one.
            num_waiting_tokens: Tokens of all prompts that are not done, those of them that
                are computed already included.

        Returns:
            A number that is expected to keep the step within the target and to spread the
            prompts; MIN_PROMPT_TOKENS if that is more or if nothing is known yet.
        """
        spread = max(MIN_SPREAD_TOKENS, math.ceil(num_waiting_tokens / NUM_STEPS))
        return min(spread, self._max_within_target(num_decoding))

    def _max_within_target(self, num_decoding: int) -> int:
        if not self._with_prompts:
            return MIN_PROMPT_TOKENS
        per_token_s = _high(map(self._per_prompt_token, self._with_prompts))
        left_s = self._target_s * AIM - self._base(num_decoding)
        return max(MIN_PROMPT_TOKENS, int(left_s / per_token_s))

    def observe(self, num_decoding: int, num_prompt_tokens: int, duration_s: float) -> None:
        """Learn from a step.

        Args:
            num_decoding: Rows of decoding sequences: one each, and one for each guess.
            num_prompt_tokens: Tokens of the others.
            duration_s: How long computing it took.
        """
        if duration_s <= 0:  # the clock is too coarse to tell
            return
        if num_prompt_tokens >= MIN_PROMPT_TOKENS:  # of fewer, the base hides the cost
            self._with_prompts.append(_Step(num_decoding, num_prompt_tokens, duration_s))
        elif num_prompt_tokens == 0:
            recent = self._base_s.setdefault(_size_class(num_decoding), deque(maxlen=NUM_RECENT))
            recent.append(duration_s)

    def _per_prompt_token(self, step: _Step) -> float:
        """What a prompt token cost in a step, by what is known of the base now."""
        rest_s = step.duration_s - self._base(step.num_decoding)
        least_s = MIN_SHARE * step.duration_s / (step.num_decoding + step.num_prompt_tokens)
        return max(rest_s / step.num_prompt_tokens, least_s)

    def _base(self, num_decoding: int) -> float:
        """The base of about so many sequences; of fewer if that is all that is known, or 0."""
        wanted = _size_class(num_decoding)
        known = [size for size in self._base_s if size <= wanted]
        return _high(self._base_s[max(known)]) if known else 0.0


class _Step(NamedTuple):
    num_decoding: int
    num_prompt_tokens: int
    duration_s: float


def _size_class(num_decoding: int) -> int:
    """Numbers within a factor of two behave alike."""
    return num_decoding.bit_length()


def _high(values: Iterable[float]) -> float:
    """The second highest value, or the only one."""
    return sorted(values)[-2:][0]
