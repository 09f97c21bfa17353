"""A process knows whether it is one of gunicorn's workers, and what gunicorn was told of them."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest
from gunicorn.config import Config
from gunicorn.workers.base import Worker

from realtime_serve.drain import drain_timeout_s
from realtime_serve.worker_processes import (
    graceful_timeout_s,
    is_gunicorn_worker,
    listening_addresses,
    num_worker_processes,
)

WORKERS_OWN = {
    signal.SIGUSR1: "handle_usr1",
    signal.SIGABRT: "handle_abort",
    signal.SIGWINCH: "handle_winch",
}


@pytest.fixture(autouse=True)
def same_handler_afterwards() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in WORKERS_OWN}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("kept", WORKERS_OWN)
def test_a_worker_of_gunicorn_knows_its_settings_whatever_handlers_the_app_replaces(
    kept: signal.Signals,
) -> None:
    config = Config()
    config.set("workers", 3)
    config.set("graceful_timeout", 7)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker = Worker(1, 1, [listener], None, 30, config, None)
        try:
            for number in WORKERS_OWN:
                signal.signal(number, signal.SIG_IGN)
            signal.signal(kept, getattr(worker, WORKERS_OWN[kept]))
            assert is_gunicorn_worker()
            assert num_worker_processes() == 3
            assert graceful_timeout_s() == 7
            assert drain_timeout_s(100) == 5.5
            assert listening_addresses() == [listener.getsockname()]
        finally:
            worker.tmp.close()


@pytest.mark.parametrize("handler", [signal.SIG_DFL, lambda number, frame: None])
def test_any_other_process_counts_for_one(handler: signal.Handlers) -> None:
    signal.signal(signal.SIGUSR1, handler)
    assert not is_gunicorn_worker()
    assert num_worker_processes() == 1
    assert graceful_timeout_s() is None
    assert drain_timeout_s(100) == 100
    assert listening_addresses() == []
