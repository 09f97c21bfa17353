"""The API as real clients use it: the openai SDK unchanged, and the bytes on the wire."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from support.live_server import MODEL, LiveServer, metric

pytestmark = pytest.mark.not_under_gevent("the server is a process of its own")

CHAT = "/v1/chat/completions"
MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY: Any = {"model": MODEL, "temperature": 0, "max_tokens": 24}


@pytest.fixture
def client(live_server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live_server.url}/v1", api_key="none") as client:
        yield client


def raw_stream(server: LiveServer, body: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    answer = server.post(CHAT, {**body, "stream": True})
    assert answer.status == 200
    return answer.headers, answer.body


def payloads(stream: bytes) -> list[Any]:
    """The JSON of each data event; [DONE] as it is."""
    frames = stream.decode().split("\n\n")
    assert frames.pop() == ""
    texts = [frame.removeprefix("data: ") for frame in frames if not frame.startswith(":")]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


# --- the openai SDK -----------------------------------------------------------


def test_the_sdk_gets_a_whole_chat_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == MODEL
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "The capital of France is Paris."
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 24


def test_a_chat_stream_delivers_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    chunks = list(client.chat.completions.create(messages=MESSAGES, stream=True, **GREEDY))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_a_completion_stream_delivers_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    whole = client.completions.create(prompt="Once upon a time", **GREEDY)
    chunks = list(client.completions.create(prompt="Once upon a time", stream=True, **GREEDY))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_seeded_sample_is_the_same_again_and_another_seed_differs(
    client: openai.OpenAI,
) -> None:
    def sample(seed: int) -> str:
        answer = client.completions.create(
            model=MODEL, prompt="The secret of", max_tokens=24, temperature=1.0, seed=seed
        )
        return answer.choices[0].text

    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_usage_comes_in_a_last_chunk_when_asked_for(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    chunks = list(
        client.chat.completions.create(
            messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_sdk_lists_and_retrieves_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_the_sdk_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=3)
    with pytest.raises(openai.NotFoundError, match="other"):
        client.chat.completions.create(model="other", messages=MESSAGES)


# --- the wire -----------------------------------------------------------------


def test_stream_headers_reach_the_client_before_the_tokens(live_server: LiveServer) -> None:
    headers, _ = raw_stream(live_server, {"messages": MESSAGES, **GREEDY})
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-request-id"]


def test_frames_are_events_that_end_in_done(live_server: LiveServer) -> None:
    _, stream = raw_stream(live_server, {"messages": MESSAGES, **GREEDY})
    events = payloads(stream)
    assert events[-1] == "[DONE]"
    first, last = events[0], events[-2]
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] in {"stop", "length"}
    assert {event["id"] for event in events[:-1]} == {first["id"]}


def test_a_whole_answer_tells_where_its_time_went(live_server: LiveServer) -> None:
    answer = live_server.post(CHAT, {"messages": MESSAGES, **GREEDY})
    timing = answer.headers["server-timing"]
    assert [part.split(";")[0] for part in timing.split(", ")] == ["queue", "prefill", "decode"]


@pytest.mark.parametrize("stop_at", ["token", "inside", "across"])
def test_a_stop_string_ends_the_text_wherever_tokens_are_cut(
    live_server: LiveServer, stop_at: str
) -> None:
    """Every split of the greedy text is used as a stop string: whole tokens and parts."""
    body = {"model": MODEL, "prompt": "Once upon a time", "temperature": 0, "max_tokens": 20}
    text = live_server.post("/v1/completions", body).json()["choices"][0]["text"]
    words = text.split(" ")
    stop = {"token": words[3], "inside": text[13:17], "across": " ".join(words[4:6])}[stop_at]
    answer = live_server.post("/v1/completions", {**body, "stop": stop}).json()["choices"][0]
    assert answer == {**answer, "text": text[: text.index(stop)], "finish_reason": "stop"}
    streamed = live_server.post("/v1/completions", {**body, "stop": stop, "stream": True})
    deltas = [event["choices"][0]["text"] for event in payloads(streamed.body)[:-1]]
    assert "".join(deltas) == text[: text.index(stop)]


def test_characters_over_several_tokens_arrive_whole(live_server: LiveServer) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Repeat exactly: 😀🎉👍 日本語 😀🎉👍 日本語"}],
        "temperature": 0,
        "max_tokens": 60,
        "stop": ["\n"],  # max_tokens could cut a character
    }
    whole = live_server.post(CHAT, body).json()["choices"][0]["message"]["content"]
    events = payloads(raw_stream(live_server, body)[1])[:-1]
    deltas = [event["choices"][0]["delta"].get("content", "") for event in events]
    assert "".join(deltas) == whole
    assert any(ord(char) > 0x2FFF for char in whole), f"no wide character to test in {whole!r}"
    assert all("\ufffd" not in delta for delta in deltas)


def test_a_deadline_before_the_end_is_504_or_an_error_event(live_server: LiveServer) -> None:
    body = {"messages": MESSAGES, **GREEDY, "max_tokens": 4000, "ignore_eos": True}
    answer = live_server.post(CHAT, body, {"X-Request-Timeout": "0.2"})
    assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")
    streamed = live_server.post(CHAT, {**body, "stream": True}, {"X-Request-Timeout": "0.2"})
    *_, failure, done = payloads(streamed.body)
    assert failure["error"]["code"] == "deadline_exceeded"
    assert done == "[DONE]"


# --- clients that go away -----------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_client_that_goes_away_stops_its_generation(
    live_server: LiveServer, stream: bool
) -> None:
    body = {"messages": MESSAGES, **GREEDY, "max_tokens": 8000, "ignore_eos": True}
    cancelled = metric(live_server, "vllm:request_success_total", finished_reason="cancelled")
    data = json.dumps({**body, "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", live_server.port), timeout=60) as client:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        live_server.wait_until(
            lambda: metric(live_server, "vllm:num_requests_running") == 1, "running"
        )
    live_server.wait_until(
        lambda: metric(live_server, "vllm:num_requests_running") == 0, "cancelled"
    )
    after = metric(live_server, "vllm:request_success_total", finished_reason="cancelled")
    assert after == cancelled + 1


# --- health, metrics, log -----------------------------------------------------


def test_health_tells_liveness_readiness_and_models(live_server: LiveServer) -> None:
    assert live_server.request("GET", "/health/live").status == 200
    assert live_server.request("GET", "/health/ready").status == 200
    report = live_server.request("GET", "/health").json()
    assert report["status"] == "ready"
    assert report["models"] == {MODEL: "ready"}


def test_metrics_count_tokens_and_times_under_vllms_names(live_server: LiveServer) -> None:
    names = {"model_name": MODEL, "engine": "0"}
    before = metric(live_server, "vllm:generation_tokens_total", **names)
    gaps = metric(live_server, "vllm:inter_token_latency_seconds_count", **names)
    firsts = metric(live_server, "vllm:time_to_first_token_seconds_count", **names)
    live_server.post(CHAT, {"messages": MESSAGES, **GREEDY, "max_tokens": 5, "ignore_eos": True})
    assert metric(live_server, "vllm:generation_tokens_total", **names) == before + 5
    assert metric(live_server, "vllm:inter_token_latency_seconds_count", **names) == gaps + 4
    assert metric(live_server, "vllm:time_to_first_token_seconds_count", **names) == firsts + 1
    assert metric(live_server, "vllm:kv_cache_usage_perc", **names) == 0


def test_each_generation_is_one_log_line_at_its_end(live_server: LiveServer) -> None:
    live_server.post(
        CHAT,
        {"messages": MESSAGES, **GREEDY, "max_tokens": 3, "ignore_eos": True, "stream": True},
        {"X-Request-ID": "the-logged-one"},
    )
    live_server.wait_until(lambda: '"the-logged-one"' in live_server.log, "logged")
    lines = [line for line in live_server.log.splitlines() if "the-logged-one" in line]
    assert len(lines) == 1
    record = json.loads(lines[0][lines[0].index("{") :])
    assert record["status"] == 200
    assert record["finish_reason"] == "length"
    assert record["completion_tokens"] == 3


def test_sixteen_streams_at_once_each_get_their_own_answer(live_server: LiveServer) -> None:
    """Different prompts, opened together; each must equal its answer alone in kind and count."""
    connections = []
    for number in range(16):
        body = {
            "model": MODEL,
            "prompt": f"Count: {number}, {number + 1}, {number + 2},",
            "max_tokens": 12,
            "temperature": 0,
            "stream": True,
            "ignore_eos": True,
            "stream_options": {"include_usage": True},
        }
        connection = http.client.HTTPConnection("127.0.0.1", live_server.port, timeout=120)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        connections.append(connection)
    ids = set()
    for number, connection in enumerate(connections):
        events = payloads(connection.getresponse().read())
        connection.close()
        assert events[-1] == "[DONE]"
        assert events[-2]["usage"]["completion_tokens"] == 12
        text = "".join(event["choices"][0]["text"] for event in events[:-2])
        assert str(number + 3) in text
        ids.add(events[0]["id"])
    assert len(ids) == 16
