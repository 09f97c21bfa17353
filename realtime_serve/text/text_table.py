"""What each token of a vocabulary adds to a text, prepared for C.

C follows the decoders whose tokens add bytes or text of their own, byte-level ones and
SentencePiece's, as detokenizer.py does. For any other kind there is no table, and the text is
made there.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from tokenizers import Tokenizer as Backend

from realtime_serve._event_streams import TextTable
from realtime_serve.text.detokenizer import (
    byte_level_bytes,
    decoder_stages,
    is_byte_level,
    is_sentencepiece,
    num_stripped_spaces,
    sentencepiece_piece,
)


def new_text_table(
    backend: Backend, vocab: Mapping[str, int], special_ids: Set[int]
) -> TextTable | None:
    """Prepare a vocabulary; takes about 1 microsecond a token.

    Args:
        backend: The tokenizer.
        vocab: All of its ids by token.
        special_ids: Ids that have no text.

    Returns:
        The table, or None if the tokenizer's decoder is of another kind.
    """
    stages = decoder_stages(backend)
    texts = ((token, token_id) for token, token_id in vocab.items() if token_id not in special_ids)
    num_tokens = 1 + max(vocab.values())
    if is_byte_level(stages):
        table = TextTable(num_tokens)
        for token, token_id in texts:
            table.set_text(token_id, byte_level_bytes(token))
    elif is_sentencepiece(stages):
        num_spaces = num_stripped_spaces(stages)
        table = TextTable(num_tokens, joins_runs=True, num_leading_spaces=num_spaces)
        for token, token_id in texts:
            _set_piece(table, token_id, sentencepiece_piece(token))
    else:
        return None
    return table


def _set_piece(table: TextTable, token_id: int, piece: str | int) -> None:
    if isinstance(piece, int):
        table.set_byte(token_id, piece)
    else:
        table.set_text(token_id, piece.encode())
