"""The values that cross between layers: frozen, keyword-only, checked when built.

Durations are in seconds and end in _s; instants are on time.monotonic()'s clock
and end in _at_s. None means "not set", never -1 or 0.
"""

from __future__ import annotations

import enum
import sys
import typing
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from realtime_serve.errors import ConfigError, InvalidRequestError

DTYPES = ("auto", "float32", "bfloat16")

DType = Literal["auto", "float32", "bfloat16"]

MAX_SEED = 2**63 - 1
"""Largest seed: seeds are hashed as signed 64-bit integers, as OpenAI documents them."""

MAX_STOP_STRINGS = 4
MAX_STOP_STRING_CHARS = 1024
"""Bounds what the stop matcher holds back from a stream."""

MAX_STOP_TOKEN_IDS = 256

MAX_QUEUE_DEPTH = 2**20
"""The native queue's MAX_CAPACITY, repeated: configuring must not load native code."""

MAX_RING_CAPACITY = 2**20
"""The native ring's MAX_CAPACITY, repeated for the same reason."""


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
        request_id: Unique id, echoed in answers and log lines.
        model: Name under which the model is served.
        prompt_token_ids: The prompt, at least one token.
        sampling: How to generate; `max_tokens` is cut to the room that the context leaves.
        priority: Class in the waiting queue.
        deadline_at_s: Instant after which the answer is worthless, or None.
        client_id: Whom to charge, such as an address, or None.

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
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int

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
        token_ids: The generated ids, a final stop token included.
        finish_reason: Why it ended.
        usage: Token counts.
    """

    request_id: str
    model: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage


_ACCEPTED: dict[Any, Any] = {
    float: int | float,
    float | None: int | float | None,
    DType: object,  # its own check lists the values
}
"""What passes for a field's annotation, where that is not the annotation itself."""


def _check_types(config: BatchConfig | ModelConfig | ServerConfig) -> None:
    annotations = typing.get_type_hints(type(config))
    for each in fields(config):
        value = getattr(config, each.name)
        accepted = _ACCEPTED.get(annotations[each.name], annotations[each.name])
        if isinstance(value, bool) or not isinstance(value, accepted):  # no field is a bool
            raise ConfigError(
                f"{each.name} must be of type {each.type}, not {value!r}.", param=each.name
            )
        if isinstance(value, str):
            _check_text(each.name, value)


def _check_text(name: str, text: str) -> None:
    """Refuse what an environment variable cannot hold: empty there means "not set"."""
    if not text or "\0" in text:
        raise ConfigError(
            f"{name} must not be empty or contain NUL; leave it out for its default.", param=name
        )


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and not 0 < value <= sys.float_info.max:  # false for nan, too
        raise ConfigError(f"{name} must be greater than 0 and finite, not {value}.", param=name)


def _check_at_most(name: str, value: int, maximum: int) -> None:
    if value > maximum:
        raise ConfigError(f"{name} must be at most {maximum}, not {value}.", param=name)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchConfig:
    """Bounds of one engine's batch and of the queue before it.

    Args:
        max_num_seqs: Most sequences seated in the engine at once.
        max_batch_tokens: Token budget of one step; a longer prompt is computed in chunks.
        max_queue_depth: Most requests waiting for a seat; one more is refused with 503. At
            most MAX_QUEUE_DEPTH.
        ring_capacity: Tokens one stream may run ahead of its reader before its sequence
            is paused. At most MAX_RING_CAPACITY.

    Raises:
        ConfigError: A value has the wrong type or is out of range; `param` names it.
    """

    max_num_seqs: int = 64
    max_batch_tokens: int = 256
    max_queue_depth: int = 1024
    ring_capacity: int = 256

    def __post_init__(self) -> None:
        """Check the types and the ranges."""
        _check_types(self)
        for name in ("max_num_seqs", "max_batch_tokens", "max_queue_depth", "ring_capacity"):
            _check_positive(name, getattr(self, name))
        _check_at_most("max_queue_depth", self.max_queue_depth, MAX_QUEUE_DEPTH)
        _check_at_most("ring_capacity", self.ring_capacity, MAX_RING_CAPACITY)
        if self.max_batch_tokens < self.max_num_seqs:
            raise ConfigError(
                f"max_batch_tokens ({self.max_batch_tokens}) must be at least max_num_seqs "
                f"({self.max_num_seqs}), or a full batch cannot decode in one step.",
                param="max_batch_tokens",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Which model to load, and how.

    Args:
        path: A GGUF file or a Hugging Face directory; None takes the default model.
        name: Name under which it is served; None derives one from the path.
        dtype: Arithmetic of the network; "auto" takes bfloat16 where the CPU has it.
        max_model_len: Longest prompt plus output in tokens; None takes the model's own.
        kv_cache_bytes: Memory for the KV cache.
        num_threads: Threads of one step; None takes the CPUs this process may use.

    Raises:
        ConfigError: A value has the wrong type or is out of range; `param` names it.
    """

    path: str | None = None
    name: str | None = None
    dtype: DType = "auto"
    max_model_len: int | None = None
    kv_cache_bytes: int = 512 * 1024 * 1024
    num_threads: int | None = None

    def __post_init__(self) -> None:
        """Check the types and the ranges."""
        _check_types(self)
        for name in ("max_model_len", "kv_cache_bytes", "num_threads"):
            _check_positive(name, getattr(self, name))
        if self.dtype not in DTYPES:
            raise ConfigError(
                f"dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}.", param="dtype"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """Everything that can be configured, flat, as the TOML file spells it.

    Args:
        model: A GGUF file or a Hugging Face directory; None takes the default model.
        served_model_name: Name in the API; None derives one from the path.
        dtype: See ModelConfig.
        max_model_len: See ModelConfig.
        kv_cache_bytes: See ModelConfig.
        num_threads: See ModelConfig.
        max_num_seqs: See BatchConfig.
        max_batch_tokens: See BatchConfig.
        max_queue_depth: See BatchConfig.
        ring_capacity: See BatchConfig.
        max_body_bytes: Longest request body; more is refused with 413 before parsing.
        keep_alive_s: A silent stream gets an SSE comment this often.
        rate_limit_rpm: Requests a minute that one client may make; None is no limit.
        rate_limit_burst: Requests a client may make at once; None is one minute's worth.
            Only beside rate_limit_rpm.
        host: Address to bind.
        port: Port to bind.

    Raises:
        ConfigError: A value has the wrong type or is out of range; `param` names it.
    """

    model: str | None = None
    served_model_name: str | None = None
    dtype: DType = "auto"
    max_model_len: int | None = None
    kv_cache_bytes: int = 512 * 1024 * 1024
    num_threads: int | None = None
    max_num_seqs: int = 64
    max_batch_tokens: int = 256
    max_queue_depth: int = 1024
    ring_capacity: int = 256
    max_body_bytes: int = 4 * 1024 * 1024
    keep_alive_s: float = 15.0
    rate_limit_rpm: float | None = None
    rate_limit_burst: int | None = None
    host: str = "127.0.0.1"
    port: int = 8000

    def __post_init__(self) -> None:
        """Check all types, and the ranges that the model's and the batch's types do not."""
        _check_types(self)
        self.model_config()
        self.batch_config()
        for name in ("max_body_bytes", "keep_alive_s", "rate_limit_rpm", "rate_limit_burst"):
            _check_positive(name, getattr(self, name))
        if self.rate_limit_burst is not None and self.rate_limit_rpm is None:
            raise ConfigError(
                "rate_limit_burst has no effect without rate_limit_rpm: set both or neither.",
                param="rate_limit_burst",
            )
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be between 0 and 65535, not {self.port}.", param="port")

    def model_config(self) -> ModelConfig:
        """The part that says which model to load."""
        return ModelConfig(
            path=self.model,
            name=self.served_model_name,
            dtype=self.dtype,
            max_model_len=self.max_model_len,
            kv_cache_bytes=self.kv_cache_bytes,
            num_threads=self.num_threads,
        )

    def batch_config(self) -> BatchConfig:
        """The part that bounds the batch."""
        return BatchConfig(
            max_num_seqs=self.max_num_seqs,
            max_batch_tokens=self.max_batch_tokens,
            max_queue_depth=self.max_queue_depth,
            ring_capacity=self.ring_capacity,
        )
