"""Bodies are read strictly: one JSON object comes out, or an InvalidRequestError."""

import json
import math
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_serve.api.json_body import (
    MAX_NESTING,
    MAX_NUMBER_CHARS,
    MAX_VALUES,
    PROBE_BYTES,
    parse_json_object,
)
from realtime_serve.errors import InvalidRequestError

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
JSON_OBJECTS = st.dictionaries(st.text(), JSON_VALUES, max_size=5)

PIECES = list('{}[],:"0-\\ \n\ufeff')
PIECES += ["1e9", "1e400", "0.5", "NaN", "Infinity", "true", "null", '"a"', '"a":1,', '{"a":']
PIECES += ['"\\ud83d\\ude00"', '"\\ud800"', '"\\\\"', ""]


def splice(text: str, start: int, num_removed: int, piece: str) -> str:
    start %= len(text)
    return text[:start] + piece + text[start + num_removed :]


# Damaged JSON, which is still JSON often enough.
JSON_LIKE = st.builds(
    splice,
    JSON_OBJECTS.map(json.dumps),
    st.integers(0, 2**16),
    st.integers(0, 3),
    st.sampled_from(PIECES),
)


def refusal(body: bytes) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parse_json_object(body)
    return caught.value


def nested_lists(depth: int) -> bytes:
    """Nest `depth` levels, of which the object is the first."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b" \r\n\t", "empty"),
        (b"{", "not valid JSON"),
        (b'{"a":1}x', "not valid JSON"),
        (b"{'a':1}", "not valid JSON"),
        (b'{"a":1,}', "not valid JSON"),
        (b'{"a":01}', "not valid JSON"),
        (b'{"a":+1}', "not valid JSON"),
        (b'{"a":"\\x"}', "not valid JSON"),
        (b'{"a":"\n"}', "not valid JSON"),
        (b'{"a":"\0"}', "not valid JSON"),
        (b'{"a":nan}', "not valid JSON"),
        (b'\xef\xbb\xbf\xef\xbb\xbf{"a":1}', "not valid JSON"),
        (b"[]", "JSON object"),
        (b"null", "JSON object"),
        (b'"x"', "JSON object"),
        (b"5", "JSON object"),
        (b'{"a":"\xff"}', "not valid UTF-8: byte 6"),
        (b'{"a":"\xed\xa0\x80"}', "not valid UTF-8: byte 6"),
        ('{"a":1}'.encode("utf-16"), "UTF-16"),
        ('{"a":1}'.encode("utf-16-le"), "UTF-16"),
        ('{"a":1}'.encode("utf-16-be"), "UTF-16"),
        ('{"a":1}'.encode("utf-32"), "UTF-32"),
    ],
)
def test_a_body_that_is_no_json_object_in_utf8_is_refused_with_the_reason(
    body: bytes, words: str
) -> None:
    error = refusal(body)
    assert words in error.message
    assert (error.status, error.param) == (400, None)


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b'{"temperature":NaN}', "temperature", "NaN"),
        (b'{"temperature":Infinity}', "temperature", "Infinity"),
        (b'{"temperature":-Infinity}', "temperature", "-Infinity"),
        (b'{"temperature":1e400}', "temperature", "1e400"),
        (b'{"temperature":-1e400}', "temperature", "-1e400"),
        (b'{"a":[1,{"b":NaN}]}', "a[1].b", "NaN"),
        (b'{"a":[[0,1e999]]}', "a[0][1]", "1e999"),
        (b'[{"a":NaN}]', "[0].a", "NaN"),
        (b"NaN", None, "NaN"),
        (b'{"seed":' + b"9" * 4000 + b"}", "seed", "4000 characters"),
        (b'{"a":{"seed":-' + b"9" * 4000 + b"}}", "a.seed", "4001 characters"),
        (b'{"top_p":0.' + b"9" * 4000 + b"}", "top_p", "4002 characters"),
        (b'{"a":1,"a":1}', "a", "twice"),
        (b'{"m":[{},{"t":1,"u":2,"t":3}]}', "m[1].t", "twice"),
        (b'{"a":{"b":NaN},"a":1}', "a", "twice"),
        (rb'{"a":1,"\u0061":2}', "a", "twice"),
        (rb'{"\ud800":1,"\ud801":2}', "'\\ufffd'", "twice"),
        (b'{"my key":NaN}', "'my key'", "NaN"),
        ('{"schlüssel":NaN}'.encode(), "'schl\\xfcssel'", "NaN"),
    ],
)
def test_a_value_that_json_cannot_carry_is_refused_by_the_path_to_it(
    body: bytes, param: str | None, words: str
) -> None:
    error = refusal(body)
    assert error.param == param
    assert words in error.message


def test_the_first_of_several_defects_is_named() -> None:
    assert refusal(b'{"x":0,"a":[NaN],"b":NaN}').param == "a[0]"


@pytest.mark.parametrize("number", ["9" * MAX_NUMBER_CHARS, "0." + "9" * (MAX_NUMBER_CHARS - 2)])
def test_numbers_are_read_up_to_the_longest_that_is_allowed(number: str) -> None:
    assert parse_json_object(b'{"a":%s}' % number.encode()) == {"a": json.loads(number)}
    assert refusal(b'{"a":%s9}' % number.encode()).param == "a"


@pytest.mark.parametrize(
    "body",
    [
        b'{"' + b"k" * 100_000 + b'":NaN}',
        b'{"a":1e' + b"9" * 100 + b"}",
        b'{"' + "\u202e\x7f\u2028".encode() * 1000 + b'":1e999}',
    ],
)
def test_a_refusal_quotes_the_caller_shortly_and_in_printable_ascii(body: bytes) -> None:
    error = refusal(body)
    said = f"{error.message} {error.param}"
    assert len(said) < 300
    assert said.isascii()
    assert said.isprintable()


# --- text ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (rb'{"a":"x\ud800y"}', "x\ufffdy"),
        (rb'{"a":"\uDFFF\uD800"}', "\ufffd\ufffd"),
        (rb'{"a":"\ud800\ud83d\ude00"}', "\ufffd\U0001f600"),
        (rb'{"a":"\ud83d\ude00"}', "\U0001f600"),
        (rb'{"a":"\\ud800"}', "\\ud800"),
        (rb'{"a":"x\u0000y"}', "x\0y"),
        ('{"a":"\U0001f600 漢"}'.encode(), "\U0001f600 漢"),
        (b'\xef\xbb\xbf{"a":"bom"}', "bom"),
    ],
)
def test_text_arrives_whole_but_for_lone_surrogates(body: bytes, text: str) -> None:
    assert parse_json_object(body) == {"a": text}


def test_lone_surrogates_are_replaced_in_keys_lists_and_nested_objects() -> None:
    body = rb'{"\ud800":["\udc00",{"k\ud800":["\ud800",1,null]}]}'
    assert parse_json_object(body) == {"\ufffd": ["\ufffd", {"k\ufffd": ["\ufffd", 1, None]}]}


# --- bounds -------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1_000, 100_000])
@pytest.mark.parametrize("start", [b"[", b'{"a":', b'{"a":[', b'[{"]":'])
def test_deep_nesting_is_refused_whether_or_not_it_is_closed(start: bytes, depth: int) -> None:
    assert "nested too deep" in refusal(start * depth).message


def test_nesting_is_read_up_to_its_limit() -> None:
    assert parse_json_object(nested_lists(MAX_NESTING))
    assert "nested too deep" in refusal(nested_lists(MAX_NESTING + 1)).message


def test_nesting_that_begins_late_is_refused_too() -> None:
    filler = b'{"a":"' + b"x" * PROBE_BYTES + b'","b":'
    assert "nested too deep" in refusal(filler + nested_lists(MAX_NESTING) + b"}").message


@given(JSON_VALUES, st.integers(-1, 1))
def test_nesting_is_counted_as_the_tree_is_deep(value: object, excess: int) -> None:
    wrapped = value
    for _ in range(MAX_NESTING + excess - depth_of(value)):
        wrapped = {"[{": wrapped}
    body = json.dumps(wrapped).encode()
    if excess > 0:
        assert "nested too deep" in refusal(body).message
    else:
        assert parse_json_object(body)


def depth_of(value: object) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(depth_of, entries_of(value)), default=0)


def entries_of(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


@pytest.mark.parametrize("text", ["[" * 1_000, '\\"[{' * 1_000, "," * (MAX_VALUES + 1)])
def test_brackets_and_commas_inside_text_do_not_count(text: str) -> None:
    body = b'{"a":' + json.dumps(text).encode() + b"}"
    assert parse_json_object(body) == {"a": text}


@pytest.mark.parametrize(
    "members",
    [b"[]," * MAX_VALUES, b'"",' * (2 * MAX_VALUES), b"1," * (MAX_VALUES + 1)],
)
def test_a_body_of_too_many_values_is_refused(members: bytes) -> None:
    assert "too many values" in refusal(b'{"a":[' + members + b"0]}").message


def test_many_values_are_read_up_to_the_limit() -> None:
    # The object, the list, and all but the first of its members.
    body = b'{"a":[0' + b",0" * (MAX_VALUES - 2) + b"]}"
    assert parse_json_object(body) == {"a": [0] * (MAX_VALUES - 1)}
    assert "too many values" in refusal(body.replace(b"[0", b"[0,0")).message


def test_an_unterminated_string_of_quotes_is_scanned_once() -> None:
    # A scan that starts anew at each quote would take hours here.
    body = b"[" + b"[]," * MAX_NESTING + b'"' + b'\\"' * 1_000_000
    assert "Unterminated string" in refusal(body).message


def test_deep_bodies_are_safe_where_the_stack_is_small() -> None:
    outcomes: list[str] = []

    def parse_deep() -> None:
        outcomes.append(str(len(parse_json_object(nested_lists(MAX_NESTING)))))
        outcomes.append(refusal(nested_lists(100_000)).message)

    pytest.importorskip("greenlet").greenlet(parse_deep).switch()
    previous = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=parse_deep)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(previous)
    assert [outcome[:16] for outcome in outcomes] == ["1", "The body is nest"] * 2


# --- properties ---------------------------------------------------------------


@given(JSON_OBJECTS, st.booleans())
def test_every_json_object_comes_back_as_it_was(value: dict[str, Any], ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert parse_json_object(body) == value


def outcome(body: bytes) -> dict[str, Any] | InvalidRequestError:
    try:
        return parse_json_object(body)
    except InvalidRequestError as error:
        return error


def cleaned(value: object) -> object:
    """Do to a tree of the standard parser what ours does to lone surrogates."""
    if isinstance(value, str):
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in value)
    if isinstance(value, dict):
        return {cleaned(key): cleaned(entry) for key, entry in value.items()}
    return [cleaned(entry) for entry in value] if isinstance(value, list) else value


@given(st.binary() | JSON_LIKE.map(str.encode))
def test_only_invalid_request_errors_leave_the_parser(body: bytes) -> None:
    assert isinstance(outcome(body), dict | InvalidRequestError)


@given(JSON_LIKE)
def test_whatever_is_accepted_the_standard_parser_reads_the_same(text: str) -> None:
    value = outcome(text.encode())
    if isinstance(value, dict):
        assert repr(value) == repr(cleaned(json.loads(text.removeprefix("\ufeff"))))
        assert all(math.isfinite(number) for number in numbers_in(value))


@given(JSON_LIKE)
def test_whatever_the_standard_parser_refuses_is_refused(text: str) -> None:
    try:
        json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError:
        assert isinstance(outcome(text.encode()), InvalidRequestError)


def numbers_in(value: object) -> list[float]:
    return [node for node in nodes_of(value) if isinstance(node, int | float)]


def nodes_of(value: object) -> list[object]:
    return [value, *[node for entry in entries_of(value) for node in nodes_of(entry)]]
