"""Whether a checkpoint, its configuration and the settings fit together: the errors if not."""

from __future__ import annotations

from collections.abc import Collection

from realtime_serve.errors import ConfigError, ModelLoadError
from realtime_serve.nn.llama_config import LlamaConfig
from realtime_serve.types import ModelConfig
from realtime_serve.weights.checkpoint import Checkpoint

TIED_HEAD = "lm_head.weight"


def longest_sequence(config: ModelConfig, llama: LlamaConfig) -> int:
    """Most tokens that a prompt and its output may have.

    Args:
        config: Bounds it.
        llama: What the model was made for.

    Raises:
        ConfigError: It is bounded by more than the model was made for.
    """
    longest = llama.max_position_embeddings
    if config.max_model_len is not None and config.max_model_len > longest:
        raise ConfigError(
            f"max_model_len ({config.max_model_len}) must be at most {longest}, "
            "the context that the model was made for.",
            param="max_model_len",
        )
    return config.max_model_len or longest


def require_shape(where: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape than the network has a place for.

    Args:
        where: The checkpoint and the tensor.
        shape: Its shape.
        wanted: What the configuration asks for.

    Raises:
        ModelLoadError: They differ.
    """
    if shape != wanted:
        raise ModelLoadError(
            f"{where} has the shape {list(shape)}, but the configuration asks for {list(wanted)}."
        )


def not_finite(where: str) -> ModelLoadError:
    """The error for weights with NaN or infinity.

    Args:
        where: The checkpoint and the tensor.
    """
    return ModelLoadError(f"{where} holds values that are not finite numbers.")


def require_all_placed(
    checkpoint: Checkpoint, placed: Collection[str], *, head_is_tied: bool
) -> None:
    """Refuse a checkpoint with weights that the network has no place for.

    Args:
        checkpoint: The weights. A head beside a tied one is only worth a notice in it.
        placed: Names of the tensors that the network takes.
        head_is_tied: Whether the head is the embedding.

    Raises:
        ModelLoadError: Some are left.
    """
    left = sorted(name for name in checkpoint.tensor_names() if name not in placed)
    # Old checkpoints store the rotary frequencies; they follow from the configuration.
    left = [name for name in left if not name.endswith("rotary_emb.inv_freq")]
    if head_is_tied and TIED_HEAD in left:
        left.remove(TIED_HEAD)
        checkpoint.notices.append(
            f"{TIED_HEAD} is ignored: the configuration ties the head to the embedding."
        )
    if left:
        raise ModelLoadError(
            f"{checkpoint.path} has {len(left)} tensors that this network has no place for, "
            f"such as {left[0]}."
        )
