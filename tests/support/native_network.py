"""Native networks of random models, packed here by hand, driven without the engine."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import transformers

from realtime_serve._kernels import ComputePool, Transformer, pack, packed_nbytes
from realtime_serve.engine.runner import BLOCK_SIZE, ScheduledRows
from realtime_serve.nn.llama_config import LlamaConfig
from realtime_serve.nn.native_llama import NativeShape
from support.network import GREEDY
from support.tiny_models import LLAMA3_ROPE, SIZES, YARN_ROPE

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

NATIVE_SIZES: Mapping[str, Any] = {
    **SIZES,
    "hidden_size": 96,
    "num_attention_heads": 6,
    "head_dim": 32,
}
"""Six heads in two groups: a tile of attention holds several rows, and not a power of two."""

CONFIGS: Mapping[str, transformers.PretrainedConfig] = {
    "llama": transformers.LlamaConfig(**NATIVE_SIZES),
    "llama, tied": transformers.LlamaConfig(**NATIVE_SIZES, tie_word_embeddings=True),
    "llama, biases": transformers.LlamaConfig(**NATIVE_SIZES, attention_bias=True, mlp_bias=True),
    "llama, llama3 rope": transformers.LlamaConfig(
        **NATIVE_SIZES, rope_parameters=dict(LLAMA3_ROPE)
    ),
    "llama, yarn rope": transformers.LlamaConfig(**NATIVE_SIZES, rope_parameters=dict(YARN_ROPE)),
    "mistral, wide heads": transformers.MistralConfig(
        **{**NATIVE_SIZES, "head_dim": 96}, sliding_window=None
    ),
    "qwen2": transformers.Qwen2Config(**NATIVE_SIZES),
    "qwen3": transformers.Qwen3Config(**NATIVE_SIZES),
}
"""One of each kind that the network distinguishes."""

KV_FORMATS = {"f32": "f32", "bf16": "bf16", "q8": "bf16", "q4": "bf16"}
"""What the KV cache holds beside weights of a format, if a test does not say."""


class Section(NamedTuple):
    """A part of the weights, as Transformer wants it."""

    format: str
    data: Bytes | Floats


class NativeNetwork:
    """A transformer with a KV cache whose blocks are dealt out of order.

    Args:
        model: Its weights.
        precision: What they are packed as, and after a colon what quantised ones are multiplied
            with, if not "int8": "q4:bf16".
        level: CPU level of the kernels.
        kv_format: What the cache holds; as KV_FORMATS says when None.
        num_threads: Of a step.
        num_blocks: Of the cache.
        max_rows: Of a step.
    """

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        precision: str,
        level: str,
        *,
        kv_format: str | None = None,
        num_threads: int = 1,
        num_blocks: int = 96,
        max_rows: int = 512,
    ) -> None:
        weight_format, _, activations = precision.partition(":")
        config = LlamaConfig.from_hf(model.config.to_dict())
        self.vocab_size = config.vocab_size
        self.transformer = Transformer(
            NativeShape.from_config(config),
            packed_sections(model, weight_format),
            ComputePool(num_threads),
            level=level,
            num_threads=num_threads,
            max_rows=max_rows,
            max_outputs=64,
            activations=activations or "int8",
        )
        self.transformer.allocate_kv_cache(kv_format or KV_FORMATS[weight_format], num_blocks)
        self._free: list[int] = np.random.default_rng(0).permutation(num_blocks).tolist()

    def new_table(self, num_tokens: int) -> list[int]:
        """A block table for a sequence of that length."""
        num_blocks = -(-num_tokens // BLOCK_SIZE)
        table, self._free = self._free[:num_blocks], self._free[num_blocks:]
        assert len(table) == num_blocks, "the test needs more blocks"
        return table

    def step(self, *work: ScheduledRows) -> Floats:
        """One step; the logits of the rows that want them."""
        num_samples = sum(len(each.samples) for each in work)
        logits = np.empty((num_samples, self.vocab_size), np.float32)
        self.transformer.forward(work, logits)
        return logits

    def last_logits(self, token_ids: Sequence[int], chunks: Sequence[int] = ()) -> Floats:
        """What comes after a prompt that is computed in chunks of these lengths and a last one."""
        table = self.new_table(len(token_ids))
        borders = [*itertools.accumulate(chunks, initial=0), len(token_ids)]
        for start, end in itertools.pairwise(borders):
            samples = (GREEDY,) if end == len(token_ids) else ()
            logits = self.step(ScheduledRows(token_ids[start:end], start, table, samples))
        last: Floats = logits[0]
        return last


def round_weights(model: transformers.PreTrainedModel, weight_format: str) -> None:
    """Give a model's matrices, but not its embedding, the values that packing leaves of them."""
    if model.config.tie_word_embeddings:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embed_tokens" not in name:
            values = parameter.detach().numpy()
            parameter.data = torch.from_numpy(ROUNDINGS[weight_format](values))


def _to_bf16(weights: Floats) -> Floats:
    rounded: Floats = torch.from_numpy(weights).bfloat16().float().numpy()
    return rounded


def _to_q8(weights: Floats) -> Floats:
    groups = weights.reshape(len(weights), -1, 32)
    scales = _to_half(abs(groups).max(-1, keepdims=True) / 127)
    return ((groups / scales).round() * scales).reshape(weights.shape)


def _to_q4(weights: Floats) -> Floats:
    groups = weights.reshape(len(weights), -1, 32)
    least = groups.min(-1, keepdims=True)
    scales = _to_half((groups.max(-1, keepdims=True) - least) / 15)
    least = _to_half(least)
    codes = ((groups - least) / scales).round().clip(0, 15)
    return (codes * scales + least).reshape(weights.shape)


def _to_half(values: Floats) -> Floats:
    return values.astype(np.float16).astype(np.float32)


ROUNDINGS = {"bf16": _to_bf16, "q8": _to_q8, "q4": _to_q4}


def packed_sections(model: transformers.PreTrainedModel, weight_format: str) -> dict[str, Section]:
    """The weights of a model as sections."""
    state = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    embedding = state["model.embed_tokens.weight"]
    sections = {
        "embedding": _floats(embedding),
        "final_norm": _floats(state["model.norm.weight"]),
        "head": _matrix([state.get("lm_head.weight", embedding)], weight_format),
    }
    for layer in range(model.config.num_hidden_layers):
        part = {
            name.removeprefix(f"model.layers.{layer}."): values
            for name, values in state.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        for name, section in _layer_sections(part, weight_format).items():
            sections[f"layers.{layer}.{name}"] = section
    return sections


def _layer_sections(part: Mapping[str, Floats], weight_format: str) -> dict[str, Section]:
    heads = [f"self_attn.{letter}_proj" for letter in "qkv"]
    sections = {
        "attention_norm": _floats(part["input_layernorm.weight"]),
        "qkv": _matrix([part[f"{head}.weight"] for head in heads], weight_format),
        "output": _matrix([part["self_attn.o_proj.weight"]], weight_format),
        "mlp_norm": _floats(part["post_attention_layernorm.weight"]),
        "gate_up": _alternating(
            part["mlp.gate_proj.weight"], part["mlp.up_proj.weight"], weight_format
        ),
        "down": _matrix([part["mlp.down_proj.weight"]], weight_format),
    }
    if f"{heads[0]}.bias" in part:
        sections["qkv_bias"] = _floats(np.concatenate([part[f"{head}.bias"] for head in heads]))
    optional = {
        "query_norm": "self_attn.q_norm.weight",
        "key_norm": "self_attn.k_norm.weight",
        "output_bias": "self_attn.o_proj.bias",
        "gate_bias": "mlp.gate_proj.bias",
        "up_bias": "mlp.up_proj.bias",
        "down_bias": "mlp.down_proj.bias",
    }
    return sections | {
        name: _floats(part[stored]) for name, stored in optional.items() if stored in part
    }


def _floats(values: Floats) -> Section:
    return Section("f32", np.ascontiguousarray(values, np.float32))


def _matrix(parts: Sequence[Floats], weight_format: str) -> Section:
    weights = np.concatenate(parts)
    num_columns, depth = weights.shape
    panels = _aligned(packed_nbytes(weight_format, num_columns, depth))
    pack(weight_format, weights, num_columns, depth, panels)
    return Section(weight_format, panels)


def _alternating(gate: Floats, up: Floats, weight_format: str) -> Section:
    num_columns, depth = gate.shape
    panels = _aligned(2 * packed_nbytes(weight_format, num_columns, depth))
    panel_nbytes = packed_nbytes(weight_format, 32, depth)
    for weights, place in ((gate, panels), (up, panels[panel_nbytes:])):
        pack(weight_format, weights, num_columns, depth, place, panel_stride=2)
    return Section(weight_format, panels)


def _aligned(num_bytes: int) -> Bytes:
    memory = np.zeros(num_bytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + num_bytes]
