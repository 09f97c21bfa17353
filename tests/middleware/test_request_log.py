"""The access log: nobody waits for it, nothing of it is lost at the end, and it is bounded."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable

import gevent
import pytest
from gevent.event import Event
from gevent.hub import Hub

from realtime_serve.middleware import RequestContext, RequestLogger, request_log
from support.hub_thread import on_hub_thread
from support.scripted_servers import wait_until

EXIT_WITH_UNWRITTEN_LINES = """
import gevent.monkey
gevent.monkey.patch_all()
import logging, sys
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
from realtime_serve.middleware import RequestContext, RequestLogger
logger = RequestLogger()

def end_requests():
    for number in range(3):
        logger.after_request(RequestContext(
            request_id=str(number), client_id="c", method="GET", route="/", started_at_s=0.0))

gevent.spawn(end_requests).join()
print("the end")
"""


def ended_request(request_id: str) -> RequestContext:
    return RequestContext(
        request_id=request_id, client_id="c", method="GET", route="/", started_at_s=0.0
    )


class Lines(logging.Handler):
    """What was logged; `before` runs before each line."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.request_ids: list[str] = []
        self.before = before

    def emit(self, record: logging.LogRecord) -> None:
        self.before()
        self.request_ids.append(json.loads(record.getMessage())["request_id"])


def logger_to(handler: Lines) -> logging.Logger:
    log = logging.Logger("of one test", logging.INFO)
    log.addHandler(handler)
    return log


def test_lines_are_written_in_the_order_of_the_requests_ends() -> None:
    lines = Lines()
    logger = RequestLogger(logger_to(lines))
    for number in range(5):
        logger.after_request(ended_request(str(number)))
    logger.flush()
    assert lines.request_ids == ["0", "1", "2", "3", "4"]


def test_lines_are_written_without_being_asked_for() -> None:
    lines = Lines()
    logger = RequestLogger(logger_to(lines))
    logger.after_request(ended_request("0"))
    wait_until(lambda: lines.request_ids == ["0"])
    logger.after_request(ended_request("1"))
    wait_until(lambda: lines.request_ids == ["0", "1"])


def test_lines_that_are_not_written_yet_are_written_at_the_exit() -> None:
    command = [sys.executable, "-c", EXIT_WITH_UNWRITTEN_LINES]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    first, *lines = printed.splitlines()
    assert first == "the end"
    assert [json.loads(line)["request_id"] for line in lines] == ["0", "1", "2"]


def test_a_logger_that_is_dropped_with_its_app_writes_what_it_has() -> None:
    lines = Lines()
    logger = RequestLogger(logger_to(lines))
    logger.after_request(ended_request("last"))
    del logger
    wait_until(lambda: bool(lines.request_ids))
    assert lines.request_ids == ["last"]


def test_a_log_that_hangs_owes_a_bounded_number_of_lines_and_the_rest_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request_log, "MAX_UNWRITTEN", 10)

    def requests() -> None:
        hangs, goes_on = Event(), Event()

        def hang() -> None:
            hangs.set()
            goes_on.wait()

        lines = Lines(before=hang)
        logger = RequestLogger(logger_to(lines))
        logger.after_request(ended_request("first"))
        hangs.wait()
        for number in range(13):
            logger.after_request(ended_request(str(number)))
        assert logger.num_dropped == 3
        goes_on.set()
        while len(lines.request_ids) < 11:
            gevent.sleep(0.001)
        assert lines.request_ids == ["first", *map(str, range(10))]
        logger.after_request(ended_request("later"))
        while lines.request_ids[-1] != "later":
            gevent.sleep(0.001)

    on_hub_thread(lambda _: gevent.spawn(requests).get())


def test_a_hub_that_does_not_run_is_not_waited_for() -> None:
    """As where somebody's app has asked for a hub, and is served by a thread that never waits."""
    lines = Lines()
    logger = RequestLogger(logger_to(lines))

    def body(_: Hub) -> None:
        gevent.sleep(0)  # it has run, and will not again
        logger.after_request(ended_request("at once"))
        assert lines.request_ids == ["at once"]

    on_hub_thread(body)
