"""llama-server, built for this very processor from the source in llama-cpp-python's archive."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

from peers.environments import Environments
from peers.virtual_environments import create, download_source, install

PACKAGE = "llama-cpp-python"

TARGETS = ("llama-server", "llama-quantize")

OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "GGML_NATIVE": "ON",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",  # or the build downloads it
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_OPENSSL": "OFF",
}

AMX_FILE = Path("ggml/src/ggml-cpu/amx/mmq.cpp")

AMX_LOAD = "    _tile_loadconfig(&tc);"

AMX_BARRIER = '    __asm__ volatile("" : : "r"(&tc) : "memory");'
"""Before AMX_LOAD. To gcc 12, that intrinsic reads only the first eight bytes of the tile
configuration, so it drops the stores to the rest, and the first product on a processor with AMX
ends the server. The barrier keeps them: the peer runs, and runs at its best.
"""


def make(environments: Environments) -> None:
    """Fetch, mend and build it."""
    folder = environments.llama_cpp
    if environments.llama_server.exists() and "llama-cpp-python" in environments.versions():
        return
    tools = create(folder / "tools")
    install(tools, "cmake", "ninja")
    archive = _archive(tools, folder / "archive")
    source = _unpack(archive, folder / "source") / "vendor" / "llama.cpp"
    mend_amx(source / AMX_FILE)
    _build(source, folder / "build", tools.parent)
    version = archive.name.removesuffix(".tar.gz").rpartition("-")[2]
    environments.record_version(PACKAGE, version)


def _archive(python: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return download_source(python, PACKAGE, folder)


def _unpack(archive: Path, folder: Path) -> Path:
    """Unpack an archive that holds one folder, and return that."""
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    (inner,) = folder.iterdir()
    return inner


def mend_amx(path: Path) -> None:
    """Put AMX_BARRIER before AMX_LOAD; a later version without that line is left as it is."""
    text = path.read_text()
    if AMX_BARRIER not in text:
        path.write_text(text.replace(AMX_LOAD, f"{AMX_BARRIER}\n{AMX_LOAD}"))


def _build(source: Path, build: Path, tools: Path) -> None:
    options = [f"-D{name}={value}" for name, value in OPTIONS.items()]
    options.append(f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}")
    cmake = str(tools / "cmake")
    subprocess.run([cmake, "-G", "Ninja", "-S", source, "-B", build, *options], check=True)
    subprocess.run([cmake, "--build", build, "--target", *TARGETS], check=True)
