"""An InferenceServer with a model that costs nothing: its tokens tell the time.

Everything but the engine is the product's: chat template, tokenizer, queue, inference thread, rings
and streams.
"""

from __future__ import annotations

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
)
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


def clock_server() -> InferenceServer:
    """A server whose model has seats for all clients of a benchmark."""
    return ClockServer(ServerConfig(max_num_seqs=MAX_NUM_SEQS))
