"""Speculative decoding: several tokens of a sequence in one step, the later ones guessed.

A step takes hardly longer for a few rows more: it reads all weights anyway. So a decoding
sequence may bring guesses of what comes after its last token, each a row of its own:

    rows       last token    guess 1     guess 2     guess 3
    samples    token 1       token 2     token 3     token 4
    accepted   always        if token 1  if token 2  if token 3
                             is guess 1  is guess 2  is guess 3

Each row is sampled as if its sequence were alone, with the random number of its own place in
the output. A sample therefore is the very token that a later step would have chosen, if all
guesses before it were right. The first that differs from its guess is still right itself, and
the last of the run. Output is the same with and without guesses, greedy or sampled.

What was computed for wrong guesses lies behind the sequence's computed tokens, where nobody
looks, and is overwritten.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Tokens
from typing import NamedTuple

from realtime_serve.engine.draft_length import DraftLength
from realtime_serve.engine.prompt_lookup import PromptLookup
from realtime_serve.engine.runner import SampledToken
from realtime_serve.engine.sequence import Sequence
from realtime_serve.types import MAX_SPECULATIVE_TOKENS, BatchConfig

MAX_STEP_ROWS = MAX_SPECULATIVE_TOKENS + 1
"""Rows of a step with guesses. Up to 16 are nearly free: they are one tile, and the weights
take longer to read than to multiply. Measured: 16 rows take 1.0 to 1.3 times as long as one,
17 take 2 to 2.5 times as long."""

MAX_SEQUENCES = 4
"""Of more that decode, none has room for three guesses, and their rows are of more use."""


def accepted_run(
    draft_token_ids: Tokens[int], samples: Tokens[SampledToken | None]
) -> list[SampledToken]:
    """The tokens that one sequence gets out of a step.

    Args:
        draft_token_ids: The guesses.
        samples: What was chosen after the last token and after each guess.

    Returns:
        The samples up to the first that differs from its guess, that one included. They end
        before one that could not be chosen: it may be the fault of a wrong guess, and if not,
        it will turn up in the next step again. Empty only if that is the first.
    """
    run = []
    for i, sample in enumerate(samples):
        if sample is None:
            break
        run.append(sample)
        if i == len(draft_token_ids) or sample.token_id != draft_token_ids[i]:
            break
    return run


def max_samples(batch: BatchConfig) -> int:
    """Most tokens that a step chooses: one a seat, or those of a step with guesses."""
    return max(batch.max_num_seqs, min(batch.max_batch_tokens, MAX_STEP_ROWS))


class Speculation:
    """Makes the guesses of all sequences of one engine.

    Args:
        max_tokens: Most guesses for one sequence in a step, at least one.

    Attributes:
        num_draft_tokens: Guesses so far.
        num_accepted_tokens: How many of them were right.
    """

    def __init__(self, max_tokens: int) -> None:
        self.num_draft_tokens = 0
        self.num_accepted_tokens = 0
        self._max_tokens = max_tokens
        self._drafters: dict[Sequence, _Drafter] = {}

    def max_tokens_each(self, num_decoding: int, max_batch_tokens: int) -> int:
        """How many guesses each sequence of a step may have; 0 if there are too many.

        Args:
            num_decoding: Sequences in the step.
            max_batch_tokens: Token budget of the step.
        """
        if not 1 <= num_decoding <= MAX_SEQUENCES:
            return 0
        return min(min(MAX_STEP_ROWS, max_batch_tokens) // num_decoding - 1, self._max_tokens)

    def propose(self, sequence: Sequence, max_tokens: int) -> array[int]:
        """Guess a decoding sequence's next tokens. Once a step.

        Args:
            sequence: One whose guesses will be verified in this step.
            max_tokens: Most guesses, at least one.

        Returns:
            The guesses; empty if there is nothing to go by or guessing does not pay.
        """
        drafter = self._drafters.get(sequence)
        if drafter is None:
            drafter = _Drafter(PromptLookup(), DraftLength(self._max_tokens))
            self._drafters[sequence] = drafter
        num_tokens = min(drafter.length.next_step(), max_tokens)
        if num_tokens == 0:
            return array("i")
        return drafter.lookup.propose(sequence.token_ids, num_tokens)

    def observe(self, sequence: Sequence, num_draft_tokens: int, num_accepted_tokens: int) -> None:
        """Learn how a sequence's guesses fared; there was at least one."""
        self.num_draft_tokens += num_draft_tokens
        self.num_accepted_tokens += num_accepted_tokens
        self._drafters[sequence].length.observe(num_draft_tokens, num_accepted_tokens)

    def end(self, sequence: Sequence) -> None:
        """Forget a sequence, whether or not there were guesses for it."""
        self._drafters.pop(sequence, None)

    def check_integrity(self, seated: Tokens[Sequence]) -> None:
        """Assert that nothing is kept for sequences that have left."""
        assert self._drafters.keys() <= set(seated)


class _Drafter(NamedTuple):
    lookup: PromptLookup
    length: DraftLength
