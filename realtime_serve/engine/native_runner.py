"""Computes steps with the native transformer: one call into C each, without the GIL."""

from __future__ import annotations

from collections.abc import Sequence

from realtime_serve._kernels import Transformer
from realtime_serve.engine.runner import BLOCK_SIZE, SampledToken, ScheduledRows
from realtime_serve.nn.native_llama import NativeShape

KV_VALUE_BYTES = {"f32": 4, "bf16": 2}


class NativeRunner:
    """A `ModelRunner` over a native transformer.

    Args:
        transformer: The network, without a KV cache yet.
        shape: Its sizes.
        kv_format: What the KV cache holds: "f32" or "bf16".

    Attributes:
        vocab_size: The network's.
        bytes_per_block: Memory that one KV block takes in all layers together.
    """

    def __init__(self, transformer: Transformer, shape: NativeShape, kv_format: str) -> None:
        self.vocab_size = shape.vocab_size
        per_token = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim
        self.bytes_per_block = BLOCK_SIZE * per_token * KV_VALUE_BYTES[kv_format]
        self._transformer = transformer
        self._kv_format = kv_format

    def allocate(self, num_blocks: int) -> None:
        """See `ModelRunner.allocate`."""
        self._transformer.allocate_kv_cache(self._kv_format, num_blocks)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """See `ModelRunner.copy_blocks`."""
        for source, destination in pairs:
            self._transformer.copy_kv_block(source, destination)

    def run(self, work: Sequence[ScheduledRows]) -> list[SampledToken | None]:
        """See `ModelRunner.run`."""
        chosen = self._transformer.run(work)
        return [None if token is None else SampledToken(*token) for token in chosen]
