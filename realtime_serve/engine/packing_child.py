"""The process that packs a model's weights, apart from the server: it may run out of memory alone.

    python -m realtime_serve.engine.packing_child CHECKPOINT --dtype q8 --cache DIRECTORY

It says on its standard output what the server has to know, one JSON object a line:

    {"progress": 0.42}                    often; the server may kill it meanwhile, and tidies up
    {"error": "...", "type": "..."}       the end: why not; type is the class of the error

With --descriptor in place of --cache it packs into an open file, under the key MEMORY_KEY.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from realtime_serve.engine.packing import PackedDType, Packing
from realtime_serve.errors import ModelLoadError
from realtime_serve.weights.checkpoint import Checkpoint, open_checkpoint
from realtime_serve.weights.packed_cache import PackedCache
from realtime_serve.weights.packed_file import PackedLayout, PackedWriter

MEMORY_KEY = "in memory"
"""The key of packed weights that nobody will look for."""

NICENESS = 10
"""Whoever is served meanwhile comes first."""

STDOUT = 1


class CacheError(Exception):
    """The cache directory cannot be used; the message says why."""


def main(arguments: Sequence[str]) -> int:
    """Pack.

    Args:
        arguments: As the module's docstring shows.

    Returns:
        The exit status; 0 if the weights are packed.
    """
    options = _parse(arguments)
    os.nice(NICENESS)
    try:
        key = _pack(options)
    except BrokenPipeError:  # the server has gone, or wants no more
        return 1
    except (ModelLoadError, CacheError) as error:
        _report(error=str(error), type=type(error).__name__)
        return 1
    _report(key=key)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--dtype", required=True, choices=typing.get_args(PackedDType))
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--cache", type=Path)
    place.add_argument("--descriptor", type=int)
    return parser.parse_args(arguments)


def _pack(options: argparse.Namespace) -> str:
    checkpoint = open_checkpoint(options.checkpoint)
    packing = Packing(checkpoint, options.dtype)
    if options.cache is None:
        _pack_into(options.descriptor, packing)
        return MEMORY_KEY
    return _pack_into_cache(PackedCache(options.cache), checkpoint, packing)


def _pack_into(descriptor: int, packing: Packing) -> None:
    layout = PackedLayout(MEMORY_KEY, packing.sections)
    try:
        writer = PackedWriter(descriptor, layout)
    except OSError as error:
        raise ModelLoadError(
            f"There is no memory for the {layout.nbytes} bytes of the packed weights: "
            f"{error.strerror}."
        ) from error
    packing.fill(writer.sections, _report_progress)
    writer.finish()


def _pack_into_cache(cache: PackedCache, checkpoint: Checkpoint, packing: Packing) -> str:
    try:
        key = cache.compute_key(checkpoint.files, packing.sections, lambda _: _report_progress(0))
        cache.build(
            key,
            packing.sections,
            lambda packed: packing.fill(packed, _report_progress),
            lambda: _report_progress(0),
        )
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CacheError(str(error)) from error
    return key


def _report_progress(share: float) -> None:
    _report(progress=round(share, 3))


def _report(**fields: Any) -> None:
    """Write a line at once; BrokenPipeError if nobody reads any more."""
    os.write(STDOUT, json.dumps(fields).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
