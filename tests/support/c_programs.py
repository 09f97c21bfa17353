"""C programs that tests compile and run, under a sanitizer or for another processor."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CSRC = ROOT / "csrc"

# The programs take seconds. A lost wake-up would let one wait for ever.
HANG_S = 300

FLAGS = ("-std=c11", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{CSRC}")

REPORTS = ("Sanitizer:", "runtime error:")

# Where address randomisation is wider than the sanitizer's runtime expects, it must be off.
PREFIXES: tuple[tuple[str, ...], ...] = ((), ("setarch", "--addr-no-randomize"))


def sanitizer_flags(sanitizer: str) -> tuple[str, ...]:
    """Flags for a sanitizer whose first report ends the program."""
    return ("-O1", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all")


def compile_c(
    output: Path, sources: Iterable[Path], *flags: str, compiler: str | None = None
) -> None:
    """Compile and link `sources`, or only compile one with -c; a warning fails the test."""
    command = [compiler or gcc(), *FLAGS, *map(str, sources), *flags, "-o", str(output)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert result.returncode == 0, result.stderr


def run_c(program: Path, prefix: Iterable[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a program, with the sanitizers' own defaults, behind a prefix such as an emulator."""
    environment = {**os.environ, "TSAN_OPTIONS": "", "ASAN_OPTIONS": "", "UBSAN_OPTIONS": ""}
    return subprocess.run(
        [*prefix, str(program)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


def assert_passed(result: subprocess.CompletedProcess[str], name: str) -> None:
    """The program came to its end and no sanitizer had anything to say."""
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{name}: ok\n"
    assert not any(report in result.stderr for report in REPORTS), result.stderr


def gcc() -> str:
    """The compiler that the extensions need as well."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.fail("gcc is missing; the extensions need it as well.")
    return compiler


@functools.cache
def _working_prefix(sanitizer: str) -> tuple[str, ...] | None:
    """How an innocent program can be run under the sanitizer; None if it cannot."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "innocent.c")
        source.write_text("int main(void) { return 0; }\n")
        program = Path(directory, "innocent")
        try:
            compile_c(program, [source], *sanitizer_flags(sanitizer))
        except AssertionError:
            return None
        for prefix in PREFIXES:
            is_there = not prefix or shutil.which(prefix[0])
            if is_there and run_c(program, prefix).returncode == 0:
                return prefix
    return None


def sanitizer_prefix(sanitizer: str) -> tuple[str, ...]:
    """What a program under the sanitizer must be run behind; skips the test if it cannot run."""
    prefix = _working_prefix(sanitizer)
    if prefix is None:
        pytest.skip(f"gcc has no working runtime for -fsanitize={sanitizer} on this machine")
    return prefix
