"""Whatever is wrong with the cache, packed weights come; what is wrong with the model is told."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from realtime_serve import model_files
from realtime_serve.engine.load_watcher import LoadWatcher
from realtime_serve.errors import ModelLoadError
from realtime_serve.model_files import cache_directory, load_packed
from realtime_serve.weights import open_checkpoint
from support.native_network import CONFIGS
from support.packed_models import Load, packed_file
from support.tiny_models import random_model, write_gguf

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
    kept, unkept, unwritable = (open_checkpoint(str(model)) for _ in range(3))
    load_packed(kept, "q8", str(cache), LoadWatcher(), share=True)
    load_packed(unkept, "q8", "none", LoadWatcher(), share=True)
    assert kept.notices == []
    (notice,) = unkept.notices
    assert "share_weights has no effect" in notice
    file_in_place_of_the_cache(cache)
    load_packed(unwritable, "q8", str(cache), LoadWatcher(), share=True)
    assert notice in unwritable.notices


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
        load_packed(opened, "bfloat16", cache_dir, LoadWatcher())


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
        load_packed(open_checkpoint(str(model)), "q8", str(cache), LoadWatcher(on_progress=note))
    assert {path.name for path in cache.iterdir()} == {"lock"}


def test_loading_can_be_given_up_and_begun_anew(model: Path, cache: Path) -> None:
    class GivenUpError(Exception):
        pass

    def give_up(share: float) -> None:
        raise GivenUpError

    with pytest.raises(GivenUpError):
        load_packed(open_checkpoint(str(model)), "q8", str(cache), LoadWatcher(on_progress=give_up))
    left = {path.name for path in cache.iterdir()} if cache.exists() else set()
    assert left <= {"files.json", "lock"}
    assert Load(model, cache).packed
