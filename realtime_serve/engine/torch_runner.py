"""Runs networks written in torch: the flat rows of a step, then the sampler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from realtime_serve.engine.kv_storage import KVStorage, bytes_per_block
from realtime_serve.engine.runner import SampledToken, ScheduledRows
from realtime_serve.engine.sampler import Sampler
from realtime_serve.nn.interface import CausalLM, ForwardBatch, KVTensors, Span


class TorchRunner:
    """A `ModelRunner` over a network that implements `CausalLM`.

    Args:
        model: The network.

    Attributes:
        vocab_size: The network's.
        bytes_per_block: Memory that one KV block takes in all layers together.
    """

    def __init__(self, model: CausalLM) -> None:
        self.vocab_size = model.vocab_size
        self.bytes_per_block = bytes_per_block(model)
        self._model = model
        self._kv_storage: KVStorage | None = None
        self._sampler = Sampler()

    @property
    def kv_tensors(self) -> KVTensors:
        """The KV cache, one tensor a layer."""
        return self._allocated().tensors

    def allocate(self, num_blocks: int) -> None:
        """See `ModelRunner.allocate`."""
        self._kv_storage = KVStorage(self._model, num_blocks)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """See `ModelRunner.copy_blocks`."""
        for layer in self.kv_tensors:
            for source, destination in pairs:
                layer[destination] = layer[source]

    def run(self, work: Sequence[ScheduledRows]) -> list[SampledToken | None]:
        """See `ModelRunner.run`."""
        rows = [row for each in work for row in each.samples]
        return self._sampler.sample(self.forward(work), rows)

    def forward(self, work: Sequence[ScheduledRows]) -> Tensor:
        """Compute one step up to the logits.

        Args:
            work: Of each sequence, at least one.

        Returns:
            Logits, float32, [number of samples, vocab_size], in the order of the work.
        """
        storage = self._allocated()
        batch = build_batch(work, storage.block_size, storage.device)
        with torch.inference_mode():
            return self._model.forward(batch, storage.tensors)

    def _allocated(self) -> KVStorage:
        assert self._kv_storage is not None, "allocate() comes first"
        return self._kv_storage


def build_batch(
    work: Sequence[ScheduledRows], block_size: int, device: torch.device
) -> ForwardBatch:
    """Lay the work of all sequences out as flat rows.

    Args:
        work: Of each sequence.
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
    for each in work:
        start, num_rows = len(token_ids), len(each.token_ids)
        end_position = each.start_position + num_rows
        token_ids += each.token_ids
        positions += range(each.start_position, end_position)
        slots += _slots(each.block_table, each.start_position, end_position, block_size)
        spans.append(Span(start, num_rows, end_position, each.block_table))
        logits_rows += range(start + num_rows - len(each.samples), start + num_rows)
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
