"""The public names: all there, and none of them loaded before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import realtime_serve


@pytest.mark.parametrize("name", realtime_serve.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(realtime_serve, name) is not None


def test_type_checkers_see_the_names_that_there_are() -> None:
    tree = ast.parse(Path(realtime_serve.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.asname
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == set(realtime_serve.__all__) - {"__version__"}


@pytest.mark.parametrize("name", [n for n in realtime_serve.__all__ if n != "__version__"])
def test_every_public_name_has_a_docstring(name: str) -> None:
    assert getattr(realtime_serve, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = realtime_serve.nonsense


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, realtime_serve; print(sorted({'torch', 'flask', 'gevent'} & {*sys.modules}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
