"""Prometheus metrics under vLLM's names, so that its dashboards work unchanged.

Counters and histograms are our own small arrays, added to once when a stream
ends: its per-token part was counted by the stream itself. Gauges are read from
the engines when somebody scrapes. prometheus-client only formats.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from realtime_serve.errors import ServeError
from realtime_serve.log_lines import num_dropped_lines as lines_that_failed
from realtime_serve.middleware.chain import Middleware, RequestContext
from realtime_serve.native import Lock
from realtime_serve.resumable_streams import ResumableStreams
from realtime_serve.stream import TokenStream
from realtime_serve.stream_manager import StreamManager
from realtime_serve.stream_statistics import TOKEN_GAP_BOUNDS_S, StreamState, StreamStatistics

if TYPE_CHECKING:  # only to name the type: a middleware of your own need not load torch
    from realtime_serve.model import Model

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

ENGINE = "0"
"""vLLM labels each engine of a data-parallel group; a model here has one."""

LABELS = ("model_name", "engine")

LATENCY_BUCKETS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
    10.0, 20.0, 40.0, 80.0, 160.0, 640.0,
)  # fmt: skip
"""vLLM's for the time to the first token; they serve the whole request as well."""

QUEUE_BUCKETS_S = (0.0001, 0.0005, *LATENCY_BUCKETS_S)
"""From 0.1 ms: an idle server seats a request at once."""

HISTOGRAMS = {
    "time_to_first_token_seconds": ("From submission to the first token.", LATENCY_BUCKETS_S),
    "inter_token_latency_seconds": ("Between two tokens of a stream.", TOKEN_GAP_BOUNDS_S),
    "e2e_request_latency_seconds": ("From submission to the end.", LATENCY_BUCKETS_S),
    "request_queue_time_seconds": ("From submission to a seat.", QUEUE_BUCKETS_S),
    "request_prefill_time_seconds": ("From a seat to the first token.", LATENCY_BUCKETS_S),
    "request_decode_time_seconds": ("From the first token to the last.", LATENCY_BUCKETS_S),
}


ENGINE_COUNTERS = {
    "preemptions_total": ("num_preemptions", "Sequences whose KV blocks were taken."),
    "prefix_cache_queries_total": ("prefix_cache_queries", "Tokens looked up in the prefix cache."),
    "prefix_cache_hits_total": ("prefix_cache_hits", "Tokens that the prefix cache had."),
    "num_draft_tokens_total": ("spec_decode_num_draft_tokens", "Tokens guessed ahead."),
    "num_accepted_tokens_total": ("spec_decode_num_accepted_tokens", "Guesses that were right."),
}
"""By the field of EngineStats that has the figure."""


class _Histogram:
    """Counts by bucket, the last one open, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def merge(self, counts: Sequence[int], total: float) -> None:
        self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)]
        self.sum += total

    def cumulative(self) -> list[tuple[str, float]]:
        buckets, running = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), float(running)))
        return buckets


class _ModelFigures:
    """What has ended on one model so far."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.histograms = {name: _Histogram(bounds) for name, (_, bounds) in HISTOGRAMS.items()}

    def add(self, stream: TokenStream) -> None:
        usage = stream.usage
        if stream.statistics.first_token_at_s is not None:  # else it was never computed
            self.prompt_tokens += usage.prompt_tokens
        self.generation_tokens += usage.completion_tokens
        if stream.finish_reason is not None:
            self.finished[stream.finish_reason.value] += 1
        if stream.error is not None:  # codes are ours, so they are few
            self.dropped[stream.error.code or stream.error.type] += 1
        self._observe(stream.statistics)

    def _observe(self, times: StreamStatistics) -> None:
        spans = {
            "request_queue_time_seconds": (times.submitted_at_s, times.scheduled_at_s),
            "time_to_first_token_seconds": (times.submitted_at_s, times.first_token_at_s),
            "request_prefill_time_seconds": (times.scheduled_at_s, times.first_token_at_s),
            "request_decode_time_seconds": (times.first_token_at_s, times.last_token_at_s),
            "e2e_request_latency_seconds": (times.submitted_at_s, times.finished_at_s),
        }
        for name, (start_s, end_s) in spans.items():
            if start_s is not None and end_s is not None:
                self.histograms[name].observe(end_s - start_s)
        if times.num_tokens > 1:
            self.histograms["inter_token_latency_seconds"].merge(
                times.inter_token_counts, times.inter_token_sum_s
            )


class MetricsCollector(Middleware, Collector):
    """Collects the figures of all requests of one app.

    Args:
        models: Returns the served models; called at each scrape.
        streams: The open streams.
        resumable_streams: Those that can be resumed; None if there never are any.
        num_dropped_lines: Returns how many log lines were not written; called at each scrape.
    """

    def __init__(
        self,
        models: Callable[[], Sequence[Model]],
        streams: StreamManager,
        *,
        resumable_streams: ResumableStreams | None = None,
        num_dropped_lines: Callable[[], int] = lines_that_failed,
    ) -> None:
        self._models = models
        self._streams = streams
        self._resumable_streams = resumable_streams
        self._num_dropped_lines = num_dropped_lines
        self._figures: dict[str, _ModelFigures] = {}
        self._refused: Counter[str] = Counter()
        self._pending: deque[TokenStream | ServeError] = deque()
        self._lock = Lock()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def on_error(self, context: RequestContext, error: ServeError) -> None:
        """Count the refusal or failure by its code; codes are ours, so they are few."""
        self._pending.append(error)
        self._fold()

    def on_stream_end(self, context: RequestContext, stream: TokenStream) -> None:
        """Add the generation; its model is served, so names are few."""
        self._pending.append(stream)
        self._fold()

    def render(self) -> bytes:
        """The text that Prometheus scrapes, of type CONTENT_TYPE."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry need not scrape us to learn our names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All metric families, as they are now."""
        yield from self._gauges()
        yield self._open_streams()
        yield self._dropped_log_lines()
        yield from self._kept_streams()
        with self._lock:
            self._add_pending()
            for model in self._models():  # so that a counter starts at 0 and not at its first step
                self._figures.setdefault(model.name, _ModelFigures())
            families = [*self._counters(), *self._histograms(), self._refusals()]
        yield from families

    def _fold(self) -> None:
        """Add what is pending, unless somebody is at it.

        Nobody waits here: a forgotten stream may be collected, and so end, in the middle
        of an allocation that this very thread makes under the lock.
        """
        if self._lock.try_acquire():
            try:
                self._add_pending()
            finally:
                self._lock.release()

    def _add_pending(self) -> None:
        while self._pending:
            ended = self._pending.popleft()
            if isinstance(ended, ServeError):
                self._refused[ended.code or ended.type] += 1
            else:
                self._figures.setdefault(ended.request.model, _ModelFigures()).add(ended)

    def _gauges(self) -> Iterator[Metric]:
        running = GaugeMetricFamily(
            "vllm:num_requests_running", "Requests that hold KV blocks.", labels=LABELS
        )
        waiting = GaugeMetricFamily(
            "vllm:num_requests_waiting", "Requests that wait for a seat or blocks.", labels=LABELS
        )
        kv_usage = GaugeMetricFamily(
            "vllm:kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1.", labels=LABELS
        )
        counters = {
            attribute: CounterMetricFamily(f"vllm:{name}", help_text, labels=LABELS)
            for attribute, (name, help_text) in ENGINE_COUNTERS.items()
        }
        for model in self._models():
            labels = (model.name, ENGINE)
            waiting.add_metric(labels, model.num_waiting)
            running.add_metric(labels, model.num_running)
            stats = model.stats
            if stats is not None:
                kv_usage.add_metric(labels, stats.kv_blocks_used / max(1, stats.kv_blocks_total))
                for attribute, family in counters.items():
                    family.add_metric(labels, getattr(stats, attribute))
        yield from (running, waiting, kv_usage, *counters.values())

    def _open_streams(self) -> Metric:
        family = GaugeMetricFamily(
            "realtime_serve:streams", "Open streams.", labels=(*LABELS, "state")
        )
        counts = self._streams.count_by_state()
        for model in self._models():
            for state in StreamState:
                labels = (model.name, ENGINE, state.value)
                family.add_metric(labels, counts[model.name, state])
        return family

    def _kept_streams(self) -> Iterator[Metric]:
        table = self._resumable_streams
        if table is not None:
            yield GaugeMetricFamily(
                "realtime_serve:resumable_streams",
                "Streams that can be resumed, ended ones included.",
                value=len(table),
            )
            yield GaugeMetricFamily(
                "realtime_serve:resumable_usage_perc",
                "Share of their memory in use, 0 to 1.",
                value=table.usage,
            )

    def _counters(self) -> Iterator[Metric]:
        prompt = CounterMetricFamily("vllm:prompt_tokens", "Prompt tokens.", labels=LABELS)
        generated = CounterMetricFamily(
            "vllm:generation_tokens", "Generated tokens.", labels=LABELS
        )
        success = CounterMetricFamily(
            "vllm:request_success", "Ended requests.", labels=(*LABELS, "finished_reason")
        )
        dropped = CounterMetricFamily(
            "realtime_serve:streams_dropped",
            "Streams that ended before their answers did.",
            labels=(*LABELS, "reason"),
        )
        for name, figures in self._figures.items():
            prompt.add_metric((name, ENGINE), figures.prompt_tokens)
            generated.add_metric((name, ENGINE), figures.generation_tokens)
            for reason, count in figures.finished.items():
                success.add_metric((name, ENGINE, reason), count)
            for reason, count in figures.dropped.items():
                dropped.add_metric((name, ENGINE, reason), count)
        yield from (prompt, generated, success, dropped)

    def _histograms(self) -> Iterator[Metric]:
        for name, (help_text, _) in HISTOGRAMS.items():
            family = HistogramMetricFamily(f"vllm:{name}", help_text, labels=LABELS)
            for model_name, figures in self._figures.items():
                histogram = figures.histograms[name]
                family.add_metric(
                    (model_name, ENGINE), histogram.cumulative(), sum_value=histogram.sum
                )
            yield family

    def _refusals(self) -> Metric:
        family = CounterMetricFamily(
            "realtime_serve:errors", "Refused or failed requests.", labels=("code",)
        )
        for code, count in self._refused.items():
            family.add_metric((code,), count)
        return family

    def _dropped_log_lines(self) -> Metric:
        family = CounterMetricFamily(
            "realtime_serve:dropped_log_lines", "Log lines that could not be written."
        )
        family.add_metric((), self._num_dropped_lines())
        return family
