"""The configured model is opened once, says why where that failed, and is then tried again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from realtime_serve import InferenceServer, ServerConfig, create_app
from realtime_serve.errors import (
    DeadlineExceededError,
    ModelLoadError,
    NotReadyError,
    OverloadedError,
)
from realtime_serve.model_opening import OPENING_RETRY_S, REOPEN_AFTER_S, ModelOpening
from support.scripted_servers import alphabet_server, wait_until


class Opening:
    """Of a server whose file is not there, with a clock that somebody moves."""

    def __init__(self, server: InferenceServer, caplog: pytest.LogCaptureFixture) -> None:
        self.now_s = 1000.0
        self.opening = ModelOpening(server, clock=lambda: self.now_s)
        self._caplog = caplog

    @property
    def num_failures(self) -> int:
        """Those that were started aside, and have ended with a line in the log."""
        messages = [each.getMessage() for each in self._caplog.records]
        return len([each for each in messages if "cannot be served" in each])

    def refusal(self) -> NotReadyError:
        with pytest.raises(NotReadyError) as caught:
            self.opening.require()
        return caught.value

    def fail(self) -> NotReadyError:
        """Open it aside, wait until that has failed, and be refused."""
        num_before = self.num_failures
        self.opening.start_aside()
        wait_until(lambda: self.num_failures > num_before)
        return self.refusal()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secret" / "model.gguf"


@pytest.fixture
def server(path: Path, tmp_path: Path) -> Iterator[InferenceServer]:
    config = ServerConfig(model=str(path), dtype="q4", cache_dir=str(tmp_path / "cache"))
    with InferenceServer(config) as server:
        yield server


@pytest.fixture
def absent(server: InferenceServer, caplog: pytest.LogCaptureFixture) -> Opening:
    return Opening(server, caplog)


def test_requests_hear_why_the_files_cannot_be_opened_and_when_to_come_again(
    absent: Opening,
) -> None:
    assert absent.fail().message == (
        "The model cannot be served: model.gguf does not exist; give a GGUF file or a Hugging "
        "Face model directory. Retry later."
    )
    assert absent.refusal().retry_after_s == REOPEN_AFTER_S
    absent.now_s += REOPEN_AFTER_S - OPENING_RETRY_S - 1
    assert absent.refusal().retry_after_s == OPENING_RETRY_S + 1
    absent.now_s += OPENING_RETRY_S
    assert absent.refusal().retry_after_s == OPENING_RETRY_S


def test_files_that_cannot_be_opened_are_not_read_again_for_each_who_asks(
    absent: Opening,
) -> None:
    absent.fail()
    absent.now_s += REOPEN_AFTER_S - 0.001
    for _ in range(20):
        absent.opening.start_aside()
        absent.refusal()
    with pytest.raises(ModelLoadError):  # nothing is being opened, which would hinder this
        absent.opening.start()
    assert absent.num_failures == 1
    absent.now_s += REOPEN_AFTER_S
    absent.fail()
    assert absent.num_failures == 2


def test_an_attempt_that_failed_while_somebody_asked_is_not_repeated_for_them(
    server: InferenceServer, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[float] = []

    def clock() -> float:
        """Whoever looks at it is overtaken by somebody whose attempt fails."""
        if not attempts:
            attempts.append(0.0)
            with pytest.raises(ModelLoadError):
                opening.start()
        return 1000.0

    opening = ModelOpening(server, clock)
    opening.start_aside()
    with pytest.raises(ModelLoadError):  # nothing is being opened, which would hinder this
        opening.start()
    assert "cannot be served" not in caplog.text


def test_an_attempt_that_was_interrupted_keeps_nobody_from_the_next_one(
    absent: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("realtime_serve.server.model_from_files", interrupt)
        with pytest.raises(KeyboardInterrupt):
            absent.opening.start()
    assert "model.gguf does not exist" in absent.fail().message


def test_a_model_whose_files_appear_is_served_without_anybodys_help(
    absent: Opening, server: InferenceServer, path: Path, gguf_path: str
) -> None:
    absent.fail()
    path.parent.mkdir()
    path.symlink_to(gguf_path)
    absent.refusal()
    absent.now_s += REOPEN_AFTER_S
    absent.opening.start_aside()
    wait_until(lambda: len(server.registry) == 1)
    absent.opening.require()


def test_what_is_asked_for_outright_is_tried_however_lately_it_failed(
    absent: Opening, server: InferenceServer, path: Path, gguf_path: str
) -> None:
    for _ in range(2):
        with pytest.raises(ModelLoadError, match="secret"):
            absent.opening.start()
    path.parent.mkdir()
    path.symlink_to(gguf_path)
    absent.opening.start()
    assert len(server.registry) == 1


def test_of_an_error_that_is_not_ours_only_the_log_says_more(
    absent: Opening, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_: object) -> None:
        raise OSError("/srv/secret/path")

    monkeypatch.setattr("realtime_serve.server.model_from_files", explode)
    assert "OSError. The server's log says more. Retry" in absent.fail().message
    assert "/srv/secret/path" in caplog.text


def test_requests_that_come_at_once_before_there_is_a_model_are_all_served(gguf_path: str) -> None:
    with InferenceServer(ServerConfig(model=gguf_path)) as server:
        app = create_app(server=server)
        statuses: list[int] = []
        threads = [threading.Thread(target=ask, args=(app, statuses)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [200, 200, 200, 200]


def ask(app: Flask, statuses: list[int]) -> None:
    body = {"model": "SmolLM2-135M-Instruct", "prompt": "Hi", "max_tokens": 1}
    statuses.append(app.test_client().post("/v1/completions", json=body).status_code)


@pytest.mark.not_under_gevent("the opening would hold up the hub")
def test_waiting_for_files_to_be_opened_has_a_bound_and_a_deadline(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It lasts as long as the test likes: the configuration comes through a pipe."""
    pipe = tmp_path / "config.json"
    os.mkfifo(pipe)
    errors: list[Exception] = []
    with InferenceServer(ServerConfig(model=str(tmp_path), max_queue_depth=1)) as server:
        opening = ModelOpening(server)
        with pytest.raises(DeadlineExceededError):
            opening.require(time.monotonic())
        patient = threading.Thread(target=wait_in_vain, args=(opening, errors))
        patient.start()
        wait_until(lambda: is_full(opening))
        pipe.write_bytes(b"not JSON")
        patient.join()
    assert [type(error) for error in errors] == [NotReadyError]
    assert "config.json is not valid JSON" in str(errors[0])
    wait_until(lambda: "cannot be served" in caplog.text)  # the last of the opening's thread


def wait_in_vain(opening: ModelOpening, errors: list[Exception]) -> None:
    try:
        opening.require()
    except Exception as error:
        errors.append(error)


def is_full(opening: ModelOpening) -> bool:
    with pytest.raises((OverloadedError, DeadlineExceededError)) as caught:
        opening.require(time.monotonic())
    return isinstance(caught.value, OverloadedError)


def test_where_there_is_no_thread_to_open_them_requests_hear_it_and_it_is_tried_again(
    absent: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = []
    patient = threading.Thread(target=wait_in_vain, args=(absent.opening, errors), daemon=True)
    start = threading.Thread.start

    def fail_while_somebody_waits(_: object) -> None:
        start(patient)
        wait_until(lambda: len(absent.opening._waiting) == 1)
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as out_of_threads:
        out_of_threads.setattr("threading.Thread.start", fail_while_somebody_waits)
        refusal = absent.refusal()
    assert "RuntimeError. The server's log says more. Retry" in refusal.message
    wait_until(lambda: [str(error) for error in errors] == [refusal.message])
    assert absent.num_failures == 1
    absent.now_s += REOPEN_AFTER_S
    assert "model.gguf does not exist" in absent.fail().message


def test_where_a_model_is_registered_the_configured_one_is_not_opened() -> None:
    with alphabet_server(ServerConfig(model="/absent.gguf")) as server:
        opening = ModelOpening(server)
        opening.start()
        opening.require()
        assert len(server.registry) == 1
