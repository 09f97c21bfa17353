"""From an opened checkpoint to a network that is ready to run."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable

import torch
from torch import Tensor

from realtime_serve.errors import ConfigError, ModelLoadError
from realtime_serve.nn import CausalLM, LlamaConfig, LlamaForCausalLM, Parameters
from realtime_serve.types import DType, ModelConfig
from realtime_serve.weights import Checkpoint

CPU = torch.device("cpu")


def load_llm(checkpoint: Checkpoint, config: ModelConfig, device: torch.device = CPU) -> CausalLM:
    """Build the network and fill it, one tensor after the other.

    Also sets how many threads the calling thread's steps use; call it from the thread that
    will run them.

    Args:
        checkpoint: The weights. What a person should know is added to its notices.
        config: Dtype, longest sequence, threads.
        device: Where the network runs.

    Returns:
        The network.

    Raises:
        ModelLoadError: The model is not supported, or a tensor is missing, superfluous or of
            the wrong shape.
        ConfigError: max_model_len is more than the model was made for.
    """
    torch.set_num_threads(config.num_threads or len(os.sched_getaffinity(0)))
    llama = LlamaConfig.from_hf(checkpoint.config)
    tensors = _TensorFeed(checkpoint)
    with torch.inference_mode():
        model = LlamaForCausalLM(
            llama,
            Parameters(take=tensors.take, dtype=choose_dtype(config.dtype, device), device=device),
            _max_model_len(config, llama),
        )
    tensors.check_all_taken(llama.tie_word_embeddings)
    return model


def choose_dtype(wanted: DType, device: torch.device = CPU) -> torch.dtype:
    """The dtype to compute in.

    Args:
        wanted: As configured; "auto" is bfloat16 where the device computes in it natively.
        device: Where the network runs.

    Returns:
        The dtype.
    """
    if wanted == "auto":
        return torch.bfloat16 if _has_native_bfloat16(device) else torch.float32
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


def _has_native_bfloat16(device: torch.device) -> bool:
    if device.type != "cpu":
        return True
    if platform.machine() in {"aarch64", "arm64"}:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    # On x86 that operator says yes to emulation as well, which is slower than float32.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _max_model_len(config: ModelConfig, llama: LlamaConfig) -> int:
    longest = llama.max_position_embeddings
    if config.max_model_len is not None and config.max_model_len > longest:
        raise ConfigError(
            f"max_model_len ({config.max_model_len}) must be at most {longest}, "
            "the context that the model was made for.",
            param="max_model_len",
        )
    return config.max_model_len or longest


class _TensorFeed:
    """Gives out a checkpoint's tensors, checked, and remembers which are left."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._left = set(checkpoint.tensor_names())

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name; ModelLoadError if it is not as the network needs it."""
        tensor = self._checkpoint.tensor(name)
        self._left.discard(name)
        if tuple(tensor.shape) != shape:
            raise ModelLoadError(
                f"{self._checkpoint.path}: {name} has the shape {list(tensor.shape)}, "
                f"but the configuration asks for {list(shape)}."
            )
        # One sum, not a test of each value: NaN and infinity survive it.
        if not tensor.sum(dtype=torch.float32).isfinite():
            raise ModelLoadError(
                f"{self._checkpoint.path}: {name} holds values that are not finite numbers."
            )
        return tensor

    def check_all_taken(self, head_is_tied: bool) -> None:
        """Refuse a checkpoint with weights that the network has no place for."""
        left = sorted(_meaningful(self._left))
        if head_is_tied and "lm_head.weight" in left:
            left.remove("lm_head.weight")
            self._checkpoint.notices.append(
                "lm_head.weight is ignored: the configuration ties the head to the embedding."
            )
        if left:
            raise ModelLoadError(
                f"{self._checkpoint.path} has {len(left)} tensors that this network has no "
                f"place for, such as {left[0]}."
            )


def _meaningful(names: Iterable[str]) -> list[str]:
    """Without the rotary frequencies that old checkpoints store; they follow from the config."""
    return [name for name in names if not name.endswith("rotary_emb.inv_freq")]
