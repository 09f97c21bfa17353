"""Measure a server over pooled connections: the short form of bench/load_test.py, to be copied.

python examples/benchmark_client.py [http://127.0.0.1:8000] [STREAMS]
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from statistics import fmean
from typing import NamedTuple
from urllib.parse import urlsplit

REQUESTS_PER_STREAM = 4
REQUEST = {
    "messages": [{"role": "user", "content": "Tell me a long story about the sea."}],
    "max_tokens": 64,
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
}


class Measurement(NamedTuple):
    """What one request showed."""

    ttft_s: float
    e2el_s: float
    num_tokens: int


def measure(connection: http.client.HTTPConnection, model: str) -> Measurement:
    """Make one streamed request and read it to its end."""
    start_at_s = time.perf_counter()
    body = json.dumps({"model": model, **REQUEST})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"HTTP {response.status}: {response.read().decode()}")
    text_at_s, num_tokens = [], 0
    for line in response:
        event = json.loads(line[6:]) if line.startswith(b"data: {") else {}
        if "error" in event:
            raise RuntimeError(event["error"]["message"])
        if any(choice["delta"].get("content") for choice in event.get("choices", ())):
            text_at_s.append(time.perf_counter())
        num_tokens = (event.get("usage") or {}).get("completion_tokens", num_tokens)
    return Measurement(text_at_s[0] - start_at_s, time.perf_counter() - start_at_s, num_tokens)


def run_stream(base_url: str) -> list[Measurement]:
    """Make some requests, one after the other, over one connection."""
    with closing(http.client.HTTPConnection(urlsplit(base_url).netloc)) as connection:
        connection.request("GET", "/v1/models")
        model = json.load(connection.getresponse())["data"][0]["id"]
        return [measure(connection, model) for _ in range(REQUESTS_PER_STREAM)]


def main(base_url: str = "http://127.0.0.1:8000", num_streams: str = "4") -> None:
    """Run the streams side by side and print the report."""
    start_at_s = time.perf_counter()
    with ThreadPoolExecutor(int(num_streams)) as pool:
        streams = pool.map(run_stream, [base_url] * int(num_streams))
        done = [measurement for stream in streams for measurement in stream]
    tokens_per_s = sum(each.num_tokens for each in done) / (time.perf_counter() - start_at_s)
    tpots_s = [(each.e2el_s - each.ttft_s) / max(1, each.num_tokens - 1) for each in done]
    print(f"Successful requests:             {len(done)}")
    print(f"Output token throughput (tok/s): {tokens_per_s:.2f}")
    print(f"Mean TTFT (ms):                  {1e3 * fmean(each.ttft_s for each in done):.2f}")
    print(f"Mean TPOT (ms):                  {1e3 * fmean(tpots_s):.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
