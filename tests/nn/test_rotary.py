from __future__ import annotations

import pytest
import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from realtime_serve.nn.rope_config import RopeConfig
from realtime_serve.nn.rotary import RotaryEmbedding, rotate_
from support.tiny_models import SIZES, YARN_ROPE

POSITIONS = torch.tensor([0, 1, 77, 511])
CPU = torch.device("cpu")


@pytest.mark.parametrize("parameters", [{"rope_theta": 10000.0}, YARN_ROPE])
def test_turned_heads_equal_those_of_transformers(parameters: dict[str, object]) -> None:
    config = transformers.LlamaConfig(**SIZES, rope_parameters=dict(parameters))
    heads = torch.randn(4, 6, 16)
    cos, sin = LlamaRotaryEmbedding(config)(heads, POSITIONS[None])
    expected, _ = apply_rotary_pos_emb(heads[None], heads[None], cos, sin, unsqueeze_dim=2)

    rope = RopeConfig.from_hf({"rope_parameters": parameters})
    rotation = RotaryEmbedding(rope, 16, torch.float32, CPU).rotation(POSITIONS)
    rotate_(heads, rotation)
    torch.testing.assert_close(heads, expected[0])


def test_a_view_is_turned_where_it_stands() -> None:
    rope = RopeConfig.from_hf({})
    rotation = RotaryEmbedding(rope, 16, torch.float32, CPU).rotation(POSITIONS)
    rows = torch.randn(4, 96)
    before = rows.clone()
    heads = rows[:, :64].view(4, 4, 16)
    alone = heads.clone()
    rotate_(alone, rotation)
    rotate_(heads, rotation)
    assert torch.equal(rows[:, :64].view(4, 4, 16), alone)
    assert torch.equal(rows[:, 64:], before[:, 64:])
    assert not torch.equal(rows, before)
