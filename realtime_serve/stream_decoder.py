"""StreamDecoder: the records of a ring to tokens with text, cut at stop strings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from realtime_serve._token_ring import FLAG_NO_TEXT
from realtime_serve.text.detokenizer import Detokenizer
from realtime_serve.text.stop import StopMatcher
from realtime_serve.types import SamplingParams, StreamToken


class Decoded(NamedTuple):
    """What became of some records.

    Args:
        tokens: In order; the last one may be short of text that is held back.
        is_cut: Whether a stop string ends the text with the last of them.
    """

    tokens: list[StreamToken]
    is_cut: bool


class StreamDecoder:
    """Makes the text of one stream, in Python. Its consumer only.

    Args:
        detokenizer: Turns its ids into text.
        sampling: Which stop strings cut it, and from which token on.
    """

    def __init__(self, detokenizer: Detokenizer, sampling: SamplingParams) -> None:
        self._detokenizer = detokenizer
        self._stops = StopMatcher(sampling.stop)
        self._min_tokens = sampling.min_tokens
        self._num_tokens = 0

    def decode(self, records: Iterable[tuple[int, int, float, int]]) -> Decoded:
        """Decode the next records, up to one that completes a stop string."""
        tokens: list[StreamToken] = []
        for token_id, index, _, flags in records:
            text = "" if flags & FLAG_NO_TEXT else self._detokenizer.add(token_id)
            self._num_tokens += 1
            matched = None
            if self._num_tokens > self._min_tokens:
                text, matched = self._stops.feed(text)
            tokens.append(StreamToken(token_id=token_id, text=text, index=index))
            if matched is not None:
                return Decoded(tokens, True)
        return Decoded(tokens, False)

    def finish(self) -> str:
        """What was kept for a continuation; nothing after a stop string."""
        return self._stops.feed(self._detokenizer.finish()).text + self._stops.finish()
