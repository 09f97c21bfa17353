"""A network whose next token depends on every earlier one, read back through the KV cache.

It keeps each token and its position in the slot that the batch names, and derives logits
from a hash of the whole history as the block table shows it. A wrong slot, block table,
position, chunk border or a forgotten recomputation therefore changes the output, and
`expected_tokens` says what the output must be, without any engine.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from realtime_serve.engine.runner import SamplingRow
from realtime_serve.nn.interface import ForwardBatch, KVTensors, Span
from realtime_serve.types import InferenceRequest
from support.row_sampling import sample_row

VOCAB_SIZE = 97
"""Prime, and small enough that every token turns up."""


class HistoryModel:
    """A CausalLM of one layer; 128 bytes of KV cache a block."""

    vocab_size = VOCAB_SIZE
    num_layers = 1
    num_kv_heads = 1
    head_dim = 1
    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, max_model_len: int = 64) -> None:
        self.max_model_len = max_model_len

    def forward(self, batch: ForwardBatch, kv_cache: KVTensors) -> Tensor:
        (layer,) = kv_cache
        block_size = layer.shape[1]
        slots = layer.view(-1, 2)
        slots[batch.slots, 0] = batch.token_ids.float()
        slots[batch.slots, 1] = batch.positions.float()
        histories = {}
        for span in batch.spans:
            history = _read_back(span, slots, block_size)
            for offset in range(span.num_rows):
                histories[span.start + offset] = history[: span.kv_len - span.num_rows + offset + 1]
        rows = batch.logits_rows.tolist()
        if not rows:
            return torch.empty(0, self.vocab_size)
        return torch.stack([self.next_logits(histories[row]) for row in rows])

    def next_logits(self, history: Sequence[int]) -> Tensor:
        """The logits after a history, [vocab_size]."""
        generator = torch.Generator().manual_seed(zlib.crc32(array("i", history)))
        return torch.randn(self.vocab_size, generator=generator) * 3


class EchoModel(HistoryModel):
    """Mostly repeats what it has heard: what followed the last token where it stood before.

    It still depends on all of its history: that tells where it says something else.
    """

    def next_logits(self, history: Sequence[int]) -> Tensor:
        """The logits after a history, [vocab_size]."""
        logits = super().next_logits(history)
        echo = _echo(list(history))
        if echo is not None and zlib.crc32(array("i", history)) % 5 != 0:
            logits[echo] += 30
        return logits


def _echo(history: list[int]) -> int | None:
    places = (i for i in reversed(range(len(history) - 1)) if history[i] == history[-1])
    latest = next(places, None)
    return None if latest is None else history[latest + 1]


def _read_back(span: Span, slots: Tensor, block_size: int) -> list[int]:
    blocks = slots.view(-1, block_size, 2)[list(span.block_table)].view(-1, 2)[: span.kv_len]
    token_ids, positions = blocks[:, 0], blocks[:, 1]
    assert torch.equal(positions, torch.arange(span.kv_len).float()), "wrong slots or positions"
    return [int(token_id) for token_id in token_ids.tolist()]


def expected_tokens(
    model: HistoryModel,
    request: InferenceRequest,
    *,
    seed: int = 0,
    eos_token_ids: frozenset[int] = frozenset(),
    max_model_len: int | None = None,
) -> list[int]:
    """What the model answers to a request that is alone in the world."""
    sampling = request.sampling
    room = (max_model_len or model.max_model_len) - len(request.prompt_token_ids)
    stop_ids = set(sampling.stop_token_ids) | (set() if sampling.ignore_eos else eos_token_ids)
    history = list(request.prompt_token_ids)
    output: list[int] = []
    while len(output) < min(sampling.max_tokens or room, room):
        banned = stop_ids if len(output) < sampling.min_tokens else ()
        row = SamplingRow(sampling, sampling.seed or seed, len(output), banned)
        token = sample_row(model.next_logits(history), row)
        assert token is not None
        token_id, _ = token
        output.append(token_id)
        history.append(token_id)
        if token_id in stop_ids:
            break
    return output
