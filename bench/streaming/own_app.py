"""This server with a model that costs nothing: gunicorn -k gevent streaming.own_app:app.

Everything but the engine is the product's: routes, checks, chat template, tokenizer, queue,
inference thread, rings, streams, middleware and log. As realtime_serve/wsgi.py, it starts its model
when a gunicorn worker imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from realtime_serve import (
    CausalLM,
    InferenceServer,
    Model,
    ModelConfig,
    ServerConfig,
    TextModel,
    Tokenizer,
    create_app,
)
from realtime_serve.api.gunicorn import WorkerSignals
from realtime_serve.app import EXTENSION, log_to_stderr
from realtime_serve.native import original
from realtime_serve.text.chat_template import ChatTemplate
from streaming.clock_engine import ClockEngine
from streaming.peers.stub import STEP_S
from streaming.token_clock import NUM_TICKS, token_text

MODEL = "streaming"
"""A name of nine letters makes events of 222 bytes."""

MAX_NUM_SEQS = 1024

MAX_MODEL_LEN = 2**30
"""Streams end when their client goes."""

SWITCH_INTERVAL_S = 0.0005
"""As wsgi.py sets it in a server."""

TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"


def clock_text() -> TextModel:
    """A byte-level vocabulary: the bytes, and after them every tick of the clock."""
    texts = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map(token_text, range(NUM_TICKS))]
    vocab = {text: token_id for token_id, text in enumerate(texts)}
    backend = Backend(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return TextModel(
        tokenizer=Tokenizer(backend),
        chat_template=ChatTemplate(TEMPLATE),
        eos_token_ids=frozenset(),
        bos_token_id=None,
        add_bos=False,
    )


class ClockServer(InferenceServer):
    """A server whose model tells the time, whatever model it is asked for.

    Overrides how a model is made, for which there is no public way below a network: what the
    engine of a network costs is not the question here.
    """

    def _prepare(
        self, config: ModelConfig, network: Callable[[], CausalLM] | None, text: TextModel | None
    ) -> Model:
        text = clock_text()
        sleep = original("time", "sleep")
        return Model(
            MODEL,
            config=config,
            batch_config=self.config.batch_config(),
            text=text,
            load=lambda *_: ClockEngine(
                num_seats=self.config.max_num_seqs,
                step_s=STEP_S,
                first_token_id=text.tokenizer.vocab_size - NUM_TICKS,
                max_model_len=MAX_MODEL_LEN,
                sleep=sleep,
            ),
        )


sys.setswitchinterval(SWITCH_INTERVAL_S)
log_to_stderr()
server = ClockServer(ServerConfig(max_num_seqs=MAX_NUM_SEQS))
app = create_app(server=server)
signals = WorkerSignals(app, server)
signals.install()
app.extensions[EXTENSION].start()
