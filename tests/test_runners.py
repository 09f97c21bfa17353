"""Which path computes a model's steps, on which device, in which arithmetic."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import transformers

from realtime_serve._kernels import cpu_levels
from realtime_serve.engine.host_memory import DeviceMemory, host_memory
from realtime_serve.engine.load_watcher import LoadWatcher
from realtime_serve.engine.native_runner import NativeRunner, activation_format, kv_format
from realtime_serve.engine.packing import PackedDType
from realtime_serve.engine.runner import ModelRunner, ScheduledRows
from realtime_serve.engine.torch_device import CudaSupport
from realtime_serve.engine.torch_runner import TorchRunner
from realtime_serve.errors import ConfigError, ModelLoadError
from realtime_serve.model_building import _build_engine
from realtime_serve.nn.llama_config import LlamaConfig
from realtime_serve.runners import (
    BFLOAT16_LEVELS,
    LoadedRunner,
    NativePath,
    TorchPath,
    choose_packed_dtype,
    choose_path,
    load_runner,
    runner_of_network,
    unused_by_network,
    unused_on_torch,
)
from realtime_serve.types import (
    ActivationDType,
    BatchConfig,
    CPULevel,
    Device,
    DType,
    KVCacheDType,
    MemoryShare,
    ModelConfig,
)
from realtime_serve.weights.checkpoint import Checkpoint, open_checkpoint
from support.dict_checkpoint import DictCheckpoint
from support.network import GREEDY
from support.scripted_servers import TEXT
from support.stub_model import HistoryModel
from support.tiny_models import SIZES

BEST = cpu_levels()[-1]

NATIVE_KIND = transformers.LlamaConfig(**{**SIZES, "intermediate_size": 96, "head_dim": 32})
TORCH_KIND = "qwen3"  # heads of 24, which the native network lacks

LOAD_ON_THE_CPU = """
import sys
from realtime_serve.engine.load_watcher import LoadWatcher
from realtime_serve.runners import load_runner
from realtime_serve.types import BatchConfig, ModelConfig
from realtime_serve.weights.checkpoint import open_checkpoint
config = ModelConfig(device=sys.argv[2], cache_dir=sys.argv[3])
checkpoint = open_checkpoint(sys.argv[1])
loaded = load_runner(checkpoint, config, BatchConfig(), LoadWatcher())
assert type(loaded.runner).__name__ == "NativeRunner"
print("torch" in sys.modules)
"""


@pytest.fixture(autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def llama(kind: str | transformers.PretrainedConfig) -> LlamaConfig:
    return LlamaConfig.from_hf(DictCheckpoint(kind).config)


def load(checkpoint: Checkpoint, config: ModelConfig) -> LoadedRunner:
    return load_runner(checkpoint, config, BatchConfig(), LoadWatcher())


# --- the path -------------------------------------------------------------------


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_on_a_cpu_the_native_path_is_taken_where_it_can_be(device: Device) -> None:
    path = choose_path(ModelConfig(device=device, dtype="q4"), llama(NATIVE_KIND))
    assert path == NativePath(BEST, "q4")


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_on_a_cpu_torch_takes_the_rest_and_says_why(device: Device) -> None:
    path = choose_path(ModelConfig(device=device), llama(TORCH_KIND))
    assert isinstance(path, TorchPath)
    assert path.device == "cpu"
    assert path.notice is not None
    assert "head_dim (24)" in path.notice


@pytest.mark.parametrize("kind", [NATIVE_KIND, TORCH_KIND], ids=["native", "torch"])
def test_on_a_gpu_torch_takes_all(kind: str | transformers.PretrainedConfig) -> None:
    path = choose_path(ModelConfig(device="cuda"), llama(kind))
    assert path == TorchPath("cuda", BEST)


@pytest.mark.parametrize("level", cpu_levels())
def test_auto_is_bfloat16_at_the_levels_that_compute_in_it(level: CPULevel) -> None:
    expected: DType = "bfloat16" if level in BFLOAT16_LEVELS else "float32"
    assert choose_packed_dtype("auto", level) == expected
    path = choose_path(ModelConfig(cpu_level=level), llama(NATIVE_KIND))
    assert path == NativePath(level, expected)


@pytest.mark.parametrize("kind", [NATIVE_KIND, TORCH_KIND], ids=["native", "torch"])
def test_a_level_that_the_cpu_lacks_is_refused_on_either_path(
    kind: str | transformers.PretrainedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime_serve.runners.cpu_levels", lambda: ("portable",))
    with pytest.raises(ConfigError, match="this CPU has only portable") as caught:
        choose_path(ModelConfig(cpu_level="avx2"), llama(kind))
    assert caught.value.param == "cpu_level"


# --- loading --------------------------------------------------------------------


def test_a_network_in_torch_is_loaded_with_its_notice_and_the_hosts_memory() -> None:
    checkpoint = DictCheckpoint(TORCH_KIND)
    config = ModelConfig(dtype="float32", num_threads=1, max_model_len=100)
    loaded = load(checkpoint, config)
    assert isinstance(loaded.runner, TorchRunner)
    assert loaded.max_model_len == 100
    assert loaded.memory == pytest.approx(host_memory(), rel=0.2)
    assert any("runs on torch" in notice for notice in checkpoint.notices)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"cache_dir": "/elsewhere"}, "cache_dir has"),
        ({"share_weights": True, "cache_dir": "none"}, "share_weights has"),
        ({"share_weights": True, "cache_dir": "/elsewhere"}, "cache_dir and share_weights have"),
    ],
)
def test_a_network_in_torch_says_what_it_does_not_use(fields: dict[str, Any], named: str) -> None:
    config = ModelConfig(dtype="float32", num_threads=1, **fields)
    checkpoint = DictCheckpoint(TORCH_KIND)
    load(checkpoint, config)
    expected = f"{named} no effect: the network runs on torch, which packs no weights."
    assert checkpoint.notices.count(expected) == 1
    assert unused_on_torch(config) == [expected]


@pytest.mark.parametrize("cache_dir", [None, "none"])
def test_of_what_was_not_asked_for_nothing_is_said(cache_dir: str | None) -> None:
    assert unused_on_torch(ModelConfig(cache_dir=cache_dir)) == []


def test_more_threads_than_cpus_are_cut_with_a_notice(gguf_path: str, tmp_path: Path) -> None:
    num_cpus = len(os.sched_getaffinity(0))
    notice = f"num_threads is {num_cpus + 1}, but this process may use only {num_cpus} CPUs"
    config = ModelConfig(cache_dir=str(tmp_path), dtype="q4", num_threads=num_cpus + 1)
    native = open_checkpoint(gguf_path)
    load(native, config)
    in_torch = DictCheckpoint(TORCH_KIND)
    load(in_torch, dataclasses.replace(config, dtype="float32"))
    assert torch.get_num_threads() == num_cpus
    for checkpoint in (native, in_torch):
        assert len([each for each in checkpoint.notices if notice in each]) == 1
    quiet = open_checkpoint(gguf_path)
    load(quiet, dataclasses.replace(config, num_threads=num_cpus))
    assert quiet.notices == []


def test_without_a_gpu_cuda_is_refused_before_anything_is_read() -> None:
    if CudaSupport.of_this_process().missing is None:
        pytest.skip("there is a CUDA device")
    checkpoint = DictCheckpoint(TORCH_KIND)
    checkpoint.tensors.clear()  # whoever asks for one gets another error
    with pytest.raises(ConfigError, match="device is 'cuda', but torch") as caught:
        load(checkpoint, ModelConfig(device="cuda"))
    assert caught.value.param == "device"


@pytest.mark.not_under_gevent("starts a process of its own, which is never patched")
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_on_a_cpu_no_torch_is_loaded_to_look_for_a_gpu(
    device: str, gguf_path: str, tmp_path: Path
) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", LOAD_ON_THE_CPU, gguf_path, device, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert finished.stdout == "False\n"


def test_the_native_path_says_what_the_host_has_left(gguf_path: str, tmp_path: Path) -> None:
    config = ModelConfig(cache_dir=str(tmp_path), dtype="q4")
    loaded = load(open_checkpoint(gguf_path), config)
    assert isinstance(loaded.runner, NativeRunner)
    assert loaded.memory == pytest.approx(host_memory(), rel=0.2)


def memory_of_blocks(runner: ModelRunner, free: int) -> DeviceMemory:
    """Memory for 1000 blocks of a runner."""
    return DeviceMemory(free * runner.bytes_per_block, 1000 * runner.bytes_per_block, 0)


@pytest.mark.parametrize(("percent", "num_blocks"), [(50, 100), (5, 10)])
def test_a_share_of_memory_is_one_of_what_the_runners_device_has_left(
    percent: float, num_blocks: int
) -> None:
    runner = TorchRunner(HistoryModel(64))
    loaded = LoadedRunner(runner, 64, memory_of_blocks(runner, free=200))
    config = ModelConfig(kv_cache_bytes=MemoryShare(percent))
    engine = _build_engine(loaded, TEXT, config, BatchConfig(), LoadWatcher())
    assert engine.stats().kv_blocks_total == num_blocks


def test_a_share_of_memory_is_divided_among_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realtime_serve.model_building.num_worker_processes", lambda: 4)
    runner = TorchRunner(HistoryModel(64))
    loaded = LoadedRunner(runner, 64, memory_of_blocks(runner, free=200))
    config = ModelConfig(kv_cache_bytes=MemoryShare(50))
    engine = _build_engine(loaded, TEXT, config, BatchConfig(), LoadWatcher())
    assert engine.stats().kv_blocks_total == 25


def test_a_cache_that_does_not_fit_now_is_made_with_a_notice() -> None:
    """When workers are replaced, the old ones still hold their memory."""
    runner = TorchRunner(HistoryModel(64))
    loaded = LoadedRunner(runner, 64, memory_of_blocks(runner, free=9))
    config = ModelConfig(kv_cache_bytes=10 * runner.bytes_per_block)
    notices: list[str] = []
    engine = _build_engine(loaded, TEXT, config, BatchConfig(), LoadWatcher(notify=notices.append))
    assert engine.stats().kv_blocks_total == 10
    (notice,) = notices
    assert "free now" in notice


def test_a_cache_that_never_fits_in_each_of_the_workers_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("realtime_serve.model_building.num_worker_processes", lambda: 101)
    runner = TorchRunner(HistoryModel(64))
    loaded = LoadedRunner(runner, 64, memory_of_blocks(runner, free=200))
    config = ModelConfig(kv_cache_bytes=10 * runner.bytes_per_block)
    with pytest.raises(ModelLoadError, match="in each of 101 workers"):
        _build_engine(loaded, TEXT, config, BatchConfig(), LoadWatcher())


# --- the KV cache ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "q8", "q4"])
def test_keys_and_values_are_kept_as_configured_or_as_the_arithmetic_has_them(
    dtype: PackedDType,
) -> None:
    assert kv_format(dtype, "auto") == ("f32" if dtype == "float32" else "bf16")
    assert kv_format(dtype, "float32") == "f32"
    assert kv_format(dtype, "bfloat16") == "bf16"
    assert kv_format(dtype, "int8") == "int8"


def test_activations_are_as_configured_or_as_many_rows_are_multiplied_fastest() -> None:
    for level in ("portable", "avx2", "avx512", "avx512_bf16"):
        assert activation_format("auto", level) == "int8"
    assert activation_format("auto", "amx") == "bf16"
    for level in ("portable", "amx"):
        assert activation_format("bfloat16", level) == "bf16"
        assert activation_format("int8", level) == "int8"


def test_configured_activations_reach_the_native_network(gguf_path: str, tmp_path: Path) -> None:
    config = ModelConfig(cache_dir=str(tmp_path), dtype="q4")
    scores = []
    activation_dtypes: list[ActivationDType] = ["bfloat16", "int8"]
    for each in activation_dtypes:
        checkpoint = open_checkpoint(gguf_path)
        loaded = load(checkpoint, dataclasses.replace(config, activation_dtype=each))
        loaded.runner.allocate(1)
        (token,) = loaded.runner.run([ScheduledRows(range(9), 0, [0], [GREEDY])])
        assert token is not None
        scores.append(token.logprob)
    assert scores[0] != scores[1]
    assert scores[0] == pytest.approx(scores[1], abs=0.5)


def test_a_cache_of_8_bits_reaches_the_native_network(gguf_path: str, tmp_path: Path) -> None:
    config = ModelConfig(cache_dir=str(tmp_path), dtype="q4")
    sizes = [
        load(
            open_checkpoint(gguf_path), dataclasses.replace(config, kv_cache_dtype=each)
        ).runner.bytes_per_block
        for each in ("float32", "auto", "int8")
    ]
    assert sizes[0] == 2 * sizes[1]
    assert sizes[2] == sizes[1] / 2 * (64 + 4) / 64  # heads of 64, and a scale for each


@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "int8"])
def test_a_kv_cache_that_torch_does_not_have_is_refused(wanted: KVCacheDType) -> None:
    dtype: DType = "float32" if wanted == "bfloat16" else "bfloat16"
    config = ModelConfig(dtype=dtype, num_threads=1, kv_cache_dtype=wanted)
    refusal = rf"runs on torch.*the dtype of the network, {dtype}: leave kv_cache_dtype out"
    with pytest.raises(ConfigError, match=refusal) as caught:
        load(DictCheckpoint(TORCH_KIND), config)
    assert caught.value.param == "kv_cache_dtype"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_kv_cache_that_torch_has_anyway_may_be_asked_for(
    dtype: Literal["float32", "bfloat16"],
) -> None:
    config = ModelConfig(dtype=dtype, num_threads=1, kv_cache_dtype=dtype)
    loaded = load(DictCheckpoint(TORCH_KIND), config)
    unasked = load(DictCheckpoint(TORCH_KIND), dataclasses.replace(config, kv_cache_dtype="auto"))
    assert loaded.runner.bytes_per_block == unasked.runner.bytes_per_block


def test_of_a_network_of_ones_own_the_kv_cache_has_its_dtype() -> None:
    network = HistoryModel(64)
    assert network.dtype is torch.float32
    runner_of_network(network, ModelConfig(kv_cache_dtype="float32"))
    with pytest.raises(ConfigError, match="runs on torch"):
        runner_of_network(network, ModelConfig(kv_cache_dtype="bfloat16"))


# --- networks of somebody's own ---------------------------------------------------


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_network_of_ones_own_runs_where_it_is(device: Device) -> None:
    loaded = runner_of_network(HistoryModel(64), ModelConfig(device=device))
    assert isinstance(loaded.runner, TorchRunner)
    assert loaded.max_model_len == 64
    assert loaded.memory.free_bytes > 0


def test_a_network_of_ones_own_on_another_device_than_configured_is_refused() -> None:
    with pytest.raises(ConfigError, match="device is 'cuda', but your own network is on 'cpu'"):
        runner_of_network(HistoryModel(), ModelConfig(device="cuda"))


def test_the_context_of_a_network_of_ones_own_can_be_cut_but_not_stretched() -> None:
    config = ModelConfig(max_model_len=40)
    assert runner_of_network(HistoryModel(64), config).max_model_len == 40
    longer = dataclasses.replace(config, max_model_len=1000)
    assert runner_of_network(HistoryModel(64), longer).max_model_len == 64


@pytest.mark.parametrize(
    ("fields", "subject"),
    [
        ({"dtype": "bfloat16"}, "dtype has"),
        ({"num_threads": 1, "path": "/model.gguf"}, "path and num_threads have"),
        (
            {"dtype": "q4", "activation_dtype": "int8", "num_threads": 1},
            "dtype, activation_dtype and num_threads have",
        ),
    ],
)
def test_a_network_of_ones_own_says_which_settings_it_does_not_use(
    fields: dict[str, Any], subject: str
) -> None:
    expected = f"{subject} no effect: a network of your own computes as you have built it."
    assert unused_by_network(HistoryModel(), ModelConfig(**fields)) == [expected]


def test_a_network_of_ones_own_says_nothing_of_settings_that_are_as_it_is() -> None:
    network = HistoryModel()
    assert network.dtype is torch.float32
    config = ModelConfig(name="own", dtype="float32", device="cpu", max_model_len=40)
    assert unused_by_network(network, config) == []
    assert unused_by_network(network, ModelConfig()) == []


def test_a_network_of_ones_own_packs_no_weights_either() -> None:
    config = ModelConfig(num_threads=1, share_weights=True)
    own, torchs = unused_by_network(HistoryModel(), config)
    assert own.startswith("num_threads has no effect")
    assert [torchs] == unused_on_torch(config)
