"""Stands in for the packing process: it begins to write, says that it is half done, and hangs."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from realtime_serve.engine.packing import Packing
from realtime_serve.weights import open_checkpoint
from realtime_serve.weights.packed_cache import PackedCache
from realtime_serve.weights.packed_file import PackedWeights


def hang(packed: PackedWeights) -> None:
    print(json.dumps({"progress": 0.5}), flush=True)
    signal.pause()


match sys.argv[1:]:
    case [path, "--dtype", "q8", "--cache", directory]:
        sections = Packing(open_checkpoint(path), "q8").sections
        PackedCache(Path(directory)).build("key", sections, hang, lambda: None)
