"""Packed weights come from the cache where they can, and whatever is wrong with it, they come."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Storage

from realtime_serve import model_files
from realtime_serve.engine.packing import PackedDType
from realtime_serve.errors import ModelLoadError
from realtime_serve.model_files import cache_directory, load_packed
from realtime_serve.native import NativeThread
from realtime_serve.weights import open_checkpoint
from realtime_serve.weights.packed_file import PackedWeights
from support.native_network import CONFIGS
from support.tiny_models import random_model, write_gguf

LOAD_TWICE = """
import sys
from realtime_serve.model_files import load_packed
from realtime_serve.weights import open_checkpoint
for expected in (True, False):
    calls = []
    load_packed(open_checkpoint(sys.argv[1]), "bfloat16", sys.argv[2], calls.append)
    assert bool(calls) == expected
print(*sys.modules)
"""


WITHOUT_MEMORY = """
import sys
from pathlib import Path
from realtime_serve.model_files import load_packed
from realtime_serve.weights import open_checkpoint, packed_file

def no_memory(nbytes):
    raise OSError(12, "Cannot allocate memory")

packed_file._large_pages = no_memory
weights = load_packed(open_checkpoint(sys.argv[1]), "q8", sys.argv[2], lambda _: 1 / 0)
print("mapped" if ".packed" in Path("/proc/self/maps").read_text() else "copied")
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    write_gguf(random_model(CONFIGS["llama"]), path, lambda _: Storage.Q8_0)
    return path


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    path: Path = tmp_path / "model.gguf"
    shutil.copy(original, path)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class Load:
    """One start of a model: what it gave, and whether something had to be packed for it."""

    def __init__(self, model: Path, cache_dir: object, dtype: PackedDType = "q8") -> None:
        self.progress: list[float] = []
        checkpoint = open_checkpoint(str(model))
        self.weights: PackedWeights = load_packed(
            checkpoint, dtype, str(cache_dir), self.progress.append
        )
        self.notices = checkpoint.notices
        self.bytes = {name: bytes(section.data) for name, section in self.weights.items()}

    @property
    def packed(self) -> bool:
        return bool(self.progress)


def packed_file(cache: Path) -> Path:
    (path,) = cache.glob("*.packed")
    return path


def is_mapped_from(cache: Path) -> bool:
    return str(packed_file(cache)) in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(
    ("share", "has_large_pages", "free_bytes", "is_mapped"),
    [
        (False, True, 2**40, False),
        (True, True, 2**40, True),
        (False, False, 2**40, True),
        (False, True, 1000, True),
    ],
)
def test_weights_are_mapped_if_they_are_shared_or_large_pages_are_missing_or_memory_is_short(
    *,
    share: bool,
    has_large_pages: bool,
    free_bytes: int,
    is_mapped: bool,
    model: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_files, "has_large_pages", lambda: has_large_pages)
    monkeypatch.setattr(model_files, "free_memory_bytes", lambda: free_bytes)
    checkpoint = open_checkpoint(str(model))
    weights = load_packed(checkpoint, "q8", str(cache), lambda _: None, share=share)
    assert is_mapped_from(cache) is is_mapped
    del weights


def test_weights_are_mapped_where_this_process_may_have_no_more_memory_of_its_own(
    model: Path, cache: Path
) -> None:
    Load(model, cache)
    arguments = [sys.executable, "-c", WITHOUT_MEMORY, str(model), str(cache)]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout == "mapped\n", result.stderr


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


# --- damage -------------------------------------------------------------------


def flip(place: int) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        contents = bytearray(path.read_bytes())
        contents[place] ^= 1
        path.write_bytes(contents)

    return spoil


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def empty_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [flip(0), flip(8), flip(100), flip(-4000), truncate, empty, Path.unlink, empty_directory],
    ids=["magic", "version", "header", "data", "truncated", "empty", "missing", "directory"],
)
def test_a_damaged_file_is_built_again(
    model: Path, cache: Path, spoil: Callable[[Path], None]
) -> None:
    first = Load(model, cache)
    spoil(packed_file(cache))
    again = Load(model, cache)
    assert again.packed
    assert again.bytes == first.bytes
    assert again.notices == []
    assert not Load(model, cache).packed


def test_a_damaged_index_costs_one_reading_of_the_model(model: Path, cache: Path) -> None:
    Load(model, cache)
    (cache / "files.json").write_text("{")
    assert set(Load(model, cache).progress) == {0}
    assert not Load(model, cache).packed


# --- no cache -----------------------------------------------------------------


def directory_in_place_of_the_file(cache: Path) -> None:
    path = packed_file(cache)
    empty_directory(path)
    (path / "something").touch()


def directory_in_place_of_the_lock(cache: Path) -> None:
    shutil.rmtree(cache)
    (cache / "lock").mkdir(parents=True)


def file_in_place_of_the_cache(cache: Path) -> None:
    shutil.rmtree(cache)
    cache.touch()


@pytest.mark.parametrize(
    "obstruct",
    [directory_in_place_of_the_file, directory_in_place_of_the_lock, file_in_place_of_the_cache],
)
def test_where_no_file_can_be_kept_weights_are_packed_into_memory_and_a_notice_says_so(
    model: Path, cache: Path, obstruct: Callable[[Path], None]
) -> None:
    first = Load(model, cache)
    obstruct(cache)
    again = Load(model, cache)
    assert again.packed
    assert again.bytes == first.bytes
    (notice,) = again.notices
    assert str(cache) in notice
    assert "each start packs them again" in notice


def test_a_cache_that_may_only_be_read_is_used(model: Path, cache: Path) -> None:
    Load(model, cache)
    for path in (cache, *cache.iterdir()):
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        again = Load(model, cache)
    finally:
        cache.chmod(0o700)
    assert not again.packed
    assert again.notices == []


def test_a_cache_may_be_switched_off(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    before = os.listdir("/proc/self/fd")
    off = Load(model, "none")
    assert os.listdir("/proc/self/fd") == before
    assert off.packed
    assert off.notices == []
    assert off.bytes == Load(model, tmp_path / "cache").bytes
    assert not (tmp_path / "caches").exists()


def test_weights_that_are_not_kept_cannot_be_shared_and_a_notice_says_so(
    model: Path, cache: Path
) -> None:
    kept, unkept = (open_checkpoint(str(model)) for _ in range(2))
    load_packed(kept, "q8", str(cache), lambda _: None, share=True)
    load_packed(unkept, "q8", "none", lambda _: None, share=True)
    assert kept.notices == []
    (notice,) = unkept.notices
    assert "share_weights has no effect" in notice


def test_by_default_the_cache_is_in_the_users_cache_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory(None) == tmp_path / ".cache" / "realtime-serve"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_directory(None) == Path("/elsewhere/realtime-serve")
    assert cache_directory("~/packed") == tmp_path / "packed"
    assert cache_directory("packed") == Path("packed")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_directory(None) is None


# --- failures -----------------------------------------------------------------


@pytest.mark.parametrize("place", ["cache", "none"])
def test_a_model_that_cannot_be_packed_is_the_same_error_as_ever(
    model: Path, tmp_path: Path, place: str
) -> None:
    checkpoint = open_checkpoint(str(model))
    codes = checkpoint.stored("model.layers.1.mlp.up_proj.weight").codes()
    offset = model.read_bytes().index(codes[3].tobytes())
    with model.open("rb+") as file:
        file.seek(offset)
        file.write(b"\x00\x7e")  # NaN
    with pytest.raises(ModelLoadError, match=r"up_proj\.weight holds values that are not finite"):
        Load(model, tmp_path / "cache" if place == "cache" else "none")
    assert not list(tmp_path.glob("cache/*.packed"))


@pytest.mark.parametrize("place", ["cache", "none"])
def test_a_model_that_takes_another_form_meanwhile_is_an_error(
    model: Path, tmp_path: Path, place: str
) -> None:
    opened = open_checkpoint(str(model))
    other = model.with_name("other.gguf")
    write_gguf(random_model(CONFIGS["qwen2"]), other)
    other.replace(model)
    cache_dir = str(tmp_path / "cache") if place == "cache" else "none"
    with pytest.raises(ModelLoadError, match="changed while it was loaded; start again"):
        load_packed(opened, "bfloat16", cache_dir, lambda _: None)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("status", "exit status is 3, and the server's standard error says why"),
        (str(int(signal.SIGKILL)), "it was killed, as the kernel does when memory runs out"),
        (str(int(signal.SIGBUS)), f"it was ended by signal {int(signal.SIGBUS)}"),
    ],
)
def test_a_child_that_ends_without_a_word_is_an_error(
    model: Path, cache: Path, end: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "PACKING_CHILD", "support.dying_child")
    monkeypatch.setenv("DYING_CHILD", end)
    with pytest.raises(ModelLoadError, match=rf"ended without a result.*{message}"):
        Load(model, cache)


def test_without_a_python_to_run_the_error_names_it(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(ModelLoadError, match=r"/no/such/python, which packs .* cannot be started"):
        Load(model, cache)


def test_progress_is_told_however_long_the_child_is_silent(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EnoughError(Exception):
        pass

    told: list[float] = []

    def note(share: float) -> None:
        told.append(share)
        if told.count(0.5) == 3:  # the child has said it once, and hangs
            raise EnoughError

    monkeypatch.setattr(model_files, "PACKING_CHILD", "support.hanging_child")
    with pytest.raises(EnoughError):
        load_packed(open_checkpoint(str(model)), "q8", str(cache), note)
    assert {path.name for path in cache.iterdir()} == {"lock"}


def test_loading_can_be_given_up_and_begun_anew(model: Path, cache: Path) -> None:
    class GivenUpError(Exception):
        pass

    def give_up(share: float) -> None:
        raise GivenUpError

    with pytest.raises(GivenUpError):
        load_packed(open_checkpoint(str(model)), "q8", str(cache), give_up)
    left = {path.name for path in cache.iterdir()} if cache.exists() else set()
    assert left <= {"files.json", "lock"}
    assert Load(model, cache).packed


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
