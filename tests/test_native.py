"""Parking and waking and the lock, with and without a hub.

The same tests run in a plain process and in a patched one; what waits is always the
form that fits the process.
"""

import threading
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from realtime_serve.native import (
    GeventWaker,
    Lock,
    NativeThread,
    Parker,
    new_parker,
    pause,
    run_blocking,
    spawn,
)
from support.hub_thread import LONG_S, on_hub_thread


def wake_from_native_thread(*parkers: Parker) -> None:
    """Wake the parkers as the inference thread does, with one flush a waker."""

    def wake() -> None:
        for parker in parkers:
            parker.waker.add(parker)
        for waker in {parker.waker for parker in parkers}:
            waker.flush()

    thread = NativeThread(wake, "waker")
    thread.start()
    assert thread.join(LONG_S)
    assert thread.error is None


def test_what_is_spawned_runs_while_the_caller_waits() -> None:
    """In a hub that needs the hub to go on, and without one a thread of its own."""
    parker = new_parker()
    threads: list[int] = []

    def note_and_wake() -> None:
        threads.append(threading.get_native_id())
        parker.waker.add(parker)
        parker.waker.flush()

    spawn(note_and_wake)
    parker.park(LONG_S)
    assert len(threads) == 1


def test_a_pause_lets_its_hub_go_on() -> None:
    def both(hub: Any) -> None:
        done: list[str] = []
        spawn(lambda: done.append("spawned"))
        pause(0.01)
        assert done == ["spawned"]

    on_hub_thread(both)


def test_a_pause_of_no_time_is_none() -> None:
    pause(-1.0)


def test_a_wake_up_before_the_park_is_remembered() -> None:
    parker = new_parker()
    wake_from_native_thread(parker)
    parker.park(LONG_S)  # would take a minute if the wake-up were lost


def test_a_park_ends_at_its_timeout() -> None:
    new_parker().park(0.001)


def test_a_parked_consumer_is_woken_from_a_native_thread() -> None:
    parker, ready = new_parker(), []

    def produce() -> None:
        ready.append("token")
        parker.waker.add(parker)
        parker.waker.flush()

    thread = NativeThread(produce, "producer")
    thread.start()
    while not ready:
        parker.park(LONG_S)
    assert ready == ["token"]
    assert thread.join(LONG_S)


def test_each_consumer_is_woken_by_one_flush() -> None:
    """Under gevent all of them share a waker; in plain threads each has its own."""
    woken: list[int] = []
    parked = threading.Semaphore(0)
    parkers: list[Parker] = []

    def consume(number: int) -> None:
        parker = new_parker()
        parkers.append(parker)
        parked.release()
        parker.park(LONG_S)
        woken.append(number)

    consumers = [threading.Thread(target=consume, args=(number,)) for number in range(5)]
    for consumer in consumers:
        consumer.start()
    for _ in consumers:
        parked.acquire()
    wake_from_native_thread(*parkers)
    for consumer in consumers:
        consumer.join()
    assert sorted(woken) == [0, 1, 2, 3, 4]


def test_waking_a_consumer_whose_hub_was_destroyed_is_no_error() -> None:
    parkers: list[Parker] = []

    def open_and_destroy(hub: Any) -> None:
        parkers.append(new_parker())
        hub.destroy(destroy_loop=True)

    on_hub_thread(open_and_destroy)
    wake_from_native_thread(*parkers)
    wake_from_native_thread(*parkers)


class FaultyHub:
    """What a waker asks of a hub; its loop fails once before it can be woken."""

    def __init__(self) -> None:
        self.loop = self
        self.errors: list[Exception] = [MemoryError()]
        self.num_sent = 0

    def async_(self, *, ref: bool) -> Any:
        return self

    def start(self, callback: Callable[[], None]) -> None:
        pass

    def send(self) -> None:
        if self.errors:
            raise self.errors.pop()
        self.num_sent += 1


def test_a_hub_that_could_not_be_woken_is_woken_the_next_time() -> None:
    hub = FaultyHub()
    waker = GeventWaker(hub)
    with pytest.raises(MemoryError):
        waker.flush()
    waker.flush()
    assert hub.num_sent == 1


def test_an_error_in_one_woken_greenlet_leaves_none_asleep() -> None:
    woken: list[int] = []

    def consume(number: int, parkers: list[Parker]) -> None:
        parkers.append(new_parker())
        parkers[-1].park(LONG_S)
        woken.append(number)
        raise RuntimeError

    def consume_all(hub: Any) -> None:
        hub.handle_error = lambda *error: None  # it would print the error
        parkers: list[Parker] = []
        greenlets = [gevent.spawn_raw(consume, number, parkers) for number in range(3)]
        while len(parkers) < len(greenlets):
            gevent.sleep(0)
        wake_from_native_thread(*parkers)
        rounds = 0
        while len(woken) < len(greenlets) and rounds < 100:
            gevent.sleep(0.001)
            rounds += 1
        hub.destroy(destroy_loop=True)

    on_hub_thread(consume_all)
    assert woken == [0, 1, 2]


def test_a_consumer_that_is_woken_again_and_again_leaves_the_hub_time_for_others() -> None:
    turns_of_others = 0
    seen: list[int] = []

    def consume(parker: Parker) -> None:
        for _ in range(20):
            parker.waker.add(parker)  # as if its next token had come while it took this one
            parker.waker.flush()
            parker.park(LONG_S)
            seen.append(turns_of_others)

    def take_turns(hub: Any) -> None:
        nonlocal turns_of_others
        consumer = gevent.spawn(lambda: consume(new_parker()))
        while not consumer.ready():
            gevent.sleep(0)
            turns_of_others += 1
        consumer.get()

    on_hub_thread(take_turns)
    assert len(set(seen)) == len(seen) == 20


def test_run_blocking_returns_the_result_and_raises_the_error() -> None:
    assert run_blocking(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        run_blocking(divmod, 7, 0)


def test_the_lock_excludes_native_threads() -> None:
    lock, order = Lock(), []

    def enter() -> None:
        with lock:
            order.append("second")

    thread = NativeThread(enter, "rival")
    with lock:
        thread.start()
        assert not thread.join(0.05)
        order.append("first")
    assert thread.join(LONG_S)
    assert order == ["first", "second"]
