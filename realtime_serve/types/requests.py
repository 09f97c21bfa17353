"""One generation as values: what is asked for, what streams out, what comes of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from realtime_serve.errors import InvalidRequestError

MAX_SEED = 2**63 - 1
"""Largest seed: seeds are hashed as signed 64-bit integers, as OpenAI documents them."""

MAX_STOP_STRINGS = 4
MAX_STOP_STRING_CHARS = 1024
"""Bounds what the stop matcher holds back from a stream."""

MAX_STOP_TOKEN_IDS = 256


class RequestPriority(enum.IntEnum):
    """Priority class of a request; lower values are admitted first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class FinishReason(enum.Enum):
    """Why a sequence ended. The values are the words clients see."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    DEADLINE = "deadline_exceeded"
    ERROR = "error"


def _require(condition: bool, message: str, param: str) -> None:
    if not condition:
        raise InvalidRequestError(message, param=param)


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How the next token is chosen and when generation ends.

    Filters apply in this order: temperature, top_k, top_p, min_p.

    Args:
        max_tokens: Most tokens to generate; None means up to the model's context.
        min_tokens: No stop token or stop string ends the sequence within so many tokens.
        temperature: 0 is greedy; at most 2.
        top_p: Keep the smallest set of tokens whose mass reaches this; (0, 1].
        top_k: Keep the k likeliest tokens; None keeps all.
        min_p: Drop tokens below this share of the likeliest one's probability; [0, 1].
        seed: Fixes the random numbers; None draws a fresh seed.
        stop: Texts that end generation; they are not part of the output.
        stop_token_ids: Token ids that end generation, beside the model's own.
        ignore_eos: Do not stop at the model's end-of-sequence tokens.

    Raises:
        InvalidRequestError: A value is out of its range; `param` names it.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        self._check_lengths()
        self._check_filters()
        self._check_stops()
        if self.seed is not None:
            _require(
                -MAX_SEED - 1 <= self.seed <= MAX_SEED,
                "seed must fit a signed 64-bit integer.",
                "seed",
            )

    def _check_lengths(self) -> None:
        if self.max_tokens is not None:
            _require(self.max_tokens >= 1, "max_tokens must be at least 1.", "max_tokens")
        _require(self.min_tokens >= 0, "min_tokens must be at least 0.", "min_tokens")
        if self.max_tokens is not None:
            _require(
                self.min_tokens <= self.max_tokens,
                "min_tokens must not be greater than max_tokens.",
                "min_tokens",
            )

    def _check_filters(self) -> None:
        _require(
            0.0 <= self.temperature <= 2.0, "temperature must be between 0 and 2.", "temperature"
        )
        _require(0.0 < self.top_p <= 1.0, "top_p must be greater than 0 and at most 1.", "top_p")
        if self.top_k is not None:
            _require(self.top_k >= 1, "top_k must be at least 1, or left out.", "top_k")
        _require(0.0 <= self.min_p <= 1.0, "min_p must be between 0 and 1.", "min_p")

    def _check_stops(self) -> None:
        _require(
            len(self.stop) <= MAX_STOP_STRINGS,
            f"stop takes at most {MAX_STOP_STRINGS} strings.",
            "stop",
        )
        for text in self.stop:
            _require(bool(text), "A stop string must not be empty.", "stop")
            _require(
                len(text) <= MAX_STOP_STRING_CHARS,
                f"A stop string may have at most {MAX_STOP_STRING_CHARS} characters.",
                "stop",
            )
        _require(
            len(self.stop_token_ids) <= MAX_STOP_TOKEN_IDS,
            f"stop_token_ids takes at most {MAX_STOP_TOKEN_IDS} ids.",
            "stop_token_ids",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceRequest:
    """One validated request; made in the hub, it crosses to the engine once.

    Args:
        request_id: Unique id, which the id of the answer holds.
        model: Name under which the model is served.
        prompt_token_ids: The prompt, at least one token.
        sampling: How to generate; `max_tokens` is cut to the room that the context leaves.
        priority: Class in the waiting queue.
        deadline_at_s: Instant after which the answer is worthless, or None.
        client_id: Whom to charge, such as an address, or None.
        external_id: What its caller knows it by, as in log lines, or None; need not be unique.

    Raises:
        InvalidRequestError: The prompt is empty.
    """

    request_id: str
    model: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    priority: RequestPriority = RequestPriority.NORMAL
    deadline_at_s: float | None = None
    client_id: str | None = None
    external_id: str | None = None

    def __post_init__(self) -> None:
        """Check the prompt."""
        _require(len(self.prompt_token_ids) > 0, "The prompt must not be empty.", "prompt")


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamToken:
    """One token as a consumer of a stream sees it.

    Args:
        token_id: Vocabulary id.
        text: What this token adds to the text; empty while a character or a possible
            stop string is incomplete.
        index: Which choice it belongs to.
        finish_reason: Set on the last token of a choice.
    """

    token_id: int
    text: str
    index: int = 0
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Token counts of one request.

    Args:
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens generated.
        cached_tokens: Prompt tokens that were found in the prefix cache.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceResponse:
    """A finished generation.

    Args:
        request_id: The request's id.
        model: Name of the model that answered.
        text: The whole text, stop strings cut off.
        finish_reason: Why it ended.
        usage: Token counts.
        token_ids: The generated ids, a final stop token included; none where only the text was
            wanted.
    """

    request_id: str
    model: str
    text: str
    finish_reason: FinishReason
    usage: Usage
    token_ids: tuple[int, ...] = ()
