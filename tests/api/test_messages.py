"""Messages become plain strings for the template, or are refused by their path."""

from typing import Any

import pytest

from realtime_serve.api.messages import MAX_MESSAGES, parse_messages
from realtime_serve.errors import InvalidRequestError

USER = {"role": "user", "content": "Hi"}


def refusal(*messages: object) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parse_messages(list(messages))
    return caught.value


@pytest.mark.parametrize(
    ("message", "parsed"),
    [
        ({"role": "system", "content": "S"}, {"role": "system", "content": "S"}),
        ({"role": "developer", "content": "D"}, {"role": "system", "content": "D"}),
        ({"role": "user", "content": ""}, {"role": "user", "content": ""}),
        ({"role": "assistant", "content": "A"}, {"role": "assistant", "content": "A"}),
        (
            {"role": "tool", "content": "T", "tool_call_id": "call_1"},
            {"role": "tool", "content": "T", "tool_call_id": "call_1"},
        ),
        (
            {"role": "user", "content": "U", "name": "ann"},
            {"role": "user", "content": "U", "name": "ann"},
        ),
        ({"role": "user", "content": "U", "name": None}, {"role": "user", "content": "U"}),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "user", "content": "a"},
        ),
        (
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "a"},
                    {"type": "text", "text": "b", "prompt_cache_breakpoint": None},
                ],
            },
            {"role": "user", "content": "a\nb"},
        ),
        (
            {
                "role": "assistant",
                "content": "A",
                "refusal": None,
                "tool_calls": [],
                "function_call": None,
                "audio": None,
                "annotations": [],
            },
            {"role": "assistant", "content": "A"},
        ),
    ],
)
def test_each_form_of_a_message_becomes_plain_strings(
    message: dict[str, Any], parsed: dict[str, str]
) -> None:
    assert parse_messages([message]) == [parsed]


def test_special_tokens_in_text_are_left_for_the_template_to_keep_literal() -> None:
    text = "<|im_start|>system"
    assert parse_messages([{"role": "user", "content": text}])[0]["content"] == text


@pytest.mark.parametrize(
    ("message", "key", "words"),
    [
        ("Hi", "", "an object with role and content"),
        (None, "", "an object"),
        ({"content": "Hi"}, ".role", "one of system, developer, user, assistant, tool"),
        ({"role": "root", "content": "Hi"}, ".role", "one of system"),
        ({"role": "USER", "content": "Hi"}, ".role", "one of system"),
        ({"role": ["user"], "content": "Hi"}, ".role", "one of system"),
        ({"role": "user"}, ".content", "a string or a non-empty list of text parts"),
        ({"role": "user", "content": None}, ".content", "a string"),
        ({"role": "user", "content": 5}, ".content", "a string"),
        ({"role": "user", "content": {}}, ".content", "a string"),
        ({"role": "user", "content": []}, ".content", "non-empty list"),
        ({"role": "assistant"}, ".content", "a string"),
        ({"role": "assistant", "content": None}, ".content", "a string"),
        ({"role": "assistant", "tool_calls": [{"id": "x"}]}, ".tool_calls", "not supported yet"),
        ({"role": "assistant", "content": "A", "refusal": "No"}, ".refusal", "not supported yet"),
        ({"role": "user", "content": "Hi", "name": 5}, ".name", "a string"),
        ({"role": "tool", "content": "Hi", "tool_call_id": 5}, ".tool_call_id", "a string"),
        ({"role": "user", "content": "Hi", "tool_call_id": "x"}, ".tool_call_id", "not a known"),
        ({"role": "user", "content": "Hi", "weight": None}, ".weight", "not a known field"),
        ({"role": "user", "content": ["Hi"]}, ".content[0]", "an object with type and text"),
        ({"role": "user", "content": [{"text": "Hi"}]}, ".content[0].type", "a string"),
        ({"role": "user", "content": [{"type": "text"}]}, ".content[0].text", "a string"),
        (
            {"role": "user", "content": [{"type": "text", "text": "Hi", "x": 1}]},
            ".content[0].x",
            "not a known field",
        ),
    ],
)
def test_a_wrong_message_is_refused_by_its_path(message: object, key: str, words: str) -> None:
    error = refusal(USER, message)
    assert error.param == "messages[1]" + key
    assert str(error.param) in error.message
    assert words in error.message


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "refusal", "video_url"])
def test_parts_that_are_not_text_are_refused_by_name_and_never_quoted(kind: str) -> None:
    part = {"type": kind, kind: {"url": "http://10.0.0.1/secret", "data": "AAAA"}}
    text = {"type": "text", "text": "What is this?"}
    error = refusal({"role": "user", "content": [text, part]})
    assert error.param == "messages[0].content[1]"
    assert kind in error.message
    assert "secret" not in error.message


def test_a_conversation_has_at_least_one_message_and_at_most_the_limit() -> None:
    assert len(parse_messages([USER] * MAX_MESSAGES)) == MAX_MESSAGES
    for messages in ([], [USER] * (MAX_MESSAGES + 1), [USER] * 10_000):
        error = refusal(*messages)
        assert (error.param, str(MAX_MESSAGES) in error.message) == ("messages", True)


def test_the_messages_of_the_request_are_not_shared_with_the_answer() -> None:
    message = dict(USER)
    parsed = parse_messages([message])
    message["content"] = "changed"
    assert parsed == [USER]
