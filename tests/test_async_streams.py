"""The consumer's end of a stream in a coroutine, driven through a real ring by hand."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from realtime_serve import _token_ring as ring_states
from realtime_serve._token_ring import FLAG_LAST, TokenRing
from realtime_serve.errors import DeadlineExceededError, DrainingError, RequestCancelledError
from realtime_serve.native import NativeThread
from realtime_serve.stream import TokenStream
from realtime_serve.types import FinishReason
from support.hand_fed_streams import Queue, open_stream, push

LONG_S = 60.0

pytestmark = pytest.mark.not_under_gevent("a patched process has a hub in place of event loops")


def feed(stream: TokenStream, ring: TokenRing, text: str) -> NativeThread:
    """Generate the text on a native thread, a token a step, and end."""

    def produce() -> None:
        for char in text:
            push(ring, char)
            stream_feed.call().flush()
        stream_feed.end(FinishReason.STOP)
        stream_feed.call().flush()

    stream_feed = stream.feed
    thread = NativeThread(produce, "producer")
    thread.start()
    return thread


async def text_of(stream: TokenStream) -> str:
    return "".join([token.text async for token in stream])


def is_cancelled(ring: TokenRing, queue: Queue) -> bool:
    """Whether the engine was asked to end, and kicked."""
    return ring.cancel_state == ring_states.CANCELLED and queue.kicks > 0


def test_tokens_of_a_native_thread_are_iterated_in_order() -> None:
    async def scenario() -> None:
        stream, ring, _ = open_stream(capacity=256)
        text = "the quick brown fox " * 10
        thread = feed(stream, ring, text)
        assert await text_of(stream) == text
        assert stream.finish_reason is FinishReason.STOP
        assert await asyncio.to_thread(thread.join, LONG_S)

    asyncio.run(asyncio.wait_for(scenario(), LONG_S))


def test_other_tasks_go_on_while_one_waits_for_tokens() -> None:
    async def scenario() -> None:
        stream, ring, _ = open_stream()
        reading = asyncio.create_task(text_of(stream))
        await asyncio.sleep(0.01)
        assert not reading.done()
        await asyncio.to_thread(feed(stream, ring, "ab").join, LONG_S)
        assert await reading == "ab"

    asyncio.run(scenario())


def test_one_stream_serves_both_kinds_of_iteration() -> None:
    stream, ring, _ = open_stream()
    push(ring, "ab")

    async def first() -> list[str]:
        return [token.text for token in await stream.read_async()]

    assert asyncio.run(first()) == ["a", "b"]
    push(ring, "cd", last=True)
    ring.finish(ring_states.LENGTH)
    assert [token.text for token in stream] == ["c", "d"]
    assert stream.finish_reason is FinishReason.LENGTH


def test_plain_iteration_works_in_the_loops_own_thread_and_in_a_pools() -> None:
    def plainly(stream: TokenStream) -> str:
        return "".join(token.text for token in stream)

    async def scenario() -> None:
        stream, ring, _ = open_stream()
        thread = feed(stream, ring, "notebook")
        assert plainly(stream) == "notebook"
        assert thread.join(LONG_S)
        stream, ring, _ = open_stream()
        reading = asyncio.create_task(asyncio.to_thread(plainly, stream))
        thread = feed(stream, ring, "pool")
        assert await reading == "pool"
        assert thread.join(LONG_S)

    asyncio.run(scenario())


def test_cancelling_the_task_that_iterates_gives_the_seat_back() -> None:
    async def scenario() -> None:
        stream, ring, queue = open_stream()
        reading = asyncio.create_task(text_of(stream))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert is_cancelled(ring, queue)
        assert stream.finish_reason is FinishReason.CANCELLED

    asyncio.run(scenario())


def test_cancelling_the_task_between_two_tokens_gives_the_seat_back() -> None:
    async def dawdle(stream: TokenStream) -> None:
        async for _ in stream:
            await asyncio.sleep(LONG_S)

    async def scenario() -> None:
        stream, ring, queue = open_stream()
        push(ring, "a")
        reading = asyncio.create_task(dawdle(stream))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        del reading
        await asyncio.sleep(0.01)  # the loop closes generators that were left by and by
        assert is_cancelled(ring, queue)

    asyncio.run(scenario())


def test_an_abandoned_generator_gives_the_seat_back() -> None:
    async def scenario() -> None:
        stream, ring, queue = open_stream()

        async def body() -> AsyncIterator[str]:
            async for token in stream:
                yield token.text

        push(ring, "a")
        answer = body()
        assert await anext(answer) == "a"
        del answer
        gc.collect()
        await asyncio.sleep(0.01)
        assert is_cancelled(ring, queue)

    asyncio.run(scenario())


def test_leaving_the_loop_early_closes_the_stream() -> None:
    async def scenario() -> None:
        stream, ring, queue = open_stream()
        push(ring, "ab")
        async for _ in stream:
            break
        await asyncio.sleep(0.01)
        assert is_cancelled(ring, queue)
        assert stream.ended

    asyncio.run(scenario())


def test_leaving_the_block_cancels_what_is_unfinished() -> None:
    async def scenario() -> None:
        stream, ring, queue = open_stream()
        async with stream as entered:
            assert entered is stream
        assert is_cancelled(ring, queue)

    asyncio.run(scenario())


def test_a_cancelled_read_leaves_the_stream_as_it_is() -> None:
    async def scenario() -> None:
        stream, ring, queue = open_stream()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.read_async(), 0.01)
        assert not stream.ended
        assert not is_cancelled(ring, queue)
        push(ring, "a")
        assert [token.text for token in await stream.read_async()] == ["a"]

    asyncio.run(scenario())


def test_a_read_ends_at_its_timeout_and_the_stream_at_its_deadline() -> None:
    async def scenario() -> None:
        stream, _, _ = open_stream(deadline_in_s=0.05)
        assert await stream.read_async(timeout_s=0.001) == []
        assert not stream.ended
        with pytest.raises(DeadlineExceededError):
            await text_of(stream)

    asyncio.run(scenario())


def test_cancelling_from_another_thread_wakes_the_task_with_the_reason() -> None:
    async def scenario() -> None:
        first, _, _ = open_stream()
        second, _, _ = open_stream()
        reading = [asyncio.create_task(text_of(stream)) for stream in (first, second)]
        await asyncio.sleep(0)
        await asyncio.to_thread(first.cancel)
        await asyncio.to_thread(second.cancel, DrainingError("about to end"))
        with pytest.raises(RequestCancelledError):
            await reading[0]
        with pytest.raises(DrainingError):
            await reading[1]

    asyncio.run(scenario())


def test_a_stream_that_no_loop_has_opened_may_be_read_in_any_one() -> None:
    stream, ring, _ = open_stream()

    async def scenario() -> None:
        reading = asyncio.create_task(text_of(stream))
        await asyncio.sleep(0)
        thread = feed(stream, ring, "late")
        assert await reading == "late"
        assert await asyncio.to_thread(thread.join, LONG_S)

    asyncio.run(asyncio.wait_for(scenario(), LONG_S))


def test_a_stream_of_another_loop_is_refused_and_stays_as_it_is() -> None:
    async def opened() -> tuple[TokenStream, TokenRing, Queue]:
        return open_stream()

    async def elsewhere(stream: TokenStream) -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            await stream.read_async()

    stream, ring, queue = asyncio.run(opened())
    asyncio.run(elsewhere(stream))
    assert not stream.ended
    assert not is_cancelled(ring, queue)
    push(ring, "a")
    assert [token.text for token in stream.read()] == ["a"]


def test_the_last_token_waits_for_its_reason_in_a_coroutine_too() -> None:
    async def scenario() -> None:
        stream, ring, _ = open_stream()
        assert ring.push(ord("a"), flags=FLAG_LAST)
        assert await stream.read_async(timeout_s=0.0) == []
        ring.finish(ring_states.STOP)
        (token,) = await stream.read_async()
        assert (token.text, token.finish_reason) == ("a", FinishReason.STOP)

    asyncio.run(scenario())
