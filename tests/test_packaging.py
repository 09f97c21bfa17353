"""What a user installs: the wheel that is built from the sdist, and nothing around it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.not_under_gevent(
    "builds and imports in child processes, which are never patched: the plain run covers it"
)

ROOT = Path(__file__).parent.parent

NOT_COPIED = shutil.ignore_patterns(".*", "build", "dist", "shared", "__pycache__")

EXTENSIONS = ("_batch_queue", "_event_streams", "_kernels", "_native_thread", "_token_ring")

IMPORT_EVERYTHING = """
import importlib, os, sys
import realtime_serve
for name in realtime_serve.__all__:
    getattr(realtime_serve, name)
for name in sys.argv[1:]:
    module = importlib.import_module("realtime_serve." + name)
    print(os.path.dirname(module.__file__))
"""


class Distributions(NamedTuple):
    """What `python -m build` made."""

    sdist: Path
    wheel: Path

    def sdist_names(self) -> set[str]:
        """Files in the sdist, below its top folder."""
        with tarfile.open(self.sdist) as archive:
            return {each.name.partition("/")[2] for each in archive.getmembers() if each.isfile()}

    def wheel_names(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    """Run a command that must succeed; `path` goes first among the import paths."""
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environ["PYTHONPATH"] = str(path)
    result = subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """The sdist of a working tree with built extensions in it, and the wheel of that sdist."""
    folder = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, folder / "tree", ignore=NOT_COPIED)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=folder / "tree")
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return Distributions(sdist, wheel)


@pytest.fixture(scope="module")
def installed(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed; its dependencies are those of this interpreter."""
    folder = tmp_path_factory.mktemp("installed")
    options = ("--quiet", "--no-deps", "--no-index", "--target")
    run(sys.executable, "-m", "pip", "install", *options, folder, distributions.wheel, cwd=folder)
    return folder


def test_the_sdist_has_every_source_that_the_extensions_need(distributions: Distributions) -> None:
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    assert len(sources) >= 9
    assert sources <= distributions.sdist_names()
    assert {"LICENSE", "README.md", "setup.py", "pyproject.toml"} <= distributions.sdist_names()


def test_no_generated_file_is_in_the_sdist(distributions: Distributions) -> None:
    names = {name for name in distributions.sdist_names() if ".egg-info/" not in name}
    generated = (".so", ".o", ".pyc")
    assert not [name for name in names if name.endswith(generated) or name.startswith("build/")]
    cython_files = {Path(name).stem for name in names if name.endswith(".pyx")}
    assert cython_files == set(EXTENSIONS)
    assert not [n for n in names if n.endswith(".c") and Path(n).stem in cython_files]


def test_the_wheel_has_the_package_and_nothing_else(distributions: Distributions) -> None:
    names = distributions.wheel_names()
    top_level = {name.partition("/")[0] for name in names}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"realtime_serve"}
    sources = (".c", ".h", ".pyx", ".pxi", ".pxd", ".pyc")
    assert not [name for name in names if name.endswith(sources)]


def test_the_wheel_has_every_module_and_type(distributions: Distributions) -> None:
    names = distributions.wheel_names()
    package = ROOT / "realtime_serve"
    modules = {str(p.relative_to(ROOT)) for end in ("py", "pyi") for p in package.rglob(f"*.{end}")}
    assert modules | {"realtime_serve/py.typed"} <= names
    binaries = {Path(name).name.partition(".")[0] for name in names if name.endswith(".so")}
    assert binaries == set(EXTENSIONS)


def test_the_wheel_imports_from_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    command = (sys.executable, "-c", IMPORT_EVERYTHING, "server", *EXTENSIONS)
    output = run(*command, cwd=tmp_path, path=installed)
    assert set(output.split()) == {str(installed / "realtime_serve")}


def test_the_wheel_brings_its_command(installed: Path, tmp_path: Path) -> None:
    usage = run(installed / "bin" / "realtime-serve", "--help", cwd=tmp_path, path=installed)
    assert "usage: realtime-serve" in usage
