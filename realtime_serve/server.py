"""The facade: models in, streams out. No tensor, no Flask.

An InferenceServer owns the served models and the open streams of one process. It
starts threads only when asked to, never at import or construction, so that it
may be built before a fork and started after it.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from realtime_serve.asyncio_server import AsyncioServer
from realtime_serve.drain import Drain, drain_timeout_s
from realtime_serve.engine.interface import EngineStats
from realtime_serve.errors import (
    ConfigError,
    InvalidRequestError,
    ModelLoadError,
    NotReadyError,
    ServeError,
)
from realtime_serve.health import Health
from realtime_serve.model import Model
from realtime_serve.model_building import model_from_files, model_from_network, name_of_files
from realtime_serve.native import Lock, run_blocking
from realtime_serve.public_reason import public_reason, without_directories
from realtime_serve.registry import ModelRegistry
from realtime_serve.response import to_response
from realtime_serve.resumable_streams import ResumableStreams
from realtime_serve.stream import TokenStream
from realtime_serve.stream_manager import StreamManager
from realtime_serve.text.model import TextModel
from realtime_serve.types import (
    BatchConfig,
    InferenceRequest,
    InferenceResponse,
    ModelConfig,
    RequestPriority,
    SamplingParams,
    ServerConfig,
    size_text,
)

if TYPE_CHECKING:  # torch stays out of a server that needs none
    from realtime_serve.nn.interface import CausalLM

logger = logging.getLogger("realtime_serve")

MESSAGE_COST_CHARS = 64
"""What a message costs beside its text: the template's part, rendered and tokenised."""

LARGE_TEXT_CHARS = 8 * 1024
"""Longer text is tokenised off the hub: 9 KB take 3 ms, and tokenising holds the GIL."""


class InferenceServer(AsyncioServer):
    """Serves models to the threads and greenlets of one process.

    Any thread may call any method. Models are registered, or else the configured one is
    loaded at the first use. As a context manager, asynchronous or not, it shuts down at the end.
    Coroutines await the methods whose names end in `_async`, and may call `submit`.

    Args:
        config: Limits and the model to serve; None takes all defaults.
    """

    def __init__(self, config: ServerConfig | None = None) -> None:
        self.config = config if config is not None else ServerConfig()
        self.registry = ModelRegistry()
        self.streams = StreamManager()
        self.resumable_streams = ResumableStreams(
            self.config.resume_ttl_s, self.config.resume_max_bytes
        )
        self._drain = Drain(self.registry, self.streams)
        self._lock = Lock()
        self._pid: int | None = None
        self._closed = False
        self._unopened: dict[str, str] = {}  # why files could not be opened, by the model's name

    def __enter__(self) -> Self:
        """Use the server as a context manager."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Shut down."""
        self.shutdown()

    # --- models ---------------------------------------------------------------

    def register_model(
        self,
        config: ModelConfig | None = None,
        *,
        network: Callable[[], CausalLM] | None = None,
        text: TextModel | None = None,
        wait: bool = True,
    ) -> Model:
        """Load a model and serve it.

        Args:
            config: Which model; None takes the configured one, or the default.
            network: Builds a network of your own instead of reading files. It runs on the
                inference thread, where logging, threading and gevent are forbidden.
            text: Tokenizer and template of your own network.
            wait: Whether to wait until the model is ready.

        Returns:
            The model.

        Raises:
            ConfigError: The configuration is incomplete.
            ModelLoadError: The files cannot be used.
            InvalidRequestError: The name is taken.
        """
        config = config if config is not None else self.config.model_config()
        model = self._prepare(config, network, text)
        self._start(model)
        if wait:
            self._wait_and_log(model)
        else:
            threading.Thread(target=self._log_when_loaded, args=(model,), daemon=True).start()
        return model

    def _prepare(
        self, config: ModelConfig, network: Callable[[], CausalLM] | None, text: TextModel | None
    ) -> Model:
        batch_config = self.config.batch_config()
        if network is None and text is None:
            return self._open(config, batch_config)
        if network is None or text is None:
            raise ConfigError("A model of your own needs both a network and its text model.")
        return model_from_network(network, text, config, batch_config)

    def _open(self, config: ModelConfig, batch_config: BatchConfig) -> Model:
        """A model from files; if they are no good, it is remembered as one that failed."""
        try:
            return model_from_files(config, batch_config)
        except ModelLoadError as error:
            self._unopened[name_of_files(config)] = without_directories(
                public_reason(error), config.path
            )
            raise

    def _start(self, model: Model) -> None:
        self._require_this_process()
        self.registry.add(model)
        self._unopened.pop(model.name, None)
        model.start()

    def _wait_and_log(self, model: Model) -> None:
        start_s = time.monotonic()
        try:
            model.wait_ready()
        finally:
            self.log_notices()
        logger.info(
            "%s is ready after %.1f s, with a context of %d tokens%s",
            model.name,
            time.monotonic() - start_s,
            model.max_model_len,
            "" if model.stats is None else _kv_cache_text(model.stats),
        )

    def _log_when_loaded(self, model: Model) -> None:
        """Run in a thread of its own, which under gevent is a greenlet: nobody waits for it."""
        with contextlib.suppress(ServeError):  # the notices say it
            self._wait_and_log(model)

    def _require_this_process(self) -> None:
        """Threads do not survive a fork: a server started before one cannot serve after it."""
        with self._lock:
            if self._closed:
                raise NotReadyError("The server is shut down.")
            if self._pid is None:
                self._pid = os.getpid()
                # Joined before the interpreter goes, or torch aborts the process.
                atexit.register(self.shutdown)
        self._require_no_fork()

    def _require_no_fork(self) -> None:
        if self._pid not in (None, os.getpid()):
            raise ConfigError(
                "This InferenceServer was started before a fork and cannot serve after it. "
                "Start it in the worker process: the app does so by itself."
            )

    # --- requests -------------------------------------------------------------

    def submit(self, request: InferenceRequest) -> TokenStream:
        """Queue a request. Waits for nothing, so that a coroutine may call it, too.

        Args:
            request: What to generate, and for which model.

        Returns:
            Its stream, for the calling thread, hub or event loop.

        Raises:
            ModelNotFoundError: No such model.
            ContextLengthExceededError: The prompt cannot fit.
            OverloadedError: The queue is full.
            NotReadyError: The model has failed, is draining or gone.
        """
        self._require_no_fork()
        self.log_notices()
        stream = self.registry.resolve(request.model).submit(self._bounded(request))
        self.streams.add(stream)
        self._drain.cut_if_over(stream)
        return stream

    def _bounded(self, request: InferenceRequest) -> InferenceRequest:
        """The request, with a deadline no later than the configured one."""
        timeout_s = self.config.stream_timeout_s
        if timeout_s is None:
            return request
        deadlines = (request.deadline_at_s, time.monotonic() + timeout_s)
        return replace(request, deadline_at_s=min(at_s for at_s in deadlines if at_s is not None))

    def generate(
        self,
        prompt: str | Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        sampling: SamplingParams | None = None,
        priority: RequestPriority = RequestPriority.NORMAL,
        timeout_s: float | None = None,
    ) -> TokenStream:
        """Generate from text or from chat messages.

        Args:
            prompt: Text to continue, or messages (dicts with role and content) to answer.
            model: Its name; None takes the first one registered.
            sampling: How to generate; None takes the defaults.
            priority: Class in the waiting queue.
            timeout_s: Seconds after which the stream ends with DeadlineExceededError.

        Returns:
            The stream; iterate it for StreamTokens.

        Raises:
            ServeError: As `submit`, or the messages do not suit the model's template.
        """
        return self.submit(self._request(prompt, model, sampling, priority, timeout_s))

    def complete(
        self,
        prompt: str | Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        sampling: SamplingParams | None = None,
        priority: RequestPriority = RequestPriority.NORMAL,
        timeout_s: float | None = None,
    ) -> InferenceResponse:
        """Generate, wait for the end, and return the whole answer.

        Args:
            prompt: As for `generate`, like all that follow.
            model: Its name.
            sampling: How to generate.
            priority: Class in the waiting queue.
            timeout_s: Seconds until DeadlineExceededError.

        Returns:
            The answer.

        Raises:
            ServeError: As `generate`, or the generation failed.
        """
        with self.generate(
            prompt, model=model, sampling=sampling, priority=priority, timeout_s=timeout_s
        ) as stream:
            return to_response(stream, list(stream))

    def _request(
        self,
        prompt: str | Sequence[Mapping[str, Any]],
        model: str | None,
        sampling: SamplingParams | None,
        priority: RequestPriority,
        timeout_s: float | None,
    ) -> InferenceRequest:
        served = self._model(model)
        if isinstance(prompt, str):
            token_ids = self.encode_prompt(served, prompt)
        else:
            token_ids = self.encode_chat(served, prompt)
        return InferenceRequest(
            request_id=new_request_id(),
            model=served.name,
            prompt_token_ids=tuple(token_ids),
            sampling=sampling if sampling is not None else SamplingParams(),
            priority=priority,
            deadline_at_s=None if timeout_s is None else time.monotonic() + timeout_s,
        )

    def _model(self, name: str | None) -> Model:
        """The model of that name; the configured one is loaded if there is none at all."""
        if len(self.registry) == 0:
            with contextlib.suppress(InvalidRequestError):  # another thread was first
                self.register_model()
        model = self.registry.resolve(name)
        model.require_open()
        return model

    def encode_prompt(self, model: Model, text: str) -> list[int]:
        """Token ids of a text prompt, special tokens in it taken literally.

        Raises:
            ContextLengthExceededError: The text is too long for any tokenisation to fit.
        """
        model.require_text_fits(len(text))
        return _off_hub(len(text), model.text.encode_prompt, text)

    def encode_chat(self, model: Model, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation in the model's template.

        Raises:
            InvalidRequestError: The model has no chat template, or it refuses the messages.
            ContextLengthExceededError: The text is too long for any tokenisation to fit.
        """
        model.require_text_fits(sum(len(str(message.get("content", ""))) for message in messages))
        cost = sum(MESSAGE_COST_CHARS + sum(map(len, message.values())) for message in messages)
        return _off_hub(cost, model.text.encode_chat, messages)

    # --- life -----------------------------------------------------------------

    def health(self) -> Health:
        """State of the server and its models."""
        self.log_notices()
        return Health.of(
            self.registry.all(),
            dict(self._unopened),  # at once: other threads may change it
            serving=self._pid == os.getpid(),
            draining=self._drain.begun,
            open_streams=len(self.streams),
            stuck_after_s=self.config.stuck_after_s,
            dead_after_s=self.config.dead_after_s,
        )

    def drain(self, timeout_s: float | None = None) -> None:
        """Be ready no more, and in the end serve nobody; a signal handler may call it, too.

        Until then all requests are served, new ones too; those that are still open then
        end with DrainingError.

        Args:
            timeout_s: Until the end; None takes gunicorn's graceful timeout, less what its
                exit takes, or else the configured drain_timeout_s.
        """
        if timeout_s is None:
            timeout_s = drain_timeout_s(self.config.drain_timeout_s)
        self._drain.begin(timeout_s)

    def shutdown(self) -> None:
        """End all streams, stop and join the inference threads. May be called again."""
        with self._lock:
            self._closed = True
            if self._pid != os.getpid():  # never started, or another process's threads
                return
            self._pid = None
        atexit.unregister(self.shutdown)
        models = self.registry.all()
        for model in models:
            model.stop()
        for model in models:  # without a limit: finalising under a running step aborts
            model.join()

    def log_notices(self) -> None:
        """Log what the inference threads have to say; they may not log themselves."""
        for model in self.registry.all():
            for notice in model.take_notices():
                level = logging.ERROR if notice == model.failure_in_full else logging.WARNING
                logger.log(level, "%s: %s", model.name, notice)


def new_request_id() -> str:
    """A fresh request id: 128 random bits in hexadecimal."""
    return secrets.token_hex(16)


def _kv_cache_text(stats: EngineStats) -> str:
    size = size_text(stats.kv_cache_bytes)
    return f" and a KV cache of {size}, {stats.kv_cache_tokens:,} tokens"


def _off_hub(num_chars: int, encode: Callable[..., list[int]], *arguments: Any) -> list[int]:
    if num_chars <= LARGE_TEXT_CHARS:
        return encode(*arguments)
    return run_blocking(encode, *arguments)
