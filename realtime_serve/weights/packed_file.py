"""Packed weights in a file: written once, whole or not at all; then mapped, or copied to memory.

    offset 0    prefix: magic, version, length of the header, checksum of the data
                header: JSON; the key, and where each section is
    page        section
    page        section ...                                 each from a page's start on

Whoever opens a file knows beforehand which sections it must have: they follow from the model's
configuration. So a header is compared and never believed; whatever differs, a damaged file, an
older version, another model, is simply not the file that is wanted. The prefix is written
last: a file that was not finished has none.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

VERSION = 1
"""Raise it when the same model would be packed into other bytes."""

PAGE_BYTES = 4096
"""Sections start at multiples of it: more than any vector or cache line asks for."""

PIECE_BYTES = 64 * 2**20
"""A reader goes on to the next piece only if it is wanted; this one takes a fraction of a second.
Also what `move_to_memory` has in memory twice."""

LARGE_PAGES_FILE = "/sys/kernel/mm/transparent_hugepage/enabled"

_MAGIC = b"RTSPACK\n"
_PREFIX = struct.Struct("<8sIIQ")
"""Magic, version, length of the header, checksum of the data."""


BeforePiece: TypeAlias = Callable[[], None]
"""Called before each piece that is read; what it raises ends the reading."""


def go_on() -> None:
    """A `BeforePiece` that never ends a reading."""


class PackedFileError(Exception):
    """Not the packed file that is wanted; the message says why. Build it again."""


class NoRoomForCopyError(Exception):
    """This process may not have as much memory of its own as a packed file takes: map it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One part of packed weights.

    Args:
        name: Its name.
        format: What it holds: "f32", "bf16", "q8" or "q4" for a matrix or vector in the
            kernels' layout; "f32", "bf16" or "Q8_0" for rows that are looked up.
        shape: [outputs, inputs] of a matrix, [rows, values] of a table, [values] of a vector.
        nbytes: Its size.
    """

    name: str
    format: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class PackedSection:
    """A section and its bytes.

    Args:
        format: As `Section.format`.
        shape: As `Section.shape`.
        data: Its bytes, at a multiple of 64 in memory, and no more of them.
    """

    format: str
    shape: tuple[int, ...]
    data: memoryview


PackedWeights: TypeAlias = Mapping[str, PackedSection]
"""Packed weights by section; the memory is given back when nothing refers to it."""


class PackedLayout:
    """Where each section of a file is.

    Args:
        key: Which model this is, and how it is packed.
        sections: All sections.
    """

    def __init__(self, key: str, sections: Sequence[Section]) -> None:
        self._sections = sections
        self.header = json.dumps(
            {"key": key, "sections": [asdict(section) for section in sections]}
        ).encode()
        self.data_offset = _round_up(_PREFIX.size + len(self.header))
        self.nbytes = self.data_offset + data_nbytes(sections)

    def sections(self, file: memoryview) -> dict[str, PackedSection]:
        """The sections of a file in memory."""
        return {
            section.name: PackedSection(
                section.format, section.shape, file[offset : offset + section.nbytes]
            )
            for section, offset in zip(self._sections, self._offsets(), strict=True)
        }

    def prefix(self, data_checksum: int) -> bytes:
        """What a finished file begins with."""
        return _PREFIX.pack(_MAGIC, VERSION, len(self.header), data_checksum) + self.header

    def _offsets(self) -> Iterator[int]:
        offset = self.data_offset
        for section in self._sections:
            yield offset
            offset += _round_up(section.nbytes)


def data_nbytes(sections: Sequence[Section]) -> int:
    """Bytes that sections take in a file or in memory, without the header before them."""
    return sum(_round_up(section.nbytes) for section in sections)


def _round_up(nbytes: int) -> int:
    return -(-nbytes // PAGE_BYTES) * PAGE_BYTES


# --- writing ------------------------------------------------------------------


class PackedWriter:
    """Writes a packed file through memory that is mapped to it.

    Args:
        descriptor: An empty file, open for reading and writing. It remains the caller's.
        layout: What goes where.

    Raises:
        OSError: There is no room for the file.

    Attributes:
        sections: The sections, to be filled; padding is zero.
    """

    def __init__(self, descriptor: int, layout: PackedLayout) -> None:
        # Room is taken beforehand: a full disk would end a process that writes to mapped memory.
        os.posix_fallocate(descriptor, 0, layout.nbytes)
        self._descriptor = descriptor
        self._layout = layout
        self._map = mmap.mmap(descriptor, layout.nbytes)
        self.sections: PackedWeights = layout.sections(memoryview(self._map))

    def finish(self) -> None:
        """Make it a packed file, and see it on the disk.

        Raises:
            OSError: It could not be written.
        """
        data_checksum = checksum(memoryview(self._map)[self._layout.data_offset :])
        prefix = self._layout.prefix(data_checksum)
        self._map[: len(prefix)] = prefix
        self._map.flush()
        os.fsync(self._descriptor)


# --- reading ------------------------------------------------------------------


def has_large_pages() -> bool:
    """Whether this machine's kernel gives large pages to a process that asks for them."""
    with contextlib.suppress(OSError):
        return "[never]" not in Path(LARGE_PAGES_FILE).read_text(encoding="ascii")
    return False


def open_packed(
    path: str | os.PathLike[str],
    layout: PackedLayout,
    before_piece: BeforePiece = go_on,
    *,
    shared: bool = True,
) -> PackedWeights:
    """Map a packed file, or copy it into this process's own memory.

    Files have small pages. A process's own memory can have large ones, and weights are read
    from those up to a quarter faster.

    Args:
        path: The file.
        layout: What it has to hold.
        before_piece: See `BeforePiece`; all is read once, and what is copied once more.
        shared: Whether to map it: all who do share its memory.

    Returns:
        Its sections. All of it has been read and is in memory, as far as there is room.

    Raises:
        PackedFileError: It is missing, damaged, or not what is wanted.
        NoRoomForCopyError: It cannot be copied; it may be there to be mapped.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise PackedFileError(f"it cannot be opened: {error.strerror}") from error
    try:
        read = _map_packed if shared else _copy_packed
        return read(descriptor, layout, before_piece)
    except OSError as error:
        raise PackedFileError(f"it cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _map_packed(descriptor: int, layout: PackedLayout, before_piece: BeforePiece) -> PackedWeights:
    _check_size(descriptor, layout)
    file = mmap.mmap(descriptor, layout.nbytes, prot=mmap.PROT_READ)
    return _checked(file, layout, before_piece)


def _check_size(descriptor: int, layout: PackedLayout) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise PackedFileError("it is not a file")
    if status.st_size != layout.nbytes:  # before mapping: memory past a file's end is deadly
        raise PackedFileError(f"it has {status.st_size} bytes and not {layout.nbytes}")


def _copy_packed(descriptor: int, layout: PackedLayout, before_piece: BeforePiece) -> PackedWeights:
    _check_size(descriptor, layout)
    try:
        memory = _large_pages(layout.nbytes)
    except OSError as error:  # a process's own memory can have a limit; what is shared has none
        raise NoRoomForCopyError from error
    view = memoryview(memory)
    for start in range(0, layout.nbytes, PIECE_BYTES):
        before_piece()
        _read_fully(descriptor, view[start : start + PIECE_BYTES], start)
    return _checked(memory, layout, before_piece)


def _large_pages(nbytes: int) -> mmap.mmap:
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel may have no large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def move_to_memory(
    descriptor: int, layout: PackedLayout, before_piece: BeforePiece = go_on
) -> PackedWeights:
    """Move a packed file into this process's own memory, for where none can be kept.

    Args:
        descriptor: The file, open for reading and writing; it is empty afterwards.
        layout: What it holds.
        before_piece: See `BeforePiece`; all is moved, and then read once.

    Returns:
        Its sections.

    Raises:
        PackedFileError: It is not what is wanted.
        OSError: It cannot be read.
    """
    memory = _large_pages(layout.nbytes)
    view = memoryview(memory)
    # From its end on, and cut off after each piece: it is never in memory twice.
    for start in reversed(range(0, layout.nbytes, PIECE_BYTES)):
        before_piece()
        _read_fully(descriptor, view[start : start + PIECE_BYTES], start)
        os.ftruncate(descriptor, start)
    return _checked(memory, layout, before_piece)


def _read_fully(descriptor: int, into: memoryview, offset: int) -> None:
    while into:
        count = os.preadv(descriptor, [into], offset)
        if count == 0:
            raise PackedFileError("it ends too early")
        into, offset = into[count:], offset + count


def _checked(file: mmap.mmap, layout: PackedLayout, before_piece: BeforePiece) -> PackedWeights:
    view = memoryview(file).toreadonly()
    prefix = layout.prefix(checksum(view[layout.data_offset :], before_piece))
    if view[: len(prefix)] != prefix:
        raise PackedFileError("its contents are damaged, or not those that are wanted")
    return layout.sections(view)


def checksum(data: memoryview, before_piece: BeforePiece = go_on) -> int:
    """A checksum at the speed of memory: the 64-bit sum of each page, then a CRC of the sums.

    It finds any changed word, and pages that were lost or swapped. Reading all of a file costs
    what the first step would pay anyway.

    Args:
        data: Whole pages, at a page's start in memory.
        before_piece: See `BeforePiece`.

    Returns:
        32 bits.
    """
    crc = 0
    for start in range(0, len(data), PIECE_BYTES):
        before_piece()
        words = np.frombuffer(data[start : start + PIECE_BYTES], np.uint64)
        sums = words.reshape(-1, PAGE_BYTES // 8).sum(axis=1, dtype=np.uint64)
        crc = zlib.crc32(sums.tobytes(), crc)
    return crc
