"""How often a hub sends: the arithmetic, with time passed in."""

import pytest

from realtime_serve.flush_pace import FlushPace


def test_the_first_pass_begins_at_once() -> None:
    assert FlushPace(max_delay_s=1.0).wait_s(5.0) <= 0


@pytest.mark.parametrize("duration_s", [0.001, 0.004])
def test_a_pass_is_followed_by_a_pause_of_its_length(duration_s: float) -> None:
    pace = FlushPace(max_delay_s=1.0)
    pace.note_pass(10.0, 10.0 + duration_s, left_some=False)
    assert pace.wait_s(10.0 + duration_s) == pytest.approx(duration_s)
    assert pace.wait_s(10.0 + 2 * duration_s) == pytest.approx(0.0)


def test_a_pause_is_no_longer_than_its_bound() -> None:
    pace = FlushPace(max_delay_s=0.002)
    pace.note_pass(10.0, 10.5, left_some=False)
    assert pace.wait_s(10.5) == pytest.approx(0.002)


def test_without_a_bound_to_spend_there_is_no_pause() -> None:
    pace = FlushPace()
    pace.note_pass(10.0, 10.5, left_some=False)
    assert pace.wait_s(10.5) <= 0


def test_there_is_no_pause_where_a_stream_has_more_than_a_pass_takes() -> None:
    pace = FlushPace(max_delay_s=1.0)
    pace.note_pass(10.0, 10.5, left_some=True)
    assert pace.wait_s(10.5) <= 0
