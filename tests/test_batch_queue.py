"""BatchQueue against a plain Python model: order, references, waiting."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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

from realtime_serve import _batch_queue
from realtime_serve._batch_queue import (
    MAX_CAPACITY,
    NUM_CLASSES,
    BatchQueue,
    QueueClosed,
    QueueFull,
)
from realtime_serve._native_thread import NativeThread

LARGEST = 2**64 - 1

HANG_S = 60
"""After this a child that should end at once counts as stuck."""

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


# --- waiting --------------------------------------------------------------------


@dataclass(frozen=True)
class Taker:
    """A native thread inside queue.take()."""

    thread: NativeThread
    results: list[list[object]]

    def result(self) -> list[object]:
        self.thread.join()
        assert self.thread.error is None
        return self.results[0]


def start_taker(queue: BatchQueue, max_items: int) -> Taker:
    """Return once the taker has the GIL no more, hence waits or is about to."""
    entered: list[bool] = []
    results: list[list[object]] = []

    def take() -> None:
        entered.append(True)
        results.append(queue.take(max_items, None))

    taker = Taker(NativeThread(take, "taker"), results)
    taker.thread.start()
    while not entered:
        time.sleep(0.001)
    time.sleep(0.02)
    return taker


def test_take_waits_without_the_gil_until_an_item_is_there() -> None:
    queue = BatchQueue(2)
    taker = start_taker(queue, 2)
    assert taker.thread.alive

    queue.put("item", 0, 0)
    assert taker.result() == ["item"]


def test_main_thread_waits_without_the_gil() -> None:
    queue = BatchQueue(1)
    putter = NativeThread(lambda: queue.put("item", 0, 0), "putter")
    putter.start()

    assert queue.take(1, None) == ["item"]
    assert putter.join()


@pytest.mark.parametrize("end", [BatchQueue.kick, BatchQueue.close])
def test_kick_and_close_end_a_wait(end: Callable[[BatchQueue], object]) -> None:
    queue = BatchQueue(1)
    taker = start_taker(queue, 1)

    end(queue)
    assert taker.result() == []


def test_taker_of_no_items_waits_for_a_kick_although_there_are_some() -> None:
    queue = BatchQueue(1)
    taker = start_taker(queue, 0)
    queue.put("item", 0, 0)
    time.sleep(0.02)
    assert taker.thread.alive

    queue.kick()
    assert taker.result() == []
    assert len(queue) == 1


def test_kicks_before_a_wait_end_that_one_only() -> None:
    queue = BatchQueue(1)
    queue.kick()
    queue.kick()
    assert queue.take(1, None) == []

    started_at_s = time.monotonic()
    assert queue.take(1, 0.05) == []
    assert time.monotonic() - started_at_s >= 0.05


def test_take_that_does_not_wait_uses_no_kick_up() -> None:
    queue = BatchQueue(1)
    queue.kick()
    assert queue.take(1, 0.0) == []

    assert queue.take(1, None) == []


def test_close_ends_all_waits_and_returns_the_rest_best_first() -> None:
    queue = BatchQueue(3)
    takers = [start_taker(queue, 0) for _ in range(3)]
    queue.put("second", 1, 0)
    queue.put("first", 0, 0)

    assert queue.close() == ["first", "second"]
    assert [taker.result() for taker in takers] == [[], [], []]
    assert queue.close() == []
    assert queue.take(1, None) == []


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), 0.01, 0.12])
def test_empty_queue_is_waited_for_until_the_timeout(timeout_s: float) -> None:
    started_at_s = time.monotonic()

    assert BatchQueue(1).take(1, timeout_s) == []
    assert not time.monotonic() - started_at_s < timeout_s


def test_negative_take_is_refused() -> None:
    with pytest.raises(ValueError, match="max_items"):
        BatchQueue(1).take(-1)


def test_ctrl_c_ends_a_wait_in_the_main_thread_and_loses_nothing() -> None:
    package = Path(_batch_queue.__file__).parent
    # A package of that name and nothing in it: the extension is imported without the server.
    program = f"""
import signal, sys, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.modules["realtime_serve"] = package = types.ModuleType("realtime_serve")
package.__path__ = [{str(package)!r}]
from realtime_serve._batch_queue import BatchQueue
queue = BatchQueue(1)
queue.put("item", 0, 0)
print("waiting", flush=True)
try:
    queue.take(0, None)
except KeyboardInterrupt:
    print(queue.take(1))
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "waiting\n"
            time.sleep(0.2)  # so that the signal finds it inside take()
            child.send_signal(signal.SIGINT)
            output, _ = child.communicate(timeout=HANG_S)
        finally:
            child.kill()  # or a failure would wait for it

    assert output == "['item']\n"
    assert child.returncode == 0
