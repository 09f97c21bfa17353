"""What is known of one stream: its state, its quantiles, its bytes."""

from __future__ import annotations

import math
import time
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_serve._token_ring import TokenRing
from realtime_serve.stream_manager import StreamManager
from realtime_serve.stream_statistics import TOKEN_GAP_BOUNDS_S, StreamState, StreamStatistics
from support.hand_fed_streams import open_stream, push


def statistics_of(gaps_s: list[float]) -> StreamStatistics:
    """Statistics of a stream whose tokens came at these intervals."""
    statistics = StreamStatistics(0.0, TokenRing(2))
    now_s = 1.0
    statistics.token_times.note(1, now_s)
    for gap_s in gaps_s:
        now_s += gap_s
        statistics.token_times.note(1, now_s)
    return statistics


@given(
    gaps_s=st.lists(st.floats(0.00015, 1.9), min_size=1, max_size=60),
    share=st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]),
)
def test_a_quantile_lies_in_the_bucket_of_the_exact_one(gaps_s: list[float], share: float) -> None:
    exact_s = sorted(gaps_s)[math.ceil(share * len(gaps_s)) - 1]
    bucket = bisect_left(TOKEN_GAP_BOUNDS_S, exact_s)
    lower_s = TOKEN_GAP_BOUNDS_S[bucket - 1] if bucket > 0 else 0.0
    estimate_s = statistics_of(gaps_s).inter_token_quantile_s(share)
    assert estimate_s is not None
    rounding_s = 1e-9  # of the sums above, which may move a gap over a bound
    near = [bound for bound in TOKEN_GAP_BOUNDS_S if abs(bound - exact_s) < rounding_s]
    if not near:
        assert lower_s <= estimate_s <= TOKEN_GAP_BOUNDS_S[bucket]


def test_quantiles_of_gaps_above_all_bounds_are_the_last_bound() -> None:
    longest_s = TOKEN_GAP_BOUNDS_S[-1]
    statistics = statistics_of([2 * longest_s] * 3)
    assert statistics.inter_token_quantile_s(0.5) == longest_s
    assert statistics.inter_token_quantile_s(0.99) == longest_s


@pytest.mark.parametrize("num_tokens", [0, 1])
def test_without_a_gap_there_is_no_quantile(num_tokens: int) -> None:
    statistics = StreamStatistics(0.0, TokenRing(2))
    for _ in range(num_tokens):
        statistics.token_times.note(1, 1.0)
    assert statistics.inter_token_quantile_s(0.5) is None


def test_a_stream_goes_from_state_to_state() -> None:
    stream, ring, _ = open_stream(capacity=2)
    statistics = stream.statistics
    states = [statistics.state]
    statistics.scheduled_at_s = time.monotonic()
    states.append(statistics.state)
    push(ring, "a")
    stream.read()
    states.append(statistics.state)
    push(ring, "bc")
    assert ring.mark_stalled()
    states.append(statistics.state)
    time.sleep(0.001)
    stream.read()
    states.append(statistics.state)
    streaming, paused = StreamState.STREAMING, StreamState.PAUSED
    assert states == [StreamState.QUEUED, StreamState.PREFILL, streaming, paused, streaming]
    assert statistics.paused_s >= 0.001


def test_the_manager_counts_by_model_and_state() -> None:
    manager = StreamManager()
    queued, _, _ = open_stream()
    prefill, _, _ = open_stream()
    prefill.statistics.scheduled_at_s = time.monotonic()
    for stream in (queued, prefill):
        manager.add(stream)
    assert manager.count_by_state() == {
        ("m", StreamState.QUEUED): 1,
        ("m", StreamState.PREFILL): 1,
    }
    prefill.close()
    assert manager.count_by_state() == {("m", StreamState.QUEUED): 1}


def test_bytes_of_both_ways_are_added() -> None:
    class Socket:
        num_sent_bytes = 100
        num_unsent_bytes = 7

    statistics = StreamStatistics(0.0, TokenRing(2))
    statistics.num_yielded_bytes = 20
    assert (statistics.num_sent_bytes, statistics.num_unsent_bytes) == (20, 0)
    statistics.socket = Socket()
    assert (statistics.num_sent_bytes, statistics.num_unsent_bytes) == (120, 7)
