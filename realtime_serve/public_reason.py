"""Why something failed, as whoever may ask for the server's health is told.

The log says all. An answer goes to anybody: it names files, but not where they are, and of an
error that is not ours, whose words may hold anything, only the kind.
"""

from __future__ import annotations

import re
from pathlib import PurePath

from realtime_serve.errors import ServeError

_DIRECTORIES = re.compile(r"(?<![\w.:/~-])[.~]{0,2}/(?:[^\s/:'\"]+/)*(?=[^\s/])")
"""The part of a path that says where a file is."""


def public_reason(error: Exception) -> str:
    """An error in a sentence; of one that is not ours, only its kind.

    Args:
        error: What was raised.
    """
    if isinstance(error, ServeError):
        return error.message
    return f"{type(error).__name__}. The server's log says more."


def without_directories(text: str, known_path: str | None = None) -> str:
    """A text whose paths have no directories left.

    Args:
        text: For a person.
        known_path: One that may be in it and be relative, or hold spaces.
    """
    if known_path is not None:
        text = _without_directory_of(known_path, text)
    return _DIRECTORIES.sub("", text)


def _without_directory_of(known_path: str, text: str) -> str:
    """A path goes by its name: as it was given, or as messages spell it, without "./" or "//"."""
    normal = PurePath(known_path)
    for path in (known_path.rstrip("/"), str(normal)):
        if path and normal.name:
            # The slash of "path/" goes as well, but that of "path/file" stays.
            pattern = rf"(?<![\w./~-]){re.escape(path)}(?:/+(?![\w.~-]))?"
            text = re.sub(pattern, lambda _: normal.name, text)
    return text
