r"""Serve a network of your own: here, one that knows nothing but the alphabet.

    python examples/serve_model.py
    curl -N http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \
         -d '{"model": "alphabet", "prompt": "a", "stream": true, "max_tokens": 30}'

Your network is a class with a few shapes and a forward(). Queue, scheduler, sampler,
streams and API around it are the same that serve a real model.
"""

import argparse

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from realtime_serve import (
    ForwardBatch,
    InferenceServer,
    ModelConfig,
    TextModel,
    Tokenizer,
    run,
)

END = "<end>"


def byte_level_text() -> TextModel:
    """A vocabulary of the 256 bytes and one token that ends a text."""
    vocab = {char: token_id for token_id, char in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    backend = Backend(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([END])  # gets the next free id
    return TextModel(
        tokenizer=Tokenizer(backend),
        chat_template=None,
        eos_token_ids=frozenset({len(vocab)}),
        bos_token_id=None,
        add_bos=False,
    )


class Alphabet:
    """A network in which each letter is followed by the next, and z by the end.

    It runs on the inference thread: no logging, threading or gevent in here.

    Args:
        text: The vocabulary whose ids it predicts.
    """

    num_layers = 1
    num_kv_heads = 1
    head_dim = 1
    dtype = torch.float32
    device = torch.device("cpu")
    max_model_len = 64

    def __init__(self, text: TextModel) -> None:
        self.vocab_size = text.tokenizer.vocab_size
        (end,) = text.eos_token_ids
        letters = text.tokenizer.encode("abcdefghijklmnopqrstuvwxyz")
        self._next = torch.full((self.vocab_size,), end)
        self._next[letters[:-1]] = torch.tensor(letters[1:])

    def forward(self, batch: ForwardBatch, kv_cache: object) -> torch.Tensor:
        """Logits, float32, [len(batch.logits_rows), vocab_size]."""
        last_tokens = batch.token_ids[batch.logits_rows]
        logits = torch.nn.functional.one_hot(self._next[last_tokens], self.vocab_size)
        return 100.0 * logits.float()


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    text = byte_level_text()
    with InferenceServer() as server:
        server.register_model(
            ModelConfig(name="alphabet"), network=lambda: Alphabet(text), text=text
        )
        run(server, options.host, options.port)


if __name__ == "__main__":
    main()
