"""Text to token ids and back, with untrusted text kept apart from special tokens.

The one idea: two encoders over one vocabulary. The trusted one reads "<|im_start|>" as
the special token; the literal one reads it as the characters that somebody wrote. Which
of the two a text goes through is decided by where the text comes from, never by a flag
that is switched on a shared object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tokenizers import Tokenizer as Backend
from tokenizers import models

from realtime_serve.errors import ModelLoadError
from realtime_serve.text.detokenizer import Detokenizer, detokenizer_factory
from realtime_serve.text.literal_encoder import LiteralEncoder, encode_ids, well_formed
from realtime_serve.text.special_texts import SpecialTexts
from realtime_serve.text.text_table import new_text_table

_MAX_COMPOSED_CHARS = 4
"""A normalizer may make one character of up to this many (a Greek letter and its marks)."""


class SpecialSpan(NamedTuple):
    """Where a special token stands in a text: text[start:end] is it."""

    start: int
    end: int
    token_id: int


class Tokenizer:
    """A vocabulary with its encoders and decoder.

    Nothing in it changes after it is built, so any number of threads may call at once.
    Encoding takes about 0.4 ms per 1000 characters. Below 8 KiB it holds the GIL;
    longer text is encoded without it, so that a caller can move it to a thread.

    Args:
        backend: What does the work. This object takes it over: truncation and padding
            are switched off.

    Attributes:
        vocab_size: One more than the largest id.
        special_tokens: The texts of the special tokens.
        special_texts: Finds these texts in untrusted strings.
        longest_token_chars: Most characters that one token can stand for.
        text_table: What each token adds to a text, for C; None if only Python can tell.

    Raises:
        ModelLoadError: The vocabulary is empty or its ids are damaged.
    """

    def __init__(self, backend: Backend) -> None:
        backend.no_truncation()
        backend.no_padding()
        vocab = backend.get_vocab(with_added_tokens=True)
        if not vocab:
            raise ModelLoadError("The tokenizer's vocabulary is empty.")
        max_id = max(vocab.values())
        self.vocab_size = max_id + 1
        self.longest_token_chars = max(map(len, vocab))
        added = backend.get_added_tokens_decoder().values()
        self.special_tokens = frozenset(token.content for token in added if token.special)
        self.special_texts = SpecialTexts(self.special_tokens, _special_normalizer(backend))
        self._special_ids = frozenset(vocab[text] for text in self.special_tokens)
        self._backend = backend
        self._literal = LiteralEncoder(backend, max_id)
        self._detokenizers = detokenizer_factory(backend, self._special_ids)
        self.text_table = new_text_table(backend, vocab, self._special_ids)

    def encode(self, text: str) -> list[int]:
        """Encode untrusted text: special tokens in it are ordinary characters.

        Added tokens that are not special keep their ids, as in transformers.

        Args:
            text: Any text; lone surrogates count as U+FFFD.

        Returns:
            The token ids, without a beginning-of-sequence token.
        """
        return self._literal.encode([text])

    def encode_pieces(self, pieces: Sequence[str | int]) -> list[int]:
        """Encode untrusted text with special tokens at given places, as one text.

        Args:
            pieces: Literal text, and ids of special tokens.

        Returns:
            The token ids.
        """
        return self._literal.encode(pieces)

    def encode_with_special_tokens(self, text: str) -> list[int]:
        """Encode trusted text: special tokens in it become their ids.

        Args:
            text: Text that no caller can influence, or that was checked.

        Returns:
            The token ids; nothing is put before or after them.
        """
        return encode_ids(self._backend, text)

    def special_spans(self, text: str) -> list[SpecialSpan]:
        """Find the special tokens that encode_with_special_tokens sees in `text`.

        Args:
            text: Any text; lone surrogates count as U+FFFD.

        Returns:
            Their places in order, in characters, white space they swallow included.
        """
        found = self._backend.encode_batch([well_formed(text)], add_special_tokens=False)[0]
        return [
            SpecialSpan(start, end, token_id)
            for token_id, (start, end) in zip(found.ids, found.offsets, strict=True)
            if token_id in self._literal.forbidden_ids
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids; special tokens and ids without a token are left out.

        Args:
            ids: Token ids, not negative.

        Returns:
            The text; bytes that are not UTF-8 become U+FFFD.
        """
        return self._backend.decode(ids, skip_special_tokens=True)

    def new_detokenizer(self) -> Detokenizer:
        """A decoder for the tokens of one stream, which come one at a time."""
        return self._detokenizers()

    def is_special(self, token_id: int) -> bool:
        """Whether the token is left out of decoded text."""
        return token_id in self._special_ids

    def max_text_chars(self, num_tokens: int) -> int:
        """How long a text can be that `num_tokens` tokens can hold.

        Longer text need not be tokenised to be refused. White space that a normalizer or
        a neighbouring special token removes is counted here all the same.

        Args:
            num_tokens: The room there is, in tokens.

        Returns:
            The bound in characters.
        """
        composed = 1 if self._backend.normalizer is None else _MAX_COMPOSED_CHARS
        return num_tokens * self.longest_token_chars * composed


def _special_normalizer(backend: Backend) -> Callable[[str], str] | None:
    """The normalizer, if a special token can come out of what it does to a text.

    That is so where special tokens are declared to be looked for in normalized text, and
    where the model finds them by itself; a BPE model does not, it has no merge for them.
    """
    if backend.normalizer is None:
        return None
    added = backend.get_added_tokens_decoder().values()
    looked_for = any(token.special and token.normalized for token in added)
    if not looked_for and isinstance(backend.model, models.BPE):
        return None
    normalize: Callable[[str], str] = backend.normalizer.normalize_str
    return normalize
