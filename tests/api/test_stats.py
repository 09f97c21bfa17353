"""The figures of open streams: their numbers for all, each one for whoever has the admin key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from realtime_serve import InferenceServer, ServerConfig, create_app
from realtime_serve.api import stats
from support.scripted_servers import GREEDY, ONE_SEAT, EndlessAlphabet, serve, wait_until

KEY = "s3cret-key"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
NONE_OPEN = {"queued": 0, "prefill": 0, "streaming": 0, "paused": 0}


@contextmanager
def server_with(**settings: Any) -> Iterator[InferenceServer]:
    with serve(EndlessAlphabet, ServerConfig(**settings)) as server:
        yield server


def get(server: InferenceServer, headers: dict[str, str] | None = None) -> Any:
    answer = create_app(server=server).test_client().get("/stats/streams", headers=headers)
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    return answer.json


def test_without_streams_there_is_nothing_to_tell() -> None:
    with server_with(admin_api_key=KEY) as server:
        assert get(server) == {"open": 0, "states": NONE_OPEN}
        assert get(server, AUTHORIZED) == {"open": 0, "states": NONE_OPEN, "streams": []}


def test_streams_are_counted_by_state() -> None:
    with serve(EndlessAlphabet, ONE_SEAT) as server:
        running = server.generate("a", sampling=GREEDY)
        wait_until(lambda: running.statistics.scheduled_at_s is not None)
        wait_until(lambda: running.statistics.paused_s > 0)  # nobody reads it
        queued = server.generate("b", sampling=GREEDY)
        assert get(server) == {"open": 2, "states": NONE_OPEN | {"paused": 1, "queued": 1}}
        running.close()
        queued.close()
        assert get(server) == {"open": 0, "states": NONE_OPEN}


def test_each_stream_is_listed_with_its_figures() -> None:
    with server_with(admin_api_key=KEY) as server, server.generate("a", sampling=GREEDY) as stream:
        seen = 0
        while seen < 5:
            seen += len(stream.read())
        (listed,) = get(server, AUTHORIZED)["streams"]
        assert set(listed) == {
            "id", "model", "state", "tokens", "sent_bytes", "unsent_bytes", "paused_ms",
            "ttft_ms", "itl_p50_ms", "itl_p99_ms",
        }  # fmt: skip
        assert (listed["id"], listed["model"]) == (stream.request.request_id, "alphabet")
        assert listed["state"] in {"streaming", "paused"}
        assert listed["tokens"] == seen
        assert listed["ttft_ms"] > 0
        assert 0 < listed["itl_p50_ms"] <= listed["itl_p99_ms"]


def test_a_request_that_waits_has_no_figures_yet() -> None:
    one_seat = ServerConfig(max_num_seqs=1, max_batch_tokens=16, admin_api_key=KEY)
    with serve(EndlessAlphabet, one_seat) as server:
        running = server.generate("a", sampling=GREEDY)
        wait_until(lambda: running.statistics.scheduled_at_s is not None)
        queued = server.generate("b", sampling=GREEDY)
        oldest, youngest = get(server, AUTHORIZED)["streams"]
        assert oldest["id"] == running.request.request_id
        assert youngest["id"] == queued.request.request_id
        assert youngest["state"] == "queued"
        assert youngest["ttft_ms"] is None
        assert youngest["itl_p50_ms"] is None


def test_the_bytes_of_a_streamed_answer_are_counted() -> None:
    with server_with(admin_api_key=KEY) as server:
        client = create_app(server=server).test_client()
        body = {"model": "alphabet", "prompt": "a", "stream": True, "max_tokens": 50_000}
        answer = client.post("/v1/completions", json=body)
        pieces = iter(answer.response)
        received = sum(len(next(pieces)) for _ in range(5))
        (listed,) = get(server, AUTHORIZED)["streams"]
        assert listed["sent_bytes"] == received > 0
        answer.close()
        assert get(server)["open"] == 0


def test_the_list_is_bounded_and_the_count_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "MAX_LISTED_STREAMS", 3)
    with server_with(admin_api_key=KEY) as server:
        streams = [server.generate("a", sampling=GREEDY) for _ in range(5)]
        report = get(server, AUTHORIZED)
        assert report["open"] == 5
        expected = [stream.request.request_id for stream in streams[:3]]
        assert [listed["id"] for listed in report["streams"]] == expected


@pytest.mark.parametrize("given", ["Bearer wrong", "Basic x", "", f"Bearer {KEY}x"])
def test_a_wrong_key_is_refused(given: str) -> None:
    with server_with(admin_api_key=KEY) as server:
        client = create_app(server=server).test_client()
        answer: Any = client.get("/stats/streams", headers={"Authorization": given})
        assert answer.status_code == 401
        assert answer.json["error"]["code"] == "invalid_api_key"


def test_without_a_key_configured_no_key_shows_each_stream() -> None:
    with server_with() as server, server.generate("a", sampling=GREEDY):
        assert "streams" not in get(server, {"Authorization": "Bearer "})
        assert get(server, AUTHORIZED)["open"] == 1
