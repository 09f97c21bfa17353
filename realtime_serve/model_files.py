"""A model's files to packed weights in memory: from the cache if they are there, else by a child.

Runs on the inference thread of the new model. The server itself reads no weights: a fresh
process packs them (engine/packing_child.py), and they are copied to large pages, or mapped.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from realtime_serve.child_process import PASSED_DESCRIPTOR, ChildProcess
from realtime_serve.engine.host_memory import free_memory_bytes
from realtime_serve.engine.load_watcher import LoadWatcher, OnProgress
from realtime_serve.engine.packing import PackedDType, Packing
from realtime_serve.engine.packing_child import MEMORY_KEY, CacheError
from realtime_serve.errors import ModelLoadError
from realtime_serve.types import NO_CACHE_DIR, size_text
from realtime_serve.weights.checkpoint import Checkpoint
from realtime_serve.weights.packed_cache import PackedCache
from realtime_serve.weights.packed_file import (
    NoRoomForCopyError,
    PackedFileError,
    PackedLayout,
    PackedWeights,
    Section,
    data_nbytes,
    has_large_pages,
    move_to_memory,
)
from realtime_serve.worker_processes import num_worker_processes

PACKING_CHILD = "realtime_serve.engine.packing_child"

MAX_COPIED_SHARE = 0.5
"""Of the free memory, what the copies of all workers may take; greater ones are mapped and
shared."""

PROGRESS_INTERVAL_S = 0.1
"""A watcher is told at least this often, however long the child is silent: a stop is not to wait
for a disk."""


def load_packed(
    checkpoint: Checkpoint,
    dtype: PackedDType,
    cache_dir: str | None,
    watcher: LoadWatcher,
    *,
    share: bool = False,
) -> PackedWeights:
    """Get a model's weights as the native network reads them.

    Args:
        checkpoint: The model. What a person should know is added to its notices.
        dtype: What the weights are packed for.
        cache_dir: As `ModelConfig.cache_dir`. Where no file can be kept, the weights are
            packed into memory at each start.
        watcher: Whoever waits for it.
        share: As `ModelConfig.share_weights`.

    Returns:
        The weights.

    Raises:
        ModelLoadError: The model is not supported or damaged, or packing it failed.
    """
    sections = Packing(checkpoint, dtype).sections
    directory = cache_directory(cache_dir)
    if directory is not None:
        try:
            return _from_cache(checkpoint, dtype, sections, directory, watcher, share=share)
        except CacheError as error:
            checkpoint.notices.append(
                f"Packed weights cannot be kept ({error}): each start packs them again."
            )
    if share:
        checkpoint.notices.append(
            "share_weights has no effect: no packed weights are kept (cache_dir), and only a file "
            "can be shared."
        )
    return _into_memory(checkpoint, dtype, sections, watcher)


def cache_directory(cache_dir: str | None) -> Path | None:
    """Where packed weights are kept.

    Args:
        cache_dir: As `ModelConfig.cache_dir`.

    Returns:
        The directory; None if nothing is to be kept, or this user has no place for it.
    """
    if cache_dir == NO_CACHE_DIR:
        return None
    if cache_dir is not None:
        return Path(os.path.expanduser(cache_dir))
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(caches, "realtime-serve") if os.path.isabs(caches) else None


def _from_cache(
    checkpoint: Checkpoint,
    dtype: PackedDType,
    sections: Sequence[Section],
    directory: Path,
    watcher: LoadWatcher,
    *,
    share: bool,
) -> PackedWeights:
    cache = PackedCache(directory)

    def open_file(key: str) -> PackedWeights:
        read = partial(cache.open, key, sections, watcher.before_piece)
        if share or not has_large_pages():
            return read(shared=True)
        return _copy_or_map(read, data_nbytes(sections), checkpoint.notices)

    with contextlib.suppress(OSError, PackedFileError):  # whatever it is, the child says it
        key = cache.known_key(checkpoint.files, sections)
        if key is not None:
            return open_file(key)
    arguments = [checkpoint.path, "--dtype", dtype, "--cache", os.fspath(directory)]
    try:
        key = _run_packing_child(arguments, None, watcher.on_progress)
    except BaseException:  # the child may have been killed
        cache.remove_unfinished()
        raise
    try:
        return open_file(key)
    except PackedFileError as error:
        raise CacheError(f"{directory}: {error}") from error


def _copy_or_map(
    read: Callable[..., PackedWeights], nbytes: int, notices: list[str]
) -> PackedWeights:
    """A copy of the file, or, where memory is short, the file itself and a notice."""
    shortage = _shortage(nbytes)
    if shortage is None:
        try:
            return read(shared=False)
        except NoRoomForCopyError:
            shortage = "this process may not have a copy of its own"
    weights = read(shared=True)
    notices.append(
        "Memory is short, so the packed weights are mapped from their file, where they are read "
        f"up to a quarter slower: {shortage}."
    )
    return weights


def _shortage(nbytes: int) -> str | None:
    """Why copies would leave a KV cache, or another worker, no memory; None if they do not."""
    num_copies, free_bytes = num_worker_processes(), free_memory_bytes()
    if num_copies * nbytes <= MAX_COPIED_SHARE * free_bytes:
        return None
    copies = "a copy" if num_copies == 1 else f"a copy in each of {num_copies} workers"
    return (
        f"{copies} ({size_text(nbytes)}) would take more than {MAX_COPIED_SHARE:.0%} of the "
        f"memory that is free ({size_text(free_bytes)})"
    )


def _into_memory(
    checkpoint: Checkpoint,
    dtype: PackedDType,
    sections: Sequence[Section],
    watcher: LoadWatcher,
) -> PackedWeights:
    arguments = [checkpoint.path, "--dtype", dtype, "--descriptor", str(PASSED_DESCRIPTOR)]
    with open(os.memfd_create("packed-weights"), "r+b", buffering=0) as file:
        key = _run_packing_child(arguments, file.fileno(), watcher.on_progress)
        assert key == MEMORY_KEY
        try:
            layout = PackedLayout(key, sections)
            return move_to_memory(file.fileno(), layout, watcher.before_piece)
        except PackedFileError as error:
            raise ModelLoadError(
                f"{checkpoint.path} changed while it was loaded; start again."
            ) from error
        except OSError as error:
            raise ModelLoadError(
                f"There is no memory for the packed weights ({error.strerror}): let cache_dir be "
                "a place that can be written to, and they are mapped from there."
            ) from error


# --- the child ----------------------------------------------------------------


def _run_packing_child(
    arguments: Sequence[str], passed: int | None, on_progress: OnProgress
) -> str:
    """Pack in a fresh process; the key of what it has packed."""
    command = [sys.executable, "-P", "-m", PACKING_CHILD, *arguments]
    # What this process can import, the child can.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        child = ChildProcess(command, environment, passed)
    except OSError as error:
        raise ModelLoadError(
            f"{sys.executable}, which packs the weights, cannot be started: {error.strerror}."
        ) from error
    with child:
        key = _listen(child, on_progress)
        status = child.wait()
    if key is None:
        raise ModelLoadError(_why_silent(status))
    return key


def _listen(child: ChildProcess, on_progress: OnProgress) -> str | None:
    """The key, or None if the child ends without a word."""
    key, share = None, 0.0
    for line in child.lines(PROGRESS_INTERVAL_S):
        message = _parse(line)
        if "error" in message:
            error = CacheError if message["type"] == CacheError.__name__ else ModelLoadError
            raise error(message["error"])
        key = message.get("key", key)
        share = message.get("progress", share)
        on_progress(share)
    return key


def _parse(line: bytes) -> dict[str, Any]:
    """A line of the child; empty if it is none of its own, but what some library prints."""
    with contextlib.suppress(ValueError):
        message = json.loads(line)
        if isinstance(message, dict):
            return message
    return {}


def _why_silent(status: int | None) -> str:
    what = "The process that packs the weights ended without a result"
    if status is None:
        return f"{what}."
    if status == -signal.SIGKILL:
        return f"{what}: it was killed, as the kernel does when memory runs out."
    if status < 0:
        return f"{what}: it was ended by signal {-status}."
    return f"{what}: its exit status is {status}, and the server's standard error says why."
