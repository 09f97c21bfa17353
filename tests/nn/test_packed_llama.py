from __future__ import annotations

import pytest

from realtime_serve.nn.llama_config import LlamaConfig
from realtime_serve.nn.packed_llama import MatrixPlan, Source, TablePlan, VectorPlan, plan_sections
from support.tiny_models import CONFIGS, random_model


def plans(kind: str) -> dict[str, VectorPlan | MatrixPlan | TablePlan]:
    config = LlamaConfig.from_hf(CONFIGS[kind].to_dict())
    return {plan.name: plan for plan in plan_sections(config)}


def sources(kind: str) -> dict[str, tuple[int, ...]]:
    """Every tensor that some section takes, and the shape in which it does."""
    shapes: dict[str, tuple[int, ...]] = {}
    for plan in plans(kind).values():
        match plan:
            case VectorPlan():
                shapes |= {source.tensor: (source.size,) for source in plan.sources}
            case MatrixPlan():
                shapes |= {source.tensor: (source.size, plan.depth) for source in plan.sources}
            case TablePlan():
                shapes[plan.source.tensor] = (plan.source.size, plan.width)
    return shapes


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_tensor_of_a_model_has_a_place_in_its_shape(kind: str) -> None:
    model = random_model(kind)
    state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    assert sources(kind) == state


def test_query_key_and_value_are_one_matrix_in_that_order() -> None:
    names = ("q_proj", "k_proj", "v_proj")
    qkv = plans("llama")["layers.1.qkv"]
    assert isinstance(qkv, MatrixPlan)
    assert qkv.sources == tuple(
        Source(f"model.layers.1.self_attn.{name}.weight", size)
        for name, size in zip(names, (64, 32, 32), strict=True)
    )
    bias = plans("qwen2")["layers.1.qkv_bias"]
    assert isinstance(bias, VectorPlan)
    assert [source.tensor for source in bias.sources] == [
        f"model.layers.1.self_attn.{name}.bias" for name in names
    ]


def test_gate_and_up_take_turns_and_nothing_else_does() -> None:
    matrices = [plan for plan in plans("llama").values() if isinstance(plan, MatrixPlan)]
    alternating = {plan.name: plan.sources for plan in matrices if plan.alternate}
    assert alternating == {
        f"layers.{layer}.gate_up": (
            Source(f"model.layers.{layer}.mlp.gate_proj.weight", 96),
            Source(f"model.layers.{layer}.mlp.up_proj.weight", 96),
        )
        for layer in range(2)
    }


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [("llama", "lm_head.weight"), ("llama, tied", "model.embed_tokens.weight")],
)
def test_the_head_is_the_embedding_only_where_they_are_tied(kind: str, tensor: str) -> None:
    head = plans(kind)["head"]
    assert isinstance(head, MatrixPlan)
    assert head.is_head
    assert head.sources == (Source(tensor, 211),)


def test_sections_have_the_names_that_the_native_network_reads() -> None:
    every_layer = {"attention_norm", "qkv", "output", "mlp_norm", "gate_up", "down"}
    of_kind = {
        "llama": set(),
        "llama, biases": {"qkv_bias", "output_bias", "gate_bias", "up_bias", "down_bias"},
        "qwen2": {"qkv_bias"},
        "qwen3": {"query_norm", "key_norm"},
    }
    for kind, more in of_kind.items():
        names = {f"layers.{layer}.{name}" for layer in range(2) for name in every_layer | more}
        assert set(plans(kind)) == names | {"embedding", "final_norm", "head"}, kind
