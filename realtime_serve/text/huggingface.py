"""The text side of a model in a Hugging Face directory.

The one idea: tokenizer.json says everything about encoding and decoding. The files
beside it are read only for what it does not say: the chat template, and which tokens
begin and end a sequence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from realtime_serve.errors import ModelLoadError
from realtime_serve.text.source import TextSource

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


def read_hf_text(directory: str | os.PathLike[str]) -> TextSource:
    """Read the text side of a model directory.

    Args:
        directory: Holds at least tokenizer.json.

    Returns:
        What its files say.

    Raises:
        ModelLoadError: tokenizer.json is missing, or a file cannot be understood.
    """
    root = Path(directory)
    config = _read_json(root / "tokenizer_config.json")
    named_tokens = _named_tokens(_read_json(root / "special_tokens_map.json") | config)
    backend = _read_backend(root / "tokenizer.json")
    _make_special(backend, named_tokens)
    bos_token_id = _token_id(backend, named_tokens.get("bos_token"))
    return TextSource(
        backend=backend,
        chat_template=_read_chat_template(root, config),
        named_tokens=named_tokens,
        eos_token_ids=_eos_token_ids(root, backend, named_tokens),
        bos_token_id=bos_token_id,
        add_bos=_adds_bos(backend, bos_token_id),
    )


def _read_backend(path: Path) -> Backend:
    if not path.is_file():
        raise ModelLoadError(
            f"{path} does not exist. A model directory needs a tokenizer.json; transformers "
            "writes one with AutoTokenizer.from_pretrained(...).save_pretrained(...)."
        )
    try:
        return Backend.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ModelLoadError(f"{path} cannot be read: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path} must hold a JSON object.")
    return value


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the named special tokens, each a string or the description of a token."""
    tokens = {}
    for name in _NAMED_TOKENS:
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            tokens[name] = text
    return tokens


def _make_special(backend: Backend, named_tokens: Mapping[str, str]) -> None:
    """Treat named tokens as special even where tokenizer.json does not, as transformers does."""
    added = backend.get_added_tokens_decoder().values()
    special = {token.content for token in added if token.special}
    known = {t for t in named_tokens.values() if backend.token_to_id(t) is not None}
    backend.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text in sorted(known - special)]
    )


def _read_chat_template(root: Path, config: Mapping[str, Any]) -> str | None:
    """The template in its own file, else the one in the configuration, else None."""
    path = root / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelLoadError(f"{path} cannot be read: {error}") from error
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        entries = [entry for entry in template if isinstance(entry, dict)]
        template = {e.get("name"): e.get("template") for e in entries}.get("default")
    return template if isinstance(template, str) else None


def _eos_token_ids(root: Path, backend: Backend, named: Mapping[str, str]) -> frozenset[int]:
    """Ends of generation: generation_config.json's, else config.json's, and the tokenizer's."""
    generation = _configured_eos_ids(root / "generation_config.json")
    ids = generation or _configured_eos_ids(root / "config.json")
    eos_token_id = _token_id(backend, named.get("eos_token"))
    return frozenset(ids if eos_token_id is None else [*ids, eos_token_id])


def _configured_eos_ids(path: Path) -> list[int]:
    """The eos_token_id of a configuration: a number, a list of them, or nothing."""
    value = _read_json(path).get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token_id, int) for token_id in ids):
        raise ModelLoadError(f"{path}: eos_token_id must be a number or a list of numbers.")
    return ids


def _adds_bos(backend: Backend, bos_token_id: int | None) -> bool:
    """Whether the post-processor puts the first token before a prompt: ask with an empty one.

    transformers does not heed add_bos_token either where there is a tokenizer.json.
    """
    return bos_token_id is not None and backend.encode("").ids[:1] == [bos_token_id]


def _token_id(backend: Backend, text: str | None) -> int | None:
    return None if text is None else backend.token_to_id(text)
