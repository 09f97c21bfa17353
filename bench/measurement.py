"""What one request showed, and what many of them add up to, in the words of `vllm bench serve`.

README.md beside this file defines every figure. All times are seconds on time.perf_counter()'s
clock until they are printed; nothing here reads a clock.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from streaming_client import RequestError, error_message, parse_object

WIDTH = 50
"""Of the report, as vLLM prints it."""

BUSY_CLIENT_PERCENT = 70.0
"""Above this share of a core, a client in one thread delays what it measures."""


@dataclass(slots=True)
class Measurement:
    """One request, while it runs and when it is over.

    Args:
        start_at_s: When it was sent, or was due to be.
    """

    start_at_s: float
    first_text_at_s: float | None = None
    last_text_at_s: float = 0.0
    done_at_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    num_text_events: int = 0
    usage: dict[str, int] = field(default_factory=dict)
    failure: str | None = None

    @property
    def num_input_tokens(self) -> int:
        """As the server counted them; 0 if it did not."""
        return self.usage.get("prompt_tokens", 0)

    @property
    def num_output_tokens(self) -> int:
        """As the server counted them, else the events that carried text."""
        return self.usage.get("completion_tokens", self.num_text_events)

    def add(self, payload: bytes, now_s: float) -> bool:
        """Take the data of one event.

        Returns:
            Whether it carried text.

        Raises:
            RequestError: The event reports an error, or is no JSON object.
        """
        if payload == b"[DONE]":
            self.done_at_s = now_s
            return False
        event = parse_object(payload)
        if event.get("error"):
            raise RequestError(f"error event: {error_message(event)}")
        self.usage = event.get("usage") or self.usage
        carries_text = any(_has_text(choice) for choice in event.get("choices") or ())
        if carries_text:
            self._add_text(now_s)
        return carries_text

    def _add_text(self, now_s: float) -> None:
        if self.first_text_at_s is None:
            self.first_text_at_s = now_s
        else:
            self.gaps_s.append(now_s - self.last_text_at_s)
        self.last_text_at_s = now_s
        self.num_text_events += 1

    @property
    def ttft_s(self) -> float:
        """Time to first token."""
        assert self.first_text_at_s is not None
        return self.first_text_at_s - self.start_at_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None for a single token."""
        if self.num_output_tokens < 2:
            return None
        assert self.first_text_at_s is not None
        return (self.last_text_at_s - self.first_text_at_s) / (self.num_output_tokens - 1)

    @property
    def e2el_s(self) -> float:
        """End-to-end latency."""
        assert self.done_at_s is not None
        return self.done_at_s - self.start_at_s


def _has_text(choice: dict[str, Any]) -> bool:
    """The first chunk of a chat, which only names the role, carries none; nor does the last."""
    return bool(choice.get("text") or (choice.get("delta") or {}).get("content"))


class Latency(NamedTuple):
    """One kind of latency over all requests, in milliseconds; NaN where there was none."""

    mean_ms: float
    median_ms: float
    p99_ms: float

    @classmethod
    def of(cls, values_s: Iterable[float | None]) -> Latency:
        """Summarise durations in seconds, leaving out None."""
        values = sorted(value * 1e3 for value in values_s if value is not None)
        if not values:
            return cls(math.nan, math.nan, math.nan)
        return cls(statistics.fmean(values), statistics.median(values), percentile(values, 99))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value below which `percent` of `ordered` lie, interpolated linearly."""
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What one level of concurrency showed."""

    concurrency: int
    successful: int
    failed: int
    duration_s: float
    input_tokens: int
    output_tokens: int
    ttft: Latency
    tpot: Latency
    itl: Latency
    e2el: Latency
    client_cpu_percent: float
    failures: dict[str, int]

    @classmethod
    def of(
        cls,
        measurements: Sequence[Measurement],
        *,
        concurrency: int,
        duration_s: float,
        client_cpu_s: float,
    ) -> Summary:
        """Add up finished requests; failed ones count as failed and nowhere else."""
        good = [each for each in measurements if each.failure is None]
        reasons = Counter(each.failure for each in measurements if each.failure is not None)
        return cls(
            concurrency=concurrency,
            successful=len(good),
            failed=len(measurements) - len(good),
            duration_s=duration_s,
            input_tokens=sum(each.num_input_tokens for each in good),
            output_tokens=sum(each.num_output_tokens for each in good),
            ttft=Latency.of(each.ttft_s for each in good),
            tpot=Latency.of(each.tpot_s for each in good),
            itl=Latency.of(gap for each in good for gap in each.gaps_s),
            e2el=Latency.of(each.e2el_s for each in good),
            client_cpu_percent=100 * client_cpu_s / duration_s,
            failures=dict(reasons.most_common()),
        )

    @property
    def output_tokens_per_s(self) -> float:
        """Output token throughput."""
        return self.output_tokens / self.duration_s

    def as_json(self) -> dict[str, Any]:
        """The same for a JSON file, where NaN has no place."""
        fields = asdict(self)
        for name in ("ttft", "tpot", "itl", "e2el"):
            latency: Latency = getattr(self, name)
            fields[name] = {
                key: None if math.isnan(value) else value
                for key, value in latency._asdict().items()
            }
        return fields

    def report(self) -> str:
        """The report on one level, as vLLM prints it, and what went wrong."""
        rows = [
            " Serving Benchmark Result ".center(WIDTH, "="),
            _row("Successful requests:", self.successful),
            _row("Failed requests:", self.failed),
            _row("Maximum request concurrency:", self.concurrency),
            _row("Benchmark duration (s):", self.duration_s),
            _row("Total input tokens:", self.input_tokens),
            _row("Total generated tokens:", self.output_tokens),
            _row("Request throughput (req/s):", self.successful / self.duration_s),
            _row("Output token throughput (tok/s):", self.output_tokens_per_s),
            _row(
                "Total token throughput (tok/s):",
                (self.input_tokens + self.output_tokens) / self.duration_s,
            ),
            *_latency_rows("Time to First Token", "TTFT", self.ttft),
            *_latency_rows("Time per Output Token (excl. 1st token)", "TPOT", self.tpot),
            *_latency_rows("Inter-token Latency", "ITL", self.itl),
            *_latency_rows("End-to-end Latency", "E2EL", self.e2el),
            "=" * WIDTH,
            *self._remarks(),
        ]
        return "\n".join(rows)

    def _remarks(self) -> Iterable[str]:
        for reason, count in self.failures.items():
            yield f"Failed, {count} times: {reason}"
        yield f"The client used {self.client_cpu_percent:.0f} % of one core."
        if self.client_cpu_percent > BUSY_CLIENT_PERCENT:
            yield "That is too much: the client itself delays what it measures here."


def _row(label: str, value: int | float) -> str:
    return f"{label:<40} {value:<.2f}" if isinstance(value, float) else f"{label:<40} {value}"


def _latency_rows(title: str, name: str, latency: Latency) -> list[str]:
    return [
        title.center(WIDTH, "-"),
        _row(f"Mean {name} (ms):", latency.mean_ms),
        _row(f"Median {name} (ms):", latency.median_ms),
        _row(f"P99 {name} (ms):", latency.p99_ms),
    ]


def comparison(summaries: Sequence[Summary]) -> str:
    """A table of several levels, each beside the first.

    Args:
        summaries: At least one.
    """
    lines = ["concurrency  output tok/s  to first  mean TTFT ms  mean TPOT ms  P99 ITL ms  failed"]
    base = summaries[0].output_tokens_per_s
    for each in summaries:
        ratio = each.output_tokens_per_s / base if base else math.nan
        lines.append(
            f"{each.concurrency:>11}  {each.output_tokens_per_s:>12.2f}  {ratio:>7.2f}x"
            f"  {each.ttft.mean_ms:>12.2f}  {each.tpot.mean_ms:>12.2f}  {each.itl.p99_ms:>10.2f}"
            f"  {each.failed:>6}"
        )
    return "\n".join(lines)
