"""The default model as transformers reads it: the reference that ours must equal."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers


def hf_directory(gguf_path: Path, directory: Path) -> Path:
    """Write the GGUF file's model and tokenizer as a Hugging Face directory in float32.

    None of our code takes part. Reading the GGUF takes transformers about ten seconds.

    Args:
        gguf_path: The file.
        directory: Where to write.

    Returns:
        The directory.
    """
    source = transformers.AutoModelForCausalLM.from_pretrained(
        gguf_path.parent, gguf_file=gguf_path.name, dtype=torch.float32
    )
    # A model that came from GGUF refuses to be saved; a plain one with its weights does not.
    settings = source.config.to_dict()
    del settings["quantization_config"]
    plain = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings))
    plain.load_state_dict(source.state_dict())
    plain.save_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        gguf_path.parent, gguf_file=gguf_path.name
    )
    tokenizer.save_pretrained(directory)
    return directory
