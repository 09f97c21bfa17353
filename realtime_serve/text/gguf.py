"""The text side of a GGUF file, from its metadata.

The one idea: a GGUF file lists tokens with a type each, and the names of two algorithms.
Everything else follows from the names, so an unknown name is refused: a tokenizer that
is nearly right gives a model that is nearly right, and nobody sees why.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from realtime_serve.errors import ModelLoadError
from realtime_serve.text.byte_level import byte_level_backend, pre_tokenizer_rules
from realtime_serve.text.sentencepiece import sentencepiece_backend
from realtime_serve.text.source import TextSource

_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>")
"""Control tokens that end a turn. Some files name only the pretraining end token as eos;
a model then talks past its turn. They count where the chat template writes them."""

_SENTENCEPIECE_IDS = {"unknown": 0, "bos": 1, "eos": 2}
"""What SentencePiece files mean when they leave these ids out."""


class TokenType(enum.IntEnum):
    """What a token is, in GGUF's numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def read_gguf_text(metadata: Mapping[str, Any]) -> TextSource:
    """Read the text side of a GGUF file.

    Args:
        metadata: The file's keys that begin with "tokenizer.", as Python values.

    Returns:
        What it says.

    Raises:
        ModelLoadError: A key is missing or wrong, or names what is not implemented.
    """
    vocabulary = _Vocabulary.from_metadata(metadata)
    template = metadata.get("tokenizer.chat_template")
    backend = vocabulary.new_backend()
    backend.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in vocabulary.special_tokens]
    )
    backend.add_tokens(
        [
            AddedToken(token, normalized=False, special=False)
            for token in vocabulary.of_types(TokenType.USER_DEFINED)
        ]
    )
    return TextSource(
        backend=backend,
        chat_template=template,
        named_tokens=vocabulary.named_tokens,
        eos_token_ids=vocabulary.end_ids(template or ""),
        bos_token_id=vocabulary.named_id("bos"),
        add_bos=vocabulary.add_bos,
    )


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """The tokens of a GGUF file, checked.

    Attributes:
        metadata: The keys they were read from.
        tokens: The tokens in the order of their ids, all different.
        types: A type for each.
        vocab: Ids by token.
    """

    metadata: Mapping[str, Any]
    tokens: Sequence[str]
    types: Sequence[int]
    vocab: dict[str, int]

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> _Vocabulary:
        tokens = _required_list(metadata, "tokens")
        types = metadata.get("tokenizer.ggml.token_type") or [TokenType.NORMAL] * len(tokens)
        vocab = {str(token): token_id for token_id, token in enumerate(tokens)}
        if len(vocab) != len(tokens):
            raise ModelLoadError("The GGUF file's vocabulary holds a token twice.")
        _require_one_each("token_type", types, tokens)
        return cls(metadata, tokens, types, vocab)

    @property
    def model(self) -> str:
        """The algorithm's name."""
        return str(self.metadata.get("tokenizer.ggml.model"))

    @property
    def pre_tokenizer(self) -> str:
        """The name of the way text is split; old files have none."""
        return str(self.metadata.get("tokenizer.ggml.pre", "default"))

    @property
    def named_tokens(self) -> dict[str, str]:
        """Texts of bos_token, eos_token, unk_token and pad_token, where the file has them."""
        names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
        ids = {name: self.named_id(key) for name, key in names.items()}
        return {f"{name}_token": self.tokens[i] for name, i in ids.items() if i is not None}

    @property
    def special_tokens(self) -> list[str]:
        """Control tokens and those that the file names as ends, whatever their type."""
        named = {self.named_id(name) for name in ("bos", "eos", "eot", "eom")}
        types = (TokenType.CONTROL, TokenType.UNKNOWN)
        pairs = enumerate(zip(self.tokens, self.types, strict=True))
        return [token for i, (token, kind) in pairs if kind in types or i in named]

    @property
    def add_bos(self) -> bool:
        """Whether a plain prompt begins with the beginning-of-sequence token."""
        by_default = (
            pre_tokenizer_rules(self.pre_tokenizer).add_bos if self.model == "gpt2" else True
        )
        wanted = bool(self.metadata.get("tokenizer.ggml.add_bos_token", by_default))
        return wanted and self.named_id("bos") is not None

    def of_types(self, *types: TokenType) -> list[str]:
        """Tokens of these types, in the order of their ids."""
        return [t for t, kind in zip(self.tokens, self.types, strict=True) if kind in types]

    def named_id(self, name: str) -> int | None:
        """The id that the file gives under a name such as "eos", or None."""
        default = _SENTENCEPIECE_IDS.get(name) if self.model == "llama" else None
        token_id = self.metadata.get(f"tokenizer.ggml.{name}_token_id", default)
        if token_id is None:
            return None
        if not (isinstance(token_id, int) and 0 <= token_id < len(self.tokens)):
            raise ModelLoadError(
                f"The GGUF file's tokenizer.ggml.{name}_token_id is {token_id!r}, but its "
                f"vocabulary has {len(self.tokens)} tokens."
            )
        return token_id

    def end_ids(self, chat_template: str) -> frozenset[int]:
        """Tokens that end a generation."""
        named = {self.named_id(name) for name in ("eos", "eot", "eom")}
        controls = self.of_types(TokenType.CONTROL)
        turn_ends = {t for t in controls if t in _TURN_ENDS and t in chat_template}
        ids = named | {self.vocab[token] for token in turn_ends}
        return frozenset(i for i in ids if i is not None)

    def new_backend(self) -> Backend:
        """The tokenizer, without added tokens."""
        if self.model == "gpt2":
            rules = pre_tokenizer_rules(self.pre_tokenizer)
            return byte_level_backend(self.vocab, _required_list(self.metadata, "merges"), rules)
        if self.model == "llama":
            return self._new_sentencepiece_backend()
        raise ModelLoadError(
            f"The GGUF file's tokenizer {self.model!r} is not implemented; known are gpt2 and "
            "llama. Load the model's Hugging Face directory instead."
        )

    def _new_sentencepiece_backend(self) -> Backend:
        if self.metadata.get("tokenizer.ggml.precompiled_charsmap"):
            raise ModelLoadError("tokenizer.ggml.precompiled_charsmap is not implemented.")
        scores = _required_list(self.metadata, "scores")
        _require_one_each("scores", scores, self.tokens)
        by_token = dict(zip(self.tokens, scores, strict=True))
        unknown_id = self.named_id("unknown")
        return sentencepiece_backend(
            self.vocab,
            {token: by_token[token] for token in self.of_types(TokenType.NORMAL)},
            None if unknown_id is None else self.tokens[unknown_id],
            bool(self.metadata.get("tokenizer.ggml.add_space_prefix", True)),
        )


def _required_list(metadata: Mapping[str, Any], name: str) -> list[Any]:
    value = metadata.get(f"tokenizer.ggml.{name}")
    if not (isinstance(value, list) and value):
        raise ModelLoadError(
            f"The GGUF file has no list tokenizer.ggml.{name}; its tokenizer cannot be built."
        )
    return value


def _require_one_each(name: str, values: Sequence[Any], tokens: Sequence[str]) -> None:
    if len(values) != len(tokens):
        raise ModelLoadError(
            f"The GGUF file has {len(tokens)} tokens, but {len(values)} values in "
            f"tokenizer.ggml.{name}."
        )
