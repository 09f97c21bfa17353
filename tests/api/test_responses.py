"""Answers have OpenAI's shape: its SDK's own models accept them, with nothing left over."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai.types import Completion, CompletionUsage, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from realtime_serve.api import responses
from realtime_serve.api.messages import parse_messages
from realtime_serve.types import FinishReason, InferenceResponse, Usage

CREATED = 1_700_000_000
USAGE = Usage(prompt_tokens=5, completion_tokens=3)
FAILURES = [FinishReason.CANCELLED, FinishReason.DEADLINE, FinishReason.ERROR]


def response(finish_reason: FinishReason = FinishReason.STOP) -> InferenceResponse:
    return InferenceResponse(
        request_id="r1",
        model="m",
        text='Hé "漢" 🎉\n',
        token_ids=(1, 2, 3),
        finish_reason=finish_reason,
        usage=USAGE,
    )


def extras(value: object) -> Iterator[str]:
    """Find the names that an SDK model kept without knowing them."""
    if isinstance(value, BaseModel):
        yield from value.model_extra or {}
        value = [getattr(value, name) for name in type(value).model_fields]
    if isinstance(value, list):
        for entry in value:
            yield from extras(entry)


def test_a_chat_completion_is_what_the_sdk_expects() -> None:
    payload = responses.chat_completion(response(), created=CREATED)
    parsed = ChatCompletion.model_validate(payload, strict=True)
    assert list(extras(parsed)) == []
    assert (parsed.id, parsed.created, parsed.model) == ("chatcmpl-r1", CREATED, "m")
    choice = parsed.choices[0]
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content) == ("assistant", response().text)


def test_a_text_completion_is_what_the_sdk_expects() -> None:
    payload = responses.text_completion(response(FinishReason.LENGTH), created=CREATED)
    parsed = Completion.model_validate(payload, strict=True)
    assert list(extras(parsed)) == []
    assert (parsed.id, parsed.created, parsed.model) == ("cmpl-r1", CREATED, "m")
    choice = parsed.choices[0]
    assert (choice.index, choice.finish_reason, choice.text) == (0, "length", response().text)


def test_usage_adds_up() -> None:
    parsed = CompletionUsage.model_validate(responses.usage_counts(USAGE), strict=True)
    counts = (parsed.prompt_tokens, parsed.completion_tokens, parsed.total_tokens)
    assert counts == (5, 3, 8)
    for build in (responses.chat_completion, responses.text_completion):
        assert build(response(), created=CREATED)["usage"] == responses.usage_counts(USAGE)


@pytest.mark.parametrize("include_usage", [False, True])
def test_chat_chunks_are_what_the_sdk_expects(include_usage: bool) -> None:
    head = responses.chat_head("r1", model="m", created=CREATED, include_usage=include_usage)
    chunks = [
        responses.chat_chunk(head, {"role": "assistant", "content": ""}),
        responses.chat_chunk(head, {"content": "Hé"}),
        responses.chat_chunk(head, {}, FinishReason.LENGTH),
        responses.usage_chunk(head, USAGE),
    ]
    parsed = [ChatCompletionChunk.model_validate(chunk, strict=True) for chunk in chunks]
    assert list(extras(parsed)) == []
    assert {chunk.id for chunk in parsed} == {"chatcmpl-r1"}
    assert [chunk.choices[0].finish_reason for chunk in parsed[:3]] == [None, None, "length"]
    assert parsed[1].choices[0].delta.content == "Hé"
    assert parsed[3].choices == []


@pytest.mark.parametrize("include_usage", [False, True])
def test_completion_chunks_are_what_the_sdk_expects(include_usage: bool) -> None:
    head = responses.completion_head("r1", model="m", created=CREATED, include_usage=include_usage)
    text = responses.completion_chunk(head, "Hé")
    last = responses.completion_chunk(head, "", FinishReason.STOP)
    # The SDK's type has no null here, though OpenAI's own streams send it.
    assert text["choices"][0].pop("finish_reason") is None
    text["choices"][0]["finish_reason"] = "stop"
    chunks = [text, last, responses.usage_chunk(head, USAGE)]
    parsed = [Completion.model_validate(chunk, strict=True) for chunk in chunks]
    assert list(extras(parsed)) == []
    assert [choice.text for chunk in parsed for choice in chunk.choices] == ["Hé", ""]


@pytest.mark.parametrize("make_head", [responses.chat_head, responses.completion_head])
def test_usage_is_null_in_every_chunk_but_the_last_and_only_if_asked_for(
    make_head: Callable[..., responses.StreamHead],
) -> None:
    for include_usage in (False, True):
        head = make_head("r1", model="m", created=CREATED, include_usage=include_usage)
        chunk = responses.completion_chunk(head, "x")
        assert chunk.get("usage", "absent") == (None if include_usage else "absent")
    assert responses.usage_chunk(head, USAGE)["usage"]["total_tokens"] == 8


@pytest.mark.parametrize("reason", FAILURES)
def test_a_failure_is_never_a_finish_reason(reason: FinishReason) -> None:
    head = responses.chat_head("r1", model="m", created=CREATED)
    builders: list[Callable[[], Any]] = [
        lambda: responses.finish_word(reason),
        lambda: responses.chat_completion(response(reason), created=CREATED),
        lambda: responses.text_completion(response(reason), created=CREATED),
        lambda: responses.chat_chunk(head, {}, reason),
    ]
    for build in builders:
        with pytest.raises(ValueError, match=reason.name):
            build()


def test_an_answer_can_be_sent_back_as_history() -> None:
    payload = responses.chat_completion(response(), created=CREATED)
    message = ChatCompletion.model_validate(payload).choices[0].message
    for history in (message.model_dump(), message.model_dump(exclude_unset=True)):
        assert parse_messages([history]) == [{"role": "assistant", "content": response().text}]


def test_models_are_listed_with_their_context_length() -> None:
    card = responses.model_card("m", created=CREATED, max_model_len=2048)
    parsed = Model.model_validate(card, strict=True)
    assert (parsed.id, parsed.object, parsed.created) == ("m", "model", CREATED)
    assert list(extras(parsed)) == ["max_model_len"]
    assert responses.model_list([card, card]) == {"object": "list", "data": [card, card]}


def test_answers_are_encoded_as_compact_utf8() -> None:
    payload = responses.chat_completion(response(), created=CREATED)
    encoded = responses.encode_json(payload)
    assert json.loads(encoded) == payload
    assert "漢".encode() in encoded
    assert b": " not in encoded
    assert responses.encode_json({"a": "x\ud800"}) == b'{"a":"x?"}'
