from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from realtime_serve.errors import ModelLoadError
from realtime_serve.weights import open_checkpoint
from support.tiny_models import random_model


@pytest.fixture(scope="module")
def model() -> transformers.PreTrainedModel:
    return random_model("qwen2")


@pytest.fixture
def directory(model: transformers.PreTrainedModel, tmp_path: Path) -> Path:
    path = tmp_path / "tiny-qwen2"
    model.save_pretrained(path)
    return path


@pytest.mark.parametrize("shard_size", ["1GB", "50KB"])
def test_a_directory_gives_the_tensors_that_were_saved(
    model: transformers.PreTrainedModel, tmp_path: Path, shard_size: str
) -> None:
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "50KB")
    checkpoint = open_checkpoint(str(tmp_path))
    state = model.state_dict()
    assert set(checkpoint.tensor_names()) == set(state)
    for name, tensor in state.items():
        assert torch.equal(checkpoint.tensor(name), tensor), name


def test_a_directory_says_what_its_config_says(directory: Path) -> None:
    checkpoint = open_checkpoint(str(directory))
    assert checkpoint.config == json.loads((directory / "config.json").read_text())
    assert checkpoint.name == "tiny-qwen2"
    assert checkpoint.path == str(directory)
    assert checkpoint.tokenizer_metadata is None
    assert checkpoint.notices == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tensors_keep_the_stored_float_dtype(directory: Path, dtype: torch.dtype) -> None:
    save_file({"weight": torch.ones(3, dtype=dtype)}, directory / "model.safetensors")
    assert open_checkpoint(str(directory)).tensor("weight").dtype == dtype


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float64])
def test_other_dtypes_are_refused_by_name(directory: Path, dtype: torch.dtype) -> None:
    save_file({"weight": torch.ones(3).to(dtype)}, directory / "model.safetensors")
    with pytest.raises(ModelLoadError, match=f"weight is stored as {dtype}"):
        open_checkpoint(str(directory)).tensor("weight")


def test_a_tensor_that_is_not_there_is_an_error(directory: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"has no tensor model\.layers\.7"):
        open_checkpoint(str(directory)).tensor("model.layers.7.mlp.up_proj.weight")


def test_a_file_cut_off_anywhere_is_refused(directory: Path) -> None:
    file = directory / "model.safetensors"
    whole = file.read_bytes()
    for length in [0, 7, 8, 100, len(whole) // 2, len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(ModelLoadError, match="damaged safetensors file"):
            open_checkpoint(str(directory))


@pytest.mark.parametrize(
    "contents",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10) + b"not json!!",
        struct.pack("<Q", 2) + b"[]",
        b"\xff" * 64,
    ],
)
def test_a_hostile_header_is_refused(directory: Path, contents: bytes) -> None:
    (directory / "model.safetensors").write_bytes(contents)
    with pytest.raises(ModelLoadError, match="damaged safetensors file"):
        open_checkpoint(str(directory))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "must hold a JSON object"),
    ],
)
def test_a_config_that_is_no_object_is_refused(
    directory: Path, contents: bytes, message: str
) -> None:
    (directory / "config.json").write_bytes(contents)
    with pytest.raises(ModelLoadError, match=message):
        open_checkpoint(str(directory))


def test_a_config_of_absurd_size_is_not_read(directory: Path) -> None:
    with (directory / "config.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ModelLoadError, match="larger than"):
        open_checkpoint(str(directory))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(directory: Path, missing: str) -> None:
    (directory / missing).unlink()
    with pytest.raises(ModelLoadError, match=missing):
        open_checkpoint(str(directory))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": {}}, "has no weight_map"),
        ({"weight_map": ["model.safetensors"]}, "has no weight_map"),
        ({"weight_map": {"a": "model-1-of-2.safetensors"}}, "model-1-of-2.safetensors is missing"),
        ({"weight_map": {"a": "../secret.safetensors"}}, "points outside of it"),
        ({"weight_map": {"a": "/etc/secret.safetensors"}}, "points outside of it"),
    ],
)
def test_an_index_that_leads_nowhere_is_refused(
    directory: Path, index: object, message: str
) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelLoadError, match=message):
        open_checkpoint(str(directory))
