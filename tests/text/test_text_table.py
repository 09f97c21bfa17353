"""What C makes of tokens against the detokenizer, token by token, and against Python's codecs."""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from realtime_serve._event_streams import EventStream, TextTable, TokenTimes
from realtime_serve._token_ring import LENGTH, TokenRing
from realtime_serve.text import TextModel, Tokenizer
from realtime_serve.text.detokenizer import ByteLevelDetokenizer, SentencePieceDetokenizer

shared_fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

NUM_SPACES = st.integers(0, 3)


def texts_in_c(table: TextTable, ids: Sequence[int]) -> list[str]:
    """The text of each token that has some; what was kept back is the last one's."""
    ring = TokenRing(max(1, len(ids)))
    for token_id in ids:
        assert ring.push(token_id)
    ring.finish(LENGTH)
    stream = EventStream(ring, table, TokenTimes(), b'"', b'"\n')
    lines = b""
    while stream.end_state == 0:
        lines += stream.take()
    return [json.loads(line) for line in lines.decode().split("\n")[:-1]]


def texts_in_python(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    detokenizer = tokenizer.new_detokenizer()
    texts = [detokenizer.add(token_id) for token_id in ids]
    if texts:
        texts[-1] += detokenizer.finish()
    return [text for text in texts if text]


def table_of(tokenizer: Tokenizer) -> TextTable:
    assert tokenizer.text_table is not None
    return tokenizer.text_table


@given(data=st.data())
def test_any_tokens_of_the_default_model_add_up_to_decode(
    smollm: TextModel, data: st.DataObject
) -> None:
    tokenizer = smollm.tokenizer
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3)))
    assert "".join(texts_in_c(table_of(tokenizer), ids)) == tokenizer.decode(ids)


@given(text=st.text())
def test_encoded_text_comes_back_as_the_detokenizer_has_it(smollm: TextModel, text: str) -> None:
    ids = smollm.tokenizer.encode(text)
    assert texts_in_c(table_of(smollm.tokenizer), ids) == texts_in_python(smollm.tokenizer, ids)


def test_every_single_token_of_the_default_model_has_its_own_text(smollm: TextModel) -> None:
    tokenizer = smollm.tokenizer
    for token_id in range(tokenizer.vocab_size):
        in_c = texts_in_c(table_of(tokenizer), [token_id])
        assert in_c == texts_in_python(tokenizer, [token_id])


@shared_fixtures
@given(data=st.data())
def test_every_kind_of_vocabulary_that_c_follows_adds_up_to_decode(
    small_backend: Backend, data: st.DataObject
) -> None:
    tokenizer = Tokenizer(small_backend)
    if tokenizer.text_table is None:
        return
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3)))
    assert "".join(texts_in_c(tokenizer.text_table, ids)) == tokenizer.decode(ids)


@given(runs=st.lists(st.binary(min_size=1, max_size=6), max_size=6))
def test_bytes_between_words_have_the_detokenizers_texts(
    sentencepiece_tokenizer: Tokenizer, runs: list[bytes]
) -> None:
    word = sentencepiece_tokenizer.encode("ab")[-1]
    ids = [i for run in runs for i in (word, *(3 + byte for byte in run))]
    in_c = texts_in_c(table_of(sentencepiece_tokenizer), ids)
    assert in_c == texts_in_python(sentencepiece_tokenizer, ids)


# Python's decoder keeps the first two bytes of an encoded surrogate longer than it must.
without_surrogates = st.binary(max_size=5).map(lambda data: data.replace(b"\xed", b"\xee"))


@given(pieces=st.lists(without_surrogates, max_size=20))
def test_bytes_that_are_cut_anywhere_become_what_pythons_decoder_makes_of_them(
    pieces: list[bytes],
) -> None:
    table = TextTable(len(pieces))
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts = []
    for token_id, piece in enumerate(pieces):
        table.set_text(token_id, piece)
        texts.append(decoder.decode(piece, final=token_id == len(pieces) - 1))
    expected = [text for text in texts if text]
    assert texts_in_c(table, range(len(pieces))) == expected


@given(surrogate=st.integers(0xD800, 0xDFFF), before=st.binary(max_size=2), cut=st.integers(0, 5))
def test_an_encoded_surrogate_becomes_what_pythons_decoder_makes_of_it(
    surrogate: int, before: bytes, cut: int
) -> None:
    data = before + chr(surrogate).encode("utf-8", "surrogatepass") + b"!"
    table = TextTable(2)
    table.set_text(0, data[:cut])
    table.set_text(1, data[cut:])
    assert "".join(texts_in_c(table, [0, 1])) == data.decode("utf-8", "replace")


@given(num_spaces=NUM_SPACES, texts=st.lists(st.text(alphabet=" a\n", max_size=4), max_size=6))
def test_spaces_are_left_out_at_the_beginning_only(num_spaces: int, texts: list[str]) -> None:
    table = TextTable(len(texts), joins_runs=True, num_leading_spaces=num_spaces)
    for token_id, text in enumerate(texts):
        table.set_text(token_id, text.encode())
    whole = "".join(texts)
    num_stripped = min(num_spaces, len(whole) - len(whole.lstrip(" ")))
    assert "".join(texts_in_c(table, range(len(texts)))) == whole[num_stripped:]


def test_text_is_escaped_as_pythons_json_does_it() -> None:
    text = "".join(map(chr, range(0x100))) + "\u2028\U0001f389"
    table = TextTable(1)
    table.set_text(0, text.encode())
    ring = TokenRing(1)
    ring.push(0)
    stream = EventStream(ring, table, TokenTimes(), b'"', b'"')
    assert stream.take().decode() == json.JSONEncoder(ensure_ascii=False).encode(text)


def test_only_a_decoder_that_c_follows_has_a_table(small_backend: Backend) -> None:
    tokenizer = Tokenizer(small_backend)
    followed = (ByteLevelDetokenizer, SentencePieceDetokenizer)
    is_followed = isinstance(tokenizer.new_detokenizer(), followed)
    assert (tokenizer.text_table is not None) == is_followed


@pytest.mark.parametrize("token_id", [-1, 2, 2**40])
def test_a_token_outside_the_table_is_refused(token_id: int) -> None:
    with pytest.raises(IndexError):
        TextTable(2).set_text(token_id, b"x")


def test_a_token_may_be_set_again() -> None:
    table = TextTable(1)
    table.set_text(0, b"x")
    table.set_text(0, b"y")
    assert texts_in_c(table, [0, 0]) == ["y", "y"]
