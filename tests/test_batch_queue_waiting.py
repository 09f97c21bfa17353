"""Whoever takes from an empty BatchQueue waits without the GIL, and woken by what ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from realtime_serve import _batch_queue
from realtime_serve._batch_queue import BatchQueue
from realtime_serve._native_thread import NativeThread

HANG_S = 60
"""After this a child that should end at once counts as stuck."""


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
