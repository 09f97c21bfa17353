"""The index of a text against a plain search of it."""

from __future__ import annotations

from array import array
from itertools import cycle, islice
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from realtime_serve.engine.prompt_lookup import NGRAM_LENGTHS, PromptLookup

TEXTS = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=12), min_size=1, max_size=12)
"""Grow in pieces, over so few tokens that most of them have stood there before."""


def searched(text: list[int], num_tokens: int) -> list[int]:
    """The same by looking at every place of the text, the last first."""
    for length in NGRAM_LENGTHS:
        for end in range(len(text) - 1, length - 1, -1):
            if text[end - length : end] == text[-length:]:
                return list(islice(cycle(text[end:]), num_tokens))
    return []


@given(pieces=TEXTS, num_tokens=st.integers(1, 9))
def test_however_a_text_grows_the_guess_is_what_a_search_finds(
    pieces: list[list[int]], num_tokens: int
) -> None:
    lookup = PromptLookup()
    text = array("i")
    for piece in pieces:
        text.extend(piece)
        assert lookup.propose(text, num_tokens).tolist() == searched(text.tolist(), num_tokens)


def test_three_tokens_count_for_more_than_two_and_the_latest_place_for_more_than_others() -> None:
    text = array("i", [1, 2, 3, 50, 51, 9, 2, 3, 60, 61, 1, 2, 3])
    assert PromptLookup().propose(text, 2).tolist() == [50, 51]
    text = array("i", [8, 2, 3, 50, 51, 9, 2, 3, 60, 61, 1, 2, 3])
    assert PromptLookup().propose(text, 2).tolist() == [60, 61]


def test_a_text_that_repeats_itself_is_guessed_to_go_on_so() -> None:
    text = array("i", [7, 8, 9, 7, 8, 9, 7])
    assert PromptLookup().propose(text, 7).tolist() == [8, 9, 7, 8, 9, 7, 8]


class CountingArray(array):  # type: ignore[type-arg]
    """Counts the tokens that are read."""

    num_read = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        self.num_read += len(found) if isinstance(key, slice) else 1
        return found


def test_a_lookup_reads_a_few_tokens_however_long_the_text_is() -> None:
    text = CountingArray("i", [i % 1000 for i in range(20_000)])
    lookup = PromptLookup()
    lookup.propose(text, 4)
    for token_id in range(10):
        text.append(token_id)
        text.num_read = 0
        lookup.propose(text, 4)
        assert 0 < text.num_read <= 30


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=200))
def test_the_index_is_no_longer_than_the_text(token_ids: list[int]) -> None:
    lookup = PromptLookup()
    lookup.propose(array("i", token_ids), 1)
    assert all(len(ends) < len(token_ids) for ends in lookup._ends.values())
