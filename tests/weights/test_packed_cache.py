from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from realtime_serve.weights import packed_cache
from realtime_serve.weights.packed_cache import PackedCache
from realtime_serve.weights.packed_file import VERSION, PackedFileError, PackedWeights, Section

SECTIONS = (
    Section(name="a", format="f32", shape=(33,), nbytes=132),
    Section(name="b", format="q8", shape=(32, 32), nbytes=1088),
)

KEY = "0123456789abcdef"

DIES_WHILE_IT_WRITES = """
import os, signal, sys
from pathlib import Path
from test_packed_cache import KEY, SECTIONS, fill
from realtime_serve.weights.packed_cache import PackedCache
def fill_and_die(packed):
    fill(packed)
    os.kill(os.getpid(), signal.SIGKILL)
PackedCache(Path(sys.argv[1])).build(KEY, SECTIONS, fill_and_die, lambda: None)
"""

BUILDS_SLOWLY = """
import sys
from pathlib import Path
from test_packed_cache import KEY, SECTIONS, fill
from realtime_serve.weights.packed_cache import PackedCache
def fill_slowly(packed):
    print("writing", flush=True)
    sys.stdin.readline()
    fill(packed)
PackedCache(Path(sys.argv[1])).build(KEY, SECTIONS, fill_slowly, lambda: None)
"""


def fill(packed: PackedWeights) -> None:
    for number, section in enumerate(packed.values(), start=1):
        section.data[:] = bytes([number]) * len(section.data)


def is_whole(packed: PackedWeights) -> bool:
    return [set(section.data) for section in packed.values()] == [{1}, {2}]


def refuse_to_fill(packed: PackedWeights) -> None:
    raise AssertionError("there was no need to build")


def never_wait() -> None:
    raise AssertionError("nobody else was writing")


def build(cache: PackedCache, key: str = KEY) -> None:
    cache.build(key, SECTIONS, fill, never_wait)


def key_of(file: Path, cache: PackedCache, sections: tuple[Section, ...] = SECTIONS) -> str:
    return cache.compute_key([file], sections, lambda _: None)


def start(script: str, directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])},
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "some" / "cache"


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_what_was_built_is_opened(directory: Path) -> None:
    cache = PackedCache(directory)
    with pytest.raises(PackedFileError):
        cache.open(KEY, SECTIONS)
    build(cache)
    assert is_whole(cache.open(KEY, SECTIONS))
    assert is_whole(PackedCache(directory).open(KEY, SECTIONS))
    assert names(directory) == {f"{KEY}.packed", "lock"}


def test_what_is_there_is_not_built_again(directory: Path) -> None:
    build(PackedCache(directory))
    PackedCache(directory).build(KEY, SECTIONS, refuse_to_fill, never_wait)


def test_only_its_owner_may_look_into_the_cache(directory: Path) -> None:
    build(PackedCache(directory))
    assert directory.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("where", [0, 20, 5000])
def test_a_damaged_file_is_built_again(directory: Path, where: int) -> None:
    cache = PackedCache(directory)
    build(cache)
    with (directory / f"{KEY}.packed").open("rb+") as file:
        file.seek(where)
        byte = file.read(1)
        file.seek(where)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(PackedFileError):
        cache.open(KEY, SECTIONS)
    build(cache)
    assert is_whole(cache.open(KEY, SECTIONS))


def test_a_failure_leaves_nothing_behind(directory: Path) -> None:
    def fail(packed: PackedWeights) -> None:
        fill(packed)
        raise ValueError("no such weights")

    cache = PackedCache(directory)
    with pytest.raises(ValueError, match="no such weights"):
        cache.build(KEY, SECTIONS, fail, never_wait)
    assert names(directory) == {"lock"}
    build(cache)
    assert is_whole(cache.open(KEY, SECTIONS))


@pytest.mark.not_under_gevent("starts a process of its own, which is never patched")
def test_a_process_that_dies_leaves_no_usable_file_and_no_lock(directory: Path) -> None:
    process = start(DIES_WHILE_IT_WRITES, directory)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert "unfinished" in names(directory)
    cache = PackedCache(directory)
    with pytest.raises(PackedFileError):
        cache.open(KEY, SECTIONS)
    build(cache)
    assert is_whole(cache.open(KEY, SECTIONS))
    assert names(directory) == {f"{KEY}.packed", "lock"}


def test_what_a_killed_process_has_left_can_be_removed(directory: Path) -> None:
    cache = PackedCache(directory)
    build(cache)
    for name in ("unfinished", "files.json.123.tmp", "files.json"):
        (directory / name).touch()
    cache.remove_unfinished()
    assert names(directory) == {f"{KEY}.packed", "lock", "files.json"}


def test_what_somebody_else_writes_is_not_removed(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "unfinished").touch()
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        PackedCache(directory).remove_unfinished()
        assert "unfinished" in names(directory)
    PackedCache(directory).remove_unfinished()
    assert names(directory) == {"lock"}


def test_where_there_is_no_cache_nothing_is_to_be_removed(directory: Path) -> None:
    PackedCache(directory).remove_unfinished()
    assert not directory.exists()


@pytest.mark.not_under_gevent("starts processes of its own, which are never patched")
def test_of_two_builders_one_builds_and_both_have_the_result(directory: Path) -> None:
    with start(BUILDS_SLOWLY, directory) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "writing\n"
        waits = 0

        def wait() -> None:
            nonlocal waits
            waits += 1
            with pytest.raises(PackedFileError):
                PackedCache(directory).open(KEY, SECTIONS)
            if waits == 3:
                process.communicate("go on\n")

        PackedCache(directory).build(KEY, SECTIONS, refuse_to_fill, wait)
    assert waits >= 3
    assert process.returncode == 0
    assert is_whole(PackedCache(directory).open(KEY, SECTIONS))


def test_whoever_waits_may_give_up(directory: Path) -> None:
    def give_up() -> None:
        raise InterruptedError

    directory.mkdir(parents=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InterruptedError):
            PackedCache(directory).build(KEY, SECTIONS, refuse_to_fill, give_up)


def test_the_number_of_files_is_bounded_and_those_in_use_stay(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_cache, "MAX_FILES", 3)
    cache = PackedCache(directory)
    for number, key in enumerate("abc"):
        build(cache, key)
        os.utime(directory / f"{key}.packed", ns=(0, number))
    (directory / "no file.packed").mkdir()
    os.utime(directory / "no file.packed", ns=(0, 1))
    cache.open("a", SECTIONS)
    build(cache, "d")
    assert names(directory) == {"a.packed", "c.packed", "d.packed", "no file.packed", "lock"}


def directory_in_place_of(name: str) -> Callable[[Path], None]:
    def make(directory: Path) -> None:
        (directory / name).mkdir(parents=True)
        (directory / name / "something").touch()

    return make


def file_in_place_of_the_cache(directory: Path) -> None:
    directory.parent.mkdir()
    directory.touch()


@pytest.mark.parametrize(
    "obstruct",
    [
        directory_in_place_of(f"{KEY}.packed"),
        directory_in_place_of("lock"),
        directory_in_place_of("unfinished"),
        file_in_place_of_the_cache,
    ],
    ids=["file", "lock", "unfinished", "cache"],
)
def test_a_cache_that_cannot_be_written_is_an_os_error_before_any_work(
    directory: Path, obstruct: Callable[[Path], None]
) -> None:
    obstruct(directory)
    with pytest.raises(OSError, match="cache"):
        PackedCache(directory).build(KEY, SECTIONS, refuse_to_fill, never_wait)


def test_an_empty_directory_in_place_of_a_file_is_replaced(directory: Path) -> None:
    (directory / f"{KEY}.packed").mkdir(parents=True)
    build(PackedCache(directory))
    assert is_whole(PackedCache(directory).open(KEY, SECTIONS))


def test_a_cache_that_may_only_be_read_is_read(directory: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.write_text("weights")
    build(PackedCache(directory), key_of(model, PackedCache(directory)))
    (directory / "lock").unlink()
    (directory / "lock").mkdir()  # as good as read-only, for root too
    cache = PackedCache(directory)
    key = key_of(model, cache)
    cache.build(key, SECTIONS, refuse_to_fill, never_wait)
    assert is_whole(cache.open(key, SECTIONS))


# --- keys ---------------------------------------------------------------------


def test_a_key_is_known_once_it_was_computed(directory: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.write_text("weights")
    cache = PackedCache(directory)
    assert cache.known_key([model], SECTIONS) is None
    key = key_of(model, cache)
    assert PackedCache(directory).known_key([model], SECTIONS) == key


def test_a_key_is_that_of_contents_and_form(directory: Path, tmp_path: Path) -> None:
    model, copy, other = (tmp_path / name for name in ("model", "copy", "other"))
    model.write_text("weights")
    copy.write_text("weights")
    other.write_text("Weights")
    cache = PackedCache(directory)

    assert key_of(model, cache) == key_of(copy, cache)
    in_another_format = Section(name="b", format="q4", shape=(32, 32), nbytes=640)
    other_form = (SECTIONS[0], in_another_format)
    keys = {key_of(model, cache), key_of(other, cache), key_of(model, cache, other_form)}
    assert len(keys) == 3


def test_another_version_of_the_layout_is_another_key(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    model.write_text("weights")
    before = key_of(model, PackedCache(directory))
    monkeypatch.setattr(f"{packed_cache.__name__}.VERSION", VERSION + 1)
    assert PackedCache(directory).known_key([model], SECTIONS) != before
