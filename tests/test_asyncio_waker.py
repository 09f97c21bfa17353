"""Waiting in an event loop for native threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from realtime_serve.asyncio_waker import AsyncioParker, AsyncioWaker, current_parker, loop_parker
from realtime_serve.native import NativeThread, Parker, ThreadParker, new_parker

LONG_S = 60.0

pytestmark = pytest.mark.not_under_gevent("a patched process has a hub in place of event loops")


def on_native_thread(function: Callable[[], object]) -> None:
    """Call the function where the inference threads are."""
    thread = NativeThread(lambda: function() and None, "waker")
    thread.start()
    assert thread.join(LONG_S)
    assert thread.error is None, thread.error


def wake(*parkers: Parker) -> None:
    for parker in parkers:
        parker.waker.add(parker)
    for waker in {parker.waker for parker in parkers}:
        waker.flush()


def count_callbacks(loop: Any, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Note what is scheduled from other threads; the loop's own method runs as ever."""
    scheduled: list[object] = []
    schedule = loop.call_soon_threadsafe

    def note(callback: Callable[..., object], *args: object, **options: Any) -> object:
        scheduled.append(callback)
        return schedule(callback, *args, **options)

    monkeypatch.setattr(loop, "call_soon_threadsafe", note)
    return scheduled


def test_a_native_thread_wakes_a_task_while_the_loop_goes_on() -> None:
    async def scenario() -> None:
        parker = AsyncioParker.of_running_loop()
        waiting = asyncio.create_task(parker.wait(LONG_S))
        await asyncio.sleep(0)
        assert parker.awaited is not None
        await asyncio.to_thread(on_native_thread, lambda: wake(parker))
        await waiting

    asyncio.run(scenario())


def test_a_wake_up_that_comes_while_nobody_waits_is_remembered_once() -> None:
    async def scenario() -> None:
        parker = AsyncioParker.of_running_loop()
        on_native_thread(lambda: wake(parker))
        await parker.wait()
        again = asyncio.create_task(parker.wait())
        await asyncio.sleep(0.01)
        assert not again.done()
        again.cancel()

    asyncio.run(scenario())


def test_a_wake_up_that_ends_a_wait_is_used_up() -> None:
    async def scenario() -> None:
        parker = AsyncioParker.of_running_loop()
        waiting = asyncio.create_task(parker.wait(LONG_S))
        await asyncio.sleep(0)
        wake(parker)
        await waiting
        again = asyncio.create_task(parker.wait())
        await asyncio.sleep(0.01)
        assert not again.done()
        again.cancel()

    asyncio.run(scenario())


def test_many_tasks_and_many_flushes_cost_one_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        scheduled = count_callbacks(asyncio.get_running_loop(), monkeypatch)
        parkers = [AsyncioParker.of_running_loop() for _ in range(50)]
        waiting = [asyncio.create_task(parker.wait(LONG_S)) for parker in parkers]
        await asyncio.sleep(0)

        def many_steps() -> None:
            for _ in range(20):
                wake(*parkers)

        on_native_thread(many_steps)
        await asyncio.gather(*waiting)
        assert len(scheduled) == 1

    asyncio.run(scenario())


def test_a_callback_that_cannot_be_scheduled_does_not_stop_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        parker = AsyncioParker.of_running_loop()
        waiting = asyncio.create_task(parker.wait(LONG_S))
        await asyncio.sleep(0)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_soon_threadsafe", raise_memory_error)
            with pytest.raises(MemoryError):
                wake(parker)
        wake(parker)
        await waiting

    asyncio.run(asyncio.wait_for(scenario(), LONG_S / 4))


def raise_memory_error(*args: object, **options: object) -> None:
    raise MemoryError


def test_a_wake_up_for_nobody_costs_no_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        scheduled = count_callbacks(asyncio.get_running_loop(), monkeypatch)
        parker = AsyncioParker.of_running_loop()
        on_native_thread(lambda: wake(parker))
        await parker.wait()
        assert scheduled == []

    asyncio.run(scenario())


def test_no_wake_up_is_lost_between_a_busy_thread_and_a_task() -> None:
    rounds = 2000

    async def scenario() -> None:
        parker = AsyncioParker.of_running_loop()
        produced: list[int] = []

        def produce() -> None:
            for number in range(rounds):
                produced.append(number)
                wake(parker)

        thread = NativeThread(produce, "producer")
        thread.start()
        while len(produced) < rounds:
            await parker.wait()
        assert await asyncio.to_thread(thread.join, LONG_S)

    asyncio.run(asyncio.wait_for(scenario(), LONG_S))


def test_a_loop_is_woken_while_another_one_wakes_its_tasks() -> None:
    """In threads of their own, they may do so at the very same time."""
    inside, released = ThreadParker(), ThreadParker()

    class Slow(asyncio.Future[None]):
        """Holds up whoever settles it."""

        def set_result(self, result: None) -> None:
            inside.unpark()
            released.park(LONG_S)
            super().set_result(result)

    async def slow() -> None:
        parker = AsyncioParker.of_running_loop()
        parker.awaited = future = Slow()
        wake(parker)
        await asyncio.wait_for(future, LONG_S)

    async def scenario() -> None:
        other = asyncio.create_task(asyncio.to_thread(asyncio.run, slow()))
        await asyncio.to_thread(inside.park, LONG_S)
        parker = AsyncioParker.of_running_loop()
        waiting = asyncio.create_task(parker.wait())
        await asyncio.sleep(0)
        wake(parker)
        woken, _ = await asyncio.wait([waiting], timeout=LONG_S)
        released.unpark()
        assert woken
        await other

    asyncio.run(scenario())


def test_a_wait_ends_at_its_timeout() -> None:
    async def scenario() -> None:
        parker = AsyncioParker.of_running_loop()
        await parker.wait(0.001)
        await parker.wait(-1.0)
        assert parker.awaited is None

    asyncio.run(scenario())


def test_a_cancelled_wait_leaves_the_parker_fit_for_another() -> None:
    async def scenario() -> None:
        parker = AsyncioParker.of_running_loop()
        waiting = asyncio.create_task(parker.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        wake(parker)
        await parker.wait()

    asyncio.run(scenario())


def test_a_second_task_is_refused_and_the_first_one_still_woken() -> None:
    async def scenario() -> None:
        parker = AsyncioParker.of_running_loop()
        first = asyncio.create_task(parker.wait(LONG_S))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one consumer"):
            await parker.wait()
        wake(parker)
        await first

    asyncio.run(scenario())


def test_the_loops_own_thread_can_park_although_no_callback_can_run() -> None:
    async def scenario() -> None:
        parker = AsyncioParker.of_running_loop()
        thread = NativeThread(lambda: wake(parker), "waker")
        thread.start()
        parker.park(LONG_S)
        assert thread.join(LONG_S)

    asyncio.run(scenario())


def test_waking_what_waited_in_a_closed_loop_does_no_harm() -> None:
    loop = asyncio.new_event_loop()
    parker = AsyncioParker(AsyncioWaker.of(loop))
    parker.awaited = loop.create_future()
    loop.close()
    on_native_thread(lambda: wake(parker))


def test_each_loop_has_one_waker_that_does_not_keep_it() -> None:
    async def waker() -> AsyncioWaker:
        loop = asyncio.get_running_loop()
        assert AsyncioWaker.of(loop) is AsyncioWaker.of(loop)
        return AsyncioWaker.of(loop)

    first, second = asyncio.run(waker()), asyncio.run(waker())
    assert first is not second


def test_the_current_parker_suits_the_caller() -> None:
    async def inside() -> Parker:
        return current_parker()

    assert isinstance(asyncio.run(inside()), AsyncioParker)
    assert type(current_parker()) is ThreadParker


def test_a_threads_parker_is_replaced_and_a_loops_own_is_kept() -> None:
    async def scenario() -> None:
        mine = loop_parker(new_parker())
        assert loop_parker(mine) is mine

    asyncio.run(scenario())


def test_another_loops_parker_is_refused() -> None:
    async def theirs() -> AsyncioParker:
        return AsyncioParker.of_running_loop()

    async def ours(parker: Parker) -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            loop_parker(parker)

    asyncio.run(ours(asyncio.run(theirs())))
