"""LoadWatcher: whoever waits for a model to be loaded, as its loader sees him."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from realtime_serve.weights.packed_file import BeforePiece, go_on

OnProgress: TypeAlias = Callable[[float], None]
"""Told often which share of the packing is done; what it raises ends the packing."""


def _ignore(told: object) -> None:
    """Nobody listens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadWatcher:
    """What a loader calls, on the thread that loads. By default, nobody listens.

    Args:
        notify: Takes a sentence for a person.
        on_progress: See `OnProgress`; not called if nothing has to be packed.
        before_piece: See `BeforePiece`; called before each piece of the weights is read.
    """

    notify: Callable[[str], None] = _ignore
    on_progress: OnProgress = _ignore
    before_piece: BeforePiece = go_on
