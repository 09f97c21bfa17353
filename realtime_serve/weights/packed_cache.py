"""PackedCache: packed weights on disk, so that a model is packed once and not at each start.

    DIRECTORY/<key>.packed     a model in one form; what it was packed from is in the key
    DIRECTORY/files.json       hashes of model files (file_hashes.py)
    DIRECTORY/lock             held by whoever packs
    DIRECTORY/unfinished       what the holder of the lock writes

A file gets its name when it is whole. Who opens one needs no lock, and keeps what it has
opened, whatever happens to the name.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from realtime_serve.weights.file_hashes import FileHashes
from realtime_serve.weights.packed_file import (
    VERSION,
    BeforePiece,
    PackedFileError,
    PackedLayout,
    PackedWeights,
    PackedWriter,
    Section,
    go_on,
    open_packed,
)

MAX_FILES = 8
"""Packed models that are kept; beyond it, those that were not opened for longest go."""

LOCK_POLL_S = 0.1

_SUFFIX = ".packed"


class PackedCache:
    """A directory of packed weights. A method raises OSError where it cannot be used.

    Args:
        directory: Where; made when first written to.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unfinished = directory / "unfinished"
        self._hashes = FileHashes(directory / "files.json")

    def known_key(self, files: Sequence[Path], sections: Sequence[Section]) -> str | None:
        """The key of packed weights, if that needs no reading of the model's files.

        Args:
            files: What the weights come from.
            sections: Their packed form.

        Returns:
            The key, or None.
        """
        hashes = self._hashes.known(files)
        return None if hashes is None else _key(hashes, sections)

    def compute_key(
        self, files: Sequence[Path], sections: Sequence[Section], on_read: Callable[[int], None]
    ) -> str:
        """The key of packed weights, and remember it.

        Args:
            files: What the weights come from.
            sections: Their packed form.
            on_read: Told how many bytes more have been read, often.

        Returns:
            The key.
        """
        with contextlib.suppress(OSError):  # the key is right without being remembered
            self._make_directory()
        return _key(self._hashes.compute(files, on_read), sections)

    def open(
        self,
        key: str,
        sections: Sequence[Section],
        before_piece: BeforePiece = go_on,
        *,
        shared: bool = True,
    ) -> PackedWeights:
        """Open packed weights, and note that they are in use.

        Args:
            key: Which.
            sections: Their form.
            before_piece: See `open_packed`.
            shared: See `open_packed`.

        Returns:
            The weights.

        Raises:
            PackedFileError: They are not there, or damaged.
            NoRoomForCopyError: They are not to be shared, and cannot be copied.
        """
        path = self._path(key)
        layout = PackedLayout(key, sections)
        weights = open_packed(path, layout, before_piece, shared=shared)
        with contextlib.suppress(OSError):  # a cache that may only be read is still a cache
            os.utime(path)
        return weights

    def build(
        self,
        key: str,
        sections: Sequence[Section],
        fill: Callable[[PackedWeights], None],
        on_wait: Callable[[], None],
    ) -> None:
        """Write packed weights, unless they are there.

        Args:
            key: Which.
            sections: Their form.
            fill: Writes the sections.
            on_wait: Called often while somebody else writes.
        """
        if self._has(key, sections):
            return
        self._make_directory()
        with self._lock(on_wait):
            if not self._has(key, sections):  # nobody else has written them meanwhile
                self._write(self._path(key), PackedLayout(key, sections), fill)
                self._remove_old()

    def remove_unfinished(self) -> None:
        """Remove what processes that were killed have left, unless another one writes now."""
        with contextlib.suppress(OSError), self._lock(_do_not_wait):
            self._remove_leftovers()

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}{_SUFFIX}"

    def _make_directory(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _lock(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """One process packs at a time; the kernel unlocks for one that dies."""
        with (self._directory / "lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    on_wait()
                    time.sleep(LOCK_POLL_S)
            yield

    def _has(self, key: str, sections: Sequence[Section]) -> bool:
        try:
            open_packed(self._path(key), PackedLayout(key, sections))
        except PackedFileError:
            return False
        return True

    def _write(
        self, path: Path, layout: PackedLayout, fill: Callable[[PackedWeights], None]
    ) -> None:
        self._remove_leftovers()
        _make_way(path)
        try:
            with self._unfinished.open("xb+") as file:
                writer = PackedWriter(file.fileno(), layout)
                fill(writer.sections)
                writer.finish()
            self._unfinished.replace(path)
        except BaseException:
            self._unfinished.unlink(missing_ok=True)
            raise
        self._sync_names()

    def _remove_leftovers(self) -> None:
        """The holder of the lock removes what processes that were killed have left."""
        self._unfinished.unlink(missing_ok=True)
        self._hashes.remove_unfinished()

    def _sync_names(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _remove_old(self) -> None:
        with contextlib.suppress(OSError):  # somebody else may tidy up, too
            files = filter(Path.is_file, self._directory.glob(f"*{_SUFFIX}"))
            for file in sorted(files, key=_last_use, reverse=True)[MAX_FILES:]:
                file.unlink()


def _do_not_wait() -> None:
    raise BlockingIOError


def _make_way(path: Path) -> None:
    """Remove an empty directory in a file's place; one that holds something is an OSError.

    Mounting a file that does not exist leaves an empty one. Better now than after all the work.
    """
    if path.is_dir() and not path.is_symlink():
        path.rmdir()


def _last_use(file: Path) -> int:
    return file.stat().st_mtime_ns


def _key(hashes: Sequence[str], sections: Sequence[Section]) -> str:
    """Names the model's contents and the form they are packed in."""
    form = [(section.name, section.format, section.shape) for section in sections]
    return hashlib.sha256(json.dumps([VERSION, hashes, form]).encode()).hexdigest()[:32]
