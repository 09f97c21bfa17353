"""Every detokenizer against decode() of the whole sequence."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from realtime_serve.text import TextModel, Tokenizer
from realtime_serve.text.detokenizer import WholeDetokenizer

shared_fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def pieces_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    detokenizer = tokenizer.new_detokenizer()
    return [*(detokenizer.add(token_id) for token_id in ids), detokenizer.finish()]


@given(data=st.data())
def test_smollm_pieces_add_up_to_decode(smollm: TextModel, data: st.DataObject) -> None:
    tokenizer = smollm.tokenizer
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3)))
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


@given(text=st.text())
def test_smollm_pieces_of_encoded_text_add_up_to_decode(smollm: TextModel, text: str) -> None:
    ids = smollm.tokenizer.encode(text)
    assert "".join(pieces_of(smollm.tokenizer, ids)) == smollm.tokenizer.decode(ids)


@shared_fixtures
@given(data=st.data())
def test_pieces_of_every_kind_of_vocabulary_add_up_to_decode(
    small_backend: Backend, data: st.DataObject
) -> None:
    tokenizer = Tokenizer(small_backend)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3)))
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


@given(runs=st.lists(st.binary(min_size=1, max_size=6), max_size=6))
def test_bytes_between_words_add_up_to_decode(
    sentencepiece_tokenizer: Tokenizer, runs: list[bytes]
) -> None:
    word = sentencepiece_tokenizer.encode("ab")[-1]
    ids = [i for run in runs for i in (word, *(3 + byte for byte in run))]
    assert "".join(pieces_of(sentencepiece_tokenizer, ids)) == sentencepiece_tokenizer.decode(ids)


@pytest.mark.parametrize("text", ["😀", "日本語", "naïve 🧑‍🚀 ок"])
def test_a_character_arrives_whole_with_its_last_token(smollm: TextModel, text: str) -> None:
    ids = smollm.tokenizer.encode(text)
    pieces = pieces_of(smollm.tokenizer, ids)
    assert len(ids) > len(text.encode()) / 4, "the text must not be a single token"
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    assert pieces[-1] == ""


def test_a_character_that_never_ends_is_replaced_at_the_end(smollm: TextModel) -> None:
    ids = smollm.tokenizer.encode("ok😀")[:-1]
    pieces = pieces_of(smollm.tokenizer, ids)
    assert "".join(pieces[:-1]) == "ok"
    assert pieces[-1] == "\ufffd"


def test_text_is_not_held_back_without_need(small_backend: Backend) -> None:
    tokenizer = Tokenizer(small_backend)
    detokenizer = tokenizer.new_detokenizer()
    first = next(
        token_id
        for token, token_id in sorted(small_backend.get_vocab().items(), key=lambda item: item[1])
        if tokenizer.decode([token_id]).strip().isalpha() and not token.startswith("<0x")
    )
    delivered = detokenizer.add(first)
    expected = "" if isinstance(detokenizer, WholeDetokenizer) else tokenizer.decode([first])
    assert delivered == expected


def test_special_tokens_have_no_text_and_do_not_count_as_the_first(small_backend: Backend) -> None:
    tokenizer = Tokenizer(small_backend)
    assert tokenizer.is_special(1)
    ids = [1, 2, 1, 1, 3, 1]
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode([2, 3])


def test_streams_do_not_share_state(smollm: TextModel) -> None:
    ids = smollm.tokenizer.encode("😀")
    one, other = smollm.tokenizer.new_detokenizer(), smollm.tokenizer.new_detokenizer()
    assert [one.add(ids[0]), other.add(smollm.tokenizer.encode("a")[0])] == ["", "a"]
