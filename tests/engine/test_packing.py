"""What is packed is what the checkpoint holds, in the format that the dtype asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Storage

from realtime_serve.engine import section_writer
from realtime_serve.engine.packing import PackedDType, Packing
from realtime_serve.errors import ModelLoadError
from realtime_serve.weights import Checkpoint, open_checkpoint
from realtime_serve.weights.packed_file import PackedSection, PackedWeights
from support.dict_checkpoint import DictCheckpoint
from support.native_network import CONFIGS, packed_sections
from support.panels import apart, unpack
from support.tiny_models import StorageOf, random_model, write_gguf

FORMATS: Mapping[PackedDType, str] = {
    "float32": "f32",
    "bfloat16": "bf16",
    "q8": "q8",
    "q4": "q4",
}

KINDS = [kind for kind in CONFIGS if "rope" not in kind]


def pack(
    checkpoint: Checkpoint, dtype: PackedDType, shares: list[float] | None = None
) -> PackedWeights:
    """Pack into memory that is not zero before."""
    packing = Packing(checkpoint, dtype)
    packed: dict[str, PackedSection] = {}
    for section in packing.sections:
        memory = np.full(section.nbytes + 64, 0xA5, np.uint8)
        start = -memory.ctypes.data % 64
        data = memory[start : start + section.nbytes].data
        packed[section.name] = PackedSection(section.format, section.shape, data)
    packing.fill(packed, ([] if shares is None else shares).append)
    return packed


def weights(packed: PackedWeights, name: str) -> np.ndarray:
    section = packed[name]
    num_columns, depth = section.shape
    return unpack(section.format, section.data, num_columns, depth)


def open_gguf(directory: Path, storage_of: StorageOf, kind: str = "llama") -> Checkpoint:
    """A tiny model whose matrices are stored in a certain way."""
    write_gguf(random_model(CONFIGS[kind]), directory / "model.gguf", storage_of)
    return open_checkpoint(str(directory / "model.gguf"))


def floats(checkpoint: Checkpoint, *names: str) -> np.ndarray:
    return np.concatenate([checkpoint.stored(name).all_floats() for name in names])


# --- what stands where --------------------------------------------------------


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_sections_are_those_that_were_packed_by_hand(kind: str, dtype: PackedDType) -> None:
    packed = pack(DictCheckpoint(CONFIGS[kind]), dtype)
    by_hand = packed_sections(random_model(CONFIGS[kind]), FORMATS[dtype])
    assert set(packed) == set(by_hand)
    if dtype == "q4":  # the head keeps 8 bits
        by_hand["head"] = packed_sections(random_model(CONFIGS[kind]), "q8")["head"]
    del by_hand["embedding"]  # packed by hand in float32 only
    for name, section in by_hand.items():
        assert packed[name].format == section.format, name
        assert packed[name].data == section.data.tobytes(), name


@pytest.mark.parametrize(
    ("dtype", "row_format"),
    [("float32", "f32"), ("bfloat16", "bf16"), ("q8", "Q8_0"), ("q4", "Q8_0")],
)
def test_the_embedding_is_rows_in_the_dtypes_format(dtype: PackedDType, row_format: str) -> None:
    checkpoint = DictCheckpoint(CONFIGS["llama"])
    expected = floats(checkpoint, "model.embed_tokens.weight")
    section = pack(checkpoint, dtype)["embedding"]
    storage = {"f32": Storage.F32, "bf16": Storage.BF16, "Q8_0": Storage.Q8_0}[row_format]
    rows = np.frombuffer(section.data, np.uint8).reshape(len(expected), -1)
    read = gguf.dequantize(rows, storage).reshape(expected.shape)
    assert section.format == row_format
    tolerance = {"f32": 0.0, "bf16": 2.0**-8, "Q8_0": 0.01}[row_format] * np.abs(expected).max()
    np.testing.assert_allclose(read, expected, rtol=0, atol=tolerance)


def test_what_is_packed_does_not_depend_on_how_much_is_read_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = pack(DictCheckpoint(CONFIGS["llama, biases"]), "q8")
    monkeypatch.setattr(section_writer, "FLOATS_AT_ONCE", 1)  # one panel
    by_panels = pack(DictCheckpoint(CONFIGS["llama, biases"]), "q8")
    assert {name: section.data for name, section in whole.items()} == {
        name: section.data for name, section in by_panels.items()
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_directory_of_16_bit_weights_is_packed_as_their_values(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model = random_model(CONFIGS["llama"])
    torch.nn.Module.to(model, dtype)
    model.save_pretrained(tmp_path)
    packed = pack(open_checkpoint(str(tmp_path)), "float32")
    expected = packed_sections(model, "f32")
    for name, section in expected.items():
        assert packed[name].data == section.data.tobytes(), name


# --- stored codes -------------------------------------------------------------


@pytest.mark.parametrize("storage", ["Q8_0", "Q4_0", "Q4_1"])
def test_codes_of_a_file_are_taken_unchanged(storage: str, tmp_path: Path) -> None:
    checkpoint = open_gguf(tmp_path, lambda _: Storage[storage])
    dtype: PackedDType = "q8" if storage == "Q8_0" else "q4"
    packed = pack(checkpoint, dtype)
    attention, mlp = "model.layers.1.self_attn", "model.layers.1.mlp"
    qkv = floats(checkpoint, *(f"{attention}.{name}_proj.weight" for name in "qkv"))
    gate, up = apart(weights(packed, "layers.1.gate_up"))
    np.testing.assert_array_equal(weights(packed, "layers.1.qkv"), qkv)
    np.testing.assert_array_equal(gate, floats(checkpoint, f"{mlp}.gate_proj.weight"))
    np.testing.assert_array_equal(up, floats(checkpoint, f"{mlp}.up_proj.weight"))
    np.testing.assert_array_equal(weights(packed, "head"), floats(checkpoint, "lm_head.weight"))
    assert {section.format for name, section in packed.items() if name.endswith("down")} == {dtype}


def test_an_8_bit_embedding_is_taken_unchanged(tmp_path: Path) -> None:
    checkpoint = open_gguf(tmp_path, lambda _: Storage.Q8_0)
    codes = checkpoint.stored("model.embed_tokens.weight").codes()
    for dtype in FORMATS:
        embedding = pack(checkpoint, dtype)["embedding"]
        assert (embedding.data == codes.tobytes()) == (dtype in {"q8", "q4"})


@pytest.mark.parametrize(
    ("dtype", "storage", "matrix_format", "head_format"),
    [
        ("float32", "Q4_1", "f32", "f32"),
        ("bfloat16", "Q8_0", "bf16", "bf16"),
        ("q8", "Q4_1", "q8", "q8"),
        ("q8", "BF16", "q8", "q8"),
        ("q4", "Q4_0", "q4", "q4"),
        ("q4", "Q4_1", "q4", "q4"),
        ("q4", "Q8_0", "q8", "q8"),
        ("q4", "F16", "q4", "q8"),
        ("q4", "Q5_0", "q4", "q8"),
    ],
)
def test_a_matrix_has_the_format_of_the_dtype_and_the_file(
    dtype: PackedDType, storage: str, matrix_format: str, head_format: str, tmp_path: Path
) -> None:
    checkpoint = open_gguf(tmp_path, lambda _: Storage[storage])
    formats = {section.name: section.format for section in Packing(checkpoint, dtype).sections}
    assert formats["head"] == head_format
    for name in ("qkv", "output", "gate_up", "down"):
        assert formats[f"layers.1.{name}"] == matrix_format


def test_a_tied_head_follows_the_embeddings_storage(tmp_path: Path) -> None:
    checkpoint = open_gguf(tmp_path, lambda _: Storage.Q4_1, "llama, tied")
    packed = pack(checkpoint, "q4")
    expected = floats(checkpoint, "model.embed_tokens.weight")
    assert (packed["head"].format, packed["embedding"].format) == ("q4", "Q8_0")
    np.testing.assert_array_equal(weights(packed, "head"), expected)


def test_a_matrix_of_differently_stored_parts_keeps_the_finer_ones_bits(tmp_path: Path) -> None:
    def storage_of(name: str) -> Storage:
        return Storage.Q8_0 if ".v_proj." in name or ".up_proj." in name else Storage.Q4_1

    checkpoint = open_gguf(tmp_path, storage_of)
    packed = pack(checkpoint, "q4")
    attention, mlp = "model.layers.0.self_attn", "model.layers.0.mlp"
    names = [f"{attention}.{name}_proj.weight" for name in "qkv"]
    assert packed["layers.0.qkv"].format == packed["layers.0.gate_up"].format == "q8"
    assert packed["layers.0.output"].format == "q4"
    qkv = weights(packed, "layers.0.qkv")
    gate, up = apart(weights(packed, "layers.0.gate_up"))
    num_values = checkpoint.stored(names[2]).shape[0]
    np.testing.assert_array_equal(qkv[-num_values:], floats(checkpoint, names[2]))
    np.testing.assert_array_equal(up, floats(checkpoint, f"{mlp}.up_proj.weight"))
    np.testing.assert_allclose(qkv, floats(checkpoint, *names), rtol=0, atol=0.005)
    np.testing.assert_allclose(gate, floats(checkpoint, f"{mlp}.gate_proj.weight"), atol=0.005)


# --- refusals -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.norm.weight", "model.layers.1.mlp.up_proj.weight"]
)
def test_weights_that_are_not_finite_are_refused(
    name: str, value: float, dtype: PackedDType
) -> None:
    checkpoint = DictCheckpoint(CONFIGS["llama"])
    checkpoint.tensors[name].view(-1)[7] = value
    with pytest.raises(ModelLoadError, match=f"tiny: {name} holds values that are not finite"):
        pack(checkpoint, dtype)


@pytest.mark.parametrize(("storage", "scale"), [("Q8_0", 0), ("Q4_0", 0), ("Q4_1", 0), ("Q4_1", 1)])
@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7E00])
def test_codes_whose_scales_are_not_finite_are_refused(
    storage: str, scale: int, bits: int, tmp_path: Path
) -> None:
    checkpoint = open_gguf(tmp_path, lambda _: Storage[storage])
    name = "model.layers.1.mlp.down_proj.weight"
    codes = checkpoint.stored(name).codes()
    place = (tmp_path / "model.gguf").read_bytes().index(codes[5].tobytes()) + 2 * scale
    with (tmp_path / "model.gguf").open("rb+") as file:
        file.seek(place)
        file.write(bits.to_bytes(2, "little"))
    with pytest.raises(ModelLoadError, match=f"{name} holds values that are not finite"):
        pack(open_checkpoint(checkpoint.path), "q8" if storage == "Q8_0" else "q4")


@pytest.mark.parametrize("dtype", ["q8", "q4"])
def test_values_beyond_what_scales_can_hold_are_not_quantised(dtype: PackedDType) -> None:
    checkpoint = DictCheckpoint(CONFIGS["llama"])
    name = "model.layers.1.mlp.up_proj.weight"
    checkpoint.tensors[name][3, 5] = -70_000.0
    with pytest.raises(ModelLoadError, match=rf"{name} holds a value of 70000, too large"):
        pack(checkpoint, dtype)
    pack(checkpoint, "bfloat16")


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.1.self_attn.v_proj.bias",
        "model.layers.0.mlp.down_proj.weight",
    ],
)
def test_a_missing_tensor_is_named_before_anything_is_read(name: str) -> None:
    checkpoint = DictCheckpoint(CONFIGS["qwen2"])
    del checkpoint.tensors[name]
    with pytest.raises(ModelLoadError, match=f"has no tensor {name}"):
        Packing(checkpoint, "bfloat16")


def test_a_wrong_shape_is_named_with_the_right_one() -> None:
    checkpoint = DictCheckpoint(CONFIGS["llama"])
    name = "model.layers.1.mlp.up_proj.weight"
    wanted = list(checkpoint.tensors[name].shape)
    checkpoint.tensors[name] = torch.zeros(95, 64)
    message = re.escape(f"{name} has the shape [95, 64], but the configuration asks for {wanted}")
    with pytest.raises(ModelLoadError, match=message):
        Packing(checkpoint, "bfloat16")


def test_a_tensor_without_a_place_is_refused() -> None:
    checkpoint = DictCheckpoint(CONFIGS["llama"])
    checkpoint.tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(16)
    with pytest.raises(ModelLoadError, match=r"1 tensors that this network has no place for"):
        Packing(checkpoint, "bfloat16")


def test_a_head_beside_a_tied_embedding_is_ignored_and_said_so() -> None:
    checkpoint = DictCheckpoint(CONFIGS["llama, tied"])
    before = pack(checkpoint, "bfloat16")
    checkpoint.tensors["lm_head.weight"] = torch.full((211, 64), 3.0)
    assert pack(checkpoint, "bfloat16")["head"] == before["head"]
    assert any("lm_head.weight is ignored" in notice for notice in checkpoint.notices)


def test_a_type_without_a_reader_is_named(tmp_path: Path) -> None:
    random_model(CONFIGS["llama"]).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.stored("model.norm.weight").type == "F32"
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"dtype":"F32"', b'"dtype":"I32"'))
    with pytest.raises(ModelLoadError, match=r"is stored as I32, which is not supported"):
        pack(open_checkpoint(str(tmp_path)), "bfloat16")


# --- progress -----------------------------------------------------------------


def test_progress_rises_to_one() -> None:
    shares: list[float] = []
    packed = pack(DictCheckpoint(CONFIGS["llama"]), "bfloat16", shares)
    assert len(shares) == len(packed)
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.5
    assert shares[-1] == 1.0
