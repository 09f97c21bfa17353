"""How long guesses become, when they pause, and what guessing costs at most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_serve.engine.draft_length import (
    FIRST_LENGTH,
    MAX_BALANCE,
    MAX_PAUSE_STEPS,
    RETRY_BALANCE,
    ROWS_PER_STEP,
    DraftLength,
)


def lengths(length: DraftLength, num_steps: int, share_right: float) -> list[int]:
    """What it asks for in so many steps, of which that share of each guess is right."""
    asked = []
    for _ in range(num_steps):
        num_tokens = length.next_step()
        if num_tokens > 0:
            length.observe(num_tokens, int(num_tokens * share_right))
        asked.append(num_tokens)
    return asked


@pytest.mark.parametrize(
    ("max_tokens", "expected"), [(1, [1, 1, 1]), (3, [2, 3, 3]), (8, [2, 4, 8, 8])]
)
def test_while_all_is_right_it_grows_to_the_most(max_tokens: int, expected: list[int]) -> None:
    assert lengths(DraftLength(max_tokens), len(expected), 1.0) == expected


def test_when_most_is_wrong_it_shrinks() -> None:
    length = DraftLength(8)
    lengths(length, 4, 1.0)
    assert lengths(length, 3, 0.25) == [8, 4, 2]


def test_while_half_is_right_it_stays_as_it_is() -> None:
    length = DraftLength(8)
    lengths(length, 4, 1.0)
    assert lengths(length, 50, 0.5) == [8] * 50


@pytest.mark.parametrize("max_tokens", [1, 2, 8, 15])
def test_guesses_that_are_never_right_cost_a_fixed_sum_and_then_next_to_nothing(
    max_tokens: int,
) -> None:
    length = DraftLength(max_tokens)
    asked = lengths(length, 2000, 0.0)
    assert sum(asked[:200]) <= MAX_BALANCE + 6 * (RETRY_BALANCE + FIRST_LENGTH)
    assert sum(asked[1000:]) / ROWS_PER_STEP <= 0.005 * 1000


def test_pauses_become_longer_but_it_never_gives_up() -> None:
    asked = lengths(DraftLength(8), 5000, 0.0)
    pauses = [len(zeros) for zeros in "".join(map(str, asked)).replace("2", " ").split()]
    assert pauses[:-1] == sorted(pauses[:-1])
    assert len(set(pauses)) > 3
    assert max(pauses) == MAX_PAUSE_STEPS


def test_after_a_success_the_pauses_are_short_again() -> None:
    length = DraftLength(8)
    lengths(length, 2000, 0.0)
    while length.next_step() == 0:
        pass
    length.observe(FIRST_LENGTH, FIRST_LENGTH)
    asked = lengths(length, 20, 0.0)
    assert asked.index(0) <= 10, "one success pays for a few failures only"
    assert FIRST_LENGTH in asked[asked.index(0) :], "and the next pause is short"


@given(st.lists(st.floats(0, 1), max_size=300), st.integers(1, 15))
def test_whatever_comes_of_it_it_stays_within_its_bounds_and_costs_little(
    shares: list[float], max_tokens: int
) -> None:
    """Never more rows are lost than the balance, or what each retry may lose."""
    length = DraftLength(max_tokens)
    lost = worst = 0
    num_retries = 0
    was_pausing = False
    for share in shares:
        num_tokens = length.next_step()
        assert 0 <= num_tokens <= max_tokens
        if num_tokens == 0:
            was_pausing = True
            continue
        num_retries += was_pausing
        was_pausing = False
        num_right = int(share * num_tokens)
        length.observe(num_tokens, num_right)
        lost += num_tokens - ROWS_PER_STEP * num_right
        worst = max(worst, lost)
    assert worst <= MAX_BALANCE + max_tokens + num_retries * (RETRY_BALANCE + max_tokens)
