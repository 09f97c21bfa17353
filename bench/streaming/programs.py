"""The two programs in C: the floor and the load client, compiled when they are needed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

SOURCES = Path(__file__).resolve().parent

FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")

LOAD_SOURCES = (
    "load.c",
    "load_options.c",
    "answer.c",
    "samples.c",
    "json_output.c",
    "loopback.c",
)
FLOOR_SOURCES = ("floor.c", "loopback.c")

LOAD_TIMEOUT_S = 120.0
"""It ends by itself: it waits at most 30 s for each beginning."""


class LoadError(Exception):
    """A server did not do what was asked, or the load client itself failed; says why."""


class Programs(NamedTuple):
    """The compiled programs.

    Args:
        floor: The floor server.
        load: The load client.
    """

    floor: Path
    load: Path


def compile_programs(folder: Path) -> Programs:
    """Compile both with gcc.

    Args:
        folder: Where they go.

    Raises:
        OSError: There is no gcc.
        subprocess.CalledProcessError: It refuses them.
    """
    programs = Programs(floor=folder / "floor", load=folder / "load")
    compile_program(FLOOR_SOURCES, programs.floor)
    compile_program(LOAD_SOURCES, programs.load)
    return programs


def compile_program(names: Sequence[str], output: Path, *flags: str) -> None:
    """Compile and link sources of this folder.

    Args:
        names: The sources.
        output: The program.
        flags: For gcc, beside FLAGS.
    """
    sources = [str(SOURCES / name) for name in names]
    subprocess.run(["gcc", *FLAGS, *flags, *sources, "-lm", "-o", str(output)], check=True)


def run_load(command: Sequence[str]) -> dict[str, Any]:
    """Run the load client.

    Args:
        command: It, its arguments, and what it runs behind.

    Returns:
        What it saw; see load.c.

    Raises:
        LoadError: It could not run, or the server failed.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise LoadError(f"the load client: {done.stderr.strip() or done.returncode}")
    seen: dict[str, Any] = json.loads(done.stdout)
    if seen["failure"] is not None:
        raise LoadError(str(seen["failure"]))
    return seen
