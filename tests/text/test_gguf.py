"""Tokenizers from GGUF metadata, against transformers and against the algorithms themselves."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from realtime_serve.errors import ModelLoadError
from realtime_serve.text import TextModel, Tokenizer, load_gguf_text
from realtime_serve.text.sentencepiece import sentencepiece_backend

TRANSFORMERS_KEYS = {
    "tokenizer_type": "model",
    "pre_tokenizer_type": "pre",
    "tokens": "tokens",
    "token_type": "token_type",
    "scores": "scores",
    "merges": "merges",
}

WORDS = [
    "HELLO wörld",
    "it's I'LL x'S",
    "12345 ½²",
    "  \n\n \t",
    "日本語",
    "a\u0301e",
    "!?…//\r\n",
    "ǅ",
]


def as_transformers_reads_it(metadata: dict[str, Any], architecture: str) -> Backend:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

    keys = {name: f"tokenizer.ggml.{key}" for name, key in TRANSFORMERS_KEYS.items()}
    read = {name: metadata[key] for name, key in keys.items() if key in metadata}
    backend: Backend = convert_gguf_tokenizer(architecture, read)[0]
    return backend


@pytest.fixture(scope="module", params=["gpt-2", "default", "llama-bpe", "qwen2", "tekken"])
def both(
    request: pytest.FixtureRequest, gguf_metadata: dict[str, Any]
) -> tuple[Tokenizer, Backend]:
    """The default model's vocabulary with another pre-tokenizer; ours and transformers'."""
    metadata = gguf_metadata | {"tokenizer.ggml.pre": request.param}
    theirs = as_transformers_reads_it(metadata, "llama")
    theirs.model.ignore_merges = request.param in ("llama-bpe", "tekken")
    return load_gguf_text(metadata).tokenizer, theirs


@given(text=st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=6))).map(" ".join))
def test_named_pre_tokenizers_split_as_transformers_does(
    both: tuple[Tokenizer, Backend], text: str
) -> None:
    ours, theirs = both
    composed = unicodedata.normalize("NFC", text)  # which qwen2's tokenizer.json asks for
    expected = theirs.encode(composed, add_special_tokens=False).ids
    assert ours.encode_with_special_tokens(composed) == expected


def test_only_qwen2_composes_characters(
    byte_level_metadata: Callable[..., dict[str, Any]],
) -> None:
    for name, num_bytes in (("gpt-2", 3), ("llama-bpe", 3), ("qwen2", 2)):
        tokenizer = load_gguf_text(byte_level_metadata(**{"ggml.pre": name})).tokenizer
        assert len(tokenizer.encode("e\u0301")) == num_bytes


def test_a_piece_that_is_a_token_is_not_merged_where_the_name_says_so(
    byte_level_metadata: Callable[..., dict[str, Any]],
) -> None:
    def encode(name: str) -> list[int]:
        metadata = byte_level_metadata([("cab", 1)], **{"ggml.pre": name})
        return load_gguf_text(metadata).tokenizer.encode("cab")

    assert len(encode("llama-bpe")) == 1
    assert len(encode("gpt-2")) == 2


# --- SentencePiece ------------------------------------------------------------------


def merge_by_score(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's algorithm as it is defined: the best union first, then the leftmost."""
    symbols = list(text)
    while True:
        unions = [a + b for a, b in itertools.pairwise(symbols)]
        known = [i for i, union in enumerate(unions) if union in scores]
        if not known:
            return symbols
        best = max(known, key=lambda i: (scores[unions[i]], -i))
        symbols[best : best + 2] = [unions[best]]


@given(
    words=st.lists(st.text("ab▁", min_size=2, max_size=7), max_size=14, unique=True),
    text=st.text("ab▁", max_size=24),
    data=st.data(),
)
def test_merging_by_score_equals_sentencepiece(
    words: list[str], text: str, data: st.DataObject
) -> None:
    tokens = data.draw(st.permutations(["a", "b", "▁", *words]))
    scores = {token: -float(rank) for rank, token in enumerate(tokens)}
    vocab = {token: i for i, token in enumerate(sorted(tokens))}
    backend = sentencepiece_backend(vocab, scores, None, add_space_prefix=False)
    assert backend.encode(text).tokens == merge_by_score(text, scores)


@given(text=st.text("abchis </>é日\n", max_size=30))
def test_sentencepiece_files_are_read_as_transformers_reads_them(
    sentencepiece_metadata: dict[str, Any], sentencepiece_tokenizer: Tokenizer, text: str
) -> None:
    theirs = as_transformers_reads_it(sentencepiece_metadata, "phi3")  # with llama.cpp's spaces
    expected = theirs.encode(text, add_special_tokens=False).ids
    assert sentencepiece_tokenizer.encode_with_special_tokens(text) == expected


def test_sentencepiece_text_survives_encoding(sentencepiece_tokenizer: Tokenizer) -> None:
    for text in ("hi ab", " hi", "日本\n", "<s></s>", "<0x41>"):
        ids = sentencepiece_tokenizer.encode(text)
        assert sentencepiece_tokenizer.decode(ids) == text
        assert not any(map(sentencepiece_tokenizer.is_special, ids))


def test_the_space_before_the_text_can_be_left_out(sentencepiece_metadata: dict[str, Any]) -> None:
    metadata = sentencepiece_metadata | {"tokenizer.ggml.add_space_prefix": False}
    tokenizer = load_gguf_text(metadata).tokenizer
    assert tokenizer.decode(tokenizer.encode(" hi")) == " hi"
    assert tokenizer.encode("hi") != load_gguf_text(sentencepiece_metadata).tokenizer.encode("hi")


# --- what belongs to a tokenizer ------------------------------------------------------


def test_the_default_model_is_read_whole(smollm: TextModel) -> None:
    assert smollm.tokenizer.vocab_size == 49152
    assert smollm.eos_token_ids == {2}
    assert smollm.bos_token_id == 1
    assert not smollm.add_bos
    assert len(smollm.tokenizer.special_tokens) == 17
    assert smollm.chat_template is not None


def test_sentencepiece_files_have_defaults(sentencepiece_metadata: dict[str, Any]) -> None:
    model = load_gguf_text(sentencepiece_metadata)
    assert model.eos_token_ids == {2}
    assert (model.bos_token_id, model.add_bos) == (1, True)
    assert model.tokenizer.special_tokens == {"<unk>", "<s>", "</s>"}
    assert model.chat_template is None


@pytest.mark.parametrize(
    ("keys", "add_bos"),
    [
        ({"ggml.bos_token_id": 5}, False),
        ({"ggml.bos_token_id": 5, "ggml.pre": "llama-bpe"}, True),
        ({"ggml.bos_token_id": 5, "ggml.pre": "llama-bpe", "ggml.add_bos_token": False}, False),
        ({"ggml.bos_token_id": 5, "ggml.add_bos_token": True}, True),
        ({"ggml.add_bos_token": True}, False),
    ],
)
def test_a_prompt_begins_as_the_file_says(
    byte_level_metadata: Callable[..., dict[str, Any]], keys: dict[str, Any], add_bos: bool
) -> None:
    assert load_gguf_text(byte_level_metadata(**keys)).add_bos is add_bos


def test_all_ends_that_the_file_names_or_the_template_writes_count(
    byte_level_metadata: Callable[..., dict[str, Any]],
) -> None:
    extra = [("<end>", 3), ("<|im_end|>", 3), ("<|eot_id|>", 3), ("<eom>", 3)]
    model = load_gguf_text(
        byte_level_metadata(
            extra,
            **{"ggml.eos_token_id": 258, "ggml.eom_token_id": 261},
            chat_template="{{ messages[0].content }}<|im_end|>",
        )
    )
    assert model.eos_token_ids == {258, 259, 261}


def test_a_named_end_is_special_whatever_its_type(
    byte_level_metadata: Callable[..., dict[str, Any]],
) -> None:
    model = load_gguf_text(byte_level_metadata([("<end>", 1)], **{"ggml.eos_token_id": 258}))
    assert model.tokenizer.is_special(258)
    assert model.tokenizer.encode_with_special_tokens("<end>") == [258]


def test_templates_know_the_tokens_by_name(
    byte_level_metadata: Callable[..., dict[str, Any]],
) -> None:
    keys = {"ggml.bos_token_id": 258, "ggml.eos_token_id": 259}
    template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    metadata = byte_level_metadata([("<b>", 3), ("<e>", 3)], **keys, chat_template=template)
    model = load_gguf_text(metadata)
    assert model.encode_chat([{"role": "user", "content": "ab"}]) == [258, 256, 259]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ggml.model": "rwkv"}, "'rwkv' is not implemented"),
        ({"ggml.model": None}, "not implemented"),
        ({"ggml.pre": "bloom"}, "'bloom' is not implemented; known are default"),
        ({"ggml.tokens": None}, r"tokenizer\.ggml\.tokens"),
        ({"ggml.tokens": 7}, r"tokenizer\.ggml\.tokens"),
        ({"ggml.tokens": ["a", "a"]}, "twice"),
        ({"ggml.token_type": [1, 1]}, r"tokenizer\.ggml\.token_type"),
        ({"ggml.merges": None}, r"tokenizer\.ggml\.merges"),
        ({"ggml.merges": ["ab"]}, "merges are damaged"),
        ({"ggml.merges": ["a nowhere"]}, "merges are damaged"),
        ({"ggml.eos_token_id": 258}, r"eos_token_id is 258"),
        ({"ggml.bos_token_id": -1}, r"bos_token_id is -1"),
        ({"ggml.bos_token_id": "1"}, r"bos_token_id is '1'"),
        ({"chat_template": "{% if %}"}, "does not compile"),
        ({"ggml.model": "llama"}, r"tokenizer\.ggml\.scores"),
        ({"ggml.model": "llama", "ggml.scores": [0.0]}, r"tokenizer\.ggml\.scores"),
        ({"ggml.model": "llama", "ggml.precompiled_charsmap": [1]}, "precompiled_charsmap"),
    ],
)
def test_what_cannot_be_read_rightly_is_refused(
    byte_level_metadata: Callable[..., dict[str, Any]], keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load_gguf_text(byte_level_metadata(**keys))
