"""The kernels in C: each test program at each CPU level that this machine can execute.

Programs are compiled with a level's own flags (csrc/kernels/levels.toml) under the address and
undefined-behaviour sanitizers; those of the portable level also for aarch64, under an emulator.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from support.c_programs import (
    CSRC,
    assert_passed,
    compile_c,
    gcc,
    run_c,
    sanitizer_flags,
    sanitizer_prefix,
)

pytestmark = pytest.mark.not_under_gevent(
    "compiles and runs C in child processes, which are never patched: the plain run covers it"
)

KERNELS = CSRC / "kernels"
TESTS = Path(__file__).parent / "kernels"

BUILD = tomllib.loads((KERNELS / "levels.toml").read_text())
LEVELS: dict[str, list[str]] = BUILD["levels"]
SOURCES = [*BUILD["shared_sources"], *BUILD["level_sources"]]
BESIDE_THE_KERNELS = ["native_thread.c", "deadline.c"]  # what the pool is made of

NAMES = sorted(path.name.removesuffix("_test.c") for path in TESTS.glob("*_test.c"))
assert NAMES, "there are no kernel tests"

# A program ends with this status if the system refuses what its level needs.
CANNOT_RUN = 77


class Machine(NamedTuple):
    """Whom programs are compiled for, and how they are run here."""

    compiler: str
    archiver: str
    flags: tuple[str, ...]
    prefix: tuple[str, ...] = ()


def this_machine() -> Machine:
    """This one, under the sanitizers."""
    sanitizer = "address,undefined"
    prefix = sanitizer_prefix(sanitizer)
    return Machine(gcc(), "ar", sanitizer_flags(sanitizer), prefix)


def emulated_aarch64() -> Machine:
    """An emulated one; undefined behaviour ends a program with SIGTRAP, since only that works."""
    prefix = "aarch64-linux-gnu-"
    tools = (f"{prefix}gcc", f"{prefix}ar", "qemu-aarch64")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(
            f"NOT TESTED ON AARCH64: {', '.join(missing)} missing; on Debian, "
            "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
        )
    flags = ("-O2", "-static", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")
    return Machine(tools[0], tools[1], flags, (tools[2],))


@cache
def cpu_features() -> frozenset[str]:
    """What Linux says that this CPU has, without the underscores: avx512bf16, amxtile."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    features = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(features.replace("_", "").split())


def missing_features(level: str) -> list[str]:
    """The level's flags, such as -mamx-tile, for what this CPU has not."""
    features = {flag: flag.removeprefix("-m").replace("-", "") for flag in LEVELS[level]}
    return [flag for flag, feature in features.items() if feature not in cpu_features()]


class KernelArchives:
    """All the kernels of a level as one static library: a program takes what it calls."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._archives: dict[tuple[Machine, str], Path] = {}

    def get(self, machine: Machine, level: str) -> Path:
        """The library; compiled when it is first asked for."""
        if (machine, level) not in self._archives:
            self._archives[machine, level] = self._make(machine, level)
        return self._archives[machine, level]

    def _make(self, machine: Machine, level: str) -> Path:
        folder = self._folder / f"{Path(machine.compiler).name}-{level}"
        folder.mkdir(exist_ok=True)  # from an earlier test, if it could not compile them
        sources = [KERNELS / name for name in SOURCES]
        sources += [CSRC / name for name in BESIDE_THE_KERNELS]
        objects = [folder / source.with_suffix(".o").name for source in sources]
        flags = ("-c", *machine_flags(machine, level))

        def compile_one(source: Path, output: Path) -> None:
            compile_c(output, [source], *flags, compiler=machine.compiler)

        with ThreadPoolExecutor() as threads:
            list(threads.map(compile_one, sources, objects))
        archive = folder / "kernels.a"
        subprocess.run([machine.archiver, "rcs", archive, *objects], check=True)
        return archive


def machine_flags(machine: Machine, level: str) -> list[str]:
    """All flags of a level's kernels and tests."""
    return [
        *machine.flags,
        *BUILD["flags"],
        *LEVELS[level],
        f"-DKERNEL_LEVEL={level}",
        f"-DHAVE_LEVEL_{level.upper()}=1",
        f"-I{KERNELS}",
    ]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> KernelArchives:
    return KernelArchives(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def run_test(archives: KernelArchives, tmp_path: Path) -> Callable[[str, Machine, str], None]:
    """Compiles and runs one test program at one level."""

    def run(name: str, machine: Machine, level: str) -> None:
        program = tmp_path / name
        inputs = [TESTS / f"{name}_test.c", archives.get(machine, level)]
        flags = [*machine_flags(machine, level), "-lm"]
        compile_c(program, inputs, *flags, compiler=machine.compiler)
        result = run_c(program, machine.prefix)
        if result.returncode == CANNOT_RUN:
            pytest.skip(f"level {level}: {result.stdout.strip()}")
        assert_passed(result, name)

    return run


def test_the_table_names_every_source() -> None:
    assert sorted(SOURCES) == sorted(path.name for path in KERNELS.glob("*.c"))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_right_at_each_level_without_a_report(
    name: str, level: str, run_test: Callable[[str, Machine, str], None]
) -> None:
    missing = missing_features(level)
    if missing:
        pytest.skip(f"this CPU cannot run level {level}: it lacks {' '.join(missing)}")
    run_test(name, this_machine(), level)


@pytest.mark.parametrize("name", NAMES)
def test_portable_kernels_are_right_on_aarch64(
    name: str, run_test: Callable[[str, Machine, str], None]
) -> None:
    run_test(name, emulated_aarch64(), "portable")


@pytest.fixture
def level_printer(tmp_path: Path) -> Path:
    """A program that prints the level it would choose, linked so that an emulator can run it."""
    program = tmp_path / "cpu_level_print"
    sources = [TESTS.parent / "cpu_level_print.c", KERNELS / "cpu_level.c"]
    compile_c(program, sources, *(f"-DHAVE_LEVEL_{level.upper()}" for level in LEVELS), "-static")
    return program


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere there is the portable level")
def test_the_chosen_level_is_the_highest_that_this_cpu_has(level_printer: Path) -> None:
    executable = [level for level in LEVELS if not missing_features(level)]
    assert run_c(level_printer).stdout == f"{executable[-1]}\n"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere there is the portable level")
@pytest.mark.parametrize(
    ("cpu", "level"),
    [
        ("Nehalem", "portable"),
        ("Haswell", "avx2"),
        ("Haswell,-fma", "portable"),
        ("Haswell,-f16c", "portable"),
        ("Haswell,-xsave", "portable"),  # an operating system that saves no AVX registers
    ],
)
def test_no_level_is_chosen_that_an_emulated_cpu_lacks(
    cpu: str, level: str, level_printer: Path
) -> None:
    if shutil.which("qemu-x86_64") is None:
        pytest.skip("NOT TESTED ON OTHER CPUS: qemu-x86_64 missing; apt-get install qemu-user")
    assert run_c(level_printer, ("qemu-x86_64", "-cpu", cpu)).stdout == f"{level}\n"
