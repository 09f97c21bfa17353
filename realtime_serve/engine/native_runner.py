"""Computes steps with the native transformer: one call into C each, without the GIL."""

from __future__ import annotations

from collections.abc import Sequence

from realtime_serve._kernels import Transformer, kv_block_nbytes
from realtime_serve.engine.packing import PackedDType
from realtime_serve.engine.runner import SampledToken, ScheduledRows
from realtime_serve.nn.native_llama import NativeShape
from realtime_serve.types import ActivationDType, KVCacheDType

_ACTIVATION_FORMATS = {"bfloat16": "bf16", "int8": "int8"}
_KV_FORMATS = {"float32": "f32", "bfloat16": "bf16", "int8": "int8"}


def kv_format(dtype: PackedDType, kv_cache_dtype: KVCacheDType) -> str:
    """What the KV cache of a native network holds, in the kernels' words.

    Args:
        dtype: The network's arithmetic.
        kv_cache_dtype: As configured; "auto" loses nothing of what the arithmetic has.

    Returns:
        "f32", "bf16" or "int8".
    """
    if kv_cache_dtype == "auto":
        return "f32" if dtype == "float32" else "bf16"
    return _KV_FORMATS[kv_cache_dtype]


def activation_format(activation_dtype: ActivationDType, level: str) -> str:
    """What quantised weights are multiplied with, in the kernels' words.

    Args:
        activation_dtype: As configured; "auto" is what is faster with many rows.
        level: The CPU level.

    Returns:
        "bf16" or "int8".
    """
    if activation_dtype == "auto":
        return "bf16" if level == "amx" else "int8"
    return _ACTIVATION_FORMATS[activation_dtype]


class NativeRunner:
    """A `ModelRunner` over a native transformer.

    Args:
        transformer: The network, without a KV cache yet.
        shape: Its sizes.
        kv_format: What the KV cache holds: "f32", "bf16" or "int8".

    Attributes:
        vocab_size: The network's.
        bytes_per_block: Memory that one KV block takes in all layers together.
    """

    def __init__(self, transformer: Transformer, shape: NativeShape, kv_format: str) -> None:
        self.vocab_size = shape.vocab_size
        self.bytes_per_block = kv_block_nbytes(kv_format, shape)
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
