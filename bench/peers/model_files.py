"""The default model as peers read it: the same weights in every 16-bit form.

    hf-bf16          for vLLM: what transformers reads from the GGUF file, rounded to bfloat16
    hf-w8a8          for vLLM: 8-bit weights by output channel, activations by token
    hf-w4a16         for vLLM: 4-bit weights in groups of 32, 16-bit activations
    bf16.gguf        for llama.cpp: the GGUF file's values, rounded to bfloat16
    q8_0.gguf, q4_0.gguf

The default model's file itself is a Q4_1, which llama.cpp reads as it is. The forms for vLLM
are those of the compressed-tensors format that its kernels for CPUs take.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from peers.environments import Environments, default_gguf

Tensors = dict[str, torch.Tensor]

GROUP_SIZE = 32

GGUF_FORMS = {"bf16.gguf": "BF16", "q8_0.gguf": "Q8_0", "q4_0.gguf": "Q4_0"}
"""Files, and what llama-quantize calls their forms."""


def make(environments: Environments) -> None:
    """Write those forms that are not there yet."""
    source = default_gguf()
    environments.model(".").mkdir(exist_ok=True)
    for name, form in GGUF_FORMS.items():
        _once(environments.model(name), partial(_requantise, environments, source, form))
    bfloat16 = environments.model("hf-bf16")
    _once(bfloat16, partial(write_bfloat16, source))
    _once(environments.model("hf-w8a8"), partial(write_compressed, bfloat16, W8A8, eight_bit))
    _once(environments.model("hf-w4a16"), partial(write_compressed, bfloat16, W4A16, four_bit))


def _once(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file or folder under another name first, so that half of one is never taken."""
    if path.exists():
        return
    unfinished = path.with_name(f"unfinished-{path.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    write(unfinished)
    unfinished.rename(path)


def _requantise(environments: Environments, source: Path, form: str, path: Path) -> None:
    command = [str(environments.llama_quantize), "--allow-requantize", str(source), str(path), form]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def write_bfloat16(gguf: Path, directory: Path) -> None:
    """Write a GGUF file's model and tokenizer as a Hugging Face directory."""
    import transformers  # takes seconds

    source = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # A model that came from GGUF refuses to be saved; a plain one with its weights does not.
    settings = source.config.to_dict() | {"dtype": "bfloat16"}
    del settings["quantization_config"]
    plain = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings))
    plain.load_state_dict(source.state_dict())
    plain.bfloat16().save_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.save_pretrained(directory)


# --- forms of compressed-tensors ------------------------------------------------

W8A8: dict[str, Any] = {
    "format": "int-quantized",
    "weights": {"num_bits": 8, "strategy": "channel", "dynamic": False},
    "input_activations": {"num_bits": 8, "strategy": "token", "dynamic": True},
}

W4A16: dict[str, Any] = {
    "format": "pack-quantized",
    "weights": {
        "num_bits": 4,
        "strategy": "group",
        "group_size": GROUP_SIZE,
        "dynamic": False,
    },
    "input_activations": None,
}


def write_compressed(
    source: Path,
    scheme: dict[str, Any],
    compress: Callable[[str, torch.Tensor], Tensors],
    directory: Path,
) -> None:
    """Write a model with its projections in fewer bits; embedding and head stay as they are.

    Args:
        source: Hugging Face directory.
        scheme: W8A8 or W4A16.
        compress: What becomes of one projection's tensor.
        directory: Where to write.
    """
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    config_path = directory / "config.json"
    config = json.loads(config_path.read_text())
    config["quantization_config"] = _quantization_config(scheme)
    config_path.write_text(json.dumps(config, indent=2))
    tensors: Tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        is_projection = name.endswith("proj.weight")
        tensors |= compress(name, tensor) if is_projection else {name: tensor}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _quantization_config(scheme: dict[str, Any]) -> dict[str, Any]:
    group = {
        "targets": ["Linear"],
        "weights": _integers(scheme["weights"]),
        "input_activations": _integers(scheme["input_activations"]),
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": scheme["format"],
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }


def _integers(values: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if values is None else {**values, "type": "int", "symmetric": True}


def eight_bit(name: str, weight: torch.Tensor) -> Tensors:
    """One scale for each output channel, whose largest weight becomes 127."""
    values = weight.float()
    scale = values.abs().amax(1, keepdim=True).clamp_min(1e-8) / 127
    codes = torch.round(values / scale).to(torch.int8)
    return {name: codes, f"{name}_scale": scale}


def four_bit(name: str, weight: torch.Tensor) -> Tensors:
    """One scale for each group along the input; eight codes, 8 added to each, in 32 bits."""
    num_outputs, num_inputs = weight.shape
    groups = weight.float().view(num_outputs, -1, GROUP_SIZE)
    scale = groups.abs().amax(2, keepdim=True).clamp_min(1e-8) / 7
    codes = (torch.round(groups / scale) + 8).to(torch.int32).view(num_outputs, -1, 8)
    packed = sum(codes[:, :, i] << (4 * i) for i in range(8))
    assert isinstance(packed, torch.Tensor)
    return {
        f"{name}_packed": packed.contiguous(),
        f"{name}_scale": scale.view(num_outputs, -1).to(torch.bfloat16),
        f"{name}_shape": torch.tensor([num_outputs, num_inputs]),
    }
