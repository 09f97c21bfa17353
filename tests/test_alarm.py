"""An alarm rings once, after its time, unless what it was set for is done by then."""

from __future__ import annotations

import threading

from realtime_serve.alarm import Alarm
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
