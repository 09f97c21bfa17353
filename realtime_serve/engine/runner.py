"""What the engine asks of whatever computes its steps: rows in, chosen tokens out.

A step is a list of pieces of work, one a sequence: some tokens to compute after those that the
KV cache holds already, and how to choose the token after each of the last few of them. A
decoding sequence, a chunk of a prompt and guesses to be verified are the same thing.

NativeRunner computes a step in one C call; TorchRunner runs networks written in torch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from realtime_serve.types import SamplingParams

BLOCK_SIZE = 16
"""Tokens a KV block: a sequence wastes 7.5 slots on average, and its table stays short."""


class SamplingRow(NamedTuple):
    """How the next token of one row is chosen.

    Args:
        params: Temperature and filters.
        seed: The request's seed.
        output_index: How many tokens the request has before the one to choose.
        banned_token_ids: Tokens that must not be chosen.
    """

    params: SamplingParams
    seed: int
    output_index: int
    banned_token_ids: Collection[int] = ()


class SampledToken(NamedTuple):
    """A chosen token.

    Args:
        token_id: Its id.
        logprob: Its log-probability under the model, before temperature, filters and bans.
    """

    token_id: int
    logprob: float


class ScheduledRows(NamedTuple):
    """What one sequence computes in a step.

    Args:
        token_ids: The tokens to compute, at least one.
        start_position: Position of the first of them; all earlier ones are in the cache.
        block_table: The sequence's blocks; they must cover the last token's position.
        samples: How to choose the tokens after the last len(samples) rows, in their order.
    """

    token_ids: Sequence[int]
    start_position: int
    block_table: Sequence[int]
    samples: Sequence[SamplingRow]


class ModelRunner(Protocol):
    """A network with its KV cache. Only the thread that owns the engine may call it.

    Attributes:
        vocab_size: Token ids are below it.
        bytes_per_block: Memory that one KV block takes in all layers together.
    """

    vocab_size: int
    bytes_per_block: int

    def allocate(self, num_blocks: int) -> None:
        """Make the KV cache; once, before the first step.

        Args:
            num_blocks: Blocks of BLOCK_SIZE tokens.
        """
        ...

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy KV blocks, one after the other.

        Args:
            pairs: Source and destination.
        """
        ...

    def run(self, work: Sequence[ScheduledRows]) -> list[SampledToken | None]:
        """Compute one step.

        Args:
            work: Of each sequence, at least one.

        Returns:
            The chosen tokens, those of the first sequence first; None where the logits hold
            NaN or plus infinity, or where no token that may be chosen has a finite logit.
        """
        ...
