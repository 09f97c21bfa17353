"""Files that nobody should trust: each is refused with a sentence, none harms the process."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realtime_serve.errors import ModelLoadError
from realtime_serve.weights import open_checkpoint
from realtime_serve.weights.ggml_types import GGML_TYPES
from realtime_serve.weights.gguf_file import read_gguf
from support.tiny_models import random_model, write_gguf

UINT8, UINT32, STRING, ARRAY = 0, 4, 8, 9


def header(version: int = 3, num_tensors: int = 0, num_entries: int = 0) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", version, num_tensors, num_entries)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, num_items: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, num_items) + items


def tensor(name: bytes, dims: list[int], kind: int, offset: int) -> bytes:
    shape = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return text(name) + shape + struct.pack("<IQ", kind, offset)


ONE_KEY = header(num_entries=1)
LLAMA = entry(b"general.architecture", STRING, text(b"llama"))

HOSTILE = {
    "empty": b"",
    "another format": b"PK\x03\x04" + bytes(100),
    "ends inside its header": header()[:20],
    "version 1": header(version=1) + bytes(100),
    "version 2000": header(version=2000) + bytes(100),
    "foreign byte order": struct.pack(">4sIQQ", b"GGUF", 3, 0, 0) + bytes(100),
    "countless tensors": header(num_tensors=2**63) + bytes(100),
    "countless entries": header(num_entries=2**63) + bytes(100),
    "an entry that is not there": ONE_KEY,
    "a key longer than the file": ONE_KEY + struct.pack("<Q", 2**62) + b"key",
    "a key that is not text": ONE_KEY + entry(b"\xff\xfe", UINT32, bytes(4)),
    "an unknown value type": ONE_KEY + entry(b"key", 99, bytes(100)),
    "the same key twice": header(num_entries=2) + LLAMA + LLAMA,
    "a text longer than the file": ONE_KEY + entry(b"key", STRING, struct.pack("<Q", 2**40)),
    "a text that is not UTF-8": ONE_KEY + entry(b"key", STRING, text(b"\xff\xff")),
    "a countless array": ONE_KEY + entry(b"key", ARRAY, array(UINT8, 2**60)),
    "a countless array of texts": ONE_KEY + entry(b"key", ARRAY, array(STRING, 2**60)),
    "an array longer than the file": ONE_KEY + entry(b"key", ARRAY, array(UINT8, 1000)),
    "an array in an array": ONE_KEY + entry(b"key", ARRAY, array(ARRAY, 1, array(UINT8, 0))),
    "arrays in arrays without end": ONE_KEY + entry(b"key", ARRAY, array(ARRAY, 1) * 50_000),
    "alignment 0": ONE_KEY + entry(b"general.alignment", UINT32, bytes(4)),
    "alignment that is a text": ONE_KEY + entry(b"general.alignment", STRING, text(b"32")),
    "a tensor that is not there": header(num_tensors=1),
    "data past the end": header(num_tensors=1) + tensor(b"t", [64], 0, 2**40) + bytes(500),
    "an offset beyond 64 bits": header(num_tensors=1) + tensor(b"t", [64], 0, 2**64 - 8),
    "more data than the file": header(num_tensors=1) + tensor(b"t", [2**20], 0, 0),
    "a size beyond 64 bits": header(num_tensors=1) + tensor(b"t", [2**33, 2**33], 0, 0),
    "a size that wraps to 0": header(num_tensors=1) + tensor(b"t", [2**32, 2**32], 0, 0),
    "a tensor without dimensions": header(num_tensors=1) + tensor(b"t", [], 0, 0) + bytes(500),
    "five dimensions": header(num_tensors=1) + tensor(b"t", [1] * 5, 0, 0) + bytes(500),
    "an empty tensor": header(num_tensors=1) + tensor(b"t", [32, 0], 0, 0) + bytes(500),
    "countless dimensions": header(num_tensors=1) + text(b"t") + struct.pack("<I", 2**32 - 1),
    "an unknown storage type": header(num_tensors=1) + tensor(b"t", [64], 77, 0) + bytes(500),
    "a row that is no whole block": header(num_tensors=1) + tensor(b"t", [33], 8, 0) + bytes(500),
    "the same tensor twice": header(num_tensors=2) + tensor(b"t", [1], 0, 0) * 2 + bytes(500),
    "no architecture": header(),
    "an architecture that is a number": ONE_KEY + entry(b"general.architecture", UINT32, bytes(4)),
}


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(random_model("llama, biases"), path)
    open_checkpoint(str(path))
    return path


@pytest.mark.parametrize("contents", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_and_takes_no_memory(contents: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(contents)
    tracemalloc.start()
    try:
        with pytest.raises(ModelLoadError) as refused:
            open_checkpoint(str(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(str(refused.value)) > 20
    assert peak < 20 * 2**20


def test_arrays_are_bounded_all_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [entry(b"key%d" % i, ARRAY, array(UINT8, 400, bytes(400))) for i in range(3)]
    path = tmp_path / "model.gguf"
    path.write_bytes(header(num_entries=3) + b"".join(arrays))
    monkeypatch.setattr("realtime_serve.weights.gguf_file.MAX_ARRAY_ITEMS", 1200)
    assert len(read_gguf(path).metadata["key2"]) == 400
    monkeypatch.setattr("realtime_serve.weights.gguf_file.MAX_ARRAY_ITEMS", 1199)
    with pytest.raises(ModelLoadError, match="arrays claim 1200 items"):
        read_gguf(path)


def test_the_message_names_the_file_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"gone\.gguf does not exist; give a GGUF file or"):
        open_checkpoint(str(tmp_path / "gone.gguf"))
    (tmp_path / "short.gguf").write_bytes(header(num_tensors=1))
    with pytest.raises(ModelLoadError, match=r"short\.gguf is a damaged GGUF file.*incomplete"):
        open_checkpoint(str(tmp_path / "short.gguf"))


def test_a_file_cut_off_anywhere_is_refused(whole_file: Path, tmp_path: Path) -> None:
    path, contents = tmp_path / "model.gguf", whole_file.read_bytes()
    # The writer pads the end of the last tensor; up to there, every byte is needed.
    tensors = gguf.GGUFReader(whole_file).tensors
    needed = max(tensor.data_offset + tensor.n_bytes for tensor in tensors)
    for length in [*range(0, 600, 7), *range(600, needed, 9973), needed - 1]:
        path.write_bytes(contents[:length])
        with pytest.raises(ModelLoadError):
            open_checkpoint(str(path))
    path.write_bytes(contents[:needed])
    open_checkpoint(str(path))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8)
)
def test_changed_bytes_are_read_or_refused_and_nothing_else(
    changes: list[tuple[int, int]], whole_file: Path, tmp_path: Path
) -> None:
    contents = bytearray(whole_file.read_bytes())
    for place, value in changes:
        contents[place] = value
    path = tmp_path / "model.gguf"
    path.write_bytes(contents)
    with contextlib.suppress(ModelLoadError):
        checkpoint = open_checkpoint(str(path))
        for name in checkpoint.tensor_names():
            checkpoint.tensor(name)


def test_parsing_gives_what_the_package_gives(gguf_path: str) -> None:
    contents = read_gguf(Path(gguf_path))
    reference = gguf.GGUFReader(gguf_path)
    fields = {key: field for key, field in reference.fields.items() if "GGUF." not in key}
    assert list(contents.metadata) == list(fields)
    for key, field in fields.items():
        assert contents.metadata[key] == field.contents(), key
    assert list(contents.tensors) == [tensor_.name for tensor_ in reference.tensors]
    for tensor_ in reference.tensors:
        ours = contents.tensors[tensor_.name]
        assert ours.type == tensor_.tensor_type.name
        assert ours.shape == tuple(reversed(tensor_.shape.tolist()))
        assert ours.codes().tobytes() == tensor_.data.tobytes(), tensor_.name


def test_values_of_every_type_are_read(tmp_path: Path) -> None:
    numbers: dict[str, tuple[gguf.GGUFValueType, list[float]]] = {
        "u8": (gguf.GGUFValueType.UINT8, [0, 255]),
        "i8": (gguf.GGUFValueType.INT8, [-128, 127]),
        "u16": (gguf.GGUFValueType.UINT16, [0, 65535]),
        "i16": (gguf.GGUFValueType.INT16, [-32768, 32767]),
        "u32": (gguf.GGUFValueType.UINT32, [0, 2**32 - 1]),
        "i32": (gguf.GGUFValueType.INT32, [-(2**31), 2**31 - 1]),
        "f32": (gguf.GGUFValueType.FLOAT32, [-1.5, 0.25]),
        "u64": (gguf.GGUFValueType.UINT64, [0, 2**64 - 1]),
        "i64": (gguf.GGUFValueType.INT64, [-(2**63), 2**63 - 1]),
        "f64": (gguf.GGUFValueType.FLOAT64, [-1e300, 0.1]),
        "bool": (gguf.GGUFValueType.BOOL, [False, True]),
    }
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    for name, (kind, values) in numbers.items():
        writer.add_key_value(f"{name}.one", values[1], kind)
        writer.add_key_value(f"{name}.many", values, gguf.GGUFValueType.ARRAY, sub_type=kind)
    writer.add_string("text.one", "größer")
    writer.add_array("text.many", ["", "\U0001f600"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    metadata = read_gguf(tmp_path / "model.gguf").metadata
    for name, (_, values) in numbers.items():
        assert metadata[f"{name}.one"] == values[1], name
        assert metadata[f"{name}.many"] == values, name
    assert metadata["bool.one"] is True
    assert metadata["text.one"] == "größer"
    assert metadata["text.many"] == ["", "\U0001f600"]


def test_an_array_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(ONE_KEY + entry(b"key", ARRAY, array(UINT8, 0)))
    assert read_gguf(path).metadata == {"key": []}


@pytest.mark.parametrize("name", gguf.GGMLQuantizationType.__members__)
def test_storage_types_have_the_sizes_that_the_package_knows(name: str) -> None:
    number = gguf.GGMLQuantizationType[name]
    assert GGML_TYPES[number] == (name, *gguf.GGML_QUANT_SIZES[number])
