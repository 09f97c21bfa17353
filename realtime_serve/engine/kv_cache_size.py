"""How many blocks the KV cache gets: as configured, as far as they are of use and can have room.

The memory is used only as blocks are first written. A size in bytes that can never fit would
start, and be killed under load: it is refused when the model is loaded. One that only does not
fit now is told: when workers are replaced, the old ones still hold theirs for a moment.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from realtime_serve.engine.host_memory import DeviceMemory
from realtime_serve.engine.runner import BLOCK_SIZE
from realtime_serve.errors import ModelLoadError
from realtime_serve.types import BatchConfig, MemoryShare, size_text

MIN_MODEL_LEN = 256
"""A size in bytes that holds less than this, and less than the model's context, is a mistake."""


class KVCacheSize(NamedTuple):
    """What a KV cache gets.

    Args:
        num_blocks: At least 1.
        notices: What the operator should know.
    """

    num_blocks: int
    notices: tuple[str, ...]


class KVCacheLimit(NamedTuple):
    """Most memory that a KV cache may take.

    Args:
        wanted: As configured.
        memory: Of the device; None if nothing is known of it, and then no share can be had.
        num_processes: How many processes have a KV cache like this one there.
    """

    wanted: int | MemoryShare
    memory: DeviceMemory | None = None
    num_processes: int = 1

    @property
    def num_bytes(self) -> int:
        """Most bytes for this process."""
        if not isinstance(self.wanted, MemoryShare):
            return self.wanted
        assert self.memory is not None
        # Other workers, which start now or anew later, want theirs of the same memory.
        return self.wanted.of(self.memory.free_bytes) // self.num_processes

    def __str__(self) -> str:
        """What was configured and what that comes to, as a clause."""
        if not isinstance(self.wanted, MemoryShare):
            return f"kv_cache_bytes is {size_text(self.wanted)}"
        assert self.memory is not None
        num, free = self.num_processes, size_text(self.memory.free_bytes)
        divided = f", divided among {num} workers," if num > 1 else ""
        return f"{self.wanted.percent:g} % of {free} free{divided} is {size_text(self.num_bytes)}"


def choose_num_blocks(
    bytes_per_block: int, limit: KVCacheLimit, *, batch: BatchConfig, max_model_len: int
) -> KVCacheSize:
    """As many blocks as fit, but no more than full seats of the longest sequences need.

    Args:
        bytes_per_block: Memory that one block takes in all layers together.
        limit: Most memory for all blocks.
        batch: Seats.
        max_model_len: Longest sequence in tokens.

    Returns:
        The number, and a notice if the sequences must be shorter or memory is short now.

    Raises:
        ModelLoadError: The blocks would be too few to be of use, or more than can ever fit.
    """
    _require_enough(bytes_per_block, limit, max_model_len)
    num_useful = batch.max_num_seqs * math.ceil(max_model_len / BLOCK_SIZE)
    num_affordable = limit.num_bytes // bytes_per_block
    num_blocks = min(num_affordable, num_useful)
    notices = _cut_notices(limit, max_model_len, num_blocks * BLOCK_SIZE)
    if limit.memory is not None and not isinstance(limit.wanted, MemoryShare):
        needed = num_blocks * bytes_per_block
        shown = needed if num_affordable > num_useful else limit.wanted
        _require_capacity(needed, size_text(shown), limit.memory, limit.num_processes)
        notices += _shortage_notices(needed, size_text(shown), limit.memory)
    return KVCacheSize(num_blocks, notices)


def _require_enough(bytes_per_block: int, limit: KVCacheLimit, max_model_len: int) -> None:
    """A share may come to little when memory is short: then it need only be of some use."""
    is_share = isinstance(limit.wanted, MemoryShare)
    num_tokens = BLOCK_SIZE if is_share else min(max_model_len, MIN_MODEL_LEN)
    least = math.ceil(num_tokens / BLOCK_SIZE) * bytes_per_block
    if limit.num_bytes < least:
        raise ModelLoadError(
            f"The KV cache would be too small: {limit}, but this model needs at least "
            f"{size_text(least)}, which holds the keys and values of {num_tokens} tokens.",
            param="kv_cache_bytes",
        )


def _cut_notices(limit: KVCacheLimit, wanted_len: int, num_tokens: int) -> tuple[str, ...]:
    if num_tokens >= wanted_len:
        return ()
    return (
        f"max_model_len is {num_tokens} instead of {wanted_len}, as the KV cache holds no more "
        f"tokens of this model: {limit}.",
    )


def _require_capacity(num_bytes: int, shown: str, memory: DeviceMemory, num_processes: int) -> None:
    total = num_processes * (num_bytes + memory.own_bytes)
    if total <= memory.capacity_bytes:
        return
    where = f" in each of {num_processes} workers" if num_processes > 1 else ""
    raise ModelLoadError(
        f"The KV cache would take {shown}{where}, beside {size_text(memory.own_bytes)} that "
        f"{'each has' if where else 'is'} taken for weights and the like: {size_text(total)} in "
        f"all, but there are only {size_text(memory.capacity_bytes)}. Lower kv_cache_bytes, or "
        "give it a share such as 80%.",
        param="kv_cache_bytes",
    )


def _shortage_notices(num_bytes: int, shown: str, memory: DeviceMemory) -> tuple[str, ...]:
    if num_bytes <= memory.free_bytes:
        return ()
    return (
        f"The KV cache may come to take {shown}, but only {size_text(memory.free_bytes)} are "
        "free now: unless others give memory back, this process may be killed under load.",
    )
