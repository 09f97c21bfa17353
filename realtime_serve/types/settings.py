"""The settings: one flat ServerConfig for people, and the parts of it that each layer reads."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from realtime_serve.errors import ConfigError
from realtime_serve.types.memory_share import MemoryShare
from realtime_serve.types.setting_checks import (
    check_at_most,
    check_choice,
    check_key,
    check_not_negative,
    check_positive,
    check_types,
)

DTYPES = ("auto", "float32", "bfloat16", "q8", "q4")

DType = Literal["auto", "float32", "bfloat16", "q8", "q4"]

QUANTIZED_DTYPES = frozenset({"q8", "q4"})

CPU_LEVELS = ("auto", "portable", "avx2", "avx512", "avx512_bf16", "amx")

CPULevel = Literal["auto", "portable", "avx2", "avx512", "avx512_bf16", "amx"]

ACTIVATION_DTYPES = ("auto", "bfloat16", "int8")

ActivationDType = Literal["auto", "bfloat16", "int8"]

KV_CACHE_DTYPES = ("auto", "float32", "bfloat16", "int8")

KVCacheDType = Literal["auto", "float32", "bfloat16", "int8"]

DEVICES = ("auto", "cpu", "cuda")

Device = Literal["auto", "cpu", "cuda"]

SLOW_READER_POLICIES = ("pause", "drop")

SlowReaderPolicy = Literal["pause", "drop"]

HALF_CLOSES = ("cancel", "finish")

HalfClose = Literal["cancel", "finish"]

NO_CACHE_DIR = "none"
"""As cache_dir: keep nothing on disk."""

MAX_QUEUE_DEPTH = 2**20
"""The native queue's MAX_CAPACITY, repeated: configuring must not load native code."""

MAX_BATCH_TOKENS = 2**16
"""A step's memory grows with its tokens, and its gains have long ended by then."""

MAX_RING_CAPACITY = 2**20
"""The native ring's MAX_CAPACITY, repeated for the same reason."""

POSITIVE = (
    "max_body_bytes",
    "body_timeout_s",
    "keep_alive_s",
    "stream_timeout_s",
    "stuck_after_s",
    "dead_after_s",
    "resume_ttl_s",
    "resume_max_bytes",
    "rate_limit_rpm",
    "rate_limit_burst",
)
"""What must be above 0 in a ServerConfig, if it is set."""

MAX_SPECULATIVE_TOKENS = 15
"""With its last token before them, one sequence then has the 16 rows that are nearly free."""


def _check_runs_on(device: Device, dtype: DType) -> None:
    if device == "cuda" and dtype in QUANTIZED_DTYPES:
        raise ConfigError(
            f"dtype {dtype!r} runs on the CPU only: with device 'cuda', use bfloat16 (which auto "
            "takes there) or float32.",
            param="dtype",
        )


def _check_activations(activation_dtype: ActivationDType, dtype: DType) -> None:
    if activation_dtype != "auto" and dtype not in QUANTIZED_DTYPES:
        raise ConfigError(
            f"activation_dtype is {activation_dtype!r}, but it is for the dtypes "
            f"{' and '.join(sorted(QUANTIZED_DTYPES))}, not {dtype!r}: leave it out.",
            param="activation_dtype",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchConfig:
    """Bounds of one engine's batch and of the queue before it.

    Args:
        max_num_seqs: Most sequences seated in the engine at once.
        max_batch_tokens: Token budget of one step; a longer prompt is computed in chunks. At
            most MAX_BATCH_TOKENS.
        target_itl_ms: While sequences decode, a step takes no more prompt tokens than are
            expected to keep it this short; None sets no such bound.
        num_speculative_tokens: Most tokens to guess ahead of one sequence in a step, while few
            decode; 0 guesses none. At most MAX_SPECULATIVE_TOKENS.
        max_queue_depth: Most requests waiting for a seat; one more is refused with 503. At
            most MAX_QUEUE_DEPTH.
        ring_capacity: Tokens one stream may run ahead of its reader: the high water mark. At
            most MAX_RING_CAPACITY. Half of it is the low water mark: a reader that makes so
            much room wakes an idle engine, while a busy one goes on with any room at all.
        slow_reader_policy: What becomes of a stream whose ring is full: "pause" waits for its
            reader, "drop" ends it at once with StalledReaderError.
        stall_timeout_s: A stream whose reader takes nothing from a full ring for this long ends
            with StalledReaderError, and its seat is free; None never ends it.

    Raises:
        ConfigError: A value has the wrong type or is out of range; `param` names it.
    """

    max_num_seqs: int = 64
    max_batch_tokens: int = 2048
    target_itl_ms: float | None = 50.0
    num_speculative_tokens: int = 8
    max_queue_depth: int = 1024
    ring_capacity: int = 256
    slow_reader_policy: SlowReaderPolicy = "pause"
    stall_timeout_s: float | None = 60.0

    def __post_init__(self) -> None:
        """Check the types and the ranges."""
        check_types(self)
        for each in fields(self):
            if each.name not in {"num_speculative_tokens", "slow_reader_policy"}:
                check_positive(each.name, getattr(self, each.name))
        check_choice("slow_reader_policy", self.slow_reader_policy, SLOW_READER_POLICIES)
        check_not_negative("num_speculative_tokens", self.num_speculative_tokens)
        check_at_most("num_speculative_tokens", self.num_speculative_tokens, MAX_SPECULATIVE_TOKENS)
        check_at_most("max_batch_tokens", self.max_batch_tokens, MAX_BATCH_TOKENS)
        check_at_most("max_queue_depth", self.max_queue_depth, MAX_QUEUE_DEPTH)
        check_at_most("ring_capacity", self.ring_capacity, MAX_RING_CAPACITY)
        if self.max_batch_tokens < self.max_num_seqs:
            raise ConfigError(
                f"max_batch_tokens ({self.max_batch_tokens}) must be at least max_num_seqs "
                f"({self.max_num_seqs}), or a full batch cannot decode in one step.",
                param="max_batch_tokens",
            )

    @property
    def reader_lease_s(self) -> float | None:
        """How long a sequence keeps its seat while its reader takes nothing from a full ring."""
        return 0.0 if self.slow_reader_policy == "drop" else self.stall_timeout_s


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Which model to load, and how.

    Args:
        path: A GGUF file or a Hugging Face directory; None takes the default model.
        name: Name under which it is served; None derives one from the path.
        device: What computes the steps. "cuda" is the GPU that CUDA_VISIBLE_DEVICES shows first;
            "auto" is "cpu": to look for a GPU would load torch, which a CPU does not need.
        dtype: Arithmetic of the network; "auto" takes bfloat16 where the device has it.
        cpu_level: Forces the instruction set of the native step; "auto" takes the best.
        activation_dtype: What quantised weights are multiplied with, only beside the dtypes q8 and
            q4: "bfloat16" is nearer to float32, "int8" faster while few sequences run; "auto"
            is bfloat16 on a CPU with AMX, which is then the faster one with many sequences and
            with prompts, and else int8.
        max_model_len: Longest prompt plus output in tokens; None takes the model's own.
        kv_cache_dtype: What keys and values are kept in; "auto" is float32 beside the dtype
            float32, and else bfloat16. "int8" takes half of bfloat16's memory. In torch they have
            the dtype of the network, and no other may be asked for.
        kv_cache_bytes: Memory for the KV cache of one process; a share is one of what the device
            has free once the weights are loaded, divided by the number of worker processes. A
            large one leaves no room for the weights of those that start later.
        enable_prefix_caching: Whether prompts that begin alike share what was computed.
        num_threads: Threads of one step; None takes the CPUs this process may use.
        cache_dir: Where packed weights are kept; None takes realtime-serve in the user's
            cache directory, NO_CACHE_DIR keeps none.
        share_weights: Whether all processes that serve a model share the memory of its packed
            weights. Otherwise each has a copy of its own in large pages, which is read up to
            a quarter faster.

    Raises:
        ConfigError: A value has the wrong type or is out of range; `param` names it.
    """

    path: str | None = None
    name: str | None = None
    device: Device = "auto"
    dtype: DType = "auto"
    cpu_level: CPULevel = "auto"
    activation_dtype: ActivationDType = "auto"
    max_model_len: int | None = None
    kv_cache_dtype: KVCacheDType = "auto"
    kv_cache_bytes: int | MemoryShare = 512 * 1024 * 1024
    enable_prefix_caching: bool = True
    num_threads: int | None = None
    cache_dir: str | None = None
    share_weights: bool = False

    def __post_init__(self) -> None:
        """Check the types and the ranges."""
        check_types(self)
        for name in ("max_model_len", "num_threads"):
            check_positive(name, getattr(self, name))
        if not isinstance(self.kv_cache_bytes, MemoryShare):  # which checks itself
            check_positive("kv_cache_bytes", self.kv_cache_bytes)
        check_choice("device", self.device, DEVICES)
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("cpu_level", self.cpu_level, CPU_LEVELS)
        check_choice("activation_dtype", self.activation_dtype, ACTIVATION_DTYPES)
        check_choice("kv_cache_dtype", self.kv_cache_dtype, KV_CACHE_DTYPES)
        _check_runs_on(self.device, self.dtype)
        _check_activations(self.activation_dtype, self.dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """Everything that can be configured, flat, as the TOML file spells it.

    Args:
        model: A GGUF file or a Hugging Face directory; None takes the default model.
        served_model_name: Name in the API; None derives one from the path.
        device: See ModelConfig.
        dtype: See ModelConfig.
        cpu_level: See ModelConfig.
        activation_dtype: See ModelConfig.
        max_model_len: See ModelConfig.
        kv_cache_dtype: See ModelConfig.
        kv_cache_bytes: See ModelConfig.
        enable_prefix_caching: See ModelConfig.
        num_threads: See ModelConfig.
        cache_dir: See ModelConfig.
        share_weights: See ModelConfig.
        max_num_seqs: See BatchConfig.
        max_batch_tokens: See BatchConfig.
        target_itl_ms: See BatchConfig.
        num_speculative_tokens: See BatchConfig.
        max_queue_depth: See BatchConfig.
        ring_capacity: See BatchConfig.
        slow_reader_policy: See BatchConfig.
        stall_timeout_s: See BatchConfig. A client is a reader, too: one whose kernel takes
            nothing for this long is dropped, and its connection is closed.
        stream_timeout_s: Longest time from a request's submission to its end, as if it had come
            with that deadline; None is no limit.
        max_flush_delay_ms: Where sending takes more than half of a hub's time, tokens wait up to
            this long so that those of the next step share their send; 0 sends each step at once.
        half_close: What it means that a client has shut down its sending side: "cancel" that it
            has gone, "finish" that it awaits the rest of its answer. It has then gone once the
            connection fails, which nothing but sending to it may show.
        max_body_bytes: Longest request body; more is refused with 413 before parsing.
        body_timeout_s: A request whose body has not come by then is refused with 408.
        keep_alive_s: A silent stream gets an SSE comment this often, on what it waits for.
        stuck_after_s: While a step of a model takes longer, the server is not ready.
        dead_after_s: While one takes longer, it is not live either, so that an orchestrator
            starts it anew; None leaves it alive.
        resumable_streams: Whether streams can be resumed whose requests do not say so.
        resume_ttl_s: How long a stream that can be resumed goes on, and is kept, without a client.
        resume_max_bytes: Memory for the events of all such streams of one process.
        rate_limit_rpm: Requests a minute that one client may make; None is no limit.
        rate_limit_burst: Requests a client may make at once; None is one minute's worth.
            Only beside rate_limit_rpm.
        admin_api_key: Key of the routes below /admin; None: there are none.
        drain_delay_s: How long a server that is told to stop still takes new requests.
        drain_timeout_s: How long what runs then may go on. Under gunicorn its graceful
            timeout counts instead.
        host: Address to bind.
        port: Port to bind.

    Raises:
        ConfigError: A value has the wrong type or is out of range; `param` names it.
    """

    model: str | None = None
    served_model_name: str | None = None
    device: Device = "auto"
    dtype: DType = "auto"
    cpu_level: CPULevel = "auto"
    activation_dtype: ActivationDType = "auto"
    max_model_len: int | None = None
    kv_cache_dtype: KVCacheDType = "auto"
    kv_cache_bytes: int | MemoryShare = 512 * 1024 * 1024
    enable_prefix_caching: bool = True
    num_threads: int | None = None
    cache_dir: str | None = None
    share_weights: bool = False
    max_num_seqs: int = 64
    max_batch_tokens: int = 2048
    target_itl_ms: float | None = 50.0
    num_speculative_tokens: int = 8
    max_queue_depth: int = 1024
    ring_capacity: int = 256
    slow_reader_policy: SlowReaderPolicy = "pause"
    stall_timeout_s: float | None = 60.0
    stream_timeout_s: float | None = None
    max_flush_delay_ms: float = 5.0
    half_close: HalfClose = "cancel"
    max_body_bytes: int = 4 * 1024 * 1024
    body_timeout_s: float = 30.0
    keep_alive_s: float = 15.0
    stuck_after_s: float = 4.0
    dead_after_s: float | None = 120.0
    resumable_streams: bool = False
    resume_ttl_s: float = 60.0
    resume_max_bytes: int = 64 * 1024 * 1024
    rate_limit_rpm: float | None = None
    rate_limit_burst: int | None = None
    admin_api_key: str | None = field(default=None, repr=False)
    drain_delay_s: float = 0.0
    drain_timeout_s: float = 30.0
    host: str = "127.0.0.1"
    port: int = 8000

    def __post_init__(self) -> None:
        """Check all types, and the ranges that the model's and the batch's types do not."""
        check_types(self)
        self.model_config()
        self.batch_config()
        for name in POSITIVE:
            check_positive(name, getattr(self, name))
        for name in ("drain_delay_s", "drain_timeout_s", "max_flush_delay_ms"):
            check_not_negative(name, getattr(self, name))
        check_choice("half_close", self.half_close, HALF_CLOSES)
        check_key("admin_api_key", self.admin_api_key)
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
            device=self.device,
            dtype=self.dtype,
            cpu_level=self.cpu_level,
            activation_dtype=self.activation_dtype,
            max_model_len=self.max_model_len,
            kv_cache_dtype=self.kv_cache_dtype,
            kv_cache_bytes=self.kv_cache_bytes,
            enable_prefix_caching=self.enable_prefix_caching,
            num_threads=self.num_threads,
            cache_dir=self.cache_dir,
            share_weights=self.share_weights,
        )

    def batch_config(self) -> BatchConfig:
        """The part that bounds the batch."""
        return BatchConfig(
            max_num_seqs=self.max_num_seqs,
            max_batch_tokens=self.max_batch_tokens,
            target_itl_ms=self.target_itl_ms,
            num_speculative_tokens=self.num_speculative_tokens,
            max_queue_depth=self.max_queue_depth,
            ring_capacity=self.ring_capacity,
            slow_reader_policy=self.slow_reader_policy,
            stall_timeout_s=self.stall_timeout_s,
        )
