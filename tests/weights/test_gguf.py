from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from realtime_serve.errors import ModelLoadError
from realtime_serve.nn.llama_config import LlamaConfig
from realtime_serve.weights import Checkpoint, open_checkpoint
from realtime_serve.weights.gguf import model_name
from realtime_serve.weights.stored_tensor import ROWS_AT_ONCE
from support.tiny_models import CONFIGS, random_model, write_gguf

IN_GGUF = [kind for kind in CONFIGS if "yarn" not in kind and "mistral" not in kind]


@pytest.fixture(scope="module")
def default_model(gguf_path: str) -> Checkpoint:
    return open_checkpoint(gguf_path)


def write_tensor(path: Path, values: np.ndarray, kind: gguf.GGMLQuantizationType) -> None:
    """A file with one tensor, which the network would call extra.weight."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("extra.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_default_models_tensors_equal_those_that_transformers_reads(
    default_model: Checkpoint, reference_path: Path
) -> None:
    expected = load_file(reference_path / "model.safetensors")
    assert set(default_model.tensor_names()) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(default_model.tensor(name), tensor), name


def test_the_default_models_config_is_in_hugging_faces_words(default_model: Checkpoint) -> None:
    config = LlamaConfig.from_hf(default_model.config)
    assert (config.num_layers, config.hidden_size, config.intermediate_size) == (30, 576, 1536)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (9, 3, 64)
    assert (config.vocab_size, config.max_position_embeddings) == (49152, 8192)
    assert (config.rope.theta, config.rope.rope_type) == (100000.0, "default")
    assert config.tie_word_embeddings
    assert not config.qkv_bias
    assert (default_model.config["bos_token_id"], default_model.config["eos_token_id"]) == (1, 2)


def test_the_default_model_is_called_by_its_name(default_model: Checkpoint, gguf_path: str) -> None:
    assert default_model.name == "SmolLM2-135M-Instruct"
    assert default_model.path == gguf_path
    assert default_model.notices == []


def test_tokenizer_metadata_are_plain_python_values(default_model: Checkpoint) -> None:
    metadata = default_model.tokenizer_metadata
    assert metadata is not None
    assert all(key.startswith("tokenizer.") for key in metadata)
    assert metadata["tokenizer.ggml.tokens"][:2] == ["<|endoftext|>", "<|im_start|>"]
    assert len(metadata["tokenizer.ggml.tokens"]) == 49152
    assert metadata["tokenizer.ggml.merges"][0] == "Ġ t"
    assert metadata["tokenizer.ggml.token_type"][:3] == [3, 3, 3]
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert type(metadata["tokenizer.ggml.eos_token_id"]) is int


@pytest.mark.parametrize("kind", IN_GGUF)
def test_what_the_converter_reorders_comes_back_in_order(kind: str, tmp_path: Path) -> None:
    model = random_model(kind)
    write_gguf(model, tmp_path / "model.gguf")
    checkpoint = open_checkpoint(str(tmp_path / "model.gguf"))
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    assert set(checkpoint.tensor_names()) == set(state)
    for name, tensor in state.items():
        assert torch.equal(checkpoint.tensor(name), tensor), name


@pytest.mark.parametrize("kind", IN_GGUF)
def test_the_config_says_what_hugging_faces_says(kind: str, tmp_path: Path) -> None:
    model = random_model(kind)
    write_gguf(model, tmp_path / "model.gguf")
    from_gguf = LlamaConfig.from_hf(open_checkpoint(str(tmp_path / "model.gguf")).config)
    expected = LlamaConfig.from_hf(model.config.to_dict())
    for field in LlamaConfig.__slots__:
        if field == "rms_norm_eps":  # the file has it in 32 bits
            assert from_gguf.rms_norm_eps == pytest.approx(expected.rms_norm_eps, rel=1e-6)
        elif field == "rope" and "llama3" in kind:  # the file has the result, not the recipe
            torch.testing.assert_close(
                from_gguf.rope.frequencies(16)[0], expected.rope.frequencies(16)[0]
            )
        else:
            assert getattr(from_gguf, field) == getattr(expected, field), field


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_every_row_is_dequantised_once_and_in_place(kind: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    values = generator.standard_normal((ROWS_AT_ONCE + 5, 32), dtype=np.float32)
    quantisation = gguf.GGMLQuantizationType[kind]
    write_tensor(tmp_path / "model.gguf", values, quantisation)
    expected = gguf.dequantize(gguf.quantize(values, quantisation), quantisation)
    tensor = open_checkpoint(str(tmp_path / "model.gguf")).tensor("extra.weight")
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor, torch.from_numpy(expected))


def test_a_storage_type_without_a_dequantiser_is_refused_by_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("extra.weight", np.zeros((2, 32), dtype=np.int32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint = open_checkpoint(str(tmp_path / "model.gguf"))
    with pytest.raises(ModelLoadError, match=r"extra\.weight is stored as I32"):
        checkpoint.tensor("extra.weight")


def test_a_tensor_that_is_not_there_is_an_error(default_model: Checkpoint) -> None:
    with pytest.raises(ModelLoadError, match=r"has no tensor model\.layers\.30"):
        default_model.tensor("model.layers.30.self_attn.q_proj.weight")


@pytest.mark.parametrize("architecture", ["gemma3", "mamba", "clip"])
def test_an_unknown_architecture_is_refused_by_name(architecture: str, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelLoadError, match=f"'{architecture}' are not supported; supported"):
        open_checkpoint(str(tmp_path / "model.gguf"))


def test_one_file_of_several_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelLoadError, match="one of 3 files of a split model"):
        open_checkpoint(str(tmp_path / "model.gguf"))


def test_heads_that_do_not_divide_the_rows_are_an_error(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_head_count(3)
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((64, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint = open_checkpoint(str(tmp_path / "model.gguf"))
    with pytest.raises(ModelLoadError, match="do not make 3 heads"):
        checkpoint.tensor("model.layers.0.self_attn.q_proj.weight")


def test_reading_logs_nothing(gguf_path: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(0):
        checkpoint = open_checkpoint(gguf_path)
        checkpoint.tensor("model.layers.0.mlp.up_proj.weight")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("file_name", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "qwen2.5-0.5b-instruct"),
        ("Llama-3.2-1B-Instruct-IQ4_XS.gguf", "Llama-3.2-1B-Instruct"),
        ("tinyllama-1.1b.f16.gguf", "tinyllama-1.1b"),
        ("model-BF16.gguf", "model"),
        ("qwen3-0.6b.gguf", "qwen3-0.6b"),
        ("Q4_0.gguf", "Q4_0"),
    ],
)
def test_a_files_name_without_its_quantisation_is_the_models(file_name: str, name: str) -> None:
    assert model_name(Path("/models") / file_name) == name
