"""Runs networks written in torch: the flat rows of a step, then the sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from realtime_serve._kernels import cpu_levels
from realtime_serve.engine.kv_storage import KVStorage, bytes_per_block
from realtime_serve.engine.native_sampler import NativeSampler
from realtime_serve.engine.runner import SampledToken, SamplingRow, ScheduledRows
from realtime_serve.engine.sampler import Sampler
from realtime_serve.nn.interface import CausalLM, ForwardBatch, KVTensors, Span
from realtime_serve.nn.transfer import to_device


class TorchRunner:
    """A `ModelRunner` over a network that implements `CausalLM`.

    Tokens are chosen where the logits are: in C on a CPU, in torch on a GPU.

    Args:
        model: The network.
        cpu_level: Whose kernels choose tokens on a CPU; None takes the best.

    Attributes:
        vocab_size: The network's.
        bytes_per_block: Memory that one KV block takes in all layers together.
    """

    def __init__(self, model: CausalLM, cpu_level: str | None = None) -> None:
        self.vocab_size = model.vocab_size
        self.bytes_per_block = bytes_per_block(model)
        self._model = model
        self._kv_storage: KVStorage | None = None
        self._sampler = _sampler_for(model.device, cpu_level or cpu_levels()[-1])

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


class _Sampler(Protocol):
    def sample(self, logits: Tensor, rows: Sequence[SamplingRow]) -> list[SampledToken | None]: ...


def _sampler_for(device: torch.device, cpu_level: str) -> _Sampler:
    return NativeSampler(cpu_level) if device.type == "cpu" else Sampler()


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
        token_ids=to_device(token_ids, device),
        positions=to_device(positions, device),
        slots=to_device(slots, device),
        spans=tuple(spans),
        logits_rows=to_device(logits_rows, device),
    )


def _slots(block_table: Sequence[int], start: int, end: int, block_size: int) -> list[int]:
    return [
        block_table[position // block_size] * block_size + position % block_size
        for position in range(start, end)
    ]
