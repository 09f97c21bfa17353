"""What is measured, each scenario a function: from a loaded server to figures of metrics.py.

README.md above this folder says in words what each one does.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from peers.load import Load
from peers.metrics import BUSY_CORE_STREAMS, DECODE_STREAMS, LONG_STREAMS
from workload import Plan, Workload

Values = dict[str, float]
"""Figures by the keys of METRICS."""

SHORT_PROMPT = 32
LONG_PROMPT = 512
SHARED_PROMPT = 448

ARRIVAL_OUTPUT = 16
ARRIVALS_PER_S = 1.0
"""Low enough that the slowest peer finishes one prompt before the next, on two cores."""

SPIN = """
import sys, time
end_at_s = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end_at_s:
    pass
"""
"""A process that keeps a core busy, and ends by itself should nobody end it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much work goes into one figure.

    Args:
        output_tokens: Of each answer.
        short_requests: Of 32-token prompts, by the number of streams: enough for some seconds.
        long_requests: The same of 512-token prompts.
        single_requests: Of those scenarios that have one request at a time.
        window_s: Length of what only the clock ends.
    """

    output_tokens: int
    short_requests: dict[int, int]
    long_requests: dict[int, int]
    single_requests: int
    window_s: float

    @property
    def medium_streams(self) -> int:
        """Streams of the scenarios that have only one number of them."""
        return min(16, max(self.short_requests))


FULL = Scale(
    output_tokens=128,
    short_requests={1: 4, 4: 12, 16: 48, 64: 128},
    long_requests={16: 32, 64: 64},
    single_requests=8,
    window_s=15.0,
)

QUICK = Scale(
    output_tokens=4,
    short_requests={1: 1, 4: 4},
    long_requests={16: 16},
    single_requests=1,
    window_s=1.0,
)
"""Shows that everything works; its figures mean nothing."""


def _requests(num_requests: int) -> Plan:
    return Plan(num_prompts=num_requests, duration_s=None, request_rate=None)


async def _rates(
    load: Load, workload: Workload, levels: Sequence[int], num_requests: dict[int, int]
) -> dict[int, float]:
    """Tokens a second at each level that the scale has."""
    rates = {}
    for streams in levels:
        if streams in num_requests:
            summary = await load.run(workload, streams, _requests(num_requests[streams]))
            rates[streams] = summary.output_tokens_per_s
    return rates


async def decode(load: Load, scale: Scale) -> Values:
    """Throughput with short prompts."""
    workload = await load.workload(prompt_tokens=SHORT_PROMPT, output_tokens=scale.output_tokens)
    rates = await _rates(load, workload, DECODE_STREAMS, scale.short_requests)
    return {f"decode_{streams}": rate for streams, rate in rates.items()}


async def long(load: Load, scale: Scale) -> Values:
    """Throughput with long prompts."""
    workload = await load.workload(prompt_tokens=LONG_PROMPT, output_tokens=scale.output_tokens)
    rates = await _rates(load, workload, LONG_STREAMS, scale.long_requests)
    return {f"long_{streams}": rate for streams, rate in rates.items()}


async def ttft(load: Load, scale: Scale) -> Values:
    """Time to the first token of a long prompt when nothing else runs."""
    workload = await load.workload(prompt_tokens=LONG_PROMPT, output_tokens=2)
    summary = await load.run(workload, 1, _requests(scale.single_requests))
    return {"ttft": summary.ttft.median_ms}


async def arrivals(load: Load, scale: Scale) -> Values:
    """What long prompts that arrive do to streams that run."""
    running = await load.workload(prompt_tokens=SHORT_PROMPT, output_tokens=2 * scale.output_tokens)
    arriving = await load.workload(prompt_tokens=LONG_PROMPT, output_tokens=ARRIVAL_OUTPUT)
    background = Plan(num_prompts=None, duration_s=scale.window_s, request_rate=None)
    num_arrivals = max(1, round(scale.window_s * ARRIVALS_PER_S))
    arrivals_plan = Plan(num_prompts=num_arrivals, duration_s=None, request_rate=ARRIVALS_PER_S)
    async with asyncio.TaskGroup() as group:
        streams = group.create_task(load.run(running, scale.medium_streams, background))
        prompts = group.create_task(load.run(arriving, num_arrivals, arrivals_plan, warm_up=False))
    return {
        "arrivals_itl_p99": streams.result().itl.p99_ms,
        "arrivals_rate": streams.result().output_tokens_per_s,
        "arrivals_ttft": prompts.result().ttft.median_ms,
    }


async def shared_prefix(load: Load, scale: Scale) -> Values:
    """Throughput with long prompts that begin alike; the warm-up has computed the beginning."""
    workload = await load.workload(
        prompt_tokens=LONG_PROMPT,
        output_tokens=scale.output_tokens,
        shared_tokens=SHARED_PROMPT,
    )
    streams = scale.medium_streams
    summary = await load.run(workload, streams, _requests(scale.short_requests[streams]))
    return {"shared_prefix": summary.output_tokens_per_s}


async def busy_core(load: Load, scale: Scale) -> Values:
    """What is left of the throughput when another process keeps one core busy."""
    workload = await load.workload(prompt_tokens=SHORT_PROMPT, output_tokens=scale.output_tokens)
    window_s = scale.window_s / 3
    values = {}
    for streams in BUSY_CORE_STREAMS:
        if streams in scale.short_requests:
            undisturbed = await load.rate_in_window(workload, streams, window_s)
            with _busy_core(limit_s=60 + 10 * window_s):
                disturbed = await load.rate_in_window(workload, streams, window_s)
            values[f"busy_core_{streams}"] = 100 * disturbed / undisturbed
    return values


@contextmanager
def _busy_core(limit_s: float) -> Iterator[None]:
    """Keep the last CPU busy."""
    process = subprocess.Popen([sys.executable, "-c", SPIN, str(limit_s)])
    try:
        os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        yield
    finally:
        process.kill()
        process.wait()


SCENARIOS: dict[str, Callable[[Load, Scale], Awaitable[Values]]] = {
    "decode": decode,
    "long": long,
    "ttft": ttft,
    "arrivals": arrivals,
    "shared-prefix": shared_prefix,
    "busy-core": busy_core,
}
"""Those that load a running server, in the order in which they run."""
