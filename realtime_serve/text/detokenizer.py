"""Token ids to text, one id at a time.

The one idea: what has been delivered plus what finish() returns is always exactly
decode() of all ids, so a decoder may run ahead only as far as later ids cannot change
the text. How far that is depends on the kind of decoder:

    ByteLevel            bytes per token; text up to the last complete character
    SentencePiece        text per token; a run of byte tokens waits for its end, since one
                         wrong byte turns the whole run into U+FFFD
    WordPiece, Metaspace text per token, which depends on whether it is the first
    any other            nothing is certain before the end
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Protocol

from tokenizers import Tokenizer as Backend

_PAIRWISE_DECODERS = frozenset({"WordPiece", "Metaspace", "BPEDecoder"})
"""Decoders in which a token's text depends on nothing but whether another precedes it."""

_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


class Detokenizer(Protocol):
    """The text of one stream of tokens. Not thread-safe; one instance a stream."""

    def add(self, token_id: int) -> str:
        """Take the next token.

        Args:
            token_id: Its id; special tokens have no text.

        Returns:
            The text that is certain now; never half a character, often empty.
        """
        ...

    def finish(self) -> str:
        """End the stream.

        Returns:
            The rest of the text; an incomplete character becomes U+FFFD.
        """
        ...


def detokenizer_factory(backend: Backend, special_ids: Set[int]) -> Callable[[], Detokenizer]:
    """Choose the detokenizer that fits a tokenizer's decoder.

    Args:
        backend: The tokenizer.
        special_ids: Ids that have no text.

    Returns:
        What makes a detokenizer for one stream. Tables are shared between streams.
    """
    stages = decoder_stages(backend)
    kinds = [stage["type"] for stage in stages]
    if is_byte_level(stages):
        byte_table = _ByteLevelTable(backend, special_ids)
        return lambda: ByteLevelDetokenizer(byte_table)
    if is_sentencepiece(stages):
        pieces = _SentencePieceTable(backend, special_ids)
        num_stripped = num_stripped_spaces(stages)
        return lambda: SentencePieceDetokenizer(pieces, num_stripped)
    if not kinds or (len(kinds) == 1 and kinds[0] in _PAIRWISE_DECODERS):
        return lambda: PairwiseDetokenizer(backend, special_ids)
    return lambda: WholeDetokenizer(backend)


class ByteLevelDetokenizer:
    """For byte-level vocabularies: each token is a few bytes of UTF-8."""

    def __init__(self, byte_table: _ByteLevelTable) -> None:
        self._bytes_of = byte_table
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token_id: int) -> str:
        """See Detokenizer."""
        return self._utf8.decode(self._bytes_of[token_id])

    def finish(self) -> str:
        """See Detokenizer."""
        return self._utf8.decode(b"", final=True)


class SentencePieceDetokenizer:
    """For vocabularies of words with "▁" for a space and byte tokens for what is rare."""

    def __init__(self, pieces: _SentencePieceTable, num_stripped: int) -> None:
        self._pieces = pieces
        self._spaces_to_strip = num_stripped
        self._byte_run = bytearray()

    def add(self, token_id: int) -> str:
        """See Detokenizer."""
        piece = self._pieces[token_id]
        if piece is None:
            return ""
        if isinstance(piece, int):
            self._byte_run.append(piece)
            return ""
        return self._strip(self._end_byte_run() + piece)

    def finish(self) -> str:
        """See Detokenizer."""
        return self._strip(self._end_byte_run())

    def _end_byte_run(self) -> str:
        run = bytes(self._byte_run)
        self._byte_run.clear()
        try:
            return run.decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(run)

    def _strip(self, text: str) -> str:
        while text and self._spaces_to_strip:
            if text[0] != " ":
                self._spaces_to_strip = 0
                break
            self._spaces_to_strip -= 1
            text = text[1:]
        return text


class PairwiseDetokenizer:
    """For decoders that look at one token, and whether another comes before it."""

    def __init__(self, backend: Backend, special_ids: Set[int]) -> None:
        self._decode = backend.decode
        self._id_to_token = backend.id_to_token
        self._special_ids = special_ids
        self._previous: list[int] = []

    def add(self, token_id: int) -> str:
        """See Detokenizer."""
        if token_id in self._special_ids or self._id_to_token(token_id) is None:
            return ""
        pair = [*self._previous, token_id]
        before, self._previous = self._decode(self._previous), [token_id]
        return self._decode(pair)[len(before) :]

    def finish(self) -> str:
        """See Detokenizer."""
        return ""


class WholeDetokenizer:
    """For decoders whose text may change with any later token: all of it at the end."""

    def __init__(self, backend: Backend) -> None:
        self._decode = backend.decode
        self._ids: list[int] = []

    def add(self, token_id: int) -> str:
        """See Detokenizer."""
        self._ids.append(token_id)
        return ""

    def finish(self) -> str:
        """See Detokenizer."""
        ids, self._ids = self._ids, []
        return self._decode(ids, skip_special_tokens=True)


class _ByteLevelTable(dict[int, bytes]):
    """Bytes of each token, worked out once, when the token is first seen.

    Shared by all streams of a vocabulary and no larger than it. Threads may race to fill
    in an entry; they fill in the same value.
    """

    def __init__(self, backend: Backend, special_ids: Set[int]) -> None:
        super().__init__(dict.fromkeys(special_ids, b""))
        self._id_to_token = backend.id_to_token

    def __missing__(self, token_id: int) -> bytes:
        token = self._id_to_token(token_id)
        if token is None:
            return b""
        self[token_id] = value = byte_level_bytes(token)
        return value


class _SentencePieceTable(dict[int, str | int | None]):
    """Text of each token, or its value if it is a byte token, or None if it has no text."""

    def __init__(self, backend: Backend, special_ids: Set[int]) -> None:
        super().__init__(dict.fromkeys(special_ids))
        self._id_to_token = backend.id_to_token

    def __missing__(self, token_id: int) -> str | int | None:
        token = self._id_to_token(token_id)
        if token is None:
            return None
        self[token_id] = value = sentencepiece_piece(token)
        return value


def decoder_stages(backend: Backend) -> list[dict[str, Any]]:
    """Describe a tokenizer's decoder, a sequence taken apart; empty without a decoder."""
    if backend.decoder is None:
        return []
    description = json.loads(backend.decoder.__getstate__())
    stages: list[dict[str, Any]] = description.get("decoders", [description])
    return stages


def is_byte_level(stages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the tokens of such a decoder stand for bytes."""
    return [stage["type"] for stage in stages] == ["ByteLevel"]


def is_sentencepiece(stages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the decoder is the one that Llama's, Mistral's and Gemma's files have."""
    kinds = [stage["type"] for stage in stages]
    if kinds[:3] != ["Replace", "ByteFallback", "Fuse"] or kinds[3:] not in ([], ["Strip"]):
        return False
    spaces = stages[0]["pattern"] == {"String": "▁"} and stages[0]["content"] == " "
    strip = stages[3] if len(stages) > 3 else {"content": " ", "stop": 0}
    return spaces and strip["content"] == " " and strip["stop"] == 0


def num_stripped_spaces(stages: Sequence[Mapping[str, Any]]) -> int:
    """How many spaces SentencePiece's decoder leaves out at the beginning of a text."""
    return int(stages[-1]["start"]) if stages[-1]["type"] == "Strip" else 0


def sentencepiece_piece(token: str) -> str | int:
    """Text of a SentencePiece token, or its value if it is a byte token."""
    byte_token = _BYTE_TOKEN.fullmatch(token)
    return int(byte_token[1], 16) if byte_token else token.replace("▁", " ")


def byte_level_bytes(token: str) -> bytes:
    """Bytes that a byte-level token stands for."""
    try:
        return bytes(map(_BYTE_OF_CHAR.__getitem__, token))
    except KeyError:  # an added token, spelled as it is
        return token.encode()


def _byte_alphabet() -> dict[str, int]:
    """The characters that stand for bytes in byte-level vocabularies.

    Bytes that print as Latin-1 stand for themselves; the others, in order, are the
    characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + offset): byte for offset, byte in enumerate(others)}


_BYTE_OF_CHAR = _byte_alphabet()
