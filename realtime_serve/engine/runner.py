"""From scheduled work to logits: builds the flat rows of a step and runs the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from realtime_serve.engine.kv_storage import KVStorage
from realtime_serve.nn.interface import CausalLM, ForwardBatch, Span


class ScheduledRows(NamedTuple):
    """What one sequence computes in a step.

    Args:
        token_ids: The tokens to compute, at least one.
        start_position: Position of the first of them; all earlier ones are in the cache.
        block_table: The sequence's blocks; they must cover the last token's position.
        wants_logits: Whether the logits of the last token are wanted.
    """

    token_ids: Sequence[int]
    start_position: int
    block_table: Sequence[int]
    wants_logits: bool


class ModelRunner:
    """Runs a network over the scheduled rows of a step.

    Only the thread that owns the engine may call it.

    Args:
        model: The network.
        kv_storage: Its KV cache.
    """

    def __init__(self, model: CausalLM, kv_storage: KVStorage) -> None:
        self._model = model
        self._kv_storage = kv_storage

    def forward(self, rows: Sequence[ScheduledRows]) -> Tensor:
        """Compute one step.

        Args:
            rows: The work of each sequence, at least one.

        Returns:
            Logits, float32, [number of sequences that want logits, vocab_size], in the
            order of `rows`.
        """
        batch = build_batch(rows, self._kv_storage.block_size, self._kv_storage.device)
        with torch.inference_mode():
            return self._model.forward(batch, self._kv_storage.tensors)


def build_batch(
    rows: Sequence[ScheduledRows], block_size: int, device: torch.device
) -> ForwardBatch:
    """Lay the work of all sequences out as flat rows.

    Args:
        rows: The work of each sequence.
        block_size: Tokens a KV block.
        device: Where the tensors of the batch go.

    Returns:
        The batch.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    spans: list[Span] = []
    logits_rows: list[int] = []
    for work in rows:
        start, num_rows = len(token_ids), len(work.token_ids)
        end_position = work.start_position + num_rows
        token_ids += work.token_ids
        positions += range(work.start_position, end_position)
        slots += _slots(work.block_table, work.start_position, end_position, block_size)
        spans.append(Span(start, num_rows, end_position, work.block_table))
        if work.wants_logits:
            logits_rows.append(start + num_rows - 1)
    return ForwardBatch(
        token_ids=torch.tensor(token_ids, dtype=torch.int64, device=device),
        positions=torch.tensor(positions, dtype=torch.int64, device=device),
        slots=torch.tensor(slots, dtype=torch.int64, device=device),
        spans=tuple(spans),
        logits_rows=torch.tensor(logits_rows, dtype=torch.int64, device=device),
    )


def _slots(block_table: Sequence[int], start: int, end: int, block_size: int) -> list[int]:
    return [
        block_table[position // block_size] * block_size + position % block_size
        for position in range(start, end)
    ]
