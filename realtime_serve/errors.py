"""Every error a caller can see, on one page, under one base.

Each class carries the HTTP status, the OpenAI error type and, where clients
switch on it, the code. Three kinds of fault are told apart: the caller's
(4xx), ours and passing (503, 504: try again), ours and lasting (500).
Messages say what is wrong and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class ServeError(Exception):
    """Base of every error raised by this package.

    Args:
        message: What is wrong and what to do, for a person.
        param: Name of the request field at fault, if one is.
        code: Machine-readable code; the class's own when None.
        retry_after_s: Seconds after which a retry may succeed, if known.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        self.retry_after_s = retry_after_s


# --- the caller's fault -------------------------------------------------------


class InvalidRequestError(ServeError):
    """The request is malformed or a value in it is out of range."""

    status = 400
    type = "invalid_request_error"


class ContextLengthExceededError(InvalidRequestError):
    """The prompt does not fit the model's context or its KV cache."""

    default_code = "context_length_exceeded"


class AuthenticationError(ServeError):
    """The request's key is missing or wrong."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class NotFoundError(ServeError):
    """No such path."""

    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class ModelNotFoundError(NotFoundError):
    """No model of that name is served."""

    default_code = "model_not_found"


class RequestNotFoundError(NotFoundError):
    """The caller has no open request of that id."""

    default_code = "request_not_found"


class StreamNotFoundError(NotFoundError):
    """No stream of that id can be resumed, or not from there."""

    default_code = "stream_not_found"


class MethodNotAllowedError(ServeError):
    """The path exists, but not for this HTTP method."""

    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class ConflictError(ServeError):
    """What is asked for cannot be done where, or as, this server runs."""

    status = 409
    type = "invalid_request_error"
    default_code = "conflict"


class BodyTooLargeError(ServeError):
    """The request's body is longer than max_body_bytes."""

    status = 413
    type = "invalid_request_error"
    default_code = "body_too_large"


class BodyTimeoutError(ServeError):
    """The request's body has not come within body_timeout_s."""

    status = 408
    type = "invalid_request_error"
    default_code = "body_timeout"


class UnsupportedMediaTypeError(ServeError):
    """The body is not plain application/json."""

    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_media_type"


class RateLimitedError(ServeError):
    """The caller has used up its own allowance."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class RequestCancelledError(ServeError):
    """The request was cancelled before it finished.

    The status is nginx's 499: no client is left to read it, but the log line is.
    """

    status = 499
    type = "invalid_request_error"
    default_code = "cancelled"


class StalledReaderError(ServeError):
    """Whoever reads the stream did not keep up: too long, or at all where the policy is to drop.

    The status is for the log: by then the answer has begun.
    """

    status = 408
    type = "timeout_error"
    default_code = "stalled_reader"

    def __init__(self) -> None:
        super().__init__("The stream's reader did not keep up. Read faster, or ask for less.")


# --- ours, and passing --------------------------------------------------------


class OverloadedError(ServeError):
    """The waiting queue is full; retry later."""

    status = 503
    type = "overloaded_error"
    default_code = "overloaded"


class NotReadyError(ServeError):
    """The model is loading, draining or gone; retry later."""

    status = 503
    type = "overloaded_error"
    default_code = "not_ready"


class DrainingError(NotReadyError):
    """The server is about to end; another one can serve the request."""

    default_code = "draining"


class DeadlineExceededError(ServeError):
    """The request's deadline passed before it finished."""

    status = 504
    type = "timeout_error"
    default_code = "deadline_exceeded"


# --- ours, and lasting --------------------------------------------------------


class EngineError(ServeError):
    """The model failed on this request; the others went on."""

    default_code = "engine_error"


class ModelLoadError(ServeError):
    """A model cannot be loaded; the message says which file and why."""

    default_code = "model_load_failed"


class ConfigError(ServeError):
    """The configuration is wrong; the message lists what is allowed."""

    default_code = "bad_configuration"
