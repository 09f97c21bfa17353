"""What the kernels' binding refuses: whatever C would not survive."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from realtime_serve._kernels import (
    ComputePool,
    Transformer,
    cpu_levels,
    kv_block_nbytes,
    packed_nbytes,
)
from realtime_serve.engine.runner import BLOCK_SIZE, SamplingRow, ScheduledRows
from realtime_serve.nn.native_llama import NativeShape
from support.native_network import Section
from support.network import GREEDY

SHAPE = NativeShape(
    vocab_size=32,
    hidden_size=32,
    intermediate_size=32,
    num_layers=1,
    num_heads=1,
    num_kv_heads=1,
    head_dim=32,
    rms_norm_eps=1e-5,
    rotary_scale=1.0,
    rotary_frequencies=(1.0,) * 16,
)
MAX_SIZE = 2**31 - 32
SIZES = ["vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads"]
SIZES += ["num_kv_heads", "head_dim"]

CACHE_NBYTES = 2**30  # of the keys, as of the values; mapped, not used
NUM_BLOCKS = CACHE_NBYTES // (kv_block_nbytes("f32", SHAPE) // 2)

each_size = pytest.mark.parametrize("size", SIZES)


def sections() -> dict[str, Section]:
    norm = Section("f32", np.ones(32, np.float32))
    names = {"qkv": 96, "output": 32, "gate_up": 64, "down": 32}
    layer = {name: random_matrix(columns) for name, columns in names.items()}
    layer |= {"attention_norm": norm, "mlp_norm": norm}
    return {
        "embedding": random_matrix(32),
        "final_norm": norm,
        "head": random_matrix(32),
        **{f"layers.0.{name}": section for name, section in layer.items()},
    }


def random_matrix(num_columns: int) -> Section:
    """Panels of float32 need no packing if what stands where does not matter."""
    memory = np.zeros(num_columns * 32 + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    values = memory[start : start + num_columns * 32]
    values[:] = np.random.default_rng(num_columns).normal(0, 0.2, len(values))
    return Section("f32", values)


def transformer(
    shape: NativeShape = SHAPE, num_pool_threads: int = 1, **limits: Any
) -> Transformer:
    limits = {"num_threads": 1, "max_rows": 64, "max_outputs": 4} | limits
    pool = ComputePool(num_pool_threads)
    return Transformer(shape, sections(), pool, level=cpu_levels()[-1], **limits)


def work(samples: Any = (GREEDY,), num_rows: int = 4) -> ScheduledRows:
    return ScheduledRows(range(num_rows), 0, [0, 1], samples)


def test_matrices_are_aligned() -> None:
    unaligned = sections()
    values = unaligned["head"].data
    shifted = np.zeros(len(values) + 16, np.float32)
    start = -shifted.ctypes.data % 64 // 4 + 4
    unaligned["head"] = Section("f32", shifted[start : start + len(values)])
    with pytest.raises(ValueError, match="head must begin at a multiple of 64 bytes"):
        Transformer(
            SHAPE,
            unaligned,
            ComputePool(1),
            level=cpu_levels()[-1],
            num_threads=1,
            max_rows=1,
            max_outputs=1,
        )


# --- numbers --------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [-1, 0, 3, 64])
def test_a_step_has_from_one_thread_to_those_of_the_pool(num_threads: int) -> None:
    with pytest.raises(ValueError, match="num_threads must be 1 to 2"):
        transformer(num_pool_threads=2, num_threads=num_threads)


@pytest.mark.parametrize("limits", [{"max_rows": 0}, {"max_rows": -1}, {"max_outputs": -1}])
def test_limits_of_a_step_are_checked(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        transformer(**limits)


def test_a_transformer_without_outputs_computes_keys_and_values() -> None:
    network = transformer(max_outputs=0)
    network.allocate_kv_cache("f32", 2)
    assert network.run([work(())]) == []
    with pytest.raises(ValueError, match="0 samples"):
        network.run([work()])


@pytest.mark.parametrize("num_threads", [-1, 0, 2**16])
def test_a_pool_has_as_many_threads_as_it_can_count(num_threads: int) -> None:
    with pytest.raises(ValueError, match="num_threads must be 1 to 65535"):
        ComputePool(num_threads)


# --- sizes ----------------------------------------------------------------------


@each_size
@pytest.mark.parametrize("value", [-32, 0, MAX_SIZE + 32, 2**32 + 32, 2**64])
def test_a_size_out_of_range_is_refused_by_its_name(size: str, value: int) -> None:
    changed: dict[str, Any] = {size: value}
    shape = replace(SHAPE, **changed)
    with pytest.raises(ValueError, match=f"^{size} must be"):
        transformer(shape)
    with pytest.raises(ValueError, match=f"^{size} must be"):
        kv_block_nbytes("f32", shape)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"num_heads": 2**16, "head_dim": 2**16}, "width of queries"),
        ({"num_heads": 2**15, "num_kv_heads": 2**15, "head_dim": 2**15}, "width of queries"),
        ({"num_heads": 2**30, "num_kv_heads": 2**30}, "width of queries"),
        ({"intermediate_size": 2**30}, "2 \\* intermediate_size"),
        ({"num_layers": 2**20}, "in all layers"),
        ({"num_heads": 3, "num_kv_heads": 2}, "multiple of num_kv_heads"),
        ({"hidden_size": 48}, "hidden_size must be a multiple of 32"),
        ({"head_dim": 33}, "head_dim must be a multiple of 32"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(sizes: dict[str, Any], reason: str) -> None:
    shape = replace(SHAPE, **sizes)
    with pytest.raises(ValueError, match=reason):
        transformer(shape)
    with pytest.raises(ValueError, match=reason):
        kv_block_nbytes("f32", shape)


def test_bytes_of_the_largest_matrix_do_not_wrap() -> None:
    assert packed_nbytes("f32", MAX_SIZE, MAX_SIZE) == 4 * MAX_SIZE**2
    for size in (MAX_SIZE + 1, 2**31 - 1, 2**32 + 32, 2**64):
        with pytest.raises(ValueError, match="num_columns must be"):
            packed_nbytes("f32", size, 32)
        with pytest.raises(ValueError, match="depth must be"):
            packed_nbytes("f32", 32, size)


def test_a_matrix_without_columns_is_not_said_to_lack_depth() -> None:
    with pytest.raises(ValueError, match=f"^num_columns must be 1 to {MAX_SIZE}, not 0"):
        packed_nbytes("q8", 0, 32)


# --- work -----------------------------------------------------------------------


class ChangingRows:
    """Rows that want more samples each time that one looks."""

    token_ids = range(4)
    start_position = 0
    block_table = (0,)

    def __init__(self) -> None:
        self.num_looks = 0

    @property
    def samples(self) -> Sequence[SamplingRow]:
        self.num_looks += 1
        return [GREEDY] * (self.num_looks**2)


def test_work_from_a_generator_chooses_what_work_in_a_list_does() -> None:
    network = transformer()
    network.allocate_kv_cache("f32", 2)
    expected = network.run([work(), work((GREEDY, GREEDY))])
    assert len(expected) == 3
    assert None not in expected
    # What the samplings of an earlier step left behind must not serve instead.
    assert network.run([work((GREEDY._replace(banned_token_ids=range(32)),) * 3)]) == [None] * 3
    assert network.run(iter([work(), work(iter((GREEDY, GREEDY)))])) == expected


def test_rows_that_change_their_samples_are_looked_at_once() -> None:
    network = transformer()
    network.allocate_kv_cache("f32", 2)
    rows = ChangingRows()
    assert network.run([rows]) == network.run([work()])
    assert rows.num_looks == 1


def test_a_step_cannot_have_more_sequences_than_rows() -> None:
    network = transformer(max_rows=2, max_outputs=4)
    network.allocate_kv_cache("f32", 2)
    assert len(network.run([work(num_rows=1)] * 2)) == 2
    with pytest.raises(ValueError, match="2 rows"):
        network.run([work(num_rows=1)] * 3)


@pytest.mark.parametrize("position", [-1, 2 * BLOCK_SIZE - 3, 2**31 - 1])
def test_positions_outside_of_the_block_table_are_refused(position: int) -> None:
    network = transformer()
    network.allocate_kv_cache("f32", 2)
    with pytest.raises(ValueError, match="position"):
        network.run([work()._replace(start_position=position)])


# --- the KV cache ---------------------------------------------------------------


@contextmanager
def address_space(num_bytes: int) -> Iterator[None]:
    """Leave the process only so many bytes more than it has mapped."""
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    mapped = num_pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("num_halves", [0, 1])
def test_a_cache_without_address_space_leaves_nothing_behind(num_halves: int) -> None:
    network = transformer()
    room = num_halves * CACHE_NBYTES + CACHE_NBYTES // 2
    with address_space(room), pytest.raises(MemoryError, match="address space"):
        network.allocate_kv_cache("f32", NUM_BLOCKS)
    with pytest.raises(ValueError, match="Block 0 is not one of 0"):
        network.run([work()])

    with address_space(2 * CACHE_NBYTES + CACHE_NBYTES // 2):
        network.allocate_kv_cache("f32", NUM_BLOCKS)
    assert len(network.run([work()])) == 1


def test_a_failed_allocation_gives_its_address_space_back() -> None:
    network = transformer()
    with address_space(CACHE_NBYTES + CACHE_NBYTES // 2):
        for _ in range(3):
            with pytest.raises(MemoryError):
                network.allocate_kv_cache("f32", NUM_BLOCKS)
        probe = transformer()
        probe.allocate_kv_cache("f32", NUM_BLOCKS // 2)


def test_a_cache_is_allocated_once() -> None:
    network = transformer()
    for num_blocks in (-1, 0):
        with pytest.raises(ValueError, match="num_blocks"):
            network.allocate_kv_cache("f32", num_blocks)
    network.allocate_kv_cache("f32", 2)
    with pytest.raises(RuntimeError, match="already"):
        network.allocate_kv_cache("f32", 2)
