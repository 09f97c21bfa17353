"""Events carry exactly the chunks of responses.py, in frames that every client can read."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_serve.api import responses, sse
from realtime_serve.api.envelope import error_envelope
from realtime_serve.api.json_body import parse_json_object
from realtime_serve.api.protocol import parse_chat, parse_completion
from realtime_serve.errors import DeadlineExceededError, OverloadedError
from realtime_serve.types import (
    FinishReason,
    Loading,
    Prefilling,
    Queued,
    StreamProgress,
    Usage,
)

USAGE = Usage(prompt_tokens=5, completion_tokens=3)


def chat_head(model: str = "m", include_usage: bool = False) -> responses.StreamHead:
    return responses.chat_head("r1", model=model, created=7, include_usage=include_usage)


def completion_head(model: str = "m", include_usage: bool = False) -> responses.StreamHead:
    return responses.completion_head("r1", model=model, created=7, include_usage=include_usage)


def payload_of(event: bytes) -> dict[str, Any]:
    """Read one event as a client does, and check its frame."""
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    line = event.removeprefix(b"data: ").removesuffix(b"\n\n")
    assert b"\n" not in line
    assert b"\r" not in line
    payload: dict[str, Any] = json.loads(line)
    return payload


# --- each event ---------------------------------------------------------------


@given(st.text(), st.text(), st.booleans())
def test_a_text_event_carries_the_chunk_of_its_text(
    text: str, model: str, include_usage: bool
) -> None:
    head = chat_head(model, include_usage)
    event = sse.ChatChunkWriter(head).text(text)
    assert payload_of(event) == responses.chat_chunk(head, {"content": text})

    head = completion_head(model, include_usage)
    event = sse.CompletionChunkWriter(head).text(text)
    assert payload_of(event) == responses.completion_chunk(head, text)


@pytest.mark.parametrize("model", ["\0", "m\0", '\\u0000"\\u0000"', '"\0":"\0"', '","choices":[]'])
@pytest.mark.parametrize("text", ["", "\0", '"\\u0000"', "\r\n\n: x", "data: [DONE]\n\n", "\u2028"])
def test_no_text_and_no_model_name_breaks_an_event(model: str, text: str) -> None:
    head = chat_head(model)
    assert payload_of(sse.ChatChunkWriter(head).text(text)) == (
        responses.chat_chunk(head, {"content": text})
    )


def test_text_is_sent_as_utf8_and_a_lone_surrogate_does_not_end_the_stream() -> None:
    writer = sse.ChatChunkWriter(chat_head())
    assert "漢🎉".encode() in writer.text("漢🎉")
    assert payload_of(writer.text("x\ud800"))["choices"][0]["delta"] == {"content": "x?"}


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.LENGTH])
def test_a_chat_stream_has_a_role_chunk_a_finish_chunk_and_usage_if_asked_for(
    include_usage: bool, reason: FinishReason
) -> None:
    head = chat_head(include_usage=include_usage)
    writer = sse.ChatChunkWriter(head)
    role = {"role": "assistant", "content": ""}
    assert payload_of(writer.start()) == responses.chat_chunk(head, role)
    assert payload_of(writer.finish(reason)) == responses.chat_chunk(head, {}, reason)
    assert_usage(writer, head)


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_completion_stream_has_a_finish_chunk_and_usage_if_asked_for(include_usage: bool) -> None:
    head = completion_head(include_usage=include_usage)
    writer = sse.CompletionChunkWriter(head)
    assert writer.start() == b""
    last = responses.completion_chunk(head, "", FinishReason.STOP)
    assert payload_of(writer.finish(FinishReason.STOP)) == last
    assert_usage(writer, head)


def assert_usage(writer: sse.ChunkWriter, head: responses.StreamHead) -> None:
    event = writer.usage(USAGE)
    if head.include_usage:
        assert payload_of(event) == responses.usage_chunk(head, USAGE)
    else:
        assert event == b""


@pytest.mark.parametrize(
    "reason", [FinishReason.CANCELLED, FinishReason.DEADLINE, FinishReason.ERROR]
)
def test_a_failed_stream_has_no_finish_chunk(reason: FinishReason) -> None:
    for writer in (sse.ChatChunkWriter(chat_head()), sse.CompletionChunkWriter(completion_head())):
        with pytest.raises(ValueError, match=reason.name):
            writer.finish(reason)


def test_an_error_event_carries_the_envelope_and_the_usage_so_far() -> None:
    error = DeadlineExceededError("Too late.")
    assert payload_of(sse.error_event(error)) == error_envelope(error)
    payload = payload_of(sse.error_event(error, USAGE))
    assert payload["error"]["code"] == "deadline_exceeded"
    assert payload["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": USAGE.cached_tokens},
    }


# --- comments -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (None, "keep-alive"),
        (Loading(), "loading"),
        (Queued(position=3), "queued 3"),
        (Prefilling(num_computed_tokens=512, num_prompt_tokens=2048), "prefill 512/2048"),
    ],
)
def test_a_comment_says_what_is_waited_for(progress: StreamProgress | None, text: str) -> None:
    assert sse.progress_comment(progress) == f": {text}\n\n".encode()


# --- whole streams, read by the openai SDK ------------------------------------


def stream_of(writer: sse.ChunkWriter, texts: list[str]) -> bytes:
    events = [
        sse.KEEP_ALIVE,
        sse.progress_comment(Queued(position=3)),
        writer.start(),
        *map(writer.text, texts),
        sse.KEEP_ALIVE,
        writer.finish(FinishReason.STOP),
        writer.usage(USAGE),
        sse.DONE,
    ]
    return b"".join(events)


def answer(request: httpx2.Request) -> httpx2.Response:
    """Stand for the server: parse the request, stream its prompt back letter by letter."""
    body = parse_json_object(request.content)
    writer: sse.ChunkWriter
    if request.url.path.endswith("/chat/completions"):
        chat = parse_chat(body)
        text = chat.messages[-1]["content"]
        writer = sse.ChatChunkWriter(chat_head(chat.model, chat.include_usage))
    else:
        completion = parse_completion(body)
        text = completion.prompt
        writer = sse.CompletionChunkWriter(completion_head(completion.model))
    content = stream_of(writer, list(text))
    if text == "fail":
        content = writer.start() + sse.error_event(OverloadedError("Come back.")) + sse.DONE
    return httpx2.Response(200, content=content, headers={"Content-Type": sse.CONTENT_TYPE})


@pytest.fixture
def client() -> Iterator[openai.OpenAI]:
    http_client = httpx2.Client(transport=httpx2.MockTransport(answer))
    with openai.OpenAI(
        api_key="k", base_url="http://test/v1", http_client=http_client, max_retries=0
    ) as client:
        yield client


TEXT = 'He said: "漢🎉"\n\ndata: [DONE]\n\n\0\u2028'


def test_the_sdk_reads_a_chat_stream_to_the_same_text_and_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": TEXT}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == TEXT
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(TEXT) + 2)
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens == 8


def test_the_sdk_reads_a_completion_stream_to_the_same_text(client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(model="m", prompt=TEXT, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_sdk_raises_an_error_event_with_its_message(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "fail"}], stream=True
    )
    with pytest.raises(openai.APIError, match="Come back") as caught:
        list(stream)
    assert caught.value.code == "overloaded"
