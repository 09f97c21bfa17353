from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from realtime_serve.errors import ModelLoadError
from realtime_serve.weights import StoredTensor, open_checkpoint
from realtime_serve.weights.stored_tensor import ROWS_AT_ONCE
from support.tiny_models import random_model, write_gguf

READ_EVERYTHING = """
import sys
from realtime_serve.weights import open_checkpoint
for path in sys.argv[1:]:
    checkpoint = open_checkpoint(path)
    for name in checkpoint.tensor_names():
        checkpoint.stored(name).all_floats()
print(*sys.modules, sep="\\n")
"""


def stored(values: np.ndarray, kind: str, order: np.ndarray | None = None) -> StoredTensor:
    codes = gguf.quantize(values, gguf.GGMLQuantizationType[kind])
    data = codes.reshape(len(values), -1).view(np.uint8)
    return StoredTensor(name="x", type=kind, shape=values.shape, data=data, row_order=order)


def random_rows(num_rows: int, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((num_rows, width), dtype=np.float32)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_floats_are_those_that_the_package_reads(kind: str) -> None:
    values = random_rows(70)
    tensor = stored(values, kind)
    quantisation = gguf.GGMLQuantizationType[kind]
    expected = gguf.dequantize(gguf.quantize(values, quantisation), quantisation)
    np.testing.assert_array_equal(tensor.floats(), expected)
    np.testing.assert_array_equal(tensor.floats(slice(32, 70)), expected[32:70])
    np.testing.assert_array_equal(tensor.all_floats(), expected)


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_rows_come_in_the_order_that_is_asked_for(kind: str) -> None:
    values = random_rows(6)
    order = np.array([5, 3, 1, 4, 2, 0])
    tensor, plain = stored(values, kind, order), stored(values, kind)
    np.testing.assert_array_equal(tensor.codes(), plain.codes()[order])
    np.testing.assert_array_equal(tensor.floats(slice(1, 4)), plain.floats()[order[1:4]])
    np.testing.assert_array_equal(tensor.all_floats(), plain.floats()[order])


def test_a_tensor_longer_than_a_piece_is_read_whole() -> None:
    values = random_rows(ROWS_AT_ONCE + 5, 32)
    np.testing.assert_array_equal(stored(values, "F32").all_floats(), values)


def test_floats_are_aligned_wherever_they_stand_in_a_file() -> None:
    values = random_rows(3)
    shifted = np.zeros(values.nbytes + 1, np.uint8)
    shifted[1:] = values.view(np.uint8).ravel()
    tensor = StoredTensor(name="x", type="F32", shape=(3, 64), data=shifted[1:].reshape(3, -1))
    floats = tensor.floats()
    assert floats.flags.aligned
    assert floats.flags.c_contiguous
    np.testing.assert_array_equal(floats, values)


@pytest.mark.parametrize("kind", ["I32", "F8_E4M3"])
def test_a_type_without_a_reader_is_refused_by_name(kind: str) -> None:
    data = np.zeros((2, 64), np.uint8)
    tensor = StoredTensor(name="some.weight", type=kind, shape=(2, 16), data=data)
    with pytest.raises(ModelLoadError, match=f"some.weight is stored as {kind}, which is not"):
        tensor.floats()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_the_codes_of_query_and_key_come_in_hugging_faces_order(kind: str, tmp_path: Path) -> None:
    """Rows are whole blocks: what is true of the values is true of the codes."""
    model = random_model("llama")
    quantisation = gguf.GGMLQuantizationType[kind]
    write_gguf(model, tmp_path / "model.gguf", lambda _: quantisation)
    checkpoint = open_checkpoint(str(tmp_path / "model.gguf"))
    for name in ("q_proj", "k_proj", "v_proj"):
        values = model.state_dict()[f"model.layers.1.self_attn.{name}.weight"].numpy()
        tensor = checkpoint.stored(f"model.layers.1.self_attn.{name}.weight")
        codes = gguf.quantize(values, quantisation).view(np.uint8)
        assert (tensor.type, tensor.shape) == (kind, values.shape)
        np.testing.assert_array_equal(tensor.codes(), codes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_directorys_tensors_are_read_without_torch_as_with_it(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model = random_model("llama, biases")
    torch.nn.Module.to(model, dtype)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    checkpoint = open_checkpoint(str(tmp_path))
    for name, tensor in model.state_dict().items():
        ours = checkpoint.stored(name)
        assert ours.shape == tuple(tensor.shape)
        np.testing.assert_array_equal(ours.all_floats(), tensor.float().numpy(), name)


def test_an_empty_tensor_is_no_damage(tmp_path: Path) -> None:
    random_model("llama").save_pretrained(tmp_path)
    save_file({"a": torch.ones(0, 5), "b": torch.ones(3)}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.stored("a").shape == (0, 5)
    np.testing.assert_array_equal(checkpoint.stored("b").all_floats(), np.ones(3))


def test_a_checkpoint_names_all_files_that_it_reads(tmp_path: Path) -> None:
    model = random_model("llama")
    model.save_pretrained(tmp_path / "directory", max_shard_size="50KB")
    write_gguf(model, tmp_path / "model.gguf")
    sharded = open_checkpoint(str(tmp_path / "directory")).files
    shards = sorted((tmp_path / "directory").glob("model-*.safetensors"))
    assert len(shards) > 1
    assert sorted(sharded) == [tmp_path / "directory" / "config.json", *shards]
    assert open_checkpoint(str(tmp_path / "model.gguf")).files == (tmp_path / "model.gguf",)


@pytest.mark.not_under_gevent("starts a process of its own, which is never patched")
def test_reading_needs_no_torch(tmp_path: Path) -> None:
    model = random_model("llama")
    write_gguf(model, tmp_path / "model.gguf", lambda _: gguf.GGMLQuantizationType.Q8_0)
    torch.nn.Module.to(model, torch.bfloat16)
    model.save_pretrained(tmp_path / "directory")
    finished = subprocess.run(
        [sys.executable, "-c", READ_EVERYTHING, tmp_path / "model.gguf", tmp_path / "directory"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(finished.stdout.split())
    assert {"realtime_serve.weights", "safetensors", "gguf"} <= loaded
    assert "torch" not in loaded
