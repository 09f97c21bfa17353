"""StopMatcher against a reference that sees the whole text at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_serve.text import StopMatcher, StopResult

STOPS = st.lists(st.text("ab日", min_size=1, max_size=5), max_size=4)
PIECES = st.lists(st.text("ab日", max_size=6), max_size=12)


def first_match(text: str, stops: list[str]) -> tuple[str, str] | None:
    """The text before the stop string that is complete first, and that stop string."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end - len(stop)], stop
    return None


def could_begin_a_stop(text: str, stops: list[str]) -> int:
    """Length of the longest end of `text` that a stop string begins with."""
    return max(
        (n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])), default=0
    )


@given(stops=STOPS, pieces=PIECES)
def test_any_chunking_delivers_what_stands_before_the_first_match(
    stops: list[str], pieces: list[str]
) -> None:
    matcher = StopMatcher(stops)
    results = [matcher.feed(piece) for piece in pieces]
    delivered = "".join(result.text for result in results) + matcher.finish()
    matched = results[-1].matched if results else None
    whole = "".join(pieces)
    assert (delivered, matched) == (first_match(whole, stops) or (whole, None))


@given(stops=STOPS, pieces=PIECES)
def test_exactly_what_could_begin_a_stop_string_is_held_back(
    stops: list[str], pieces: list[str]
) -> None:
    matcher = StopMatcher(stops)
    seen = delivered = ""
    for piece in pieces:
        result = matcher.feed(piece)
        if result.matched is not None:
            break
        seen += piece
        delivered += result.text
        assert delivered == seen[: len(seen) - could_begin_a_stop(seen, stops)]


def test_of_stop_strings_that_end_together_the_longest_is_cut() -> None:
    assert StopMatcher(["b", "ab"]).feed("xab") == StopResult("x", "ab")


def test_the_stop_string_that_is_complete_first_wins_over_one_that_began_earlier() -> None:
    assert StopMatcher(["abcd", "bc"]).feed("xabcd") == StopResult("xa", "bc")


def test_a_stop_string_split_over_many_pieces_is_found() -> None:
    matcher = StopMatcher(["</done>"])
    texts = [matcher.feed(char) for char in "ok</do"]
    assert "".join(result.text for result in texts) == "ok"
    assert matcher.feed("ne>tail") == StopResult("", "</done>")


def test_a_false_start_is_delivered_when_it_turns_out_to_be_none() -> None:
    matcher = StopMatcher(["aab"])
    assert matcher.feed("aa") == StopResult("", None)
    assert matcher.feed("a") == StopResult("a", None)
    assert matcher.feed("b!") == StopResult("", "aab")


def test_text_after_the_match_is_dropped() -> None:
    matcher = StopMatcher(["."])
    assert matcher.feed("one. two") == StopResult("one", ".")
    assert matcher.feed(" three") == StopResult("", ".")
    assert matcher.finish() == ""


def test_finish_gives_back_what_was_held() -> None:
    matcher = StopMatcher(["</s>"])
    assert matcher.feed("end </") == StopResult("end ", None)
    assert matcher.finish() == "</"
    assert matcher.finish() == ""


@pytest.mark.parametrize("text", ["", "anything"])
def test_without_stop_strings_everything_passes_at_once(text: str) -> None:
    matcher = StopMatcher([])
    assert matcher.feed(text) == StopResult(text, None)
    assert matcher.finish() == ""
