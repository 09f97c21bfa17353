from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurement import Latency, Measurement, Summary, comparison, percentile
from streaming_client import RequestError


def text_event(text: str) -> bytes:
    return json.dumps({"choices": [{"delta": {"content": text}}]}).encode()


def measured(*text_times_s: float, start_at_s: float, done_at_s: float) -> Measurement:
    """A request whose tokens arrived at the given times."""
    measurement = Measurement(start_at_s)
    measurement.add(b'{"choices": [{"delta": {"role": "assistant", "content": ""}}]}', start_at_s)
    for time_s in text_times_s:
        measurement.add(text_event("a"), time_s)
    usage = {"prompt_tokens": 7, "completion_tokens": len(text_times_s)}
    measurement.add(json.dumps({"choices": [], "usage": usage}).encode(), done_at_s)
    measurement.add(b"[DONE]", done_at_s)
    return measurement


def summary(*measurements: Measurement, **changes: Any) -> Summary:
    settings = {"concurrency": 2, "duration_s": 4.0, "client_cpu_s": 0.1} | changes
    return Summary.of(measurements, **settings)


def test_latencies_are_what_their_definitions_say() -> None:
    one = measured(11.0, 12.0, 14.0, start_at_s=10.0, done_at_s=15.0)
    assert one.ttft_s == 1.0
    assert one.gaps_s == [1.0, 2.0]
    assert one.tpot_s == 1.5
    assert one.e2el_s == 5.0


def test_the_chunk_that_only_names_the_role_is_no_first_token() -> None:
    assert measured(13.0, start_at_s=10.0, done_at_s=14.0).ttft_s == 3.0


def test_a_single_token_has_no_time_per_output_token() -> None:
    assert measured(11.0, start_at_s=10.0, done_at_s=11.0).tpot_s is None


def test_tokens_are_counted_by_usage_where_there_is_one() -> None:
    measurement = Measurement(0.0)
    measurement.add(text_event("two tokens"), 1.0)
    assert measurement.num_output_tokens == 1
    measurement.add(b'{"choices": [], "usage": {"completion_tokens": 2}}', 1.0)
    assert measurement.num_output_tokens == 2


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"error": {"message": "the model failed"}}', "error event: the model failed"),
        (b'{"error": "the model failed"}', "error event: the model failed"),
        (b"{broken", "not a JSON object"),
        (b"[1]", "not a JSON object"),
    ],
)
def test_an_event_that_reports_an_error_is_a_failure(payload: bytes, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        Measurement(0.0).add(payload, 1.0)


def test_failed_requests_count_as_failed_and_nowhere_else() -> None:
    good = measured(11.0, 12.0, start_at_s=10.0, done_at_s=12.0)
    bad = measured(19.0, start_at_s=10.0, done_at_s=20.0)
    bad.failure = "HTTP 503: full"
    both = summary(good, bad)
    assert (both.successful, both.failed, both.output_tokens, both.input_tokens) == (1, 1, 2, 7)
    assert both.e2el == Latency(2000.0, 2000.0, 2000.0)
    assert both.failures == {"HTTP 503: full": 1}


def test_the_report_uses_the_words_of_vllm_bench_serve() -> None:
    report = summary(measured(11.0, 12.0, start_at_s=10.0, done_at_s=12.0)).report()
    figures = dict(line.rsplit(":", 1) for line in report.splitlines() if ":" in line)
    assert {name: float(value) for name, value in figures.items()} == {
        "Successful requests": 1,
        "Failed requests": 0,
        "Maximum request concurrency": 2,
        "Benchmark duration (s)": 4.0,
        "Total input tokens": 7,
        "Total generated tokens": 2,
        "Request throughput (req/s)": 0.25,
        "Output token throughput (tok/s)": 0.5,
        "Total token throughput (tok/s)": 2.25,
        **{f"{statistic} TTFT (ms)": 1000.0 for statistic in ("Mean", "Median", "P99")},
        **{f"{statistic} TPOT (ms)": 1000.0 for statistic in ("Mean", "Median", "P99")},
        **{f"{statistic} ITL (ms)": 1000.0 for statistic in ("Mean", "Median", "P99")},
        **{f"{statistic} E2EL (ms)": 2000.0 for statistic in ("Mean", "Median", "P99")},
    }


def test_a_client_that_is_too_busy_says_so() -> None:
    one = measured(11.0, start_at_s=10.0, done_at_s=12.0)
    assert "delays what it measures" not in summary(one).report()
    assert "delays what it measures" in summary(one, client_cpu_s=3.9).report()


def test_levels_are_compared_with_the_first() -> None:
    one = measured(11.0, 12.0, start_at_s=10.0, done_at_s=12.0)
    table = comparison([summary(one), summary(one, one, one, concurrency=3)])
    assert [line.split()[:3] for line in table.splitlines()[1:]] == [
        ["2", "0.50", "1.00x"],
        ["3", "1.50", "3.00x"],
    ]


def test_without_a_single_success_the_latencies_are_null_in_json() -> None:
    nothing = summary()
    assert math.isnan(nothing.ttft.mean_ms)
    assert nothing.as_json()["ttft"] == {"mean_ms": None, "median_ms": None, "p99_ms": None}
    json.dumps(nothing.as_json(), allow_nan=False)


@given(values=st.lists(st.floats(0, 1e6), min_size=1), percent=st.floats(0, 100))
def test_a_percentile_has_its_share_of_the_values_at_or_below(
    values: list[float], percent: float
) -> None:
    ordered = sorted(values)
    value = percentile(ordered, percent)
    assert ordered[0] <= value <= ordered[-1]
    position = percent / 100 * (len(ordered) - 1)
    assert ordered[math.floor(position)] <= value <= ordered[math.ceil(position)]


def test_percentiles_are_interpolated() -> None:
    assert percentile([0.0, 10.0], 99) == pytest.approx(9.9)
