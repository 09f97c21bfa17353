"""Drives a network the way the engine does, without the engine."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from realtime_serve.engine.loader import load_llm
from realtime_serve.engine.runner import BLOCK_SIZE, SamplingRow, ScheduledRows
from realtime_serve.engine.torch_runner import TorchRunner
from realtime_serve.nn.interface import CausalLM
from realtime_serve.types import DType, ModelConfig, SamplingParams
from realtime_serve.weights import open_checkpoint

GREEDY = SamplingRow(SamplingParams(temperature=0.0), seed=0, output_index=0)


def rows(
    token_ids: Sequence[int], start_position: int, block_table: Sequence[int], wants_logits: bool
) -> ScheduledRows:
    """Work of one sequence; the logits of its last row if they are wanted."""
    samples = (GREEDY,) if wants_logits else ()
    return ScheduledRows(token_ids, start_position, block_table, samples)


def load(path: object, dtype: DType = "float32") -> CausalLM:
    """Load a model with one thread: the tests' machines are busy."""
    return load_llm(open_checkpoint(str(path)), ModelConfig(dtype=dtype, num_threads=1))


class Network:
    """A network with a KV cache whose blocks are dealt out of order.

    What a fresh block holds is not zero but large: a slot that is read without having
    been written shows.
    """

    def __init__(self, model: CausalLM, num_blocks: int = 64, seed: int = 0) -> None:
        self._runner = TorchRunner(model)
        self._runner.allocate(num_blocks)
        for layer in self._runner.kv_tensors:
            layer.fill_(1000.0)
        generator = torch.Generator().manual_seed(seed)
        self._free = torch.randperm(num_blocks, generator=generator).tolist()

    def new_table(self, num_tokens: int) -> list[int]:
        """A block table for a sequence of that length."""
        num_blocks = -(-num_tokens // BLOCK_SIZE)
        table, self._free = self._free[:num_blocks], self._free[num_blocks:]
        assert len(table) == num_blocks, "the test needs more blocks"
        return table

    def step(self, *work: ScheduledRows) -> Tensor:
        """One step; the logits of the rows that want them."""
        return self._runner.forward(work)

    def last_logits(self, token_ids: Sequence[int], chunks: Sequence[int] = ()) -> Tensor:
        """What comes after a prompt, [vocab_size].

        Args:
            token_ids: The prompt.
            chunks: Lengths of all chunks but the last in which it is computed.
        """
        table = self.new_table(len(token_ids))
        borders = [0, *torch.tensor([0, *chunks]).cumsum(0)[1:].tolist(), len(token_ids)]
        for start, end in itertools.pairwise(borders):
            last = end == len(token_ids)
            logits = self.step(rows(token_ids[start:end], start, table, last))
        return logits[0]
