"""Hugging Face's names for the tensors of a GGUF file."""

from __future__ import annotations

import re
from collections.abc import Mapping

_OUTSIDE: Mapping[str, str] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}

_IN_LAYER: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

_LAYER_TENSOR = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def hf_name(gguf_name: str) -> str:
    """Translate one name.

    Args:
        gguf_name: As the file has it.

    Returns:
        Hugging Face's name; a name that is not known here comes back unchanged, for the
        network to say that it has no such tensor.
    """
    in_layer = _LAYER_TENSOR.fullmatch(gguf_name)
    if in_layer and in_layer[2] in _IN_LAYER:
        return f"model.layers.{int(in_layer[1])}.{_IN_LAYER[in_layer[2]]}.{in_layer[3]}"
    name, _, kind = gguf_name.rpartition(".")
    return f"{_OUTSIDE[name]}.{kind}" if name in _OUTSIDE else gguf_name
