"""SentencePiece BPE tokenizers from a list of tokens and scores.

The one idea: SentencePiece merges, again and again, the neighbours whose union is the
token of the highest score. That is BPE with one merge for each way to cut a token in two,
ordered by the token's score, so the merges can be written down from the vocabulary alone.

Text is written with "▁" for a space and one more before the text and after each special
token, as llama.cpp does it for these files; characters without a token become bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers

SPACE = "▁"


def sentencepiece_backend(
    vocab: dict[str, int],
    scores: Mapping[str, float],
    unknown_token: str | None,
    add_space_prefix: bool,
) -> Backend:
    """Build a SentencePiece BPE tokenizer without added tokens.

    Args:
        vocab: Ids by token.
        scores: Scores of those tokens that text can be merged to; higher goes first.
        unknown_token: What stands for a character that even bytes cannot express.
        add_space_prefix: Whether a space is put before the text.

    Returns:
        The tokenizer.
    """
    backend = Backend(
        models.BPE(
            vocab=vocab,
            merges=_merges(vocab, scores),
            unk_token=unknown_token,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces: list[normalizers.Normalizer] = [normalizers.Replace(" ", SPACE)]
    stages = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if add_space_prefix:
        spaces.insert(0, normalizers.Prepend(SPACE))
        stages.append(decoders.Strip(" ", 1, 0))
    backend.normalizer = normalizers.Sequence(spaces)
    backend.decoder = decoders.Sequence(stages)
    return backend


def _merges(vocab: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every way to cut a token in two; the best token first, then the longest left part."""
    best_first = sorted(scores, key=lambda token: (-scores[token], vocab[token]))
    return [
        (token[:end], token[end:])
        for token in best_first
        for end in range(len(token) - 1, 0, -1)
        if token[:end] in scores and token[end:] in scores
    ]
