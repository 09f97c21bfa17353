"""A model is packed once, and its weights come from the cache from then on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Storage

from realtime_serve import model_files
from realtime_serve.engine.load_watcher import LoadWatcher
from realtime_serve.model_files import load_packed
from realtime_serve.native import NativeThread
from realtime_serve.weights import open_checkpoint
from support.native_network import CONFIGS
from support.packed_models import Load, packed_file
from support.tiny_models import random_model, write_gguf

LOAD_TWICE = """
import sys
from realtime_serve.engine.load_watcher import LoadWatcher
from realtime_serve.model_files import load_packed
from realtime_serve.weights import open_checkpoint
for expected in (True, False):
    calls = []
    watcher = LoadWatcher(on_progress=calls.append)
    load_packed(open_checkpoint(sys.argv[1]), "bfloat16", sys.argv[2], watcher)
    assert bool(calls) == expected
print(*sys.modules)
"""


WITHOUT_MEMORY = """
import sys
from pathlib import Path
from realtime_serve import model_files
from realtime_serve.engine.load_watcher import LoadWatcher
from realtime_serve.weights import open_checkpoint, packed_file

def no_memory(nbytes):
    raise OSError(12, "Cannot allocate memory")

model_files.has_large_pages = lambda: True
packed_file._large_pages = no_memory
checkpoint = open_checkpoint(sys.argv[1])
watcher = LoadWatcher(on_progress=lambda _: 1 / 0)
weights = model_files.load_packed(checkpoint, "q8", sys.argv[2], watcher)
print("mapped" if ".packed" in Path("/proc/self/maps").read_text() else "copied")
print(*checkpoint.notices)
"""


def is_mapped_from(cache: Path) -> bool:
    return str(packed_file(cache)) in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(
    ("share", "has_large_pages", "free_bytes", "is_mapped", "num_notices"),
    [
        (False, True, 2**40, False, 0),
        (True, True, 2**40, True, 0),
        (True, True, 1000, True, 0),
        (False, False, 1000, True, 0),
        (False, True, 1000, True, 1),
    ],
)
def test_weights_are_mapped_if_they_are_shared_or_large_pages_are_missing_or_memory_is_short(
    *,
    share: bool,
    has_large_pages: bool,
    free_bytes: int,
    is_mapped: bool,
    num_notices: int,
    model: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the last is nothing that anybody has chosen, and said so."""
    monkeypatch.setattr(model_files, "has_large_pages", lambda: has_large_pages)
    monkeypatch.setattr(model_files, "free_memory_bytes", lambda: free_bytes)
    checkpoint = open_checkpoint(str(model))
    weights = load_packed(checkpoint, "q8", str(cache), LoadWatcher(), share=share)
    assert is_mapped_from(cache) is is_mapped
    assert len([each for each in checkpoint.notices if "mapped" in each]) == num_notices
    assert len(checkpoint.notices) == num_notices
    del weights


@pytest.mark.parametrize(("num_workers", "is_mapped"), [(2, False), (3, True)])
def test_weights_are_mapped_if_memory_is_short_for_a_copy_in_each_worker(
    *,
    num_workers: int,
    is_mapped: bool,
    model: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Load(model, cache)
    room_for_two = 2 * packed_file(cache).stat().st_size
    free_bytes = int(room_for_two / model_files.MAX_COPIED_SHARE)
    monkeypatch.setattr(model_files, "has_large_pages", lambda: True)
    monkeypatch.setattr(model_files, "free_memory_bytes", lambda: free_bytes)
    monkeypatch.setattr(model_files, "num_worker_processes", lambda: num_workers)
    checkpoint = open_checkpoint(str(model))
    weights = load_packed(checkpoint, "q8", str(cache), LoadWatcher())
    assert is_mapped_from(cache) is is_mapped
    said = [f"a copy in each of {num_workers} workers" in each for each in checkpoint.notices]
    assert said == [True] * is_mapped
    del weights


def test_weights_are_mapped_where_this_process_may_have_no_more_memory_of_its_own(
    model: Path, cache: Path
) -> None:
    Load(model, cache)
    arguments = [sys.executable, "-c", WITHOUT_MEMORY, str(model), str(cache)]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    outcome, notice = result.stdout.splitlines()
    assert outcome == "mapped"
    assert "mapped from their file" in notice
    assert "this process may not have a copy" in notice


def test_a_model_is_packed_once(model: Path, cache: Path) -> None:
    first = Load(model, cache)
    assert first.packed
    assert first.progress[-1] == 1.0
    second = Load(model, cache)
    assert not second.packed
    assert second.bytes == first.bytes
    assert first.notices == second.notices == []


def test_each_dtype_has_a_file_of_its_own(model: Path, cache: Path) -> None:
    assert Load(model, cache, "q8").packed
    assert Load(model, cache, "bfloat16").packed
    assert not Load(model, cache, "q8").packed
    assert len(list(cache.glob("*.packed"))) == 2


def test_a_directory_is_packed_and_kept_like_a_file(tmp_path: Path, cache: Path) -> None:
    random_model(CONFIGS["qwen3"]).save_pretrained(tmp_path / "model", max_shard_size="50KB")
    first = Load(tmp_path / "model", cache)
    second = Load(tmp_path / "model", cache)
    assert (first.packed, second.packed) == (True, False)
    assert second.bytes == first.bytes


def test_another_model_in_the_same_place_is_packed(model: Path, cache: Path) -> None:
    first = Load(model, cache)
    write_gguf(random_model(CONFIGS["llama"], seed=1), model, lambda _: Storage.Q8_0)
    second = Load(model, cache)
    assert second.packed
    assert second.bytes["final_norm"] != first.bytes["final_norm"]


def test_the_same_model_in_another_place_is_found(model: Path, cache: Path) -> None:
    Load(model, cache)
    moved = model.with_name("moved.gguf")
    model.rename(moved)
    assert set(Load(moved, cache).progress) == {0}  # read once for its hash, but not packed
    assert not Load(moved, cache).packed


# --- where it runs ------------------------------------------------------------


def test_it_runs_on_a_native_thread(model: Path, cache: Path) -> None:
    """Under gevent, too: nothing in it waits in a hub, for such a thread has none."""
    loads: list[Load] = []

    def load() -> None:
        loads.append(Load(model, cache))
        loads.append(Load(model, cache))

    thread = NativeThread(load, "test")
    thread.start()
    assert thread.join(120)
    assert thread.error is None
    assert [each.packed for each in loads] == [True, False]


@pytest.mark.not_under_gevent("starts a process of its own, which is never patched")
def test_no_torch_is_loaded(model: Path, cache: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", LOAD_TWICE, model, cache],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    loaded = set(finished.stdout.split())
    assert "realtime_serve.model_files" in loaded
    assert not loaded & {"torch", "gguf", "gevent", "flask"}
