"""BatchQueue against a plain Python model: order and references."""

from __future__ import annotations

import gc
import sys
import weakref
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from realtime_serve._batch_queue import (
    MAX_CAPACITY,
    NUM_CLASSES,
    BatchQueue,
    QueueClosed,
    QueueFull,
)

LARGEST = 2**64 - 1

# Few values, so that ties are frequent, and the ends of the range.
tags = st.sampled_from([0, 1, 2, 3, 2**63, LARGEST])
priorities = st.integers(0, NUM_CLASSES - 1)


class Item:
    """Something that can be told apart, counted and weakly referenced."""


@dataclass(frozen=True, order=True)
class Entry:
    priority: int
    tag: int
    sequence: int
    handle: int

    @property
    def item(self) -> str:
        return f"item {self.sequence}"


class QueueMachine(RuleBasedStateMachine):
    """Any sequence of calls on a queue answers as a sorted list does."""

    handles = Bundle("handles")

    @initialize(capacity=st.integers(1, 12))
    def make(self, capacity: int) -> None:
        self.queue = BatchQueue(capacity)
        self.capacity = capacity
        self.waiting: list[Entry] = []
        self.num_put = 0
        self.closed = False

    def find(self, handle: int) -> Entry | None:
        return next((entry for entry in self.waiting if entry.handle == handle), None)

    @rule(target=handles, priority=priorities, tag=tags)
    def put(self, priority: int, tag: int) -> int:
        item = f"item {self.num_put}"
        if self.closed or len(self.waiting) == self.capacity:
            with pytest.raises(QueueClosed if self.closed else QueueFull):
                self.queue.put(item, priority, tag)
            return 0
        handle = self.queue.put(item, priority, tag)
        self.waiting.append(Entry(priority, tag, self.num_put, handle))
        self.waiting.sort()
        self.num_put += 1
        return handle

    @rule(max_items=st.integers(0, 5))
    def take(self, max_items: int) -> None:
        expected = [entry.item for entry in self.waiting[:max_items]]
        assert self.queue.take(max_items) == expected
        del self.waiting[:max_items]

    @rule(handle=handles)
    def remove(self, handle: int) -> None:
        entry = self.find(handle)
        assert self.queue.remove(handle) == (entry.item if entry else None)
        if entry:
            self.waiting.remove(entry)

    @rule(handle=handles)
    def position(self, handle: int) -> None:
        entry = self.find(handle)
        expected = self.waiting.index(entry) if entry else None
        assert self.queue.position(handle) == expected

    @rule()
    def kick(self) -> None:
        self.queue.kick()

    @precondition(lambda self: self.num_put > 10)
    @rule()
    def close(self) -> None:
        assert self.queue.close() == [entry.item for entry in self.waiting]
        self.waiting = []
        self.closed = True

    @invariant()
    def figures_agree(self) -> None:
        self.queue.check_integrity()
        assert len(self.queue) == len(self.waiting)
        assert self.queue.closed is self.closed
        for priority in range(NUM_CLASSES):
            count = sum(entry.priority == priority for entry in self.waiting)
            assert self.queue.count(priority) == count


QueueMachine.TestCase.settings = settings(deadline=None, stateful_step_count=60)
TestQueueMachine = QueueMachine.TestCase


# --- order and handles ----------------------------------------------------------


def test_lower_class_comes_first_whatever_the_tag() -> None:
    queue = BatchQueue(4)
    queue.put("low", 2, 0)
    queue.put("high", 0, LARGEST)
    queue.put("normal", 1, 5)

    assert queue.take(4) == ["high", "normal", "low"]


def test_equal_keys_come_out_first_in_first_out() -> None:
    queue = BatchQueue(100)
    for number in range(100):
        queue.put(number, 1, 7)

    assert queue.take(100) == list(range(100))


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=80))
@example([(0, False), (10, False), (1, False), (11, True), (12, False), (2, False), (3, False)])
def test_removal_from_any_place_keeps_the_order(puts: list[tuple[int, bool]]) -> None:
    # In the example the heap's last item, 3, must rise above 10 when it fills the place of 11.
    queue = BatchQueue(80)
    handles = [queue.put((tag, number), 0, tag) for number, (tag, _) in enumerate(puts)]
    for number, (tag, is_removed) in enumerate(puts):
        if is_removed:
            assert queue.remove(handles[number]) == (tag, number)
            queue.check_integrity()

    kept = [(tag, number) for number, (tag, is_removed) in enumerate(puts) if not is_removed]
    assert queue.take(80) == sorted(kept)


def test_handle_of_a_left_item_stays_stale_when_its_slot_is_used_again() -> None:
    queue = BatchQueue(1)
    stale = [queue.put("old", 0, 0)]
    for number in range(50):
        queue.take(1)
        stale.append(queue.put(number, 0, 0))
    last = stale.pop()

    assert len({last, *stale}) == 51
    assert [queue.remove(handle) for handle in stale] == [None] * 50
    assert queue.remove(last) == 49


@pytest.mark.parametrize("forged", [0, 1, 12345, LARGEST])
def test_handle_that_was_never_given_finds_nothing(forged: int) -> None:
    queue = BatchQueue(2)
    queue.put("item", 0, 0)

    assert queue.remove(forged) is None
    assert queue.position(forged) is None
    assert len(queue) == 1


@pytest.mark.parametrize("capacity", [0, -1, MAX_CAPACITY + 1])
def test_capacity_out_of_range_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity must be from 1 to"):
        BatchQueue(capacity)


@pytest.mark.parametrize("priority", [-1, NUM_CLASSES])
def test_unknown_class_is_refused(priority: int) -> None:
    queue = BatchQueue(1)
    with pytest.raises(ValueError, match="priority must be from 0 to"):
        queue.put("item", priority, 0)
    with pytest.raises(ValueError, match="priority must be from 0 to"):
        queue.count(priority)

    assert len(queue) == 0


# --- references -----------------------------------------------------------------


def test_queue_owns_exactly_one_reference_to_a_waiting_item() -> None:
    queue, item = BatchQueue(3), Item()
    before = sys.getrefcount(item)
    handle = queue.put(item, 0, 0)
    assert sys.getrefcount(item) == before + 1
    queue.remove(handle)
    assert sys.getrefcount(item) == before
    queue.put(item, 0, 0)
    queue.take(1)
    assert sys.getrefcount(item) == before
    queue.put(item, 0, 0)
    queue.close()
    assert sys.getrefcount(item) == before


@pytest.mark.parametrize(("priority", "tag"), [(1, 0), (NUM_CLASSES, 0), (0, LARGEST + 1), (0, -1)])
def test_refused_item_is_not_kept(priority: int, tag: int) -> None:
    queue, item = BatchQueue(1), Item()
    queue.put("the queue is full now", 0, 0)
    before = sys.getrefcount(item)
    with pytest.raises((QueueFull, ValueError, OverflowError)):
        queue.put(item, priority, tag)

    assert sys.getrefcount(item) == before


def test_item_handed_out_dies_with_its_last_holder() -> None:
    queue = BatchQueue(1)
    item = Item()
    alive = weakref.ref(item)
    queue.put(item, 0, 0)
    del item
    gc.collect()
    assert alive() is not None

    queue.take(1)
    assert alive() is None


def test_dropped_queue_drops_its_items() -> None:
    queue = BatchQueue(3)
    items = [Item() for _ in range(3)]
    alive = [weakref.ref(item) for item in items]
    for item in items:
        queue.put(item, 0, 0)
    del item, items, queue

    assert [reference() for reference in alive] == [None] * 3
