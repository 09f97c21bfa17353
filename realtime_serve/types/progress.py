"""How far a stream is from its first token, in the order in which it gets there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Loading:
    """Nobody is served yet: the model loads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """It waits for a seat.

    Args:
        position: Its place in the queue; 1 is the next to be seated.
    """

    position: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefilling:
    """It is seated, and its prompt is being computed.

    Args:
        num_computed_tokens: How much of it is, what the prefix cache had included.
        num_prompt_tokens: How long it is.
    """

    num_computed_tokens: int
    num_prompt_tokens: int


StreamProgress: TypeAlias = Loading | Queued | Prefilling
