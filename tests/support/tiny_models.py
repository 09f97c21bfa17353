"""Small random models made by transformers, and the same models as GGUF files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import gguf
import numpy as np
import torch
import transformers
from torch import Tensor

SIZES: Mapping[str, Any] = {
    "vocab_size": 211,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}

LLAMA3_ROPE: Mapping[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

YARN_ROPE: Mapping[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}

CONFIGS: Mapping[str, transformers.PretrainedConfig] = {
    "llama": transformers.LlamaConfig(**SIZES),
    "llama, tied": transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama, biases": transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama, llama3 rope": transformers.LlamaConfig(**SIZES, rope_parameters=dict(LLAMA3_ROPE)),
    "llama, yarn rope": transformers.LlamaConfig(**SIZES, rope_parameters=dict(YARN_ROPE)),
    "mistral, wide heads": transformers.MistralConfig(**SIZES, head_dim=32, sliding_window=None),
    "qwen2": transformers.Qwen2Config(**SIZES),
    "qwen3": transformers.Qwen3Config(**SIZES, head_dim=24),
}
"""One of each kind that the network distinguishes."""


def random_model(
    kind: str | transformers.PretrainedConfig, seed: int = 0
) -> transformers.PreTrainedModel:
    """A model of one of `CONFIGS`, or another, every weight random: norms and biases too."""
    torch.manual_seed(seed)
    config = CONFIGS[kind] if isinstance(kind, str) else kind
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        mean = 1.0 if "norm" in name else 0.0
        torch.nn.init.normal_(parameter, mean, 0.15)
    evaluated: transformers.PreTrainedModel = model.eval()
    return evaluated


def last_logits(model: transformers.PreTrainedModel, token_ids: list[int]) -> Tensor:
    """What transformers says comes after a prompt, [vocab_size]."""
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([token_ids])).logits[0, -1]
    return logits


StorageOf: TypeAlias = Callable[[str], gguf.GGMLQuantizationType]


def in_float32(_: str) -> gguf.GGMLQuantizationType:
    """Stores every tensor as it is."""
    return gguf.GGMLQuantizationType.F32


def write_gguf(
    model: transformers.PreTrainedModel, path: Path, storage_of: StorageOf = in_float32
) -> None:
    """Write a llama, qwen2 or qwen3 model as llama.cpp's converter does.

    Args:
        model: The model.
        path: The file.
        storage_of: How a matrix is stored, by Hugging Face's name of it; vectors are float32.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    head_dim = getattr(config, "head_dim", None)
    if head_dim:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_divisors(config))
    _add_tensors(writer, model, storage_of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tensors(
    writer: gguf.GGUFWriter, model: transformers.PreTrainedModel, storage_of: StorageOf
) -> None:
    config = model.config
    architecture = gguf.MODEL_ARCH[config.model_type.upper()]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    state = model.state_dict()
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    for name, tensor in state.items():
        values = tensor.numpy()
        if config.model_type == "llama" and ".q_proj." in name:
            values = _reordered(values, config.num_attention_heads)
        if config.model_type == "llama" and ".k_proj." in name:
            values = _reordered(values, config.num_key_value_heads)
        gguf_name = names.get_name(name, (".weight", ".bias"))
        assert gguf_name is not None
        storage = storage_of(name) if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name, gguf.quantize(values, storage), raw_dtype=storage)


def _reordered(values: np.ndarray, num_heads: int) -> np.ndarray:
    """The rows of each head as llama.cpp wants them: dimension i beside i + head_dim / 2."""
    halves = values.reshape(num_heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def _llama3_divisors(config: transformers.PretrainedConfig) -> np.ndarray:
    functions = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS
    scaled, _ = functions["llama3"](config, torch.device("cpu"))
    head_dim = config.hidden_size // config.num_attention_heads
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    plain = 1.0 / config.rope_parameters["rope_theta"] ** exponents
    divisors: np.ndarray = (plain / scaled).numpy()
    return divisors
