"""What one step computes, as values: the scheduler makes it, the engine carries it out."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from typing import NamedTuple

from realtime_serve.engine.allotment import BlockCopy
from realtime_serve.engine.sequence import Sequence


class ScheduledSequence(NamedTuple):
    """What one sequence computes in a step.

    Args:
        sequence: Which one.
        num_tokens: How many of its pending tokens.
        wants_logits: Whether they are all of them, so that the next token can be chosen.
        draft_token_ids: Guesses of what comes after them, to be verified; if there are some,
            its logits are wanted.
    """

    sequence: Sequence
    num_tokens: int
    wants_logits: bool
    draft_token_ids: Tokens[int] = ()

    @property
    def num_rows(self) -> int:
        """Tokens to compute, guesses included."""
        return self.num_tokens + len(self.draft_token_ids)

    @property
    def num_samples(self) -> int:
        """Tokens to choose: after the last of its own tokens and after each guess."""
        return self.wants_logits + len(self.draft_token_ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerOutput:
    """One step's work.

    Args:
        scheduled: What to compute.
        num_decoding: How many of them were one token behind.
        num_draft_tokens: Guesses for these.
        num_prompt_tokens: Tokens of the others.
        block_copies: Blocks to copy before computing it, one after the other.
        started: Sequences that are scheduled for the first time.
        dropped: Sequences that have finished because nobody wants them any more.
        next_lapse_at_s: When the next one is dropped because its reader does nothing; None if
            none may be.
    """

    scheduled: list[ScheduledSequence]
    num_decoding: int
    num_draft_tokens: int
    num_prompt_tokens: int
    block_copies: list[BlockCopy]
    started: list[Sequence]
    dropped: list[Sequence]
    next_lapse_at_s: float | None
