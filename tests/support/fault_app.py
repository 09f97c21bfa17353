"""A network that fails when it is asked to, behind the real engine, queue, streams and HTTP.

What a sequence gets next depends on all of its tokens, read back through the KV cache: a fault
that touched somebody else's blocks would change that one's text. A prompt whose first letter is a
capital asks for a fault, which comes once the sequence has FAULT_AT tokens:

    E  the step raises
    M  the step asks for more memory than there is
    N  the sequence's logits are not numbers
    D  a token comes that the detokenizer breaks on

Each step in which one with an S takes part is slow.
A step that begins while the file that FAULT_STUCK_WHILE names is there does not end before it has
gone. GET /test tells how many greenlets there are, and how many tokens of sequences with each
first letter were computed; POST /test/hold-gil?seconds=5 holds the GIL in the hub.
"""

from __future__ import annotations

import ctypes
import gc
import os
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from flask import Flask, Response, jsonify, request
from gevent import Greenlet
from torch import Tensor

from realtime_serve import InferenceServer, ModelConfig, TextModel, Tokenizer
from realtime_serve.app import create_app, log_to_stderr
from realtime_serve.config import load_config
from realtime_serve.native import original
from realtime_serve.nn.interface import ForwardBatch, KVTensors
from realtime_serve.text.detokenizer import Detokenizer
from serve_model import byte_level_text
from support.stub_model import HistoryModel

MODEL = "faulty"

FAULT_AT = 40
"""Tokens of the sequence, its prompt included: in the middle of the others' texts."""

BREAKING = "~"

MAX_MODEL_LEN = 4096

POLL_S = 0.005
SLOW_S = 0.02

sleep = original("time", "sleep")


class _Breaks(Detokenizer):
    """Decodes everything but one token."""

    def __init__(self, inner: Detokenizer, breaking_id: int) -> None:
        self._inner = inner
        self._breaking_id = breaking_id

    def add(self, token_id: int) -> str:
        if token_id == self._breaking_id:
            raise LookupError("the detokenizer breaks on this token")
        return self._inner.add(token_id)

    def finish(self) -> str:
        return self._inner.finish()


class _BreakingTokenizer(Tokenizer):
    breaking_id: int

    def new_detokenizer(self) -> Detokenizer:
        return _Breaks(super().new_detokenizer(), self.breaking_id)


def breaking_text() -> TextModel:
    """The bytes as a vocabulary, with one on which streams break that are decoded in Python."""
    text = byte_level_text()
    tokenizer = _BreakingTokenizer(text.tokenizer._backend)
    (tokenizer.breaking_id,) = tokenizer.encode(BREAKING)
    return replace(text, tokenizer=tokenizer, eos_token_ids=frozenset())


class FaultyModel(HistoryModel):
    """See the module.

    Attributes:
        num_computed: Tokens computed so far, by the first one of their sequence.
    """

    def __init__(self, text: TextModel, stuck_while: str) -> None:
        super().__init__(MAX_MODEL_LEN)
        self.vocab_size = text.tokenizer.vocab_size
        self.num_computed: Counter[int] = Counter()
        self._stuck_while = stuck_while
        self._says = torch.tensor(text.tokenizer.encode(string.ascii_lowercase))
        (self._slow_id,) = text.tokenizer.encode("S")
        (self._breaking_id,) = text.tokenizer.encode(BREAKING)
        faults = {"E": _raise, "M": _run_out_of_memory, "N": _not_numbers, "D": self._break_text}
        self._faults: dict[int, Callable[[Tensor], Tensor]] = {
            text.tokenizer.encode(letter)[0]: fault for letter, fault in faults.items()
        }

    def forward(self, batch: ForwardBatch, kv_cache: KVTensors) -> Tensor:
        while os.path.exists(self._stuck_while):
            sleep(POLL_S)
        logits = super().forward(batch, kv_cache)
        self._note(batch, kv_cache[0])
        return logits

    def _note(self, batch: ForwardBatch, layer: Tensor) -> None:
        """Count the rows, and be slow if somebody asks for that."""
        letters = [int(layer[span.block_table[0], 0, 0]) for span in batch.spans]
        for letter, span in zip(letters, batch.spans, strict=True):
            self.num_computed[letter] += span.num_rows
        if self._slow_id in letters:
            sleep(SLOW_S)

    def next_logits(self, history: Sequence[int]) -> Tensor:
        """Any small letter, or what the fault makes of that."""
        allowed = torch.full((self.vocab_size,), -torch.inf)
        allowed[self._says] = 0.0
        logits = super().next_logits(history) + allowed
        fault = self._faults.get(history[0]) if len(history) == FAULT_AT else None
        return logits if fault is None else fault(logits)

    def _break_text(self, logits: Tensor) -> Tensor:
        broken = torch.full_like(logits, -torch.inf)
        broken[self._breaking_id] = 0.0
        return broken


def _raise(logits: Tensor) -> Tensor:
    raise RuntimeError("the step failed")


def _run_out_of_memory(logits: Tensor) -> Tensor:
    return torch.empty(1 << 58)


def _not_numbers(logits: Tensor) -> Tensor:
    return torch.full_like(logits, torch.nan)


def make_app() -> Flask:
    """A new app, whose model is loaded."""
    text = breaking_text()
    network = FaultyModel(text, os.environ["FAULT_STUCK_WHILE"])
    server = InferenceServer(load_config())
    server.register_model(ModelConfig(name=MODEL), network=lambda: network, text=text)
    app = create_app(server=server)

    @app.get("/test")
    def figures() -> Response:
        computed = list(network.num_computed.items())
        return jsonify(
            num_greenlets=sum(issubclass(type(each), Greenlet) for each in gc.get_objects()),
            num_computed={text.tokenizer.decode([first]): count for first, count in computed},
        )

    @app.post("/test/hold-gil")
    def hold_gil() -> Response:
        ctypes.PyDLL(None).usleep(int(float(request.args["seconds"]) * 1e6))
        return jsonify(held=True)

    return app


log_to_stderr()
app = make_app()
