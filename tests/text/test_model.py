"""What a model's text side puts together."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from realtime_serve.errors import InvalidRequestError
from realtime_serve.text import TextModel, load_gguf_text


def test_a_prompt_gets_the_first_token_only_if_the_model_wants_it(smollm: TextModel) -> None:
    plain = smollm.encode_prompt("Hello")
    wanting = dataclasses.replace(smollm, add_bos=True)
    assert plain == smollm.tokenizer.encode("Hello")
    assert wanting.encode_prompt("Hello") == [1, *plain]
    assert wanting.encode_prompt("Hello") == [1, *plain], "nothing was changed by the first call"


def test_special_tokens_in_a_prompt_stay_text(smollm: TextModel) -> None:
    ids = smollm.encode_prompt("<|im_start|>user")
    assert smollm.tokenizer.decode(ids) == "<|im_start|>user"


def test_a_model_without_a_template_says_which_endpoint_to_use(
    sentencepiece_metadata: dict[str, Any],
) -> None:
    model = load_gguf_text(sentencepiece_metadata)
    with pytest.raises(InvalidRequestError, match="/v1/completions") as caught:
        model.encode_chat([{"role": "user", "content": "hi"}])
    assert caught.value.param == "messages"


def test_text_needs_no_tensor_no_web_framework_and_no_patching() -> None:
    forbidden = ("torch", "flask", "werkzeug", "gevent", "realtime_serve.native")
    code = f"import sys, realtime_serve.text; print([m for m in {forbidden!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
