"""The engine that a server would have, with a clock beside each step, on the inference thread."""

from __future__ import annotations

import time
from typing import NamedTuple

from realtime_serve._token_ring import TokenRing
from realtime_serve.default_model import default_model_path
from realtime_serve.engine.interface import Engine, EngineStats, StepOutput
from realtime_serve.engine.load_watcher import LoadWatcher
from realtime_serve.model import Model
from realtime_serve.model_building import engine_loader, load_text
from realtime_serve.types import BatchConfig, InferenceRequest, ModelConfig
from realtime_serve.weights.checkpoint import open_checkpoint


class StepTime(NamedTuple):
    """When one step was made.

    Args:
        start_s: Its begin, on time.perf_counter()'s clock.
        duration_s: How long the inference thread was in it.
        num_tokens: What it computed.
        num_streams: How many streams got a token.
    """

    start_s: float
    duration_s: float
    num_tokens: int
    num_streams: int


class TimedEngine:
    """An engine whose steps are timed.

    Args:
        engine: Does the work.
        times: Where each step is noted, before anybody hears of its tokens.
    """

    def __init__(self, engine: Engine, times: list[StepTime]) -> None:
        self._engine = engine
        self._times = times

    @property
    def free_slots(self) -> int:
        """As the engine's, like all that follows."""
        return self._engine.free_slots

    @property
    def num_sequences(self) -> int:
        """Seats taken."""
        return self._engine.num_sequences

    def add(self, request: InferenceRequest, ring: TokenRing) -> None:
        """Seat a request."""
        self._engine.add(request, ring)

    def step(self, now_s: float) -> StepOutput:
        """Advance the requests, and note how long that took."""
        start_s = time.perf_counter()
        output = self._engine.step(now_s)
        duration_s = time.perf_counter() - start_s
        num_tokens, num_streams = output.num_scheduled_tokens, len(output.updated)
        self._times.append(StepTime(start_s, duration_s, num_tokens, num_streams))
        return output

    def stats(self) -> EngineStats:
        """The figures of this instant."""
        return self._engine.stats()

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()


def open_model(config: ModelConfig, max_streams: int, times: list[StepTime]) -> Model:
    """A model as a server has it, but for its timed engine; not started.

    Args:
        config: Which.
        max_streams: Most streams at once.
        times: Gets the time of each step.

    Raises:
        ServeError: The files cannot be used.
    """
    checkpoint = open_checkpoint(config.path or default_model_path())
    text = load_text(checkpoint)
    # Without guesses: a step that verifies some has other work than the one it is compared with.
    batch_config = BatchConfig(max_num_seqs=max_streams, num_speculative_tokens=0)
    load = engine_loader(checkpoint, text, config, batch_config)

    def load_timed(watcher: LoadWatcher) -> Engine:
        return TimedEngine(load(watcher), times)

    return Model(
        checkpoint.name, config=config, batch_config=batch_config, text=text, load=load_timed
    )
