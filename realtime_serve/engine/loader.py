"""From an opened checkpoint to a network that is ready to run."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

import torch
from torch import Tensor

from realtime_serve.engine.checkpoint_fit import (
    longest_sequence,
    not_finite,
    require_all_placed,
    require_shape,
)
from realtime_serve.engine.step_threads import choose_num_threads
from realtime_serve.engine.torch_device import CPU
from realtime_serve.errors import ModelLoadError
from realtime_serve.nn.interface import CausalLM
from realtime_serve.nn.llama import LlamaForCausalLM
from realtime_serve.nn.llama_config import LlamaConfig
from realtime_serve.nn.parameters import Parameters
from realtime_serve.types import DType, ModelConfig
from realtime_serve.weights import Checkpoint
from realtime_serve.weights.packed_file import go_on


def load_llm(
    checkpoint: Checkpoint,
    config: ModelConfig,
    device: torch.device = CPU,
    before_tensor: Callable[[], None] = go_on,
) -> CausalLM:
    """Build the network and fill it, one tensor after the other.

    Also sets how many threads the calling thread's steps use; call it from the thread that
    will run them.

    Args:
        checkpoint: The weights. What a person should know is added to its notices.
        config: Dtype, longest sequence, threads.
        device: Where the network runs.
        before_tensor: Called before each tensor is read; what it raises ends the loading.

    Returns:
        The network.

    Raises:
        ModelLoadError: The model is not supported, or a tensor is missing, superfluous or of
            the wrong shape.
        ConfigError: max_model_len is more than the model was made for.
    """
    num_cpus = len(os.sched_getaffinity(0))
    torch.set_num_threads(choose_num_threads(config.num_threads, num_cpus, checkpoint.notices))
    llama = LlamaConfig.from_hf(checkpoint.config)
    tensors = _TensorFeed(checkpoint, before_tensor)
    with torch.inference_mode():
        model = LlamaForCausalLM(
            llama,
            Parameters(take=tensors.take, dtype=choose_dtype(config.dtype, device), device=device),
            longest_sequence(config, llama),
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

    Raises:
        ModelLoadError: Networks written in torch do not compute in it.
    """
    match wanted:
        case "auto":
            return torch.bfloat16 if _has_native_bfloat16(device) else torch.float32
        case "bfloat16":
            return torch.bfloat16
        case "float32":
            return torch.float32
        case _:
            raise ModelLoadError(
                f"dtype {wanted!r} runs only on the native CPU path, and this model runs on "
                "torch: use float32 or bfloat16.",
                param="dtype",
            )


def _has_native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if platform.machine() in {"aarch64", "arm64"}:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    # On x86 that operator says yes to emulation as well, which is slower than float32.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class _TensorFeed:
    """Gives out a checkpoint's tensors, checked, and remembers which were taken."""

    def __init__(self, checkpoint: Checkpoint, before_tensor: Callable[[], None]) -> None:
        self._checkpoint = checkpoint
        self._before_tensor = before_tensor
        self._taken: set[str] = set()

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name; ModelLoadError if it is not as the network needs it."""
        self._before_tensor()
        tensor = self._checkpoint.tensor(name)
        self._taken.add(name)
        where = f"{self._checkpoint.path}: {name}"
        require_shape(where, tuple(tensor.shape), shape)
        # One sum, not a test of each value: NaN and infinity survive it.
        if not tensor.sum(dtype=torch.float32).isfinite():
            raise not_finite(where)
        return tensor

    def check_all_taken(self, head_is_tied: bool) -> None:
        """Refuse a checkpoint with weights that the network has no place for."""
        require_all_placed(self._checkpoint, self._taken, head_is_tied=head_is_tied)
