"""Tokenizers to test with: the default model's, transformers' reading of it, and small ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import settings
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from realtime_serve.text import TextModel, Tokenizer, load_gguf_text

# A test has no limit in wall-clock time, and neither has one example of it.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))


@pytest.fixture(scope="session")
def gguf_metadata(gguf_path: str) -> dict[str, Any]:
    """What the default model's file says about its tokenizer."""
    fields = gguf.GGUFReader(gguf_path).fields
    return {key: fields[key].contents() for key in fields if key.startswith("tokenizer.")}


@pytest.fixture(scope="session")
def smollm(gguf_metadata: dict[str, Any]) -> TextModel:
    return load_gguf_text(gguf_metadata)


@pytest.fixture(scope="session")
def reference(gguf_path: str) -> Any:
    """transformers' own tokenizer for the default model.

    transformers does not know the pre-tokenizer "smollm" and splits as GPT-2 does. The rule
    that each digit stands alone is put back, as the model's own tokenizer.json has it.
    """
    from transformers import AutoTokenizer

    path = Path(gguf_path)
    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    digits = pre_tokenizers.Digits(individual_digits=True)
    gpt2 = tokenizer.backend_tokenizer.pre_tokenizer
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, gpt2])
    return tokenizer


@pytest.fixture(scope="session")
def hf_directory(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model's tokenizer as a Hugging Face directory."""
    directory = tmp_path_factory.mktemp("hf")
    reference.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def byte_level_metadata() -> Callable[..., dict[str, Any]]:
    """Makes GGUF metadata of a vocabulary of single bytes and whatever else is given."""

    def make(extra: Sequence[tuple[str, int]] = (), **keys: Any) -> dict[str, Any]:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        return {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": [*alphabet, "ab", "abc", *(token for token, _ in extra)],
            "tokenizer.ggml.token_type": [1] * 258 + [kind for _, kind in extra],
            "tokenizer.ggml.merges": ["a b", "ab c"],
            **{f"tokenizer.{key}": value for key, value in keys.items()},
        }

    return make


@pytest.fixture(scope="session")
def sentencepiece_metadata() -> dict[str, Any]:
    """A small vocabulary as Llama 2's GGUF files have it."""
    words = ["▁", "a", "b", "c", "h", "i", "s", "<", ">", "/", "▁hi", "hi", "ab", "▁ab", "abc"]
    specials = [("<unk>", 2), ("<s>", 3), ("</s>", 3)]
    normal = [(word, 1) for word in words]
    typed = [*specials, *((token, 6) for token in BYTE_TOKENS), *normal, ("<think>", 4)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [token for token, _ in typed],
        "tokenizer.ggml.token_type": [kind for _, kind in typed],
        "tokenizer.ggml.scores": [-float(index) for index in range(len(typed))],
    }


def _sentencepiece(*last_stages: decoders.Decoder) -> Backend:
    tokens = ["<unk>", "<s>", "</s>", *BYTE_TOKENS, "▁", "a", "▁a", "é", "▁日", "  ", "x▁"]
    backend = Backend(models.BPE({t: i for i, t in enumerate(tokens)}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last_stages]
    )
    return backend


def _metaspace(prepend_scheme: str) -> Backend:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -3.0), ("▁a", -1.0), ("▁▁b", -2.0), ("c", -4.0)]
    backend = Backend(models.Unigram(pieces, 0, False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=prepend_scheme)
    return backend


def _wordpiece(cleanup: bool) -> Backend:
    tokens = ["[UNK]", "[CLS]", "un", "##aff", "##able", "do", "n't", ".", ",", "##'m", "'", "##"]
    backend = Backend(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece(cleanup=cleanup)
    return backend


def _end_of_word() -> Backend:
    tokens = ["<s>", "a", "b</w>", "ab</w>", "</w>", "c"]
    backend = Backend(models.BPE({t: i for i, t in enumerate(tokens)}, []))
    backend.decoder = decoders.BPEDecoder()
    return backend


def _no_decoder() -> Backend:
    return Backend(models.WordLevel({"[UNK]": 0, "<s>": 1, "one": 2, "two": 3}, "[UNK]"))


def _changes_its_mind() -> Backend:
    """Its decoder replaces across tokens, so nothing is certain before the end."""
    backend = Backend(models.WordLevel({"[UNK]": 0, "<s>": 1, "a": 2, "b": 3}, "[UNK]"))
    backend.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "c")])
    return backend


def _byte_level() -> Backend:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(["é", "日本", "<tool call>", "\ufffd"])
    return backend


SMALL_BACKENDS: dict[str, Callable[[], Backend]] = {
    "byte-level": _byte_level,
    "sentencepiece": _sentencepiece,
    "sentencepiece, one space stripped": lambda: _sentencepiece(decoders.Strip(" ", 1, 0)),
    "sentencepiece, two spaces stripped": lambda: _sentencepiece(decoders.Strip(" ", 2, 0)),
    "metaspace always": lambda: _metaspace("always"),
    "metaspace never": lambda: _metaspace("never"),
    "wordpiece": lambda: _wordpiece(cleanup=False),
    "wordpiece with cleanup": lambda: _wordpiece(cleanup=True),
    "end of word": _end_of_word,
    "no decoder": _no_decoder,
    "changes its mind": _changes_its_mind,
}


@pytest.fixture(params=SMALL_BACKENDS)
def small_backend(request: pytest.FixtureRequest) -> Backend:
    """A small tokenizer of every kind of decoder, its second token special."""
    backend = SMALL_BACKENDS[request.param]()
    second = backend.id_to_token(1)
    assert second is not None
    backend.add_special_tokens([AddedToken(second, special=True, normalized=False)])
    return backend


@pytest.fixture
def unigram_backend() -> Backend:
    """A model that finds "</s>" in text by itself, and a normalizer that writes it."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((char, -5.0) for char in "▁abs/<>")]
    backend = Backend(models.Unigram(pieces, 0, False))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in ("<unk>", "</s>")]
    )
    return backend


@pytest.fixture(scope="session")
def sentencepiece_tokenizer(sentencepiece_metadata: dict[str, Any]) -> Tokenizer:
    return load_gguf_text(sentencepiece_metadata).tokenizer
