"""A server that drains serves until its deadline, and then ends whatever is open with a reason."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from realtime_serve import FinishReason, InferenceServer, NotReadyError
from realtime_serve.errors import DrainingError
from support.scripted_servers import (
    GREEDY,
    ONE_SEAT,
    ONE_TOKEN,
    EndlessAlphabet,
    serve,
    text_of,
    wait_until,
)


@pytest.fixture
def endless() -> Iterator[InferenceServer]:
    with serve(EndlessAlphabet) as server:
        yield server


def is_over(server: InferenceServer) -> bool:
    """Whether it refuses requests."""
    try:
        server.generate("a", sampling=ONE_TOKEN).close()
    except NotReadyError:
        return True
    return False


def test_until_the_deadline_it_is_not_ready_but_serves(endless: InferenceServer) -> None:
    endless.drain(timeout_s=1000)
    health = endless.health()
    assert (health.ready, health.draining) == (False, True)
    assert text_of(endless.generate("a", sampling=ONE_TOKEN)) == "b"


def test_at_the_deadline_what_runs_ends_with_the_reason_and_its_usage(
    endless: InferenceServer,
) -> None:
    stream = endless.generate("a", sampling=GREEDY)
    assert stream.read()
    endless.drain(timeout_s=0.01)
    with pytest.raises(DrainingError):
        text_of(stream)
    assert stream.finish_reason is FinishReason.ERROR
    assert stream.usage.completion_tokens > 0
    wait_until(lambda: endless.health().running == 0)


def test_what_waits_in_the_queue_ends_too() -> None:
    with serve(EndlessAlphabet, ONE_SEAT) as server:
        streams = [server.generate("a", sampling=GREEDY) for _ in range(3)]
        assert streams[0].read()
        server.drain(timeout_s=0)
        errors = []
        for stream in streams:
            with pytest.raises(DrainingError) as caught:
                text_of(stream)
            errors.append(caught.value)
        assert len(set(map(id, errors))) == 3  # a shared error would keep every traceback
        assert server.health().waiting == 0


def test_after_the_deadline_requests_are_refused(endless: InferenceServer) -> None:
    endless.drain(timeout_s=0)
    wait_until(lambda: is_over(endless))
    assert not endless.health().ready


def test_of_two_deadlines_the_earlier_counts(endless: InferenceServer) -> None:
    stream = endless.generate("a", sampling=GREEDY)
    endless.drain(timeout_s=1000)
    assert stream.read()
    endless.drain(timeout_s=0)
    endless.drain(timeout_s=1000)
    with pytest.raises(DrainingError):
        text_of(stream)


def test_a_stream_that_has_ended_is_not_ended_again(endless: InferenceServer) -> None:
    stream = endless.generate("a", sampling=ONE_TOKEN)
    assert text_of(stream) == "b"
    endless.drain(timeout_s=0)
    wait_until(lambda: is_over(endless))
    assert stream.finish_reason is FinishReason.LENGTH
    assert stream.error is None


@pytest.mark.not_under_gevent("gevent handles signals between greenlets, not between bytecodes")
def test_a_signal_handler_may_drain(endless: InferenceServer) -> None:
    before = signal.signal(signal.SIGUSR2, lambda number, frame: endless.drain(0))
    try:
        stream = endless.generate("a", sampling=GREEDY)
        assert stream.read()
        signal.raise_signal(signal.SIGUSR2)
        with pytest.raises(DrainingError):
            text_of(stream)
    finally:
        signal.signal(signal.SIGUSR2, before)
