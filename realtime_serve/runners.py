"""What computes a model's steps, on which device and in which arithmetic.

    device       network                          path    dtype "auto"
    cpu (auto)   as nn/native_llama.py needs it   C       bfloat16 where the CPU has it, or float32
    cpu (auto)   any other                        torch   as above
    cuda         any                              torch   bfloat16

Runs on the inference thread of the new model. Torch is imported only when it is needed: a
server whose models run natively starts without it, and keeps the memory that it would take.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from realtime_serve._kernels import Transformer, cpu_levels, shared_compute_pool
from realtime_serve.engine.checkpoint_fit import longest_sequence
from realtime_serve.engine.host_memory import DeviceMemory, host_memory
from realtime_serve.engine.load_watcher import LoadWatcher
from realtime_serve.engine.native_runner import NativeRunner, activation_format, kv_format
from realtime_serve.engine.packing import PackedDType
from realtime_serve.engine.runner import ModelRunner
from realtime_serve.engine.speculation import max_samples
from realtime_serve.engine.step_threads import choose_num_threads
from realtime_serve.errors import ConfigError
from realtime_serve.model_files import load_packed
from realtime_serve.nn.llama_config import LlamaConfig
from realtime_serve.nn.native_llama import NativeShape, unsupported_reason
from realtime_serve.types import NO_CACHE_DIR, BatchConfig, CPULevel, DType, ModelConfig
from realtime_serve.weights.checkpoint import Checkpoint
from realtime_serve.weights.packed_file import PackedWeights

if TYPE_CHECKING:
    import torch

    from realtime_serve.nn.interface import CausalLM

BFLOAT16_LEVELS = frozenset({"avx512_bf16", "amx"})
"""Where products of bfloat16 are the CPU's own; elsewhere float32 is as fast, and exact."""


class LoadedRunner(NamedTuple):
    """A network that is ready to run.

    Args:
        runner: It, without a KV cache yet.
        max_model_len: Longest sequence in tokens.
        memory: Of its device once it was loaded: room for a KV cache.
    """

    runner: ModelRunner
    max_model_len: int
    memory: DeviceMemory


class NativePath(NamedTuple):
    """Each step is a call into C.

    Args:
        level: The CPU level whose kernels run.
        dtype: The arithmetic.
    """

    level: str
    dtype: PackedDType


class TorchPath(NamedTuple):
    """The steps are torch's, which chooses what "auto" means for the dtype.

    Args:
        device: Where the network and its KV cache are.
        level: The CPU level of the sampler, where the device is a CPU.
        notice: What a person should know about it, if anything.
    """

    device: Literal["cpu", "cuda"]
    level: str
    notice: str | None = None


Path: TypeAlias = NativePath | TorchPath


def load_runner(
    checkpoint: Checkpoint,
    config: ModelConfig,
    batch_config: BatchConfig,
    watcher: LoadWatcher,
) -> LoadedRunner:
    """Load a model's network.

    Args:
        checkpoint: The weights. What a person should know is added to its notices.
        config: Device, dtypes, CPU level, longest sequence, threads, cache.
        batch_config: Bounds the rows and the samples of a step.
        watcher: Whoever waits for it.

    Returns:
        The network.

    Raises:
        ModelLoadError: The model is not supported or damaged.
        ConfigError: A setting is more than the model or the machine has.
    """
    llama = LlamaConfig.from_hf(checkpoint.config)
    max_model_len = longest_sequence(config, llama)
    path = choose_path(config, llama)
    if isinstance(path, NativePath):
        shape = NativeShape.from_config(llama)
        weights = load_packed(
            checkpoint, path.dtype, config.cache_dir, watcher, share=config.share_weights
        )
        runner = _native_runner(
            shape, weights, path, config, batch_config, notices=checkpoint.notices
        )
        return LoadedRunner(runner, max_model_len, host_memory())
    return _load_in_torch(checkpoint, path, config, max_model_len, watcher)


def runner_of_network(network: CausalLM, config: ModelConfig) -> LoadedRunner:
    """Run a network that is somebody's own.

    Args:
        network: It, on the device of its choice.
        config: CPU level of the sampler, longest sequence. Device and KV cache must suit torch.

    Returns:
        The network.

    Raises:
        ConfigError: The configured device is not the network's, its KV cache cannot be as
            configured, or the CPU lacks the level.
    """
    device = network.device.type
    if config.device not in {"auto", device}:
        raise ConfigError(
            f"device is {config.device!r}, but your own network is on {device!r}: build it there, "
            "or leave device out.",
            param="device",
        )
    _require_kv_cache_of_torch(config, network.dtype)
    max_model_len = min(config.max_model_len or network.max_model_len, network.max_model_len)
    return _run_in_torch(network, choose_level(config.cpu_level), max_model_len)


def unused_on_torch(config: ModelConfig) -> list[str]:
    """What a person should know who has configured what only the native path uses.

    Args:
        config: Of a network in torch.

    Returns:
        A sentence, or none.
    """
    keeps_weights = config.cache_dir not in {None, NO_CACHE_DIR}
    is_set = {"cache_dir": keeps_weights, "share_weights": config.share_weights}
    return _no_effect(is_set, "the network runs on torch, which packs no weights")


def unused_by_network(network: CausalLM, config: ModelConfig) -> list[str]:
    """What a person should know who has configured what a network of his own does not use.

    Args:
        network: It.
        config: What `runner_of_network` has accepted.

    Returns:
        Sentences, those of `unused_on_torch` among them.
    """
    is_set = {
        "path": config.path is not None,
        "dtype": config.dtype not in {"auto", _name_of(network.dtype)},
        "activation_dtype": config.activation_dtype != "auto",
        "num_threads": config.num_threads is not None,
    }
    why = "a network of your own computes as you have built it"
    return _no_effect(is_set, why) + unused_on_torch(config)


def _no_effect(is_set: Mapping[str, bool], why: str) -> list[str]:
    """A sentence about those settings that are set, if any is."""
    names = [name for name, is_this_set in is_set.items() if is_this_set]
    if not names:
        return []
    *others, last = names
    subject = f"{', '.join(others)} and {last} have" if others else f"{last} has"
    return [f"{subject} no effect: {why}."]


def choose_path(config: ModelConfig, llama: LlamaConfig) -> Path:
    """Which path computes a model's steps.

    Args:
        config: Device, dtype and CPU level.
        llama: The network.

    Returns:
        The path.

    Raises:
        ConfigError: This CPU does not have the level.
    """
    level = choose_level(config.cpu_level)
    if config.device == "cuda":
        return TorchPath("cuda", level)
    reason = unsupported_reason(llama)
    if reason is not None:
        return TorchPath("cpu", level, f"The model runs on torch, which is slower: {reason}.")
    return NativePath(level, choose_packed_dtype(config.dtype, level))


def choose_level(wanted: CPULevel) -> str:
    """The CPU level whose kernels to run.

    Args:
        wanted: As configured; "auto" is the best one.

    Returns:
        The level.

    Raises:
        ConfigError: This CPU does not have it.
    """
    levels = cpu_levels()
    if wanted == "auto":
        return levels[-1]
    if wanted not in levels:
        raise ConfigError(
            f"cpu_level is {wanted!r}, but this CPU has only {', '.join(levels)}.",
            param="cpu_level",
        )
    return wanted


def choose_packed_dtype(wanted: DType, level: str) -> PackedDType:
    """The arithmetic of a native network.

    Args:
        wanted: As configured; "auto" is bfloat16 where the CPU computes in it.
        level: The CPU level.

    Returns:
        The dtype.
    """
    if wanted == "auto":
        return "bfloat16" if level in BFLOAT16_LEVELS else "float32"
    return wanted


def _native_runner(
    shape: NativeShape,
    weights: PackedWeights,
    path: NativePath,
    config: ModelConfig,
    batch_config: BatchConfig,
    *,
    notices: list[str],
) -> ModelRunner:
    pool = shared_compute_pool()
    transformer = Transformer(
        shape,
        weights,
        pool,
        level=path.level,
        num_threads=choose_num_threads(config.num_threads, pool.num_threads, notices),
        max_rows=batch_config.max_batch_tokens,
        max_outputs=max_samples(batch_config),
        activations=activation_format(config.activation_dtype, path.level),
    )
    return NativeRunner(transformer, shape, kv_format(path.dtype, config.kv_cache_dtype))


def _load_in_torch(
    checkpoint: Checkpoint,
    path: TorchPath,
    config: ModelConfig,
    max_model_len: int,
    watcher: LoadWatcher,
) -> LoadedRunner:
    from realtime_serve.engine.loader import choose_dtype, load_llm
    from realtime_serve.engine.torch_device import CPU, CudaSupport, require_cuda

    is_cpu = path.device == "cpu"
    device = CPU if is_cpu else require_cuda(CudaSupport.of_this_process())
    _require_kv_cache_of_torch(config, choose_dtype(config.dtype, device))
    if path.notice is not None:
        checkpoint.notices.append(path.notice)
    checkpoint.notices.extend(unused_on_torch(config))
    network = load_llm(checkpoint, config, device, watcher.before_piece)
    return _run_in_torch(network, path.level, max_model_len)


def _require_kv_cache_of_torch(config: ModelConfig, dtype: torch.dtype) -> None:
    kept_in = _name_of(dtype)
    if config.kv_cache_dtype not in {"auto", kept_in}:
        raise ConfigError(
            f"kv_cache_dtype is {config.kv_cache_dtype!r}, but this network runs on torch, where "
            f"keys and values have the dtype of the network, {kept_in}: leave kv_cache_dtype out.",
            param="kv_cache_dtype",
        )


def _name_of(dtype: torch.dtype) -> str:
    """As settings spell it."""
    return str(dtype).removeprefix("torch.")


def _run_in_torch(network: CausalLM, level: str, max_model_len: int) -> LoadedRunner:
    from realtime_serve.engine.torch_device import device_memory
    from realtime_serve.engine.torch_runner import TorchRunner

    runner = TorchRunner(network, level)
    return LoadedRunner(runner, max_model_len, device_memory(network.device))
