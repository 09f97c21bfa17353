"""What Prometheus reads after known streams have ended."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from realtime_serve import MetricsCollector, Model, RequestContext, SamplingParams
from realtime_serve.errors import RateLimitedError, ServeError, StalledReaderError
from realtime_serve.stream import TokenStream
from realtime_serve.stream_manager import StreamManager
from support.scripted_servers import (
    EndlessAlphabet,
    GatedAlphabet,
    StepByStep,
    alphabet_server,
    serve,
    wait_until,
)

GREEDY = SamplingParams(temperature=0)


def context() -> RequestContext:
    return RequestContext(
        request_id="r", client_id="c", method="POST", route="/v1/x", started_at_s=0.0
    )


def scrape(metrics: MetricsCollector) -> dict[str, Metric]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {family.name: family for family in families}


def value(families: dict[str, Metric], sample_name: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == sample_name and labels.items() <= sample.labels.items()
    ]
    return found


def ended_streams(prompts: Sequence[str]) -> list[TokenStream]:
    with alphabet_server() as server:
        streams = [server.generate(prompt, sampling=GREEDY) for prompt in prompts]
        for stream in streams:
            list(stream)
    return streams


def streams_read_step_by_step(nums_tokens: Sequence[int]) -> list[TokenStream]:
    """Ended streams whose second token was made after the first one had been read."""
    with StepByStep() as steps, serve(lambda: GatedAlphabet(steps)) as server:
        streams = []
        for num_tokens in nums_tokens:
            sampling = SamplingParams(temperature=0, max_tokens=num_tokens)
            stream = server.generate("a", sampling=sampling)
            while not stream.ended:
                steps.num_allowed += 1
                stream.read(timeout_s=0.1)
            streams.append(stream)
    return streams


def test_tokens_and_ends_are_counted_by_model_and_reason() -> None:
    metrics = MetricsCollector(list, StreamManager())
    for stream in ended_streams(["wx", "yy"]):
        metrics.on_stream_end(context(), stream)
    families = scrape(metrics)
    labels = {"model_name": "alphabet", "engine": "0"}
    assert value(families, "vllm:prompt_tokens_total", **labels) == 4
    assert value(families, "vllm:generation_tokens_total", **labels) == 3 + 2
    assert value(families, "vllm:request_success_total", finished_reason="stop", **labels) == 2


def test_streams_that_end_before_their_answers_are_counted_by_why() -> None:
    metrics = MetricsCollector(list, StreamManager())
    with serve(EndlessAlphabet) as server:
        for error in (StalledReaderError(), StalledReaderError(), None):
            with server.generate("a", sampling=GREEDY) as stream:
                stream.cancel(error)
            metrics.on_stream_end(context(), stream)
    for stream in ended_streams(["w"]):
        metrics.on_stream_end(context(), stream)
    dropped = scrape(metrics)["realtime_serve:streams_dropped"].samples
    counts = {sample.labels["reason"]: sample.value for sample in dropped}
    assert counts == {"stalled_reader": 2, "cancelled": 1}


def test_each_histogram_is_cumulative_and_complete() -> None:
    metrics = MetricsCollector(list, StreamManager())
    for stream in streams_read_step_by_step([4, 2]):
        metrics.on_stream_end(context(), stream)
    families = scrape(metrics)
    expected = {
        "vllm:time_to_first_token_seconds": 2,
        "vllm:e2e_request_latency_seconds": 2,
        "vllm:request_queue_time_seconds": 2,
        "vllm:request_prefill_time_seconds": 2,
        "vllm:request_decode_time_seconds": 2,
        "vllm:inter_token_latency_seconds": 4,  # 4 tokens and 2 tokens
    }
    for name, count in expected.items():
        buckets = [s.value for s in families[name].samples if s.name == f"{name}_bucket"]
        assert buckets == sorted(buckets), name
        assert buckets[-1] == value(families, f"{name}_count") == count, name
        assert value(families, f"{name}_sum") > 0, name


def test_spans_of_a_request_add_up() -> None:
    (stream,) = ended_streams(["a"])
    times = stream.statistics
    assert times.scheduled_at_s is not None
    assert times.first_token_at_s is not None
    assert times.finished_at_s is not None
    assert times.submitted_at_s <= times.scheduled_at_s <= times.first_token_at_s
    assert times.first_token_at_s <= times.finished_at_s


def test_refusals_are_counted_by_their_code() -> None:
    metrics = MetricsCollector(list, StreamManager())
    for error in (RateLimitedError("x"), RateLimitedError("y"), ServeError("z")):
        metrics.on_error(context(), error)
    families = scrape(metrics)
    assert value(families, "realtime_serve:errors_total", code="rate_limit_exceeded") == 2
    assert value(families, "realtime_serve:errors_total", code="server_error") == 1


def test_gauges_show_the_engines_as_they_are() -> None:
    with alphabet_server() as server:
        families = scrape(MetricsCollector(server.registry.all, server.streams))
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
            assert value(families, f"vllm:{name}", model_name="alphabet", engine="0") == 0
        for name in (
            "num_preemptions",
            "prefix_cache_queries",
            "prefix_cache_hits",
            "spec_decode_num_draft_tokens",
            "spec_decode_num_accepted_tokens",
        ):
            assert value(families, f"vllm:{name}_total", model_name="alphabet") == 0


def test_open_streams_are_gauged_by_state() -> None:
    with serve(EndlessAlphabet) as server:
        metrics = MetricsCollector(server.registry.all, server.streams)

        def gauge(state: str) -> float:
            labels = {"model_name": "alphabet", "engine": "0", "state": state}
            return value(scrape(metrics), "realtime_serve:streams", **labels)

        states = ("queued", "prefill", "streaming", "paused")
        assert [gauge(state) for state in states] == [0, 0, 0, 0]
        with server.generate("a", sampling=GREEDY) as stream:
            wait_until(lambda: stream.statistics.paused_s > 0)  # nobody reads it
            assert [gauge(state) for state in states] == [0, 0, 0, 1]
        assert [gauge(state) for state in states] == [0, 0, 0, 0]


def test_hits_of_the_prefix_cache_are_counted_in_tokens() -> None:
    prompt = "ab" * 20 + "w"
    with alphabet_server() as server:
        for _ in range(2):
            stream = server.generate(prompt, sampling=GREEDY)
            list(stream)
        families = scrape(MetricsCollector(server.registry.all, server.streams))
    assert stream.usage.cached_tokens == 32
    assert value(families, "vllm:prefix_cache_queries_total", model_name="alphabet") == 82
    assert value(families, "vllm:prefix_cache_hits_total", model_name="alphabet") == 32


def test_guesses_and_those_that_were_right_are_counted() -> None:
    prompt = "tuvwxq tuv"  # w and x are guessed after its first token, v; but x is wrong at the q
    with alphabet_server() as server:
        list(server.generate(prompt, sampling=GREEDY))
        families = scrape(MetricsCollector(server.registry.all, server.streams))
    drafts = value(families, "vllm:spec_decode_num_draft_tokens_total", model_name="alphabet")
    accepted = value(families, "vllm:spec_decode_num_accepted_tokens_total", model_name="alphabet")
    assert 0 < accepted < drafts


def test_a_stream_that_is_collected_during_a_scrape_is_counted_and_locks_nothing() -> None:
    """The scrape's own allocations may collect a forgotten stream, whose end comes in here."""
    (stream,) = ended_streams(["y"])

    def models_while_a_stream_ends() -> list[Model]:
        metrics.on_stream_end(context(), stream)
        return []

    metrics = MetricsCollector(models_while_a_stream_ends, StreamManager())
    metrics.on_stream_end(context(), stream)
    metrics.render()
    assert value(scrape(metrics), "vllm:generation_tokens_total", model_name="alphabet") >= 4


def test_a_served_model_has_its_series_before_its_first_request() -> None:
    with alphabet_server() as server:
        families = scrape(MetricsCollector(server.registry.all, server.streams))
    assert value(families, "vllm:generation_tokens_total", model_name="alphabet") == 0
    assert value(families, "vllm:e2e_request_latency_seconds_count", model_name="alphabet") == 0
