"""The command that makes all that a comparison needs; what is there already is left alone.

Run it by the interpreter of the repository's .venv, which has transformers and the default
model. It works at a low priority: building llama.cpp takes minutes of all cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from peers import llama_cpp, model_files, virtual_environments
from peers.environments import Environments, default_root

NICENESS = 10

STEPS: dict[str, Callable[[Environments], None]] = {
    "vllm": virtual_environments.make_vllm,
    "plot": virtual_environments.make_plot,
    "streaming": virtual_environments.make_streaming,
    "llama.cpp": llama_cpp.make,
    "models": model_files.make,
}


def argument_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="setup_peers.py",
        description="Install vLLM, llama.cpp, matplotlib and the servers of bench/streaming, and "
        "convert the model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--environments", type=Path, default=default_root(), metavar="DIR", help="where to")
    add("--only", choices=list(STEPS), help="one of the steps; models needs llama.cpp")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Its arguments; the process's own when None.

    Returns:
        The exit code: 0, or 1 if a step failed.
    """
    args = argument_parser().parse_args(argv)
    os.nice(NICENESS)
    environments = Environments(args.environments.absolute())
    environments.root.mkdir(parents=True, exist_ok=True)
    try:
        for name in [args.only] if args.only else STEPS:
            print(f"{name}: {environments.root}", flush=True)
            STEPS[name](environments)
    except (virtual_environments.SetupFailedError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
