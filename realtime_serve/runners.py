"""What computes a model's steps: the native transformer wherever it can, torch elsewhere.

Runs on the inference thread of the new model. Torch is imported only when it is needed: a
server whose models run natively starts without it, and keeps the memory that it would take.
"""

from __future__ import annotations

from typing import NamedTuple

from realtime_serve._kernels import Transformer, cpu_levels, shared_compute_pool
from realtime_serve.engine.checkpoint_fit import longest_sequence
from realtime_serve.engine.native_runner import NativeRunner
from realtime_serve.engine.packing import PackedDType
from realtime_serve.engine.runner import ModelRunner
from realtime_serve.engine.speculation import max_samples
from realtime_serve.errors import ConfigError
from realtime_serve.model_files import load_packed
from realtime_serve.nn.llama_config import LlamaConfig
from realtime_serve.nn.native_llama import NativeShape, unsupported_reason
from realtime_serve.types import BatchConfig, CPULevel, DType, ModelConfig
from realtime_serve.weights.checkpoint import Checkpoint

BFLOAT16_LEVELS = frozenset({"avx512_bf16", "amx"})
"""Where products of bfloat16 are the CPU's own; elsewhere float32 is as fast, and exact."""


class LoadedRunner(NamedTuple):
    """A network that is ready to run.

    Args:
        runner: It, without a KV cache yet.
        max_model_len: Longest sequence in tokens.
    """

    runner: ModelRunner
    max_model_len: int


def load_runner(
    checkpoint: Checkpoint, config: ModelConfig, batch_config: BatchConfig
) -> LoadedRunner:
    """Load a model's network.

    Args:
        checkpoint: The weights. What a person should know is added to its notices.
        config: Dtype, CPU level, longest sequence, threads, cache.
        batch_config: Bounds the rows and the samples of a step.

    Returns:
        The network.

    Raises:
        ModelLoadError: The model is not supported or damaged.
        ConfigError: A setting is more than the model or the CPU has.
    """
    llama = LlamaConfig.from_hf(checkpoint.config)
    max_model_len = longest_sequence(config, llama)
    reason = unsupported_reason(llama)
    if reason is None:
        runner = _native_runner(checkpoint, llama, config, batch_config)
    else:
        checkpoint.notices.append(f"The model runs on torch, which is slower: {reason}.")
        runner = _torch_runner(checkpoint, config)
    return LoadedRunner(runner, max_model_len)


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
    checkpoint: Checkpoint, llama: LlamaConfig, config: ModelConfig, batch_config: BatchConfig
) -> ModelRunner:
    level = choose_level(config.cpu_level)
    dtype = choose_packed_dtype(config.dtype, level)
    shape = NativeShape.from_config(llama)
    pool = shared_compute_pool()
    transformer = Transformer(
        shape,
        load_packed(checkpoint, dtype, config.cache_dir, _ignore_progress),
        pool,
        level=level,
        num_threads=min(config.num_threads or pool.num_threads, pool.num_threads),
        max_rows=batch_config.max_batch_tokens,
        max_outputs=max_samples(batch_config),
    )
    return NativeRunner(transformer, shape, "f32" if dtype == "float32" else "bf16")


def _ignore_progress(share: float) -> None:
    pass


def _torch_runner(checkpoint: Checkpoint, config: ModelConfig) -> ModelRunner:
    from realtime_serve.engine.loader import load_llm
    from realtime_serve.engine.torch_runner import TorchRunner

    return TorchRunner(load_llm(checkpoint, config))
