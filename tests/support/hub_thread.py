"""An OS thread with a gevent hub of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent

from realtime_serve.native import NativeThread

LONG_S = 60.0
"""Only a hang lasts so long."""


def on_hub_thread(function: Callable[[Any], None]) -> None:
    """Call the function in an OS thread that has a gevent hub of its own; pass it the hub."""
    thread = NativeThread(lambda: function(gevent.get_hub()), "hub")
    thread.start()
    assert thread.join(LONG_S)
    assert thread.error is None, thread.error
