"""Admission: order, bounds and what a refused client is told."""

import pytest

from realtime_serve.batch import LONGEST_RETRY_S, BatchScheduler
from realtime_serve.errors import NotReadyError, OverloadedError
from realtime_serve.types import BatchConfig, Loading, Queued, RequestPriority

HIGH, NORMAL, LOW = RequestPriority.HIGH, RequestPriority.NORMAL, RequestPriority.LOW


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def scheduler(depth: int = 8, clock: Clock | None = None) -> BatchScheduler:
    return BatchScheduler(BatchConfig(max_queue_depth=depth), clock or Clock())


def test_classes_come_in_order_and_arrivals_within_a_class() -> None:
    batch = scheduler()
    for name, priority in [("l", LOW), ("n1", NORMAL), ("h1", HIGH), ("n2", NORMAL), ("h2", HIGH)]:
        batch.put(name, priority)
    assert batch.take(10, 0.0) == ["h1", "h2", "n1", "n2", "l"]


def test_no_more_are_taken_than_there_are_seats() -> None:
    batch = scheduler()
    for name in "abc":
        batch.put(name, NORMAL)
    assert batch.take(2, 0.0) == ["a", "b"]
    batch.put("late", HIGH)
    assert batch.take(1, 0.0) == ["late"]


def test_a_full_queue_refuses_and_says_when_to_retry() -> None:
    batch = scheduler(depth=2)
    batch.put("a", LOW)
    batch.put("b", LOW)
    with pytest.raises(OverloadedError) as caught:
        batch.put("c", HIGH)
    assert caught.value.retry_after_s is not None
    assert 1.0 <= caught.value.retry_after_s <= LONGEST_RETRY_S
    assert batch.take(10, 0.0) == ["a", "b"]


def test_the_expected_wait_grows_with_depth_and_service_time() -> None:
    clock = Clock()
    batch = scheduler(depth=100, clock=clock)
    for number in range(20):
        batch.put(number, NORMAL)
    for _ in range(5):
        clock.now_s += 0.5
        batch.note_finished()
    assert batch.expected_wait_s() == pytest.approx(20 * 0.5)


def test_idle_time_is_not_service_time() -> None:
    clock = Clock()
    batch = scheduler(clock=clock)
    batch.note_finished()
    clock.now_s += 1000.0
    batch.note_finished()
    batch.put("a", NORMAL)
    assert batch.expected_wait_s() == 1.0


def test_a_request_knows_what_it_waits_for() -> None:
    batch = scheduler()
    first, second = batch.put("a", NORMAL), batch.put("b", NORMAL)
    assert batch.progress(second) == Loading()
    assert batch.take(0, 0.0) == []
    assert [batch.progress(handle) for handle in (first, second)] == [
        Queued(position=1),
        Queued(position=2),
    ]
    batch.put("c", HIGH)
    assert batch.progress(second) == Queued(position=3)
    assert batch.take(2, 0.0) == ["c", "a"]
    assert [batch.progress(handle) for handle in (first, second)] == [None, Queued(position=1)]


def test_a_removed_request_is_never_taken() -> None:
    batch = scheduler()
    batch.put("a", NORMAL)
    handle = batch.put("b", NORMAL)
    assert batch.remove(handle)
    assert not batch.remove(handle)
    assert batch.take(10, 0.0) == ["a"]


def test_a_taken_request_cannot_be_removed() -> None:
    batch = scheduler()
    handle = batch.put("a", NORMAL)
    batch.take(1, 0.0)
    assert not batch.remove(handle)


def test_a_closed_queue_hands_back_what_waited_and_takes_no_more() -> None:
    batch = scheduler()
    batch.put("a", LOW)
    batch.put("b", HIGH)
    assert batch.close() == ["b", "a"]
    with pytest.raises(NotReadyError):
        batch.put("c", HIGH)
