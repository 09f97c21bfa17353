"""Known fields that are not built yet: neutral values pass, others are refused by name."""

from collections.abc import Callable
from typing import Any

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from realtime_serve.api import unbuilt
from realtime_serve.api.fields import MAX_NAME_CHARS
from realtime_serve.api.protocol import (
    ChatCall,
    CompletionCall,
    GenerationCall,
    parse_chat,
    parse_completion,
)
from realtime_serve.errors import InvalidRequestError

Parse = Callable[[dict[str, Any]], GenerationCall]


def chat(fields: dict[str, Any]) -> ChatCall:
    return parse_chat({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


def completion(fields: dict[str, Any]) -> CompletionCall:
    return parse_completion({"model": "m", "prompt": "Once", **fields})


def refusal(parse: Parse, fields: dict[str, Any]) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parse(fields)
    return caught.value


HARMLESS_IN_BOTH = [
    ("n", 1),
    ("n", 1.0),
    ("presence_penalty", 0),
    ("presence_penalty", 0.0),
    ("frequency_penalty", 0),
    ("repetition_penalty", 1),
    ("repetition_penalty", 1.0),
    ("logit_bias", {}),
    ("user", "u" * MAX_NAME_CHARS),
    ("metadata", {"a": "b"}),
    ("store", True),
    ("service_tier", "auto"),
    ("prompt_cache_key", "k"),
    ("safety_identifier", "s"),
]
HARMLESS_IN_CHAT = [
    ("logprobs", False),
    ("top_logprobs", 0),
    ("response_format", {"type": "text"}),
    ("tools", []),
    ("tool_choice", "none"),
    ("tool_choice", "auto"),
    ("functions", []),
    ("function_call", "none"),
    ("modalities", ["text"]),
    ("parallel_tool_calls", True),
    ("parallel_tool_calls", False),
    ("reasoning_effort", "none"),
    ("verbosity", "medium"),
    ("prompt_cache_options", {}),
    ("prompt_cache_retention", "in_memory"),
]
HARMLESS_IN_COMPLETIONS = [("best_of", 1), ("echo", False), ("suffix", "")]


@pytest.mark.parametrize(
    ("parse", "field", "value"),
    [
        *[(chat, *pair) for pair in HARMLESS_IN_BOTH + HARMLESS_IN_CHAT],
        *[(completion, *pair) for pair in HARMLESS_IN_BOTH + HARMLESS_IN_COMPLETIONS],
    ],
)
def test_values_that_cannot_change_the_output_are_accepted(
    parse: Parse, field: str, value: object
) -> None:
    assert parse({field: value}) == parse({})


@pytest.mark.parametrize(
    ("parse", "field"),
    [
        *[(chat, field) for field in unbuilt.CHAT],
        *[(completion, field) for field in unbuilt.COMPLETION],
    ],
)
def test_null_is_neutral_in_every_field(parse: Parse, field: str) -> None:
    assert parse({field: None}) == parse({})


UNBUILT_IN_BOTH = [
    ("n", [0, -1, 2, 1_000_000, True, "1"]),
    ("presence_penalty", [0.1, -2, False, "0"]),
    ("frequency_penalty", [0.1, True]),
    ("repetition_penalty", [0, 1.1, True]),
    ("logit_bias", [{"5": 1}, {"x": 1}, {"5": 1e9}, [], 5, 0, False]),
]
UNBUILT_IN_CHAT = [
    ("logprobs", [True, -1, 0, "yes"]),
    ("top_logprobs", [1, 21, -1]),
    ("response_format", [{"type": "json_object"}, {"type": "json_schema"}, "text"]),
    ("tools", [[{"type": "function"}], {}]),
    ("tool_choice", ["required", {"type": "function"}]),
    ("functions", [[{"name": "f"}]]),
    ("modalities", [["text", "audio"]]),
    ("web_search_options", [{}]),
    ("reasoning_effort", ["high"]),
    ("prediction", [{"type": "content", "content": "x"}]),
]
UNBUILT_IN_COMPLETIONS = [
    ("best_of", [2, 0, True]),
    ("echo", [True]),
    ("suffix", ["end"]),
    ("logprobs", [0, 1, 5, -1, False]),
]


@pytest.mark.parametrize(
    ("parse", "field", "values"),
    [
        *[(chat, *row) for row in UNBUILT_IN_BOTH + UNBUILT_IN_CHAT],
        *[(completion, *row) for row in UNBUILT_IN_BOTH + UNBUILT_IN_COMPLETIONS],
    ],
)
def test_an_unbuilt_field_that_would_change_the_output_is_refused_by_name(
    parse: Parse, field: str, values: list[object]
) -> None:
    for value in values:
        error = refusal(parse, {field: value})
        assert error.param == field
        assert error.message.startswith(f"{field} is not supported yet; leave it out")


@pytest.mark.parametrize(
    ("parse", "field", "param"),
    [
        (chat, "temprature", "temprature"),
        (chat, "prompt", "prompt"),
        (chat, "echo", "echo"),
        (completion, "messages", "messages"),
        (completion, "tools", "tools"),
        (chat, "x" * 1_000_000, "'" + "x" * 47),
        (chat, "<script>\r\n", "'<script>\\r\\n'"),
    ],
)
def test_an_unknown_field_is_refused_by_name_even_if_null(
    parse: Parse, field: str, param: str
) -> None:
    for value in (None, "secret"):
        error = refusal(parse, {field: value})
        assert error.param == param
        assert error.message == f"{param} is not a known field here; leave it out."


@pytest.mark.parametrize("parse", [chat, completion])
def test_a_template_in_a_request_is_refused_with_the_reason(parse: Parse) -> None:
    error = refusal(parse, {"chat_template": "{{ messages }}"})
    assert error.param == "chat_template"
    assert "the served model's own is used" in error.message


@pytest.mark.parametrize(
    ("parse", "params"),
    [
        (chat, chat_create_params.CompletionCreateParamsBase),
        (completion, completion_create_params.CompletionCreateParamsBase),
    ],
)
def test_every_field_of_the_openai_sdk_is_known_and_may_be_null(parse: Parse, params: type) -> None:
    optional = set(params.__annotations__) - {"model", "messages", "prompt"}
    assert len(optional) > 14
    for field in optional:
        assert parse({field: None}) == parse({})
