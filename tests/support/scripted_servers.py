"""Servers of scripted networks: the real queue, engine, streams and API around a stub."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Self

from torch import Tensor

from realtime_serve import (
    InferenceServer,
    ModelConfig,
    SamplingParams,
    ServerConfig,
    TokenStream,
)
from realtime_serve.native import Lock, original
from realtime_serve.nn.interface import ForwardBatch
from serve_model import Alphabet, byte_level_text

TEXT = byte_level_text()

GREEDY = SamplingParams(temperature=0)
ONE_TOKEN = SamplingParams(temperature=0, max_tokens=1)
ONE_SEAT = ServerConfig(max_num_seqs=1, max_batch_tokens=16, max_queue_depth=3)


class EndlessAlphabet(Alphabet):
    """After z comes a again, and the context is long: a stream that lasts."""

    max_model_len = 100_000

    def __init__(self) -> None:
        super().__init__(TEXT)
        a, z = TEXT.tokenizer.encode("az")
        self._next[z] = a


class GatedAlphabet(EndlessAlphabet):
    """Calls `before_step` on the inference thread before each step."""

    def __init__(self, before_step: Callable[[ForwardBatch], None]) -> None:
        super().__init__()
        self._before_step = before_step

    def forward(self, batch: ForwardBatch, kv_cache: object) -> Tensor:
        self._before_step(batch)
        return super().forward(batch, kv_cache)


class Gate:
    """Lets the inference thread step only while it is open; made of a native lock."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.steps: list[list[int]] = []

    def __call__(self, batch: ForwardBatch) -> None:
        self.steps.append(batch.token_ids.tolist())
        with self._lock:
            pass

    def __enter__(self) -> None:
        self._lock.__enter__()

    def __exit__(self, *exc_info: Any) -> None:
        self._lock.__exit__(*exc_info)


class StepByStep:
    """Lets the inference thread make as many steps as it is allowed; all, once it is left."""

    def __init__(self) -> None:
        self.num_allowed = 0
        self._num_begun = 0
        self._left = False

    def __call__(self, batch: ForwardBatch) -> None:
        self._num_begun += 1
        while self._num_begun > self.num_allowed and not self._left:
            original("time", "sleep")(0.001)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._left = True


def text_of(stream: TokenStream) -> str:
    """What the rest of a stream says."""
    return "".join(token.text for token in stream)


def serve(network: Callable[[], Alphabet], config: ServerConfig | None = None) -> InferenceServer:
    """A server with one ready model, "alphabet"; the caller shuts it down."""
    server = InferenceServer(config)
    server.register_model(ModelConfig(name="alphabet"), network=network, text=TEXT)
    return server


def alphabet_server(config: ServerConfig | None = None) -> InferenceServer:
    """A server whose model continues the alphabet and ends after z."""
    return serve(lambda: Alphabet(TEXT), config)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until another thread has made `holds()` true; a hang is the suite's time limit."""
    pause = threading.Event()
    while not holds():
        pause.wait(0.001)
