"""TokenRing against a plain Python model, and what the model cannot say."""

from __future__ import annotations

import time
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from realtime_serve import _token_ring
from realtime_serve._native_thread import NativeThread
from realtime_serve._token_ring import (
    CANCELLED,
    DEADLINE,
    ERROR,
    FLAG_LAST,
    FLAG_NO_TEXT,
    LENGTH,
    MAX_CAPACITY,
    OPEN,
    STOP,
    TokenRing,
)

TERMINAL_STATES = [STOP, LENGTH, CANCELLED, DEADLINE, ERROR]
WISHES = [CANCELLED, DEADLINE, STOP]

token_ids = st.integers(-(2**31), 2**31 - 1)
uint16s = st.integers(0, 2**16 - 1)
logprobs = st.floats(allow_nan=False)


def filled(capacity: int, num_records: int) -> TokenRing:
    ring = TokenRing(capacity)
    for number in range(num_records):
        assert ring.push(number)
    return ring


def ids(records: list[_token_ring.TokenRecord]) -> list[int]:
    return [token_id for token_id, _, _, _ in records]


class RingMachine(RuleBasedStateMachine):
    """Any sequence of calls on a ring answers as a deque with three fields does."""

    @initialize(capacity=st.integers(1, 9))
    def make(self, capacity: int) -> None:
        self.ring = TokenRing(capacity)
        self.capacity = 1
        while self.capacity < capacity:
            self.capacity *= 2
        self.records: deque[tuple[int, int, float, int]] = deque()
        self.state = OPEN
        self.cancel_state = OPEN
        self.stalled = False
        self.activity = 0

    def is_half_free(self) -> bool:
        return self.capacity - len(self.records) >= max(1, self.capacity // 2)

    @rule(token_id=token_ids, index=uint16s, logprob=logprobs, flags=uint16s)
    def push(self, token_id: int, index: int, logprob: float, flags: int) -> None:
        has_room = len(self.records) < self.capacity
        assert self.ring.push(token_id, index, logprob, flags) is has_room
        if has_room:
            self.records.append((token_id, index, logprob, flags))

    @rule(num_records=st.integers(1, 9))
    def push_several(self, num_records: int) -> None:
        for number in range(num_records):
            self.push(number, 0, 0.0, 0)

    @rule(max_items=st.integers(0, 10))
    def pop_some(self, max_items: int) -> None:
        expected = [self.records.popleft() for _ in range(min(max_items, len(self.records)))]
        assert self.ring.pop(max_items) == expected
        self.activity += len(expected)

    @rule()
    def pop_all(self) -> None:
        assert self.ring.pop() == list(self.records)
        self.activity += len(self.records)
        self.records.clear()

    @rule()
    def renew(self) -> None:
        self.ring.renew()
        self.activity += 1

    @rule()
    def mark_stalled(self) -> None:
        self.stalled = not self.is_half_free()
        assert self.ring.mark_stalled() is self.stalled

    @rule()
    def take_stalled(self) -> None:
        expected = self.stalled and self.is_half_free()
        assert self.ring.take_stalled() is expected
        self.stalled = self.stalled and not expected

    @rule(state=st.sampled_from(TERMINAL_STATES))
    def finish(self, state: int) -> None:
        if self.state == OPEN:
            self.stalled = False
        assert self.ring.finish(state) is (self.state == OPEN)
        self.state = self.state or state

    @rule(wish=st.sampled_from(WISHES))
    def request_cancel(self, wish: int) -> None:
        assert self.ring.request_cancel(wish) is (self.cancel_state == OPEN)
        self.cancel_state = self.cancel_state or wish

    @invariant()
    def figures_agree(self) -> None:
        assert self.ring.capacity == self.capacity
        assert len(self.ring) == len(self.records)
        assert self.ring.free_space() == self.capacity - len(self.records)
        assert self.ring.state == self.state
        assert self.ring.cancel_state == self.cancel_state
        assert self.ring.is_stalled is self.stalled
        assert self.ring.reader_activity() == self.activity


RingMachine.TestCase.settings = settings(deadline=None, stateful_step_count=40)
TestRingMachine = RingMachine.TestCase


@pytest.mark.parametrize(
    ("asked", "rounded"), [(1, 1), (2, 2), (3, 4), (5, 8), (256, 256), (MAX_CAPACITY - 1, 2**20)]
)
def test_capacity_is_rounded_up_to_a_power_of_two(asked: int, rounded: int) -> None:
    assert TokenRing(asked).capacity == rounded


@pytest.mark.parametrize("capacity", [0, -1, MAX_CAPACITY + 1])
def test_capacity_out_of_range_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity must be from 1 to"):
        TokenRing(capacity)


def test_full_ring_refuses_a_push_and_keeps_what_it_has() -> None:
    ring = filled(capacity=4, num_records=4)

    assert not ring.push(99)
    assert ids(ring.pop()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "record",
    [(2**31, 0, 0.0, 0), (0, 2**16, 0.0, 0), (0, -1, 0.0, 0), (0, 0, 0.0, 2**16)],
)
def test_number_that_does_not_fit_is_refused_and_nothing_is_written(
    record: tuple[int, int, float, int],
) -> None:
    ring = TokenRing(4)
    with pytest.raises(OverflowError):
        ring.push(*record)

    assert ring.pop() == []


def test_left_out_fields_are_zero() -> None:
    ring = TokenRing(1)
    ring.push(7)

    assert ring.pop() == [(7, 0, 0.0, 0)]


def test_pop_takes_more_than_it_copies_at_once() -> None:
    ring = filled(capacity=256, num_records=200)

    assert ids(ring.pop(130)) == list(range(130))
    assert ids(ring.pop()) == list(range(130, 200))


def test_negative_pop_is_refused() -> None:
    with pytest.raises(ValueError, match="max_items"):
        TokenRing(1).pop(-1)


@pytest.mark.parametrize("state", [OPEN, ERROR + 1, -1])
def test_only_a_terminal_state_ends_a_ring(state: int) -> None:
    ring = TokenRing(1)
    with pytest.raises(ValueError, match="no terminal state"):
        ring.finish(state)

    assert ring.state == OPEN


@pytest.mark.parametrize("wish", [OPEN, LENGTH, ERROR])
def test_only_some_ends_can_be_asked_for(wish: int) -> None:
    ring = TokenRing(1)
    with pytest.raises(ValueError, match="cannot be asked for"):
        ring.request_cancel(wish)

    assert ring.cancel_state == OPEN


def test_full_ring_cannot_lose_the_end() -> None:
    ring = filled(capacity=2, num_records=2)

    assert ring.finish(STOP)
    assert ring.state == STOP
    assert len(ring.pop()) == 2


def test_stalled_producer_is_reported_once_when_half_the_ring_is_free() -> None:
    ring = filled(capacity=4, num_records=4)
    assert ring.mark_stalled()

    ring.pop(1)
    assert not ring.take_stalled()
    ring.pop(1)
    assert ring.take_stalled()
    assert not ring.take_stalled()


def test_stall_is_taken_back_where_there_is_room() -> None:
    ring = filled(capacity=4, num_records=2)

    assert not ring.mark_stalled()
    ring.pop()
    assert not ring.take_stalled()


def test_the_time_of_all_stalls_is_counted_and_no_other() -> None:
    ring = filled(capacity=2, num_records=2)
    assert not ring.is_stalled
    assert ring.stalled_s == 0.0

    assert ring.mark_stalled()
    time.sleep(0.01)
    assert ring.mark_stalled(), "the same stall goes on"
    assert ring.stalled_s >= 0.01
    ring.pop()
    assert ring.take_stalled()
    first_s = ring.stalled_s
    assert first_s >= 0.01
    time.sleep(0.01)
    assert ring.stalled_s == first_s

    ring.push(1)
    ring.push(2)
    assert ring.mark_stalled()
    time.sleep(0.01)
    ring.pop()
    assert not ring.mark_stalled(), "the producer has found the room itself"
    assert ring.stalled_s >= first_s + 0.01


def test_the_end_of_a_stream_ends_its_stall() -> None:
    ring = filled(capacity=2, num_records=2)
    assert ring.mark_stalled()
    assert ring.finish(CANCELLED)
    assert not ring.is_stalled
    stalled_s = ring.stalled_s
    time.sleep(0.001)
    assert ring.stalled_s == stalled_s > 0.0
    ring.pop()
    assert not ring.take_stalled()


def test_flags_are_distinct_bits() -> None:
    assert FLAG_NO_TEXT & FLAG_LAST == 0
    assert FLAG_NO_TEXT.bit_count() == FLAG_LAST.bit_count() == 1


def test_records_cross_between_threads_in_order_and_the_end_comes_last() -> None:
    num_records = 10_000
    ring = TokenRing(256)

    def produce() -> None:
        for number in range(num_records):
            while not ring.push(number, number % 5, -number / 2):
                pass
        ring.finish(LENGTH)

    producer = NativeThread(produce, "producer")
    producer.start()
    seen: list[_token_ring.TokenRecord] = []
    while True:
        state = ring.state
        records = ring.pop()
        seen += records
        if state != OPEN and not records:
            break
    producer.join()

    assert seen == [(number, number % 5, -number / 2, 0) for number in range(num_records)]
    assert ring.state == LENGTH
