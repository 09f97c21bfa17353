"""Compile a program of this folder for the CPU levels of this machine, and run it at each.

    python bench/micro/run.py gemm bf16 smollm2-135m 1
    python bench/micro/run.py --levels avx2,avx512 gemm f32 square-4096 2

A program says at its top what its arguments mean and how it measures.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

PROGRAMS = Path(__file__).parent
CSRC = PROGRAMS.parent.parent / "csrc"
KERNELS = CSRC / "kernels"
BUILD = tomllib.loads((KERNELS / "levels.toml").read_text())
SHARED = ["floors.c", "measure.c"]
NAMES = sorted(path.stem for path in PROGRAMS.glob("*.c") if path.name not in SHARED)


def can_run(level: str) -> bool:
    """Whether Linux says that this CPU has what the level's flags ask for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    features = next((line for line in lines if line.startswith("flags")), "").replace("_", "")
    wanted = [flag.removeprefix("-m").replace("-", "") for flag in BUILD["levels"][level]]
    return set(wanted) <= set(features.split())


def compile_program(name: str, level: str, folder: Path) -> Path:
    """Link the program with the level's kernels; those that it does not call are left out."""
    output = folder / f"{name}-{level}"
    sources = [PROGRAMS / f"{name}.c", *(PROGRAMS / each for each in SHARED)]
    sources += [KERNELS / each for each in BUILD["level_sources"] + BUILD["shared_sources"]]
    flags = ["-std=c11", "-O3", *BUILD["flags"], *BUILD["levels"][level]]
    flags += [f"-DKERNEL_LEVEL={level}", f"-I{CSRC}", f"-I{KERNELS}"]
    leave_out_unused = ["-ffunction-sections", "-Wl,--gc-sections"]
    command = ["gcc", *flags, *leave_out_unused, *map(str, sources), "-pthread", "-lm"]
    command += ["-o", str(output)]
    subprocess.run(command, check=True)
    return output


def main() -> int:
    """Run the program at each level; the exit status is the last one's that was not 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    runnable = [level for level in BUILD["levels"] if can_run(level)]
    parser.add_argument("--levels", default=",".join(runnable), help="default: %(default)s")
    parser.add_argument("program", choices=NAMES)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        for level in options.levels.split(","):
            program = compile_program(options.program, level, Path(folder))
            status = subprocess.run([program, *options.arguments], check=False).returncode or status
    return status


if __name__ == "__main__":
    sys.exit(main())
