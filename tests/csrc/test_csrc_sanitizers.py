"""The plain C below the extensions, run by several threads under the sanitizers."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CSRC = TESTS.parent.parent / "csrc"

SOURCES = {
    "token_ring": ["token_ring.c"],
    "batch_queue": ["batch_queue.c", "deadline.c"],
    "native_thread": ["native_thread.c", "deadline.c"],
}
SANITIZERS = ["thread", "address,undefined"]

# The programs take about a second. A lost wake-up would let one wait for ever.
HANG_S = 120

REPORTS = ("Sanitizer:", "runtime error:")

# Where address randomisation is wider than the sanitizer's runtime expects, it must be off.
PREFIXES: tuple[tuple[str, ...], ...] = ((), ("setarch", "--addr-no-randomize"))


def _compile(program: Path, sources: list[Path], sanitizer: str, *macros: str) -> None:
    flags = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]
    command = [_gcc(), *flags, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    command += [*macros, f"-I{CSRC}", *map(str, sources), "-o", str(program)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert result.returncode == 0, result.stderr


def _run(program: Path, prefix: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TSAN_OPTIONS": "", "ASAN_OPTIONS": "", "UBSAN_OPTIONS": ""}
    return subprocess.run(
        [*prefix, str(program)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


def _gcc() -> str:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.fail("gcc is missing; the extensions need it as well.")
    return compiler


@functools.cache
def _runnable_prefix(sanitizer: str) -> tuple[str, ...] | None:
    """How an innocent program can be run under the sanitizer; None if it cannot."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "innocent.c")
        source.write_text("int main(void) { return 0; }\n")
        program = Path(directory, "innocent")
        try:
            _compile(program, [source], sanitizer)
        except AssertionError:
            return None
        for prefix in PREFIXES:
            is_there = not prefix or shutil.which(prefix[0])
            if is_there and _run(program, prefix).returncode == 0:
                return prefix
    return None


def _compile_and_run(
    program: Path, sources: list[Path], sanitizer: str, *macros: str
) -> subprocess.CompletedProcess[str]:
    prefix = _runnable_prefix(sanitizer)
    if prefix is None:
        pytest.skip(f"gcc has no working runtime for -fsanitize={sanitizer} on this machine")
    _compile(program, sources, sanitizer, *macros)
    return _run(program, prefix)


def _sources(name: str) -> list[Path]:
    return [TESTS / f"{name}_stress.c", *(CSRC / source for source in SOURCES[name])]


@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("name", SOURCES)
def test_stress_program_passes_without_a_report(name: str, sanitizer: str, tmp_path: Path) -> None:
    result = _compile_and_run(tmp_path / name, _sources(name), sanitizer)

    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{name}: ok\n"
    assert not any(report in result.stderr for report in REPORTS), result.stderr


@pytest.mark.parametrize("weakened", ["TOKEN_RING_PUSH_ORDER", "TOKEN_RING_POP_ORDER"])
def test_weakened_memory_order_is_caught_although_the_output_is_right(
    weakened: str, tmp_path: Path
) -> None:
    macro = f"-D{weakened}=memory_order_relaxed"
    result = _compile_and_run(tmp_path / "mutant", _sources("token_ring"), "thread", macro)

    assert result.stdout == "token_ring: ok\n"
    assert "WARNING: ThreadSanitizer: data race" in result.stderr
    assert "token_ring.c" in result.stderr
    assert result.returncode != 0


@pytest.mark.parametrize(
    ("statement", "report"),
    [
        ("bytes[8] = 1;", "heap-buffer-overflow"),
        ("free((void *)bytes); bytes[0] = 1;", "heap-use-after-free"),
        ("bytes = NULL;", "detected memory leaks"),
        ("bytes[0] = (char)(1 << (argc + 31));", "shift exponent"),
    ],
)
def test_each_kind_of_memory_fault_is_caught(statement: str, report: str, tmp_path: Path) -> None:
    source = tmp_path / "faulty.c"
    source.write_text(
        "#include <stdlib.h>\n"
        "int main(int argc, char **argv) {\n"
        "    volatile char *volatile bytes = malloc(8);\n"
        "    (void)argc; (void)argv; (void)bytes;\n"
        f"    {statement}\n"
        "    return 0;\n"
        "}\n"
    )
    result = _compile_and_run(tmp_path / "faulty", [source], "address,undefined")

    assert report in result.stderr
    assert result.returncode != 0
