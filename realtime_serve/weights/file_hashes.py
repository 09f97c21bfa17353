"""FileHashes: what files contain, as SHA-256, computed once for as long as they do not change.

Hashing a model takes about a second a gigabyte, so that results are kept in an index, and hold
while the file's size, times and inode are the same. A damaged index is an empty one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

MAX_ENTRIES = 256
"""The index forgets the oldest beyond it; a model has one file, or a few dozen."""

READ_AT_ONCE = 2**20


class FileHashes:
    """Hashes of files, remembered in an index.

    Args:
        index: The index's own file; need not exist.
    """

    def __init__(self, index: Path) -> None:
        self._index = index

    def known(self, files: Sequence[Path]) -> list[str] | None:
        """Hashes that need no reading.

        Args:
            files: Which files.

        Returns:
            The hash of each, in hexadecimal; None unless all are known.

        Raises:
            OSError: A file cannot be found.
        """
        entries = self._load()
        hashes: list[str] = []
        for file in files:
            name, state = _identity(file)
            match entries.get(name):
                case {"state": known_state, "sha256": str(known)} if known_state == state:
                    hashes.append(known)
                case _:
                    return None
        return hashes

    def compute(self, files: Sequence[Path], on_read: Callable[[int], None]) -> list[str]:
        """Read files and remember their hashes.

        Args:
            files: Which files.
            on_read: Told how many bytes more have been read, often.

        Returns:
            The hash of each, in hexadecimal.

        Raises:
            OSError: A file cannot be read.
        """
        entries = self._load()
        hashes = []
        for file in files:
            name, state = _identity(file)  # as it is now: a change from here on makes it unknown
            hashes.append(_sha256(file, on_read))
            entries.pop(name, None)
            entries[name] = {"state": state, "sha256": hashes[-1]}
        with contextlib.suppress(OSError):  # what cannot be remembered is computed again
            self._save(dict(list(entries.items())[-MAX_ENTRIES:]))
        return hashes

    def remove_unfinished(self) -> None:
        """Remove what processes that were killed while they saved the index have left.

        Another one that is about to save it loses its own so, and hashes again some day.

        Raises:
            OSError: The index's directory cannot be changed.
        """
        for temporary in self._index.parent.glob(f"{self._index.name}.*.tmp"):
            temporary.unlink(missing_ok=True)

    def _load(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError, RecursionError):
            entries = json.loads(self._index.read_bytes())
            if isinstance(entries, dict):
                return entries
        return {}

    def _save(self, entries: dict[str, Any]) -> None:
        """Replace the index whole; when two processes do, one of them hashes again some day."""
        temporary = self._index.with_name(f"{self._index.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(entries, indent=1))
            temporary.replace(self._index)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _identity(file: Path) -> tuple[str, list[int]]:
    """Where a file is, and what changes when its contents do."""
    place = file.resolve()
    status = place.stat()
    state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    return str(place), state


def _sha256(file: Path, on_read: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(READ_AT_ONCE))
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
            on_read(count)
    return digest.hexdigest()
