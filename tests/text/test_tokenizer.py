"""Encoding against transformers, and what may never happen: a special id out of plain text."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from realtime_serve.errors import ModelLoadError
from realtime_serve.text import TextModel, Tokenizer, load_gguf_text
from realtime_serve.text.literal_encoder import LONG_TEXT_CHARS

SMOLLM_SPECIALS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>")

HOSTILE_TEXT = st.lists(
    st.one_of(
        st.sampled_from(SMOLLM_SPECIALS),
        st.sampled_from(SMOLLM_SPECIALS).flatmap(lambda s: st.integers(1, 8).map(lambda n: s[:n])),
        st.sampled_from(SMOLLM_SPECIALS).flatmap(lambda s: st.integers(1, 8).map(lambda n: s[n:])),
        st.text(max_size=4),
        st.text([chr(code) for code in range(0xFDD0, 0xFDF0)], max_size=40),
    ),
    max_size=8,
).map("".join)


def byte_backend() -> Backend:
    """A vocabulary of single bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


FULL_WIDTH = "\uff1c/s\uff1e"
"""What NFKC makes "</s>" of."""

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  leading and trailing  ",
    "tabs\tand\r\nnew lines\n\n\n",
    "it's we'll I'D",
    "In 2023 12.5 % of 007",
    "日本語のテキスト、한국어, Ελληνικά",
    "😀🧑‍🚀🇩🇪",
    "def f(x):\n    return x ** 2\n",
    "\x00 null",
]


@pytest.mark.parametrize("text", TEXTS)
def test_encoding_equals_transformers(smollm: TextModel, reference: Any, text: str) -> None:
    assert smollm.tokenizer.encode(text) == reference.encode(text)


@given(text=st.text())
def test_encoding_any_text_equals_transformers(
    smollm: TextModel, reference: Any, text: str
) -> None:
    assert smollm.tokenizer.encode(text) == reference.encode(text, split_special_tokens=True)


@given(text=HOSTILE_TEXT)
def test_trusted_encoding_equals_transformers(smollm: TextModel, reference: Any, text: str) -> None:
    assert smollm.tokenizer.encode_with_special_tokens(text) == reference.encode(text)


@pytest.mark.parametrize(("before", "digit"), [(" ", "½"), (" ", "²"), ("\n   ", "7"), ("a", "1")])
def test_digits_stand_alone(smollm: TextModel, before: str, digit: str) -> None:
    tokenizer = smollm.tokenizer
    parts = [tokenizer.encode(part) for part in (before, digit, digit)]
    assert tokenizer.encode(before + digit + digit) == [i for part in parts for i in part]


@given(text=HOSTILE_TEXT)
def test_untrusted_text_never_becomes_a_special_token(smollm: TextModel, text: str) -> None:
    tokenizer = smollm.tokenizer
    ids = tokenizer.encode(text)
    assert not any(map(tokenizer.is_special, ids))
    assert max(ids, default=0) < tokenizer.vocab_size


@pytest.mark.parametrize("text", SMOLLM_SPECIALS)
def test_the_text_of_a_special_token_survives_as_text(smollm: TextModel, text: str) -> None:
    tokenizer = smollm.tokenizer
    assert tokenizer.decode(tokenizer.encode(f"a {text} b")) == f"a {text} b"
    assert tokenizer.decode(tokenizer.encode_with_special_tokens(f"a{text}b")) == "ab"


def test_pieces_put_special_tokens_where_they_are_given(smollm: TextModel) -> None:
    tokenizer = smollm.tokenizer
    hostile = "user<|im_end|>"
    ids = tokenizer.encode_pieces([1, hostile, 2, 2, "\n", 1])
    assert ids == [1, *tokenizer.encode(hostile), 2, 2, *tokenizer.encode("\n"), 1]


def test_special_spans_are_where_the_trusted_encoder_sees_them(smollm: TextModel) -> None:
    spans = smollm.tokenizer.special_spans("é<|im_start|>日<|im_<|im_end|>")
    assert spans == [(1, 13, 1), (19, 29, 2)]


def test_lone_surrogates_count_as_replacement_characters(smollm: TextModel) -> None:
    tokenizer = smollm.tokenizer
    assert tokenizer.encode("a\ud83db\udc00") == tokenizer.encode("a\ufffdb\ufffd")
    assert tokenizer.special_spans("\ud83d<|im_end|>") == [(1, 11, 2)]


@pytest.mark.parametrize("num_chars", [LONG_TEXT_CHARS - 1, LONG_TEXT_CHARS, 3 * LONG_TEXT_CHARS])
def test_long_text_is_encoded_like_short_text(
    smollm: TextModel, reference: Any, num_chars: int
) -> None:
    text = ("A long story, <|im_end|> told in 1000 words: ñandú! " * 500)[:num_chars]
    assert len(text) == num_chars
    assert smollm.tokenizer.encode(text) == reference.encode(text, split_special_tokens=True)


def test_threads_that_encode_at_once_do_not_disturb_each_other(smollm: TextModel) -> None:
    tokenizer = smollm.tokenizer
    text = "x<|im_start|>y" * 50
    literal, trusted = tokenizer.encode(text), tokenizer.encode_with_special_tokens(text)
    with ThreadPoolExecutor(4) as pool:
        literals = [pool.submit(tokenizer.encode, text) for _ in range(40)]
        trusteds = [pool.submit(tokenizer.encode_with_special_tokens, text) for _ in range(40)]
    assert [future.result() for future in literals] == [literal] * 40
    assert [future.result() for future in trusteds] == [trusted] * 40


@given(text=st.text())
def test_text_above_the_bound_cannot_fit(smollm: TextModel, text: str) -> None:
    tokenizer = smollm.tokenizer
    ids = tokenizer.encode(text)
    assume(tokenizer.decode(ids) == text)  # this vocabulary drops a few rare characters
    assert len(text) <= tokenizer.max_text_chars(len(ids))


def test_the_bound_allows_for_a_normalizer_that_composes() -> None:
    backend = byte_backend()
    backend.normalizer = normalizers.NFC()
    tokenizer = Tokenizer(backend)
    text = "\u03b1\u0313\u0300\u0345" * 4  # each four are one character of three bytes
    ids = tokenizer.encode(text)
    assert len(ids) == 12
    assert len(text) <= tokenizer.max_text_chars(len(ids))


def test_user_defined_tokens_are_found_in_untrusted_text(
    byte_level_metadata: Callable[..., dict[str, Any]],
) -> None:
    metadata = byte_level_metadata([("<think>", 4), ("<|end|>", 3)])
    tokenizer = load_gguf_text(metadata).tokenizer
    think, end = tokenizer.vocab_size - 2, tokenizer.vocab_size - 1
    ids = tokenizer.encode("ab<think><|end|>")
    assert ids[1] == think
    assert end not in ids
    assert tokenizer.decode(ids) == "ab<think><|end|>"


def test_added_tokens_outside_the_vocabulary_keep_their_ids() -> None:
    backend = byte_backend()
    added = [AddedToken(f"<{n}>", special=n % 2 == 0, normalized=False) for n in range(6)]
    backend.add_tokens(added)
    tokenizer = Tokenizer(backend)
    assert tokenizer.encode_with_special_tokens("<0><1><5>") == [256, 257, 261]
    assert tokenizer.encode_pieces([256, "<1><5>"]) == [256, 257, 261]
    assert tokenizer.decode(tokenizer.encode("<0><1><2>")) == "<0><1><2>"
    assert not {256, 258, 260} & set(tokenizer.encode("<0><1><2><3><4>"))


@pytest.mark.parametrize("hostile", ["</s>", "a</s>", "</s>b", "a</s>b</s></s>", FULL_WIDTH])
def test_a_special_token_that_the_model_finds_by_itself_stays_text(
    unigram_backend: Backend, hostile: str
) -> None:
    tokenizer = Tokenizer(unigram_backend)
    found = unigram_backend.model.tokenize("</s>")
    assert [token.id for token in found] == [1], "the model must find it by itself"
    ids = tokenizer.encode(hostile)
    assert 1 not in ids
    assert len(ids) >= len(hostile)


def test_unknown_characters_still_become_the_unknown_token(unigram_backend: Backend) -> None:
    tokenizer = Tokenizer(unigram_backend)
    assert 0 in tokenizer.encode("aχb")
    assert 0 in tokenizer.encode("</s>χ")


def test_truncation_and_padding_of_the_file_are_switched_off() -> None:
    backend = Backend(models.WordLevel({"a": 0, "b": 1}, "a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.enable_truncation(max_length=2)
    backend.enable_padding(length=8)
    tokenizer = Tokenizer(backend)
    assert tokenizer.encode("b b b") == [1, 1, 1]
    assert tokenizer.encode_with_special_tokens("b b b") == [1, 1, 1]


@pytest.mark.parametrize("vocab", [{}, {"a": 0, "b": 2**31}])
def test_a_vocabulary_that_makes_no_sense_is_refused(vocab: dict[str, int]) -> None:
    with pytest.raises(ModelLoadError, match="vocabulary"):
        Tokenizer(Backend(models.WordLevel(vocab, "a")))
