"""The default model as transformers reads it: the reference that ours must equal."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers


def hf_directory(gguf_path: str, base: Path) -> Path:
    """The GGUF file's model as a Hugging Face directory in float32.

    Written by transformers alone, none of our code takes part.

    Args:
        gguf_path: The file.
        base: Where the directory is made, or found if an earlier call made it: reading
            the GGUF takes transformers about ten seconds.
    """
    directory = base / "reference-model"
    if not directory.exists():
        _write(Path(gguf_path), directory)
    return directory


def _write(gguf_path: Path, directory: Path) -> None:
    source = transformers.AutoModelForCausalLM.from_pretrained(
        gguf_path.parent, gguf_file=gguf_path.name, dtype=torch.float32
    )
    # A model that came from GGUF refuses to be saved; a plain one with its weights does not.
    settings = source.config.to_dict()
    del settings["quantization_config"]
    plain = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings))
    plain.load_state_dict(source.state_dict())
    plain.save_pretrained(directory)
