"""Requests become checked values, or are refused by the name of the field at fault."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_serve.api import unbuilt
from realtime_serve.api.protocol import (
    ChatCall,
    CompletionCall,
    GenerationCall,
    parse_chat,
    parse_completion,
)
from realtime_serve.errors import InvalidRequestError
from realtime_serve.types import MAX_SEED, RequestPriority, SamplingParams

MESSAGES = [{"role": "user", "content": "Hi"}]
CHAT = {"model": "m", "messages": MESSAGES}
COMPLETION = {"model": "m", "prompt": "Once"}

Parse = Callable[[dict[str, Any]], GenerationCall]


def chat(fields: dict[str, Any]) -> ChatCall:
    return parse_chat({**CHAT, **fields})


def completion(fields: dict[str, Any]) -> CompletionCall:
    return parse_completion({**COMPLETION, **fields})


BOTH = pytest.mark.parametrize("parse", [chat, completion])


def refusal(parse: Parse, fields: dict[str, Any]) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parse(fields)
    return caught.value


# --- what is accepted ---------------------------------------------------------


def test_a_minimal_chat_request_gets_the_defaults_of_the_api() -> None:
    assert chat({}) == ChatCall(
        model="m",
        messages=MESSAGES,
        sampling=SamplingParams(max_tokens=None, temperature=1.0, top_p=1.0),
        stream=False,
        include_usage=False,
        priority=RequestPriority.NORMAL,
    )


def test_a_minimal_completion_request_gets_the_defaults_of_the_api() -> None:
    expected = SamplingParams(max_tokens=16, temperature=1.0, top_p=1.0)
    assert completion({}) == CompletionCall(model="m", prompt="Once", sampling=expected)


@BOTH
def test_every_field_of_this_step_arrives(parse: Parse) -> None:
    call = parse(
        {
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 9,
            "min_tokens": 2,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.1,
            "seed": -7,
            "stop": ["\n", "END"],
            "stop_token_ids": [0, 5],
            "ignore_eos": True,
            "priority": "HIGH",
        }
    )
    assert (call.stream, call.include_usage, call.priority) == (True, True, RequestPriority.HIGH)
    assert call.sampling == SamplingParams(
        max_tokens=9,
        min_tokens=2,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        seed=-7,
        stop=("\n", "END"),
        stop_token_ids=(0, 5),
        ignore_eos=True,
    )


@pytest.mark.parametrize(
    ("fields", "sampling"),
    [
        ({"max_tokens": 1e9}, {"max_tokens": 10**9}),
        ({"max_tokens": 10**9}, {"max_tokens": 10**9}),
        ({"max_tokens": 5, "max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"max_tokens": 0, "max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"max_tokens": 5, "max_completion_tokens": None}, {"max_tokens": 5}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": 2}, {"temperature": 2.0}),
        ({"top_k": -1}, {"top_k": None}),
        ({"top_k": 0}, {"top_k": None}),
        ({"top_k": 3.0}, {"top_k": 3}),
        ({"seed": MAX_SEED}, {"seed": MAX_SEED}),
        ({"seed": -MAX_SEED - 1}, {"seed": -MAX_SEED - 1}),
        ({"stop": "x"}, {"stop": ("x",)}),
        ({"stop": []}, {"stop": ()}),
        ({"stop": ["a", "b", "c", "d"]}, {"stop": ("a", "b", "c", "d")}),
        ({"stop": "a\0b"}, {"stop": ("a\0b",)}),
    ],
)
@BOTH
def test_values_are_read_as_numbers_and_lists_of_json(
    parse: Parse, fields: dict[str, Any], sampling: dict[str, Any]
) -> None:
    assert parse(fields).sampling == dataclasses.replace(parse({}).sampling, **sampling)


@pytest.mark.parametrize(
    ("value", "priority"),
    [
        ("HIGH", RequestPriority.HIGH),
        ("normal", RequestPriority.NORMAL),
        ("Low", RequestPriority.LOW),
        (-3, RequestPriority.HIGH),
        (0, RequestPriority.NORMAL),
        (0.0, RequestPriority.NORMAL),
        (1, RequestPriority.LOW),
        (10**30, RequestPriority.LOW),
    ],
)
def test_priority_is_a_name_or_vllms_integer_of_which_lower_is_earlier(
    value: object, priority: RequestPriority
) -> None:
    assert chat({"priority": value}).priority is priority


OPTIONAL = [
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "priority",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "service_tier",
    "metadata",
    "store",
]


@pytest.mark.parametrize("field", OPTIONAL)
@BOTH
def test_null_is_the_default_in_every_field(parse: Parse, field: str) -> None:
    assert parse({field: None}) == parse({})


@pytest.mark.parametrize(
    ("options", "include_usage"),
    [
        ({}, False),
        ({"include_usage": True}, True),
        ({"include_usage": False}, False),
        ({"include_usage": None}, False),
        ({"include_usage": True, "include_obfuscation": False}, True),
        ({"include_usage": True, "continuous_usage_stats": False}, True),
    ],
)
@BOTH
def test_stream_options_ask_for_usage(
    parse: Parse, options: dict[str, Any], include_usage: bool
) -> None:
    assert parse({"stream": True, "stream_options": options}).include_usage is include_usage


# --- what is refused ----------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("model", [5, True, [], {}, None]),
        ("stream", ["yes", "true", 1, 0, []]),
        ("max_tokens", [-1, 0, 1.5, "5", True, [], 2**63, 1e30]),
        ("max_completion_tokens", [-1, 0, 1.5, "5", True]),
        ("min_tokens", [-1, 1.5, "5", True]),
        ("temperature", [-1, 3, "hot", "1", True, False, [], 10**400, float("nan")]),
        ("top_p", [0, 1.1, -0.5, "1", True, float("inf")]),
        ("top_k", [-5, -2, 1.5, "5", True]),
        ("min_p", [2, -0.1, "0", True]),
        ("seed", [2**63, 2**64, -(2**63) - 1, 1.5, "5", True]),
        ("stop", ["", ["a", ""], list("abcde"), "x" * 10_000, 5, True, {}]),
        ("stop_token_ids", [5, "5", {}, list(range(257))]),
        ("ignore_eos", ["yes", 1, 0]),
        ("priority", ["ULTRA", "", "0", "-1", True, False, 1.5, [], {}]),
        ("user", ["u" * 1_000_000, 5, [], {}]),
        ("safety_identifier", ["s" * 1_000, 5]),
        ("prompt_cache_key", ["k" * 1_000, 5]),
        ("service_tier", ["t" * 1_000, 5]),
        ("metadata", [5, "x", []]),
        ("store", ["yes", 1]),
    ],
)
@BOTH
def test_a_value_out_of_its_range_or_type_is_refused_with_the_field_and_the_rule(
    parse: Parse, field: str, values: list[object]
) -> None:
    for value in values:
        error = refusal(parse, {field: value})
        assert (error.status, error.param) == (400, field)
        assert len(error.message) < 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"stop": [None]}, "stop[0]"),
        ({"stop_token_ids": [1, -1]}, "stop_token_ids[1]"),
        ({"stop_token_ids": [2**31]}, "stop_token_ids[0]"),
        ({"stop_token_ids": [True]}, "stop_token_ids[0]"),
        ({"max_tokens": 5, "min_tokens": 6}, "min_tokens"),
        ({"stream_options": {}}, "stream_options"),
        ({"stream_options": {"include_usage": True}, "stream": False}, "stream_options"),
        ({"stream_options": [], "stream": True}, "stream_options"),
        ({"stream_options": {"x": None}, "stream": True}, "stream_options.x"),
        ({"stream_options": {"include_usage": 1}, "stream": True}, "stream_options.include_usage"),
        (
            {"stream_options": {"include_obfuscation": True}, "stream": True},
            "stream_options.include_obfuscation",
        ),
        (
            {"stream_options": {"continuous_usage_stats": True}, "stream": True},
            "stream_options.continuous_usage_stats",
        ),
    ],
)
@BOTH
def test_the_path_of_what_is_wrong_inside_a_field_is_named(
    parse: Parse, fields: dict[str, Any], param: str
) -> None:
    error = refusal(parse, fields)
    assert error.param == param
    assert param in error.message


@pytest.mark.parametrize(
    ("body", "parse", "param"),
    [
        ({"messages": MESSAGES}, parse_chat, "model"),
        ({"model": "m"}, parse_chat, "messages"),
        ({"model": "m", "messages": None}, parse_chat, "messages"),
        ({"model": "m", "messages": "Hi"}, parse_chat, "messages"),
        ({"model": "m", "messages": {}}, parse_chat, "messages"),
        ({"model": "m", "messages": []}, parse_chat, "messages"),
        ({"model": "m", "messages": [{"role": "user"}]}, parse_chat, "messages[0].content"),
        ({"prompt": "Once"}, parse_completion, "model"),
        ({"model": "m"}, parse_completion, "prompt"),
        ({"model": "m", "prompt": None}, parse_completion, "prompt"),
        ({"model": "m", "prompt": ["a", "b"]}, parse_completion, "prompt"),
        ({"model": "m", "prompt": [1, 2, 3]}, parse_completion, "prompt"),
        ({"model": "m", "prompt": [-1, 10**9]}, parse_completion, "prompt"),
        ({"model": "m", "prompt": [[1], [2]]}, parse_completion, "prompt"),
        ({}, parse_chat, "model"),
        ({}, parse_completion, "model"),
    ],
)
def test_model_and_prompt_are_required_in_the_form_that_is_served(
    body: dict[str, Any], parse: Parse, param: str
) -> None:
    assert refusal(parse, body).param == param


def test_a_prompt_of_tokens_is_refused_with_what_is_expected() -> None:
    message = refusal(completion, {"prompt": [1, 2]}).message
    assert message == "prompt must be a string; lists and token ids are not supported yet."


# --- properties ---------------------------------------------------------------

FIELD_NAMES = [*OPTIONAL, "model", "messages", "prompt", "chat_template"]
FIELD_NAMES += sorted({*unbuilt.CHAT, *unbuilt.COMPLETION})
INNER_NAMES = ["role", "content", "type", "text", "include_usage", "name", "tool_calls"]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["user", "assistant", "text", "image_url", "HIGH"])
)
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(INNER_NAMES) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = st.dictionaries(st.sampled_from(FIELD_NAMES) | st.text(max_size=3), JSON_VALUES)


def outcome(parse: Parse, fields: dict[str, Any]) -> GenerationCall | InvalidRequestError:
    try:
        return parse(fields)
    except InvalidRequestError as error:
        return error


@given(FIELDS)
def test_only_invalid_request_errors_that_name_a_field_leave_the_parsers(
    fields: dict[str, Any],
) -> None:
    for parse in (chat, completion):
        result = outcome(parse, fields)
        assert isinstance(result, GenerationCall) or result.param


@given(st.sampled_from(FIELD_NAMES), JSON_VALUES)
def test_a_refusal_of_one_field_names_that_field(field: str, value: object) -> None:
    for parse in (chat, completion):
        result = outcome(parse, {field: value})
        assert isinstance(result, GenerationCall) or str(result.param).startswith(field)
