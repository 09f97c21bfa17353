"""Which sections the packed weights of a Llama-like network have, and what goes into each.

The names, and how parts stand together, are those that the native network reads
(csrc/kernels/transformer.h): query, key and value are one matrix, and so are gate and up,
whose panels alternate so that one pass over them feeds SwiGLU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from realtime_serve.nn.llama_config import LlamaConfig


class Source(NamedTuple):
    """One stored tensor of a section.

    Args:
        tensor: Hugging Face's name.
        size: Its first dimension: outputs of a matrix, values of a vector.
    """

    tensor: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorPlan:
    """Float32 values: a norm's weights, or the biases of its sources one after the other.

    Args:
        name: The section's name.
        sources: What stands in it.
    """

    name: str
    sources: tuple[Source, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixPlan:
    """A packed matrix: the outputs of its sources one after the other.

    Args:
        name: The section's name.
        sources: What stands in it; all but the last have whole panels.
        depth: Inputs.
        alternate: The panels of its two sources take turns.
        is_head: It makes the logits: rounding shows there more than anywhere else.
    """

    name: str
    sources: tuple[Source, ...]
    depth: int
    alternate: bool = False
    is_head: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TablePlan:
    """Rows to be looked up: the embedding.

    Args:
        name: The section's name.
        source: What stands in it.
        width: Values a row.
    """

    name: str
    source: Source
    width: int


SectionPlan: TypeAlias = VectorPlan | MatrixPlan | TablePlan


def plan_sections(config: LlamaConfig) -> list[SectionPlan]:
    """All sections of a network, in the order in which a step reads them.

    Args:
        config: A configuration that `native_llama.unsupported_reason` has nothing against.

    Returns:
        The sections.
    """
    embedding = Source("model.embed_tokens.weight", config.vocab_size)
    head = embedding if config.tie_word_embeddings else Source("lm_head.weight", config.vocab_size)
    return [
        TablePlan(name="embedding", source=embedding, width=config.hidden_size),
        *(
            section
            for index in range(config.num_layers)
            for section in _Layer(config, index).sections()
        ),
        VectorPlan(name="final_norm", sources=(Source("model.norm.weight", config.hidden_size),)),
        MatrixPlan(name="head", sources=(head,), depth=config.hidden_size, is_head=True),
    ]


class _Layer:
    """The sections of one decoder layer."""

    def __init__(self, config: LlamaConfig, index: int) -> None:
        self._config = config
        self._name = f"layers.{index}."
        self._tensor = f"model.layers.{index}."

    def sections(self) -> Iterator[SectionPlan]:
        config = self._config
        queries = config.num_heads * config.head_dim
        yield self._vector("attention_norm", "input_layernorm.weight", config.hidden_size)
        yield from self._query_key_value()
        yield self._matrix("output", "self_attn.o_proj.weight", config.hidden_size, queries)
        if config.output_bias:
            yield self._vector("output_bias", "self_attn.o_proj.bias", config.hidden_size)
        yield self._vector("mlp_norm", "post_attention_layernorm.weight", config.hidden_size)
        yield from self._feed_forward()

    def _query_key_value(self) -> Iterator[SectionPlan]:
        config = self._config
        keys = config.num_kv_heads * config.head_dim
        sizes = {"q_proj": config.num_heads * config.head_dim, "k_proj": keys, "v_proj": keys}
        yield MatrixPlan(
            name=f"{self._name}qkv",
            sources=self._sources("self_attn", sizes, "weight"),
            depth=config.hidden_size,
        )
        if config.qkv_bias:
            biases = self._sources("self_attn", sizes, "bias")
            yield VectorPlan(name=f"{self._name}qkv_bias", sources=biases)
        if config.qk_norm:
            yield self._vector("query_norm", "self_attn.q_norm.weight", config.head_dim)
            yield self._vector("key_norm", "self_attn.k_norm.weight", config.head_dim)

    def _feed_forward(self) -> Iterator[SectionPlan]:
        inner, outer = self._config.intermediate_size, self._config.hidden_size
        yield MatrixPlan(
            name=f"{self._name}gate_up",
            sources=self._sources("mlp", {"gate_proj": inner, "up_proj": inner}, "weight"),
            depth=outer,
            alternate=True,
        )
        yield self._matrix("down", "mlp.down_proj.weight", outer, inner)
        if self._config.mlp_bias:
            yield self._vector("gate_bias", "mlp.gate_proj.bias", inner)
            yield self._vector("up_bias", "mlp.up_proj.bias", inner)
            yield self._vector("down_bias", "mlp.down_proj.bias", outer)

    def _vector(self, name: str, tensor: str, size: int) -> VectorPlan:
        return VectorPlan(name=self._name + name, sources=(Source(self._tensor + tensor, size),))

    def _matrix(self, name: str, tensor: str, size: int, depth: int) -> MatrixPlan:
        source = Source(self._tensor + tensor, size)
        return MatrixPlan(name=self._name + name, sources=(source,), depth=depth)

    def _sources(self, block: str, sizes: dict[str, int], kind: str) -> tuple[Source, ...]:
        return tuple(
            Source(f"{self._tensor}{block}.{name}.{kind}", size) for name, size in sizes.items()
        )
