"""Byte-level BPE tokenizers from a list of tokens and merges.

The one idea: vocabularies of this kind differ only in how text is split before merging.
GGUF files name that splitting instead of describing it, so the names are a table here,
each with the rules of the tokenizer.json that the name stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from realtime_serve.errors import ModelLoadError

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split_as_gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _split_digits_then_as_gpt2() -> pre_tokenizers.PreTokenizer:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, _split_as_gpt2()])


def _split_by(pattern: str) -> Callable[[], pre_tokenizers.PreTokenizer]:
    return lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


class PreTokenizerRules(NamedTuple):
    """What the name of a pre-tokenizer implies.

    Attributes:
        split: Makes the pre-tokenizer.
        normalize: Makes the normalizer, if there is one.
        ignore_merges: A piece that is a token as a whole is not merged from its parts.
        add_bos: Prompts begin with the beginning-of-sequence token unless the file says not.
    """

    split: Callable[[], pre_tokenizers.PreTokenizer]
    normalize: Callable[[], normalizers.Normalizer] | None = None
    ignore_merges: bool = False
    add_bos: bool = False


_GPT2 = PreTokenizerRules(_split_as_gpt2)
_SMOLLM = PreTokenizerRules(_split_digits_then_as_gpt2)
_LLAMA3 = PreTokenizerRules(_split_by(_LLAMA3_SPLIT), ignore_merges=True, add_bos=True)
_TEKKEN = PreTokenizerRules(_split_by(_TEKKEN_SPLIT), ignore_merges=True, add_bos=True)
_QWEN2 = PreTokenizerRules(_split_by(_QWEN2_SPLIT), normalize=normalizers.NFC)

_RULES: Mapping[str, PreTokenizerRules] = {
    "default": _GPT2,
    "gpt-2": _GPT2,
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "qwen2": _QWEN2,
    "smollm": _SMOLLM,
    "starcoder": _SMOLLM,
    "tekken": _TEKKEN,
}


def pre_tokenizer_rules(name: str) -> PreTokenizerRules:
    """Look up a pre-tokenizer by the name that GGUF files give it.

    Args:
        name: The value of tokenizer.ggml.pre.

    Returns:
        Its rules.

    Raises:
        ModelLoadError: It is not implemented; the message lists what is.
    """
    try:
        return _RULES[name]
    except KeyError:
        raise ModelLoadError(
            f"The GGUF file's pre-tokenizer {name!r} is not implemented; known are "
            f"{', '.join(sorted(_RULES))}. Load the model's Hugging Face directory instead."
        ) from None


def byte_level_backend(
    vocab: dict[str, int], merges: Sequence[str], rules: PreTokenizerRules
) -> Backend:
    """Build a byte-level BPE tokenizer without added tokens.

    Args:
        vocab: Ids by token, spelled in the byte alphabet.
        merges: Pairs of tokens with a space between, most important first.
        rules: How text is split.

    Returns:
        The tokenizer.

    Raises:
        ModelLoadError: A merge is not a pair of known tokens.
    """
    pairs = [merge.partition(" ")[::2] for merge in merges]
    if not all(map(all, pairs)):
        raise ModelLoadError("The GGUF file's merges are damaged: one is not a pair of tokens.")
    try:
        bpe = models.BPE(vocab=vocab, merges=pairs, ignore_merges=rules.ignore_merges)
    except Exception as error:  # tokenizers raises nothing narrower
        raise ModelLoadError(f"The GGUF file's merges are damaged: {error}") from error
    backend = Backend(bpe)
    if rules.normalize is not None:
        backend.normalizer = rules.normalize()
    backend.pre_tokenizer = rules.split()
    backend.decoder = decoders.ByteLevel()
    return backend
