"""What every model format has to say about text, in one shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokenizers import Tokenizer as Backend


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSource:
    """What was read from a model's files; a TextModel is built from it.

    Args:
        backend: The tokenizer as the format describes it.
        chat_template: The chat template's source, or None.
        named_tokens: Special tokens' texts by name: bos_token, eos_token and so on.
        eos_token_ids: Tokens that end a generation.
        bos_token_id: The beginning-of-sequence token, or None.
        add_bos: Whether a plain prompt begins with it.
    """

    backend: Backend
    chat_template: str | None
    named_tokens: Mapping[str, str]
    eos_token_ids: frozenset[int]
    bos_token_id: int | None
    add_bos: bool
