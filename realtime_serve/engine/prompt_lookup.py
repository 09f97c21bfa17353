"""Guesses what follows a text: what followed where its last few tokens stood before.

Answers quote what they are about: names, code that is being edited, documents that are being
summed up. Where the last three tokens have stood before, or else the last two, the tokens after
the latest such place are the guess. A guess that reaches the end of the text goes on with
itself, so a text that has begun to repeat itself is guessed to go on repeating.

Each n-gram is indexed once, with the latest place that follows it. A text is never scanned
again: a lookup costs as much as the tokens that were appended since the last one, and the index
is as long as the text.
"""

from __future__ import annotations

from array import array

NGRAM_LENGTHS = (3, 2)
"""The longest first: what follows three tokens is surer than what follows two. One token has
stood somewhere before in nearly every text, and says little."""


class PromptLookup:
    """The index of one text that grows."""

    __slots__ = ("_ends", "_num_indexed")

    def __init__(self) -> None:
        # By length: where the latest occurrence of each n-gram ends, if tokens follow it.
        self._ends: dict[int, dict[tuple[int, ...], int]] = {n: {} for n in NGRAM_LENGTHS}
        self._num_indexed = 0

    def propose(self, token_ids: array[int], num_tokens: int) -> array[int]:
        """Guess how a text goes on.

        Args:
            token_ids: The text: that of the last call, and what was appended to it.
            num_tokens: How many tokens to guess, at least one.

        Returns:
            So many tokens, or none if the text's last tokens are new to it.
        """
        self._extend(token_ids)
        end = self._find(token_ids)
        return array("i") if end is None else _continue(token_ids, end, num_tokens)

    def _extend(self, token_ids: array[int]) -> None:
        """Index the n-grams that end before the last token."""
        for length, ends in self._ends.items():
            first = max(0, self._num_indexed - length)
            ngrams = zip(*(token_ids[first + i :] for i in range(length)), strict=False)
            ends.update(zip(ngrams, range(first + length, len(token_ids)), strict=False))
        self._num_indexed = len(token_ids)

    def _find(self, token_ids: array[int]) -> int | None:
        for length, ends in self._ends.items():
            end = ends.get(tuple(token_ids[-length:]))
            if end is not None:
                return end
        return None


def _continue(token_ids: array[int], start: int, num_tokens: int) -> array[int]:
    following = token_ids[start : start + num_tokens]
    return (following * -(-num_tokens // len(following)))[:num_tokens]
