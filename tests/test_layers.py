"""Imports point down only: the contracts of pyproject.toml hold, and so does the running program.

The contracts read the source; the fresh processes see what is really loaded, indirectly and
through other packages as well.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.not_under_gevent(
    "reads source text and starts processes of its own, which are never patched"
)

ROOT = Path(__file__).parent.parent

WEB = {"flask", "werkzeug", "gevent", "gunicorn", "realtime_serve.native"}

CORE = ["engine", "nn", "weights", "text", "types"]

IMPORT_ALL_OF = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(getattr(package, "__path__", ()), package.__name__ + "."):
    importlib.import_module(module.name)
print(*sys.modules, sep="\\n")
"""


def modules_loaded_by(name: str) -> set[str]:
    """What a fresh process has loaded once it has imported all of a package."""
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL_OF, name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of a source tree."""
    command = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [command, "--no-logo", "--no-cache"], cwd=root, capture_output=True, text=True, check=False
    )


def test_all_import_contracts_are_kept() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout
    assert " 0 broken." in result.stdout


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("engine/scheduler.py", "flask"),
        ("engine/scheduler.py", "threading"),
        ("text/stop.py", "torch"),
        ("types/requests.py", "realtime_serve.stream"),
        ("nn/llama.py", "realtime_serve.text"),
        ("engine/sequence.py", "realtime_serve.engine.scheduler"),
    ],
)
def test_an_import_that_points_up_breaks_a_contract(
    importer: str, imported: str, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "realtime_serve", tmp_path / "realtime_serve")
    with (tmp_path / "realtime_serve" / importer).open("a") as file:
        file.write(f"import {imported}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout
    module = importer.removesuffix(".py").replace("/", ".")
    complaint = " ".join(result.stdout.split())
    assert f"realtime_serve.{module} -> {imported}" in complaint


@pytest.mark.parametrize("layer", CORE)
def test_the_core_loads_neither_the_web_framework_nor_monkey_patching(layer: str) -> None:
    name = f"realtime_serve.{layer}"
    loaded = modules_loaded_by(name)
    assert name in loaded
    assert not loaded & WEB


def test_text_loads_no_torch() -> None:
    loaded = modules_loaded_by("realtime_serve.text")
    assert "tokenizers" in loaded
    assert "torch" not in loaded


def test_a_server_loads_no_torch_before_a_model_needs_it() -> None:
    loaded = modules_loaded_by("realtime_serve.wsgi")
    assert "realtime_serve.engine.native_runner" in loaded
    assert "torch" not in loaded


def files_on_the_architecture_page() -> set[str]:
    """The first cells of its tables of source folders: `folder/` above, one row a file."""
    page = (ROOT / "PACKAGE_STRUCTURE.md").read_text(encoding="utf-8")
    files: set[str] = set()
    folder = ""
    for line in page.partition("Beside the package")[0].splitlines():
        if heading := re.match(r"`(.+)/`", line):
            folder = heading[1]
        elif folder and line.startswith("| `"):
            files |= {f"{folder}/{name}" for name in re.findall(r"`(.+?)`", line.split(" | ")[0])}
    return files


def test_the_architecture_page_has_a_line_for_every_file() -> None:
    sources = {".py", ".pyi", ".pyx", ".pxi", ".pxd", ".c", ".h"}
    present = {
        str(path.relative_to(ROOT))
        for folder in ("realtime_serve", "csrc")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in sources
    }
    assert files_on_the_architecture_page() == present
