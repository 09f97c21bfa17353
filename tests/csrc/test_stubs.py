"""The stubs beside the package say what the extensions have, no more and no less."""

from __future__ import annotations

import ast
import types
from pathlib import Path

import pytest

from realtime_serve import _batch_queue, _kernels, _native_thread, _token_ring

MODULES = [_token_ring, _batch_queue, _native_thread, _kernels]
each_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)


def stub_of(module: types.ModuleType) -> ast.Module:
    name = module.__name__.rpartition(".")[2]
    return ast.parse(Path(str(module.__file__)).with_name(f"{name}.pyi").read_text())


def classes_of(stub: ast.Module) -> list[ast.ClassDef]:
    """The module's own; those with an underscore only describe arguments."""
    classes = [node for node in stub.body if isinstance(node, ast.ClassDef)]
    return [node for node in classes if not node.name.startswith("_")]


def methods_of(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [member for member in node.body if isinstance(member, ast.FunctionDef)]


def is_property(method: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator) == "property" for decorator in method.decorator_list)


def public_names(holder: object) -> set[str]:
    return {
        name
        for name, value in vars(holder).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }


@each_module
def test_module_has_the_names_of_its_stub(module: types.ModuleType) -> None:
    stub = stub_of(module)
    declared = {node.name for node in classes_of(stub)}
    declared |= {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    values = [node.target for node in stub.body if isinstance(node, ast.AnnAssign)]
    declared |= {name for name in map(ast.unparse, values) if not name.startswith("_")}

    assert declared == public_names(module)


@each_module
def test_classes_have_the_members_of_their_stub(module: types.ModuleType) -> None:
    for node in classes_of(stub_of(module)):
        members = vars(getattr(module, node.name))
        declared = {method.name: is_property(method) for method in methods_of(node)}
        declared.pop("__init__", None)  # Cython's classes set themselves up in __new__

        assert public_names(getattr(module, node.name)) == declared.keys() - {"__len__"}
        assert {name: not callable(members[name]) for name in declared} == declared


@each_module
def test_everything_public_is_documented_in_the_stub(module: types.ModuleType) -> None:
    stub = stub_of(module)
    assert ast.get_docstring(stub)
    for node in classes_of(stub):
        assert ast.get_docstring(node), node.name
        for method in methods_of(node):
            assert method.name == "__init__" or ast.get_docstring(method), method.name
