"""The chain's order, and that one member's mistake costs the others nothing."""

import logging

import pytest

from realtime_serve.errors import RateLimitedError, ServeError
from realtime_serve.middleware import Middleware, MiddlewareChain, RequestContext
from realtime_serve.stream import TokenStream


def context() -> RequestContext:
    return RequestContext(
        request_id="r", client_id="c", method="POST", route="/v1/x", started_at_s=0.0
    )


class Recorder(Middleware):
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls

    def before_request(self, context: RequestContext) -> None:
        self.calls.append(f"{self.name}.before")

    def after_request(self, context: RequestContext) -> None:
        self.calls.append(f"{self.name}.after")

    def on_error(self, context: RequestContext, error: ServeError) -> None:
        self.calls.append(f"{self.name}.error")

    def on_stream_end(self, context: RequestContext, stream: TokenStream) -> None:
        self.calls.append(f"{self.name}.end")


class Refuser(Middleware):
    def before_request(self, context: RequestContext) -> None:
        raise RateLimitedError("no")


class Broken(Middleware):
    def after_request(self, context: RequestContext) -> None:
        raise RuntimeError("a mistake")


def test_members_run_in_order_before_and_in_reverse_after() -> None:
    calls: list[str] = []
    chain = MiddlewareChain([Recorder("a", calls), Recorder("b", calls)])
    chain.before_request(context())
    chain.after_request(context())
    chain.on_error(context(), ServeError("x"))
    assert calls == ["a.before", "b.before", "b.after", "a.after", "b.error", "a.error"]


def test_a_refusal_keeps_later_members_out() -> None:
    calls: list[str] = []
    chain = MiddlewareChain([Recorder("a", calls), Refuser(), Recorder("b", calls)])
    with pytest.raises(RateLimitedError):
        chain.before_request(context())
    assert calls == ["a.before"]


def test_an_error_is_noted_in_the_context() -> None:
    failed, error = context(), ServeError("x")
    MiddlewareChain().on_error(failed, error)
    assert failed.error is error


def test_a_broken_hook_is_logged_and_the_others_run(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    with caplog.at_level(logging.ERROR, "realtime_serve.middleware"):
        MiddlewareChain([Recorder("a", calls), Broken()]).after_request(context())
    assert calls == ["a.after"]
    assert "a mistake" in caplog.text


def test_what_waits_for_the_delivery_is_called_once_and_its_mistakes_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[str] = []

    def fail() -> None:
        raise ValueError("a mistake")

    request = context()
    request.when_delivered(lambda: calls.append("nothing is on its way"))
    request.delivering = True
    request.when_delivered(fail)
    request.when_delivered(lambda: calls.append("delivered"))
    assert calls == ["nothing is on its way"]
    request.end_delivery()
    request.end_delivery()
    assert calls == ["nothing is on its way", "delivered"]
    assert "a mistake" in caplog.text
