"""Errors reach clients in OpenAI's envelope, with the right advice on trying again."""

import pytest

from realtime_serve.api.envelope import error_envelope, error_headers
from realtime_serve.errors import (
    BodyTooLargeError,
    ContextLengthExceededError,
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    ModelNotFoundError,
    NotReadyError,
    OverloadedError,
    RateLimitedError,
    ServeError,
)


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (
            InvalidRequestError("No.", param="top_p"),
            400,
            {"message": "No.", "type": "invalid_request_error", "param": "top_p", "code": None},
        ),
        (
            ContextLengthExceededError("Too long.", param="messages"),
            400,
            {
                "message": "Too long.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            },
        ),
        (
            ModelNotFoundError("No such model."),
            404,
            {
                "message": "No such model.",
                "type": "invalid_request_error",
                "param": None,
                "code": "model_not_found",
            },
        ),
        (
            OverloadedError("Full.", code="queue_full"),
            503,
            {
                "message": "Full.",
                "type": "overloaded_error",
                "param": None,
                "code": "queue_full",
            },
        ),
    ],
)
def test_a_serve_error_says_all_that_it_knows(
    error: ServeError, status: int, body: dict[str, str | None]
) -> None:
    assert error.status == status
    assert error_envelope(error) == {"error": body}


@pytest.mark.parametrize("error", [ValueError("/etc/secret"), KeyError("secret"), OSError(5, "x")])
def test_of_any_other_exception_nothing_is_shown(error: Exception) -> None:
    assert error_headers(error) == {}
    body = error_envelope(error)["error"]
    assert (body["type"], body["code"]) == ("server_error", "internal_error")
    assert "secret" not in str(body)
    assert type(error).__name__ not in str(body)


@pytest.mark.parametrize("kind", [RateLimitedError, OverloadedError, NotReadyError])
@pytest.mark.parametrize(
    ("retry_after_s", "seconds", "milliseconds"),
    [
        (None, "1", "1000"),
        (0.0, "1", "1"),
        (-3.0, "1", "1"),
        (0.2, "1", "200"),
        (0.2001, "1", "201"),
        (1.0, "1", "1000"),
        (1.001, "2", "1001"),
        (90, "90", "90000"),
        (float("inf"), "3600", "3600000"),
    ],
)
def test_429_and_503_always_say_when_to_try_again(
    kind: type[ServeError], retry_after_s: float | None, seconds: str, milliseconds: str
) -> None:
    assert error_headers(kind("Wait.", retry_after_s=retry_after_s)) == {
        "Retry-After": seconds,
        "retry-after-ms": milliseconds,
        "x-should-retry": "true",
    }


@pytest.mark.parametrize("kind", [DeadlineExceededError, EngineError])
def test_clients_that_retry_every_5xx_are_told_where_it_is_in_vain(kind: type[ServeError]) -> None:
    assert error_headers(kind("Failed.")) == {"x-should-retry": "false"}


@pytest.mark.parametrize("kind", [InvalidRequestError, ModelNotFoundError, BodyTooLargeError])
def test_refusals_of_what_was_sent_carry_no_advice_on_retries(kind: type[ServeError]) -> None:
    assert error_headers(kind("No.", retry_after_s=5)) == {}
