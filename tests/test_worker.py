"""InferenceThread while it loads: it can be stopped, and says how it has ended.

What it does once it serves is tested through InferenceServer.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from realtime_serve.batch import BatchScheduler
from realtime_serve.engine.interface import Engine
from realtime_serve.engine.load_watcher import LoadWatcher
from realtime_serve.errors import ModelLoadError
from realtime_serve.native import new_parker, original
from realtime_serve.types import BatchConfig
from realtime_serve.worker import EngineLoader, InferenceThread, WorkerState
from support.scripted_servers import wait_until


def thread_with(load: EngineLoader) -> InferenceThread:
    return InferenceThread("infer-test", load, BatchScheduler(BatchConfig(), time.monotonic))


def pack_for_ever(watcher: LoadWatcher) -> Engine:
    while True:
        watcher.on_progress(0.25)
        original("time", "sleep")(0.001)


def read_for_ever(watcher: LoadWatcher) -> Engine:
    watcher.on_progress(0.25)
    while True:
        watcher.before_piece()
        original("time", "sleep")(0.001)


@pytest.mark.parametrize("load", [pack_for_ever, read_for_ever])
def test_a_thread_that_loads_can_be_stopped(load: EngineLoader) -> None:
    thread = thread_with(load)
    thread.start()
    wait_until(lambda: thread.load_progress == 0.25)
    assert thread.state is WorkerState.LOADING
    thread.stop()
    assert thread.join()
    assert (thread.state, thread.failure) == (WorkerState.STOPPED, None)
    assert not thread.notices


def test_whoever_waits_for_a_model_is_woken_when_its_loading_is_stopped() -> None:
    thread = thread_with(pack_for_ever)
    thread.start()
    thread.stop()
    assert thread.wait_loaded(new_parker())
    assert thread.join()


def test_what_a_loader_opened_is_closed_before_a_stopped_thread_ends() -> None:
    closed: list[WorkerState] = []

    def load(*told: Any) -> Engine:
        try:
            return pack_for_ever(*told)
        finally:
            closed.append(thread.state)

    thread = thread_with(load)
    thread.start()
    thread.stop()
    assert thread.join()
    assert closed == [WorkerState.LOADING]


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ModelLoadError("No such model."), "The model could not be loaded: No such model."),
        (ValueError("x"), "The model could not be loaded: ValueError('x')"),
    ],
)
def test_a_loader_that_fails_is_a_failure_with_its_reason(error: Exception, failure: str) -> None:
    def load(*told: Any) -> Engine:
        raise error

    thread = thread_with(load)
    thread.start()
    assert thread.join()
    assert (thread.state, thread.failure) == (WorkerState.FAILED, failure)
    assert list(thread.notices) == [failure]
