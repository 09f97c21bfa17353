from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realtime_serve.weights import packed_file
from realtime_serve.weights.packed_file import (
    PAGE_BYTES,
    VERSION,
    PackedFileError,
    PackedLayout,
    PackedWeights,
    PackedWriter,
    Section,
    checksum,
    data_nbytes,
    has_large_pages,
    move_to_memory,
    open_packed,
)

SECTIONS = (
    Section(name="norm", format="f32", shape=(33,), nbytes=132),
    Section(name="matrix", format="q8", shape=(64, 96), nbytes=6528),
    Section(name="rows", format="Q8_0", shape=(7, 32), nbytes=238),
)

LAYOUT = PackedLayout("some key", SECTIONS)

WITHOUT_ROOM = """
import resource, signal, sys
from test_packed_file import LAYOUT
from realtime_serve.weights.packed_file import PackedWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
with open(sys.argv[1], "xb+") as file:
    try:
        PackedWriter(file.fileno(), LAYOUT)
    except OSError as error:
        print("refused")
"""


def contents(section: Section) -> bytes:
    seed = sum(section.name.encode())
    return np.random.default_rng(seed).bytes(section.nbytes)


def write(path: Path) -> None:
    with path.open("xb+") as file:
        writer = PackedWriter(file.fileno(), LAYOUT)
        for section in SECTIONS:
            writer.sections[section.name].data[:] = contents(section)
        writer.finish()


def check(weights: PackedWeights) -> None:
    assert list(weights) == [section.name for section in SECTIONS]
    for section in SECTIONS:
        packed = weights[section.name]
        assert (packed.format, packed.shape) == (section.format, section.shape)
        assert packed.data == contents(section)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "model.packed"
    write(place)
    return place


either_way = pytest.mark.parametrize("shared", [True, False])


@either_way
def test_what_was_written_is_read(path: Path, shared: bool) -> None:
    check(open_packed(path, LAYOUT, shared=shared))


def test_only_what_is_shared_is_mapped_from_the_file(path: Path) -> None:
    def is_mapped() -> bool:
        return str(path) in Path("/proc/self/maps").read_text()

    copied = open_packed(path, LAYOUT, shared=False)
    assert not is_mapped()
    shared = open_packed(path, LAYOUT, shared=True)
    assert is_mapped()
    assert copied["matrix"].data == shared["matrix"].data


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("always [madvise] never\n", True),
        ("[always] madvise never\n", True),
        ("always madvise [never]\n", False),
        (None, False),
    ],
)
def test_large_pages_are_there_unless_the_kernel_never_gives_any(
    text: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "enabled"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(packed_file, "LARGE_PAGES_FILE", str(file))
    assert has_large_pages() is expected


@either_way
def test_sections_are_aligned_and_cannot_be_written_to(path: Path, shared: bool) -> None:
    for section in open_packed(path, LAYOUT, shared=shared).values():
        assert section.data.readonly
        assert np.frombuffer(section.data, np.uint8).ctypes.data % PAGE_BYTES == 0


@either_way
def test_what_is_open_stays_when_the_file_goes(path: Path, shared: bool) -> None:
    weights = open_packed(path, LAYOUT, shared=shared)
    path.unlink()
    check(weights)


def test_no_descriptor_stays_open(path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    weights = open_packed(path, LAYOUT)
    del weights
    assert os.listdir("/proc/self/fd") == before


def test_a_file_that_was_not_finished_is_none(tmp_path: Path) -> None:
    path = tmp_path / "model.packed"
    with path.open("xb+") as file:
        writer = PackedWriter(file.fileno(), LAYOUT)
        for section in SECTIONS:
            writer.sections[section.name].data[:] = contents(section)
        os.fsync(file.fileno())
    with pytest.raises(PackedFileError):
        open_packed(path, LAYOUT)


def truncate(path: Path, length: int) -> None:
    os.truncate(path, length)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(PAGE_BYTES))


def replace_version(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    assert struct.unpack_from("<I", whole, 8) == (VERSION,)
    struct.pack_into("<I", whole, 8, VERSION + 1)
    path.write_bytes(whole)


def swap_pages(path: Path) -> None:
    whole = path.read_bytes()
    start = LAYOUT.data_offset + PAGE_BYTES
    first, second = whole[start : start + PAGE_BYTES], whole[start + PAGE_BYTES :][:PAGE_BYTES]
    assert first != second
    path.write_bytes(whole[:start] + second + first + whole[start + 2 * PAGE_BYTES :])


def become(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


SPOILERS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: truncate(path, 0),
    "cut inside the prefix": lambda path: truncate(path, 10),
    "cut inside the header": lambda path: truncate(path, 100),
    "cut inside the data": lambda path: truncate(path, LAYOUT.nbytes - 1),
    "without its last page": lambda path: truncate(path, LAYOUT.nbytes - PAGE_BYTES),
    "longer": grow,
    "of another version": replace_version,
    "with pages swapped": swap_pages,
    "all zeros": lambda path: path.write_bytes(bytes(LAYOUT.nbytes)),
    "missing": Path.unlink,
    "a directory": become(Path.mkdir),
    "a pipe": become(os.mkfifo),
    "a link to nowhere": become(lambda path: path.symlink_to("nowhere")),
    "a link to itself": become(lambda path: path.symlink_to(path)),
    "a device": become(lambda path: path.symlink_to("/dev/zero")),
}


@either_way
@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
def test_anything_else_is_not_the_file(
    path: Path, spoil: Callable[[Path], object], shared: bool
) -> None:
    spoil(path)
    with pytest.raises(PackedFileError, match=r"^its? "):
        open_packed(path, LAYOUT, shared=shared)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, LAYOUT.nbytes - 1), bit=st.integers(0, 7))
def test_one_changed_bit_anywhere_is_seen(path: Path, place: int, bit: int) -> None:
    whole = bytearray(path.read_bytes())
    whole[place] ^= 1 << bit
    path.write_bytes(whole)
    padding = len(LAYOUT.prefix(0)) <= place < LAYOUT.data_offset
    try:
        if padding:  # nobody reads it
            check(open_packed(path, LAYOUT))
        else:
            with pytest.raises(PackedFileError):
                open_packed(path, LAYOUT)
    finally:
        whole[place] ^= 1 << bit
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "layout",
    [
        PackedLayout("other key", SECTIONS),
        PackedLayout(
            "some key",
            [*SECTIONS[:2], Section(name="rows", format="Q8_0", shape=(32, 7), nbytes=238)],
        ),
        PackedLayout(
            "some key",
            [
                SECTIONS[0],
                Section(name="matrix", format="q4", shape=(64, 96), nbytes=6528),
                SECTIONS[2],
            ],
        ),
        PackedLayout("some key", SECTIONS[::-1]),
    ],
    ids=["key", "shape", "format", "order"],
)
def test_another_models_file_is_not_the_file(path: Path, layout: PackedLayout) -> None:
    with pytest.raises(PackedFileError):
        open_packed(path, layout)


def test_a_header_does_not_depend_on_what_is_in_the_sections(tmp_path: Path, path: Path) -> None:
    other = tmp_path / "other.packed"
    with other.open("xb+") as file:
        PackedWriter(file.fileno(), PackedLayout("some key", SECTIONS)).finish()
    assert not any(open_packed(other, LAYOUT)["matrix"].data)
    check(open_packed(path, LAYOUT))


@pytest.mark.not_under_gevent("starts a process of its own, which is never patched")
def test_too_little_room_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", WITHOUT_ROOM, tmp_path / "model.packed"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])},
    )
    assert finished.stdout == "refused\n"


def test_the_size_of_the_sections_is_that_of_the_file_without_its_header() -> None:
    assert data_nbytes(SECTIONS) == PAGE_BYTES + 2 * PAGE_BYTES + PAGE_BYTES
    assert LAYOUT.nbytes == LAYOUT.data_offset + data_nbytes(SECTIONS)


# --- checksums ----------------------------------------------------------------


def test_a_checksum_depends_on_every_page_and_on_their_order() -> None:
    pages = np.random.default_rng(0).bytes(3 * PAGE_BYTES)
    whole = checksum(memoryview(pages))
    reordered = pages[PAGE_BYTES:] + pages[:PAGE_BYTES]
    assert checksum(memoryview(pages)) == whole
    assert checksum(memoryview(reordered)) != whole
    assert checksum(memoryview(pages[: 2 * PAGE_BYTES])) != whole


@pytest.mark.parametrize("num_pages", [1, 2, 5])
def test_a_checksum_does_not_depend_on_the_pieces(
    num_pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = memoryview(np.random.default_rng(0).bytes(5 * PAGE_BYTES))
    whole = checksum(pages)
    monkeypatch.setattr(packed_file, "PIECE_BYTES", num_pages * PAGE_BYTES)
    assert checksum(pages) == whole


# --- stopping -----------------------------------------------------------------


class EnoughError(Exception):
    """It has read so many pieces that are wanted."""


class UpTo:
    """Lets a reader read so many pieces."""

    def __init__(self, num_wanted: int) -> None:
        self.num_wanted = num_wanted
        self.num_read = 0

    def __call__(self) -> None:
        if self.num_read == self.num_wanted:
            raise EnoughError
        self.num_read += 1


def open_shared(path: Path, before_piece: UpTo) -> PackedWeights:
    return open_packed(path, LAYOUT, before_piece)


def open_copied(path: Path, before_piece: UpTo) -> PackedWeights:
    return open_packed(path, LAYOUT, before_piece, shared=False)


def move(path: Path, before_piece: UpTo) -> PackedWeights:
    with path.open("rb+") as file:
        return move_to_memory(file.fileno(), LAYOUT, before_piece)


@pytest.mark.parametrize(("read", "num_passes"), [(open_shared, 0), (open_copied, 1), (move, 1)])
def test_a_reader_can_be_ended_before_any_page_that_it_copies_or_checks(
    path: Path,
    read: Callable[[Path, UpTo], PackedWeights],
    num_passes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packed_file, "PIECE_BYTES", PAGE_BYTES)
    num_checked = (LAYOUT.nbytes - LAYOUT.data_offset) // PAGE_BYTES
    num_pieces = num_passes * LAYOUT.nbytes // PAGE_BYTES + num_checked
    assert num_checked > 1
    original, before = path.read_bytes(), os.listdir("/proc/self/fd")
    for num_wanted in range(num_pieces):
        path.write_bytes(original)
        with pytest.raises(EnoughError):
            read(path, UpTo(num_wanted))
    path.write_bytes(original)
    check(read(path, UpTo(num_pieces)))
    assert os.listdir("/proc/self/fd") == before


# --- into memory --------------------------------------------------------------


@pytest.mark.parametrize("at_once", [PAGE_BYTES, 3 * PAGE_BYTES, 2**20])
def test_a_moved_file_is_in_memory_and_empty(
    path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_file, "PIECE_BYTES", at_once)
    with path.open("rb+") as file:
        weights = move_to_memory(file.fileno(), LAYOUT)
    check(weights)
    assert path.stat().st_size == 0


def test_a_damaged_file_is_not_moved(path: Path) -> None:
    with path.open("rb+") as file:
        file.seek(LAYOUT.data_offset + 5)
        file.write(b"x")
        file.flush()
        with pytest.raises(PackedFileError):
            move_to_memory(file.fileno(), LAYOUT)


def test_a_file_that_is_too_short_is_not_moved(path: Path) -> None:
    truncate(path, LAYOUT.nbytes - PAGE_BYTES)
    with path.open("rb+") as file, pytest.raises(PackedFileError, match="ends too early"):
        move_to_memory(file.fileno(), LAYOUT)
