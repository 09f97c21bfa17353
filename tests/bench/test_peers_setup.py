from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from peers.environments import Environments
from peers.llama_cpp import AMX_BARRIER, AMX_LOAD, mend_amx
from peers.model_files import GROUP_SIZE, W4A16, eight_bit, four_bit, write_compressed


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(6, 3 * GROUP_SIZE, generator=torch.Generator().manual_seed(5))


def test_eight_bit_codes_are_within_half_a_step(weight: torch.Tensor) -> None:
    tensors = eight_bit("w", weight)
    codes, scale = tensors["w"], tensors["w_scale"]
    assert codes.dtype == torch.int8
    assert scale.shape == (6, 1)
    assert codes.abs().amax(1).tolist() == [127] * 6
    assert ((codes * scale - weight).abs() <= scale / 2 + 1e-6).all()


def test_four_bit_codes_are_packed_lowest_first_and_within_half_a_step(
    weight: torch.Tensor,
) -> None:
    tensors = four_bit("w", weight)
    packed, scale = tensors["w_packed"], tensors["w_scale"].float()
    assert packed.dtype == torch.int32
    assert packed.shape == (6, 3 * GROUP_SIZE // 8)
    assert tensors["w_shape"].tolist() == [6, 3 * GROUP_SIZE]
    codes = torch.stack([(packed >> (4 * place)) & 15 for place in range(8)], dim=2).view(6, -1)
    steps = scale.repeat_interleave(GROUP_SIZE, dim=1)
    # Scales are stored in bfloat16, which moves a value of 7 steps by up to 7/256 of one.
    assert (((codes - 8) * steps - weight).abs() <= steps * (0.5 + 7 / 256)).all()


def test_only_projections_are_compressed(weight: torch.Tensor, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text('{"model_type": "llama"}')
    names = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight")
    save_file({name: weight.clone() for name in names}, source / "model.safetensors")
    write_compressed(source, W4A16, four_bit, tmp_path / "compressed")
    assert set(load_file(tmp_path / "compressed" / "model.safetensors")) == {
        names[0],
        *(f"{names[1]}_{part}" for part in ("packed", "scale", "shape")),
    }
    config = json.loads((tmp_path / "compressed" / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["quantization_config"]["format"] == "pack-quantized"


def test_the_mend_for_amx_stands_before_every_load_and_only_once(tmp_path: Path) -> None:
    path = tmp_path / "mmq.cpp"
    path.write_text(f"init();\n{AMX_LOAD}\ndone();\n")
    mend_amx(path)
    mend_amx(path)
    assert path.read_text() == f"init();\n{AMX_BARRIER}\n{AMX_LOAD}\ndone();\n"


def test_versions_are_remembered_beside_the_others(tmp_path: Path) -> None:
    environments = Environments(tmp_path)
    assert environments.versions() == {}
    environments.record_version("vllm", "1.0")
    environments.record_version("matplotlib", "3.0")
    assert Environments(tmp_path).versions() == {"vllm": "1.0", "matplotlib": "3.0"}
