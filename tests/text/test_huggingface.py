"""Model directories as Hugging Face lays them out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from realtime_serve.errors import ModelLoadError
from realtime_serve.text import TextModel, load_hf_text

BOS, EOS, USER = 256, 257, 258


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with nothing but a tokenizer.json of single bytes and three added tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>")])
    backend.add_tokens([AddedToken("<user>", normalized=False)])
    backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def write_json(path: Path, **value: Any) -> None:
    path.write_text(json.dumps(value))


def test_the_default_model_reads_the_same_from_a_directory(
    smollm: TextModel, hf_directory: Path
) -> None:
    model = load_hf_text(hf_directory)
    for text in ("Hello 12 worlds", "日本 😀", "a<|im_end|>b"):
        assert model.tokenizer.encode(text) == smollm.tokenizer.encode(text)
    messages = [{"role": "user", "content": "Hi <|im_start|>"}]
    assert model.encode_chat(messages) == smollm.encode_chat(messages)
    assert model.eos_token_ids == {2}
    assert (model.bos_token_id, model.add_bos) == (1, False)
    assert model.tokenizer.special_tokens == smollm.tokenizer.special_tokens


def test_a_bare_tokenizer_is_enough(directory: Path) -> None:
    model = load_hf_text(str(directory))
    assert model.chat_template is None
    assert (model.eos_token_ids, model.bos_token_id, model.add_bos) == (frozenset(), None, False)


@pytest.mark.parametrize("as_dict", [False, True])
def test_named_tokens_are_strings_or_descriptions(directory: Path, as_dict: bool) -> None:
    tokens: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": None}
    if as_dict:
        tokens = {name: {"content": text} for name, text in tokens.items() if text}
    write_json(directory / "tokenizer_config.json", **tokens)
    model = load_hf_text(directory)
    assert model.eos_token_ids == {EOS}
    assert model.bos_token_id == BOS


def test_the_special_tokens_map_fills_in_what_the_configuration_leaves_out(directory: Path) -> None:
    write_json(directory / "special_tokens_map.json", bos_token="<user>", eos_token="</s>")
    write_json(directory / "tokenizer_config.json", bos_token="<s>")
    model = load_hf_text(directory)
    assert model.eos_token_ids == {EOS}
    assert model.bos_token_id == BOS


def test_a_named_token_is_special_even_if_the_tokenizer_does_not_say_so(directory: Path) -> None:
    assert not load_hf_text(directory).tokenizer.is_special(USER)
    write_json(directory / "tokenizer_config.json", eos_token="<user>", pad_token="nowhere")
    tokenizer = load_hf_text(directory).tokenizer
    assert tokenizer.is_special(USER)
    assert USER not in tokenizer.encode("<user>")
    assert tokenizer.vocab_size == USER + 1


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        ({"eos_token_id": [5, 6]}, {"eos_token_id": 7}, {5, 6, EOS}),
        ({}, {"eos_token_id": 7}, {7, EOS}),
        ({"eos_token_id": 0}, {"eos_token_id": 7}, {0, EOS}),
        ({"eos_token_id": None}, {}, {EOS}),
    ],
)
def test_ends_come_from_the_generation_configuration_first(
    directory: Path, generation: dict[str, Any], config: dict[str, Any], ends: set[int]
) -> None:
    write_json(directory / "generation_config.json", **generation)
    write_json(directory / "config.json", **config)
    write_json(directory / "tokenizer_config.json", eos_token="</s>")
    assert load_hf_text(directory).eos_token_ids == ends


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("said", [None, False, True])
def test_a_prompt_begins_as_in_transformers(
    directory: Path, processed: bool, said: bool | None
) -> None:
    from transformers import AutoTokenizer

    path = directory / "tokenizer.json"
    backend = Backend.from_file(str(path))
    if processed:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
        )
        backend.save(str(path))
    config: dict[str, Any] = {"bos_token": "<s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    if said is not None:
        config["add_bos_token"] = said
    write_json(directory / "tokenizer_config.json", **config)
    theirs = AutoTokenizer.from_pretrained(str(directory))
    assert load_hf_text(directory).encode_prompt("ab") == theirs.encode("ab")


def test_a_template_file_goes_before_the_configuration(directory: Path) -> None:
    write_json(directory / "tokenizer_config.json", chat_template="from the configuration")
    assert rendered(directory) == "from the configuration"
    (directory / "chat_template.jinja").write_text("from the file")
    assert rendered(directory) == "from the file"


def test_of_several_templates_the_default_one_is_taken(directory: Path) -> None:
    templates = [{"name": name, "template": f"{name} it is"} for name in ("tool_use", "default")]
    write_json(directory / "tokenizer_config.json", chat_template=templates)
    assert rendered(directory) == "default it is"


def rendered(directory: Path) -> str:
    template = load_hf_text(directory).chat_template
    assert template is not None
    return template.render([])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", r"tokenizer\.json cannot be read"),
        ("tokenizer.json", "{}", r"tokenizer\.json cannot be read"),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json cannot be read"),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json must hold a JSON object"),
        ("config.json", '{"eos_token_id": "two"}', "eos_token_id must be a number"),
        ("chat_template.jinja", "{% if %}", "does not compile"),
    ],
)
def test_a_damaged_file_is_named(directory: Path, name: str, content: str, message: str) -> None:
    (directory / name).write_text(content)
    with pytest.raises(ModelLoadError, match=message):
        load_hf_text(directory)


def test_a_file_that_is_not_text_is_named(directory: Path) -> None:
    (directory / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelLoadError, match=r"chat_template\.jinja cannot be read"):
        load_hf_text(directory)


def test_a_missing_tokenizer_is_named_with_what_to_do(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadError, match=r"needs a tokenizer\.json.*save_pretrained"):
        load_hf_text(directory)
    shutil.rmtree(directory)
    with pytest.raises(ModelLoadError, match="does not exist"):
        load_hf_text(directory)
