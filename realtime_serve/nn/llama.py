"""The Llama-like network: embedding, decoder layers, norm, head.

The residual stream is float32 whatever the dtype of weights and activations: the sum
over many layers keeps its small terms, for the price of one cast a norm. Query, key and
value come from one matrix product and stand side by side in its rows; query and key
heads are turned where they stand, key and value go to the cache in one write.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own custom
from torch import Tensor

from realtime_serve.nn.attention import AttentionPlan, HeadShape
from realtime_serve.nn.head import LogitsHead
from realtime_serve.nn.interface import ForwardBatch, KVTensors
from realtime_serve.nn.linear import Layer, gated_linear, linear
from realtime_serve.nn.llama_config import LlamaConfig
from realtime_serve.nn.norm import HeadNorm, RMSNorm
from realtime_serve.nn.parameters import Parameters
from realtime_serve.nn.rotary import RotaryEmbedding, Rotation, rotate_


class LlamaForCausalLM:
    """A Llama, Mistral, Qwen2 or Qwen3 network; see `interface.CausalLM`.

    Args:
        config: Shapes and variants.
        parameters: The weights, by Hugging Face's names.
        max_model_len: Longest sequence it will be asked for; None takes the config's.

    Raises:
        ModelLoadError: A weight is missing or has the wrong shape.
    """

    def __init__(
        self, config: LlamaConfig, parameters: Parameters, max_model_len: int | None = None
    ) -> None:
        self.vocab_size = config.vocab_size
        self.num_layers = config.num_layers
        self.num_kv_heads = config.num_kv_heads
        self.head_dim = config.head_dim
        self.dtype = parameters.dtype
        self.device = parameters.device
        self.max_model_len = max_model_len or config.max_position_embeddings
        self._heads = _head_shape(config)
        self._rotary = RotaryEmbedding(config.rope, config.head_dim, self.dtype, self.device)
        body = parameters.under("model")
        self._embedding = body.weight("embed_tokens", config.vocab_size, config.hidden_size)
        self._layers = [
            _DecoderLayer(config, body.under(f"layers.{index}"))
            for index in range(config.num_layers)
        ]
        self._norm = _row_norm(config, body, "norm")
        self._head = LogitsHead(
            self._embedding
            if config.tie_word_embeddings
            else parameters.weight("lm_head", config.vocab_size, config.hidden_size)
        )

    def forward(self, batch: ForwardBatch, kv_cache: KVTensors) -> Tensor:
        """Run one step; see `interface.CausalLM.forward`."""
        hidden = F.embedding(batch.token_ids, self._embedding).float()
        step = self._prepare(batch, block_size=kv_cache[0].shape[1])
        for layer, kv in zip(self._layers, kv_cache, strict=True):
            layer.add_to_(hidden, step, kv)
        return self._logits(hidden.index_select(0, batch.logits_rows))

    def _prepare(self, batch: ForwardBatch, block_size: int) -> _Step:
        return _Step(
            rotation=self._rotary.rotation(batch.positions),
            slots=batch.slots,
            plan=AttentionPlan(batch, self._heads, block_size, self.dtype),
        )

    def _logits(self, hidden: Tensor) -> Tensor:
        if not len(hidden):  # a step of prompt chunks that do not end yet
            return hidden.new_empty((0, self.vocab_size))
        return self._head(self._norm(hidden))


class _Step(NamedTuple):
    """What every layer needs to know about a step."""

    rotation: Rotation
    slots: Tensor
    plan: AttentionPlan


class _DecoderLayer:
    def __init__(self, config: LlamaConfig, parameters: Parameters) -> None:
        self._input_norm = _row_norm(config, parameters, "input_layernorm")
        self._attention = _Attention(config, parameters.under("self_attn"))
        self._mlp_norm = _row_norm(config, parameters, "post_attention_layernorm")
        self._mlp = _FeedForward(config, parameters.under("mlp"))

    def add_to_(self, hidden: Tensor, step: _Step, kv: Tensor) -> None:
        """Add what this layer has to say to the residual stream."""
        hidden.add_(self._attention(self._input_norm(hidden), step, kv))
        hidden.add_(self._mlp(self._mlp_norm(hidden)))


class _Attention:
    def __init__(self, config: LlamaConfig, parameters: Parameters) -> None:
        self._query_width = config.num_heads * config.head_dim
        kv_width = config.num_kv_heads * config.head_dim
        self._rotated_width = self._query_width + kv_width
        self._rotated_shape = (-1, config.num_heads + config.num_kv_heads, config.head_dim)
        self._slot_shape = (-1, 2 * kv_width)
        self._qkv = _qkv_linear(config, parameters)
        self._head_norm = _head_norm(config, parameters) if config.qk_norm else None
        self._output = linear(
            parameters.weight("o_proj", config.hidden_size, self._query_width),
            parameters.bias("o_proj", config.hidden_size) if config.output_bias else None,
        )

    def __call__(self, rows: Tensor, step: _Step, kv: Tensor) -> Tensor:
        qkv = self._qkv(rows)
        query_and_key = qkv[:, : self._rotated_width].view(self._rotated_shape)
        if self._head_norm is not None:
            self._head_norm.normalize_(query_and_key)
        rotate_(query_and_key, step.rotation)
        kv.view(self._slot_shape).index_copy_(0, step.slots, qkv[:, self._query_width :])
        return self._output(step.plan.attend(qkv[:, : self._query_width], kv))


class _FeedForward:
    def __init__(self, config: LlamaConfig, parameters: Parameters) -> None:
        inner, outer = config.intermediate_size, config.hidden_size
        self._gated = gated_linear(
            parameters.weight("gate_proj", inner, outer),
            parameters.weight("up_proj", inner, outer),
            parameters.bias("gate_proj", inner) if config.mlp_bias else None,
            parameters.bias("up_proj", inner) if config.mlp_bias else None,
        )
        self._down = linear(
            parameters.weight("down_proj", outer, inner),
            parameters.bias("down_proj", outer) if config.mlp_bias else None,
        )

    def __call__(self, rows: Tensor) -> Tensor:
        return self._down(self._gated(rows))


def _head_shape(config: LlamaConfig) -> HeadShape:
    return HeadShape(
        num_heads=config.num_heads, num_kv_heads=config.num_kv_heads, head_dim=config.head_dim
    )


def _row_norm(config: LlamaConfig, parameters: Parameters, name: str) -> RMSNorm:
    scale = parameters.scale(name, config.hidden_size)
    return RMSNorm(scale, config.rms_norm_eps, parameters.dtype)


def _head_norm(config: LlamaConfig, parameters: Parameters) -> HeadNorm:
    return HeadNorm(
        parameters.scale("q_norm", config.head_dim),
        parameters.scale("k_norm", config.head_dim),
        config.num_heads,
        config.num_kv_heads,
        config.rms_norm_eps,
    )


def _qkv_linear(config: LlamaConfig, parameters: Parameters) -> Layer:
    widths = {
        "q_proj": config.num_heads * config.head_dim,
        "k_proj": config.num_kv_heads * config.head_dim,
        "v_proj": config.num_kv_heads * config.head_dim,
    }
    weight = torch.cat(
        [parameters.weight(name, width, config.hidden_size) for name, width in widths.items()]
    )
    if not config.qkv_bias:
        return linear(weight)
    return linear(
        weight, torch.cat([parameters.bias(name, width) for name, width in widths.items()])
    )
