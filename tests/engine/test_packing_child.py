"""The packing process: what it says, what it leaves, and what it does not load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Storage

from realtime_serve.engine.packing import Packing
from realtime_serve.engine.packing_child import MEMORY_KEY
from realtime_serve.weights import open_checkpoint
from realtime_serve.weights.packed_cache import PackedCache
from realtime_serve.weights.packed_file import PackedLayout, move_to_memory
from support.native_network import CONFIGS
from support.tiny_models import random_model, write_gguf

pytestmark = pytest.mark.not_under_gevent("starts processes of its own, which are never patched")

MODULE = "realtime_serve.engine.packing_child"

AND_SHOW_MODULES = """
import sys
from realtime_serve.engine.packing_child import main
status = main(sys.argv[1:])
print(*sys.modules)
sys.exit(status)
"""

AND_SHOW_NICENESS = """
import os, sys
from realtime_serve.engine.packing_child import main
before = os.nice(0)
status = main(sys.argv[1:])
print(os.nice(0) - before)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    write_gguf(random_model(CONFIGS["llama"]), path, lambda _: Storage.Q8_0)
    return path


def run(
    *arguments: object, program: tuple[str, ...] = ("-m", MODULE), **options: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        **options,
    )


def messages(finished: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert finished.stderr == ""
    return [json.loads(line) for line in finished.stdout.splitlines()]


def test_it_packs_into_a_cache_and_says_the_key(model: Path, tmp_path: Path) -> None:
    finished = run(model, "--dtype", "q8", "--cache", tmp_path / "cache")
    assert finished.returncode == 0, finished.stderr
    *progress, last = messages(finished)
    shares = [message["progress"] for message in progress]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    checkpoint = open_checkpoint(str(model))
    sections = Packing(checkpoint, "q8").sections
    cache = PackedCache(tmp_path / "cache")
    assert last == {"key": cache.known_key(checkpoint.files, sections)}
    assert set(cache.open(last["key"], sections)) == {section.name for section in sections}


def test_what_is_packed_already_is_not_packed_again(model: Path, tmp_path: Path) -> None:
    first = messages(run(model, "--dtype", "q4", "--cache", tmp_path))
    second = messages(run(model, "--dtype", "q4", "--cache", tmp_path))
    assert second[-1] == first[-1]
    assert {message.get("progress") for message in second[:-1]} == {0}


def test_it_packs_into_a_descriptor(model: Path) -> None:
    with open(os.memfd_create("packed"), "rb+", buffering=0) as file:
        number = file.fileno()
        finished = run(model, "--dtype", "bfloat16", "--descriptor", number, pass_fds=[number])
        assert messages(finished)[-1] == {"key": MEMORY_KEY}
        sections = Packing(open_checkpoint(str(model)), "bfloat16").sections
        weights = move_to_memory(number, PackedLayout(MEMORY_KEY, sections))
    assert set(weights) == {section.name for section in sections}


def test_a_model_that_cannot_be_loaded_is_said_so(tmp_path: Path) -> None:
    finished = run(tmp_path / "gone.gguf", "--dtype", "q8", "--cache", tmp_path)
    assert finished.returncode == 1
    (message,) = messages(finished)
    assert message["type"] == "ModelLoadError"
    assert "gone.gguf does not exist" in message["error"]


def test_a_cache_that_cannot_be_used_is_told_apart(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finished = run(model, "--dtype", "q8", "--cache", tmp_path / "file")
    assert finished.returncode == 1
    message = messages(finished)[-1]
    assert message["type"] == "CacheError"
    assert str(tmp_path / "file") in message["error"]


def test_too_little_memory_is_an_error(model: Path) -> None:
    with Path("/dev/null").open("rb+") as nothing:  # holds nothing
        number = nothing.fileno()
        finished = run(model, "--dtype", "q8", "--descriptor", number, pass_fds=[number])
    (message,) = messages(finished)
    assert message["type"] == "ModelLoadError"
    assert "There is no memory for the" in message["error"]


def test_it_ends_quietly_when_nobody_listens(model: Path, tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = subprocess.run(
        [sys.executable, "-m", MODULE, model, "--dtype", "q8", "--cache", tmp_path / "cache"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    os.close(write_end)
    assert process.stderr == b""
    assert process.returncode == 1
    assert not list((tmp_path / "cache").glob("*.packed"))


def test_it_loads_neither_torch_nor_the_server(model: Path, tmp_path: Path) -> None:
    finished = run(
        model, "--dtype", "bfloat16", "--cache", tmp_path, program=("-c", AND_SHOW_MODULES)
    )
    assert finished.returncode == 0, finished.stderr
    loaded = set(finished.stdout.splitlines()[-1].split())
    assert "realtime_serve.weights" in loaded
    assert not loaded & {"torch", "flask", "gevent", "realtime_serve.server"}


def test_it_makes_way_for_whoever_is_served(model: Path, tmp_path: Path) -> None:
    finished = run(model, "--dtype", "q8", "--cache", tmp_path, program=("-c", AND_SHOW_NICENESS))
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout.splitlines()[-1]) > 0
