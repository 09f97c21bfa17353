"""The plain C below the extensions, run by several threads under the sanitizers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.c_programs import (
    CSRC,
    assert_passed,
    compile_c,
    run_c,
    sanitizer_flags,
    sanitizer_prefix,
)

TESTS = Path(__file__).parent

SOURCES = {
    "token_ring": ["token_ring.c"],
    "batch_queue": ["batch_queue.c", "deadline.c"],
    "native_thread": ["native_thread.c", "deadline.c"],
    "event_streams": ["token_ring.c", *sorted(str(path) for path in CSRC.glob("streams/*.c"))],
    "turns": ["kernels/turns.c"],
    "guest": ["kernels/guest.c"],
    "chunk_range": [],
    "compute_pool": [
        "kernels/compute_pool.c",
        "kernels/guest.c",
        "kernels/turns.c",
        "native_thread.c",
        "deadline.c",
    ],
}
SANITIZERS = ["thread", "address,undefined"]

MUTANTS = [
    ("token_ring", "TOKEN_RING_PUSH_ORDER"),
    ("token_ring", "TOKEN_RING_POP_ORDER"),
    ("compute_pool", "COMPUTE_POOL_PUBLISH_ORDER"),
    ("compute_pool", "COMPUTE_POOL_DONE_ORDER"),
]


def _compile_and_run(
    program: Path, sources: list[Path], sanitizer: str, *macros: str
) -> subprocess.CompletedProcess[str]:
    prefix = sanitizer_prefix(sanitizer)
    compile_c(program, sources, *sanitizer_flags(sanitizer), *macros)
    return run_c(program, prefix)


def _sources(name: str) -> list[Path]:
    return [TESTS / f"{name}_stress.c", *(CSRC / source for source in SOURCES[name])]


@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("name", SOURCES)
def test_stress_program_passes_without_a_report(name: str, sanitizer: str, tmp_path: Path) -> None:
    assert_passed(_compile_and_run(tmp_path / name, _sources(name), sanitizer), name)


@pytest.mark.parametrize(("name", "weakened"), MUTANTS)
def test_weakened_memory_order_is_caught_although_the_output_is_right(
    name: str, weakened: str, tmp_path: Path
) -> None:
    if name == "compute_pool" and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("on one CPU helpers always sleep, and what wakes them orders memory as well")
    macro = f"-D{weakened}=memory_order_relaxed"
    result = _compile_and_run(tmp_path / "mutant", _sources(name), "thread", macro)

    assert result.stdout == f"{name}: ok\n"
    assert "WARNING: ThreadSanitizer: data race" in result.stderr
    assert f"{name}.c" in result.stderr
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
