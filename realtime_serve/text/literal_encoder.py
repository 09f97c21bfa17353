"""Encodes untrusted text beside special token ids, so that the two cannot be confused.

The one idea: a second encoder shares the vocabulary but was never told the texts of the
special tokens, so "<|im_start|>" is nine ordinary characters and some punctuation to it.
Where a real special token belongs, its input carries a placeholder that nobody can guess,
and the placeholder's id is exchanged afterwards. Text and special tokens are thus encoded
in one call, and rules that depend on the place in the whole text (a space is put before
the first word only, say) act as they do in the ordinary encoder.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from realtime_serve.errors import ModelLoadError

LONG_TEXT_CHARS = 8192
"""From here on encode_batch pays: it lets go of the GIL, which encode holds (3 ms here)."""

_NONCHARACTERS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
"""32 code points that no text uses; normalizers and regexes leave them alone."""

_NONCE_CHARS = 26
"""130 random bits: guessing a placeholder is as hard as guessing a key."""

_MAX_FILLERS = 16384
"""Far above the added tokens of any real vocabulary; bounds what a broken file can cost."""

_UNENCODABLE = "\U0010ffff"
"""In no vocabulary: what it becomes is the unknown token, or nothing, or bytes."""


def encode_ids(backend: Backend, text: str) -> list[int]:
    """Encode `text` without the tokens that a post-processor would put around it.

    Args:
        backend: Any tokenizer.
        text: Any text; lone surrogates count as U+FFFD.

    Returns:
        The token ids.
    """
    text = well_formed(text)
    if len(text) < LONG_TEXT_CHARS:
        return backend.encode(text, add_special_tokens=False).ids
    return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids


def well_formed(text: str) -> str:
    """`text` with U+FFFD for each lone surrogate, which no encoder can take."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


class LiteralEncoder:
    """Encodes text in which nothing is special, and special ids given as ids.

    Built once per tokenizer; any thread may call, nothing changes afterwards.

    Args:
        backend: The ordinary tokenizer. It is not changed; the vocabulary is shared.
        max_id: The largest id in use.

    Attributes:
        forbidden_ids: Special ids, which never come out of text. The unknown token is
            not among them: text may become that.

    Raises:
        ModelLoadError: The vocabulary has so many gaps that its ids make no sense.
    """

    def __init__(self, backend: Backend, max_id: int) -> None:
        self._backend = _sibling(backend)
        secret_texts = _unguessable_texts()
        self._occupy_ids(secret_texts, max_id)
        self._placeholder, self._break = next(secret_texts), next(secret_texts)
        self._add_secrets([self._placeholder, self._break])
        self._placeholder_id = self._id_of(self._placeholder)
        self._break_id = self._id_of(self._break)
        self._real_ids = self._add_plain_tokens(backend)
        self.forbidden_ids = self._special_ids_but_unknown(backend)

    def encode(self, pieces: Sequence[str | int]) -> list[int]:
        """Encode pieces as one text.

        Args:
            pieces: Literal text, and ids of special tokens.

        Returns:
            The ids of the whole; a special id stands exactly where it was given.
        """
        special_ids = iter([piece for piece in pieces if isinstance(piece, int)])
        text = "".join(p if isinstance(p, str) else self._placeholder for p in pieces)
        return [
            next(special_ids) if token_id == self._placeholder_id else token_id
            for token_id in self._encode_text(text)
        ]

    def _encode_text(self, text: str) -> list[int]:
        ids = encode_ids(self._backend, text)
        if not self.forbidden_ids.isdisjoint(ids):
            ids = self._encode_broken_up(text)
        return [self._real_ids.get(token_id, token_id) for token_id in ids]

    def _encode_broken_up(self, text: str) -> list[int]:
        """Encode text in which the model itself (a Unigram one) finds a special token."""
        text = well_formed(text)
        found = self._backend.encode_batch([text], add_special_tokens=False)[0]
        pairs = zip(found.ids, found.offsets, strict=True)
        cuts = [start + 1 for token_id, (start, _) in pairs if token_id in self.forbidden_ids]
        starts, ends = [0, *cuts], [*cuts, len(text)]
        parts = [text[start:end] for start, end in zip(starts, ends, strict=True)]
        dropped = self.forbidden_ids | {self._break_id}
        ids = encode_ids(self._backend, self._break.join(parts))
        return [token_id for token_id in ids if token_id not in dropped]

    def _occupy_ids(self, secret_texts: Iterator[str], max_id: int) -> None:
        """Fill up the ids to `max_id`, so that no later token shares an id with a real one."""
        num_fillers = max_id + 1 - self._backend.get_vocab_size(with_added_tokens=False)
        if num_fillers > _MAX_FILLERS:
            raise ModelLoadError(
                f"The tokenizer's largest id is {max_id}, but its vocabulary has only "
                f"{max_id + 1 - num_fillers} entries: its ids are damaged."
            )
        self._add_secrets([next(secret_texts) for _ in range(num_fillers)])

    def _add_plain_tokens(self, backend: Backend) -> dict[int, int]:
        """Take over the added tokens that are not special; returns their ids, ours to real."""
        added = backend.get_added_tokens_decoder()
        plain = {token_id: token for token_id, token in added.items() if not token.special}
        self._backend.add_tokens([plain[token_id] for token_id in sorted(plain)])
        return {self._id_of(token.content): token_id for token_id, token in plain.items()}

    def _special_ids_but_unknown(self, backend: Backend) -> frozenset[int]:
        special = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        return frozenset(special.difference(encode_ids(self._backend, _UNENCODABLE)))

    def _add_secrets(self, texts: list[str]) -> None:
        tokens = [AddedToken(text, normalized=False, special=True) for text in texts]
        self._backend.add_special_tokens(tokens)

    def _id_of(self, text: str) -> int:
        token_id = self._backend.token_to_id(text)
        assert token_id is not None
        return token_id


def _sibling(backend: Backend) -> Backend:
    """A tokenizer over the same vocabulary (shared, not copied) without any added token."""
    sibling = Backend(backend.model)
    sibling.normalizer = backend.normalizer
    sibling.pre_tokenizer = backend.pre_tokenizer
    return sibling


def _unguessable_texts() -> Iterator[str]:
    """Different texts of one length, so that none is found inside another."""
    nonce = "".join(secrets.choice(_NONCHARACTERS) for _ in range(_NONCE_CHARS))
    for index in range(_MAX_FILLERS + 2):
        yield nonce + "".join(_NONCHARACTERS[int(digit)] for digit in f"{index:05d}")
