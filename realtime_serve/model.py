"""Model: everything one model version consists of.

Its text side lives in the hub; its queue stands between; the inference thread owns the network.
"""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Sequence

from realtime_serve._token_ring import TokenRing
from realtime_serve.batch import BatchScheduler
from realtime_serve.engine.interface import EngineStats
from realtime_serve.errors import (
    ContextLengthExceededError,
    InvalidRequestError,
    ModelLoadError,
    NotReadyError,
)
from realtime_serve.native import new_parker
from realtime_serve.public_reason import without_directories
from realtime_serve.stream import TokenStream
from realtime_serve.text.model import TextModel
from realtime_serve.types import BatchConfig, InferenceRequest, ModelConfig
from realtime_serve.worker import EngineLoader, InferenceThread, WorkerState

LOADING_RETRY_S = 2.0
"""A model that loads is asked for again after this long; most load in a few seconds."""


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
        match self._thread.state:
            case WorkerState.STOPPED:
                return ModelState.UNLOADED
            case WorkerState.FAILED:
                return ModelState.FAILED
            case _ if self._draining:
                return ModelState.DRAINING
            case WorkerState.LOADING:
                return ModelState.LOADING
            case WorkerState.READY:
                return ModelState.READY

    @property
    def failure(self) -> str | None:
        """Why it has failed, for anybody to read; None if it has not."""
        reason = self._thread.public_failure
        return None if reason is None else without_directories(reason, self.config.path)

    @property
    def failure_in_full(self) -> str | None:
        """The same for the log."""
        return self._thread.failure

    @property
    def stats(self) -> EngineStats | None:
        """The engine's figures after its last step; None before it has loaded."""
        return self._thread.stats

    @property
    def step_s(self) -> float:
        """How long the engine has been at its present step; 0 between steps."""
        started_at_s = self._thread.step_started_at_s
        return 0.0 if started_at_s is None else time.monotonic() - started_at_s

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
        self._require_loaded()

    async def wait_ready_async(self) -> None:
        """As `wait_ready`, without a limit, in a coroutine."""
        await self._thread.wait_loaded_async()
        self._require_loaded()

    def _require_loaded(self) -> None:
        if self._thread.failure is not None:
            raise ModelLoadError(f"{self.name}: {self._thread.failure}")
        self.require_ready()

    def submit(self, request: InferenceRequest) -> TokenStream:
        """Queue a request and open its stream; while the model loads, it waits there.

        Args:
            request: What to generate.

        Returns:
            The stream, for the calling thread or hub.

        Raises:
            NotReadyError: The model has failed, is draining or gone.
            ContextLengthExceededError: The prompt cannot fit; while the model loads, that is
                not known yet, and the stream ends with it.
            InvalidRequestError: A stop token is not in the vocabulary.
            OverloadedError: The queue is full.
        """
        self.require_open()
        self._require_fit(len(request.prompt_token_ids))
        self._require_known(request.sampling.stop_token_ids)
        stream = TokenStream(
            request,
            ring=TokenRing(self._batch_config.ring_capacity),
            detokenizer=self.text.tokenizer.new_detokenizer(),
            admission=self._batch,
            text_table=self.text.tokenizer.text_table,
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

    def require_open(self) -> None:
        """Refuse a request that will not be served, before any work is done for it.

        Raises:
            NotReadyError: The model is draining, gone or has failed.
        """
        if self.state is not ModelState.LOADING:
            self.require_ready()

    def require_ready(self) -> None:
        """Refuse what cannot be served now.

        Raises:
            NotReadyError: The model is loading, draining, gone or has failed.
        """
        state = self.state
        if state is ModelState.READY:
            return
        advice = "The server's log says why." if state is ModelState.FAILED else "Retry later."
        raise NotReadyError(
            f"The model {self.name!r} {self._describe(state)}. {advice}",
            retry_after_s=LOADING_RETRY_S,
        )

    def _describe(self, state: ModelState) -> str:
        share = self._thread.load_progress
        if state is ModelState.LOADING and share > 0:
            return f"is loading ({share:.0%} of its weights are packed)"
        if state is ModelState.FAILED:
            return "has failed to load" if self._thread.failed_to_load else "has failed"
        return f"is {state.value}"

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
