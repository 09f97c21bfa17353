"""An alarm rings once, after its time, unless what it was set for is done by then."""

from __future__ import annotations

import threading

import gevent
import pytest
from gevent.hub import Hub

from realtime_serve.alarm import Alarm
from support.hub_thread import on_hub_thread
from support.scripted_servers import wait_until


def test_it_rings_once_while_somebody_is_at_it() -> None:
    calls: list[int] = []
    with Alarm(0.001, lambda: calls.append(1)) as alarm:
        wait_until(lambda: alarm.rang)
        threading.Event().wait(0.01)
    assert calls == [1]


def test_who_is_done_in_time_hears_nothing() -> None:
    calls: list[int] = []
    with Alarm(0.02, lambda: calls.append(1)) as alarm:
        pass
    threading.Event().wait(0.05)
    assert not alarm.rang
    assert calls == []


@pytest.mark.not_under_gevent("a patched process has no thread that waits without its hub")
def test_it_rings_beside_a_hub_that_does_not_run() -> None:
    def body(_: Hub) -> None:
        gevent.sleep(0)  # it has run, and will not again
        with Alarm(0.001, lambda: None) as alarm:
            wait_until(lambda: alarm.rang)

    on_hub_thread(body)


def test_it_rings_in_a_greenlet() -> None:
    def wait() -> None:
        with Alarm(0.001, lambda: None) as alarm:
            while not alarm.rang:
                gevent.sleep(0.001)

    on_hub_thread(lambda _: gevent.spawn(wait).get())
