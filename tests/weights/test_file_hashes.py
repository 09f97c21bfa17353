from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from realtime_serve.weights import file_hashes
from realtime_serve.weights.file_hashes import FileHashes


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.bin", tmp_path / "b.bin"]
    for path in paths:
        path.write_bytes(path.name.encode() * 100_000)
    return paths


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "files.json"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def compute(index: Path, files: list[Path]) -> list[str]:
    return FileHashes(index).compute(files, lambda _: None)


def test_a_hash_is_that_of_the_contents(index: Path, files: list[Path]) -> None:
    assert compute(index, files) == [sha256(path) for path in files]


def test_every_byte_read_is_told(index: Path, files: list[Path]) -> None:
    counts: list[int] = []
    FileHashes(index).compute(files, counts.append)
    assert sum(counts) == sum(path.stat().st_size for path in files)


def test_what_was_computed_is_known_afterwards(index: Path, files: list[Path]) -> None:
    assert FileHashes(index).known(files) is None
    computed = compute(index, files)
    assert FileHashes(index).known(files) == computed
    assert FileHashes(index).known(files[1:]) == computed[1:]


def test_all_are_known_or_none(index: Path, files: list[Path]) -> None:
    compute(index, files[:1])
    assert FileHashes(index).known(files) is None


def test_a_file_is_known_by_every_path_to_it(
    index: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = compute(index, files[:1])
    (tmp_path / "link").symlink_to(files[0])
    monkeypatch.chdir(tmp_path)
    assert FileHashes(index).known([tmp_path / "link"]) == computed
    assert FileHashes(index).known([Path("a.bin")]) == computed


def overwrite_in_place(path: Path) -> None:
    status = path.stat()
    with path.open("rb+") as file:
        file.write(b"X")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # size and time as before


def put_another_in_its_place(path: Path) -> None:
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"X" * status.st_size)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"X")


@pytest.mark.parametrize("change", [overwrite_in_place, put_another_in_its_place, append])
def test_a_file_that_has_changed_is_not_known(
    index: Path, files: list[Path], change: Callable[[Path], None]
) -> None:
    compute(index, files)
    change(files[1])
    assert FileHashes(index).known(files) is None
    assert compute(index, files) == [sha256(path) for path in files]
    assert FileHashes(index).known(files) is not None


@pytest.mark.parametrize(
    "contents", ["", "{", "[]", "3", '{"a.bin": 3}', "[" * 100_000, '"text"', "\udcff"]
)
def test_a_damaged_index_is_an_empty_one(index: Path, files: list[Path], contents: str) -> None:
    index.write_bytes(contents.encode("utf-8", "surrogateescape"))
    assert FileHashes(index).known(files) is None
    computed = compute(index, files)
    assert FileHashes(index).known(files) == computed


def test_an_entry_without_a_hash_is_none(index: Path, files: list[Path]) -> None:
    compute(index, files)
    entries = json.loads(index.read_text())
    for entry in entries.values():
        del entry["sha256"]
    index.write_text(json.dumps(entries))
    assert FileHashes(index).known(files) is None


def test_without_a_place_for_the_index_hashes_are_computed_all_the_same(
    files: list[Path], tmp_path: Path
) -> None:
    index = tmp_path / "missing" / "files.json"
    assert compute(index, files) == [sha256(path) for path in files]
    assert FileHashes(index).known(files) is None


def test_the_index_forgets_the_oldest(
    index: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_hashes, "MAX_ENTRIES", 2)
    third = files[0].with_name("c.bin")
    shutil.copy(files[0], third)
    compute(index, files)
    compute(index, [files[0]])
    compute(index, [third])
    assert FileHashes(index).known([files[1]]) is None
    assert FileHashes(index).known([files[0], third]) is not None


def test_a_missing_file_is_an_error(index: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"gone\.bin"):
        compute(index, [tmp_path / "gone.bin"])
    with pytest.raises(OSError, match=r"gone\.bin"):
        FileHashes(index).known([tmp_path / "gone.bin"])


def test_nothing_is_left_beside_the_index(index: Path, files: list[Path]) -> None:
    compute(index, files)
    assert sorted(index.parent.iterdir()) == sorted([*files, index])
