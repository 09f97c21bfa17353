"""What is asked of every server, and the figures that come of it, in the order of the table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from figures import Better, Metric

ENDLESS_TOKENS = 1_000_000_000
"""More than any server makes in a run: such a stream ends when the client goes."""

WARM_UP_TOKENS = 8

STEP_MS = 10.0
"""Of a paced model: 100 tokens a second and stream."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One load.

    Args:
        key: As --scenarios spells it.
        label: In tables and plots.
        num_streams: Connections, all of them busy all the time.
        step_ms: Time that the model takes for a token of every stream; 0 for a free one.
        max_tokens: Of each answer.
        streamed: Whether answers are streams; otherwise they are one JSON object.
        figures: Which figures are taken, as keys of FIGURES.
    """

    key: str
    label: str
    num_streams: int
    step_ms: float
    max_tokens: int
    streamed: bool
    figures: tuple[str, ...]

    def body(self, *, warm_up: bool = False) -> str:
        """The request, as JSON."""
        max_tokens = min(self.max_tokens, WARM_UP_TOKENS) if warm_up else self.max_tokens
        return json.dumps(
            {
                "model": "streaming",
                "messages": [{"role": "user", "content": "Hello"}],
                "max_tokens": max_tokens,
                "stream": self.streamed,
            },
            separators=(",", ":"),
        )

    def metrics(self) -> list[Metric]:
        """Its figures."""
        return [
            Metric(f"{self.key}_{name}", f"{self.label}: {label}", unit, better)
            for name, (label, unit, better) in FIGURES.items()
            if name in self.figures
        ]

    def values(self, seen: Mapping[str, Any]) -> dict[str, float]:
        """Figures by metric.

        Args:
            seen: What the load client printed, without a failure.

        Returns:
            Those of its figures for which there was something to be counted.
        """
        window_s, cpu_s, num_tokens = seen["window_s"], seen["server_cpu_s"], seen["num_tokens"]
        found = {
            "rate": num_tokens / window_s,
            "rate_per_core": num_tokens / cpu_s if cpu_s else None,
            "cpu": 1e6 * cpu_s / num_tokens if num_tokens else None,
            "lateness_p50": _ms(seen["lateness_p50_us"]),
            "lateness_p99": _ms(seen["lateness_p99_us"]),
            "ttft_p50": _ms(seen["first_token_p50_us"]),
            "ttft_p99": _ms(seen["first_token_p99_us"]),
            "answers": seen["num_answers"] / window_s,
        }
        return {
            f"{self.key}_{name}": value
            for name, value in found.items()
            if name in self.figures and value is not None
        }


def _ms(duration_us: float | None) -> float | None:
    return None if duration_us is None else duration_us / 1000


FIGURES: dict[str, tuple[str, str, Better]] = {
    "cpu": ("processor time a token", "us", Better.LOWER),
    "rate": ("tokens", "tokens/s", Better.HIGHER),
    "rate_per_core": ("tokens a second of processor time", "tokens/s", Better.HIGHER),
    "lateness_p50": ("lateness p50", "ms", Better.LOWER),
    "lateness_p99": ("lateness p99", "ms", Better.LOWER),
    "ttft_p50": ("first token p50", "ms", Better.LOWER),
    "ttft_p99": ("first token p99", "ms", Better.LOWER),
    "answers": ("answers", "answers/s", Better.HIGHER),
}

_LATE = ("lateness_p50", "lateness_p99")
_FIRST = ("ttft_p50", "ttft_p99")


def _paced(num_streams: int) -> Scenario:
    return Scenario(
        key=f"paced_{num_streams}",
        label=f"{num_streams:,} streams, 10 ms step",
        num_streams=num_streams,
        step_ms=STEP_MS,
        max_tokens=ENDLESS_TOKENS,
        streamed=True,
        figures=("cpu", "rate", "rate_per_core", *_LATE, *_FIRST),
    )


def _free(num_streams: int) -> Scenario:
    return Scenario(
        key=f"free_{num_streams}",
        label=f"{num_streams:,} streams, free model",
        num_streams=num_streams,
        step_ms=0.0,
        max_tokens=ENDLESS_TOKENS,
        streamed=True,
        figures=("rate", "cpu", *_FIRST),
    )


_ANSWERS = Scenario(
    key="answers_64",
    label="64 streams of 128 tokens each, 10 ms step",
    num_streams=64,
    step_ms=STEP_MS,
    max_tokens=128,
    streamed=True,
    figures=("cpu", *_LATE, *_FIRST),
)

_WHOLE = Scenario(
    key="whole_64",
    label="64 connections, no stream, 1 token, free model",
    num_streams=64,
    step_ms=0.0,
    max_tokens=1,
    streamed=False,
    figures=("answers",),
)

SCENARIOS: dict[str, Scenario] = {
    each.key: each
    for each in (_paced(64), _paced(256), _paced(1000), _free(64), _free(256), _ANSWERS, _WHOLE)
}

METRICS: dict[str, Metric] = {
    metric.key: metric for scenario in SCENARIOS.values() for metric in scenario.metrics()
}
