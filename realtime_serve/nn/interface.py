"""What a network is to the engine: one step is a flat list of rows.

A decode row, a row of a prompt chunk and a row to verify a guess are the same
thing: a token at a position, with a place in the KV cache. There is no padding
and no phase; a network answers logits only for the rows that want them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

KVTensors: TypeAlias = Sequence[Tensor]
"""One tensor a layer: [num_blocks, block_size, 2, num_kv_heads, head_dim]; keys are
[:, :, 0], values [:, :, 1]. Both in one tensor, so that a step writes and gathers once
a layer. The first two dimensions, flattened, are the slots."""


class Span(NamedTuple):
    """The rows that one sequence has in a step; they stand at consecutive positions.

    Args:
        start: Index of its first row.
        num_rows: Number of its rows.
        kv_len: Tokens of the sequence that are in the KV cache after this step.
        block_table: Its blocks in order; position p lives in block_table[p // block_size].
    """

    start: int
    num_rows: int
    kv_len: int
    block_table: Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardBatch:
    """One step; the tensors are int64, one-dimensional and on the model's device.

    Args:
        token_ids: Token of each row.
        positions: Position of each row in its sequence.
        slots: Where the row's key and value go: block * block_size + offset.
        spans: Which rows belong together, in row order; together they cover all rows.
        logits_rows: Rows whose logits are wanted, in the order of the answer.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    spans: tuple[Span, ...]
    logits_rows: Tensor


class CausalLM(Protocol):
    """A network that predicts the next token; the runner drives it, one thread owns it."""

    vocab_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device
    max_model_len: int

    def forward(self, batch: ForwardBatch, kv_cache: KVTensors) -> Tensor:
        """Run one step and write the rows' keys and values into the cache.

        Args:
            batch: The rows.
            kv_cache: One tensor a layer.

        Returns:
            Logits, float32, [len(batch.logits_rows), vocab_size].
        """
        ...
