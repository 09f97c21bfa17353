"""The figures that are compared, in the order of the table."""

from __future__ import annotations

from figures import Better, Metric

DECODE_STREAMS = (1, 4, 16, 64)
LONG_STREAMS = (16, 64)
BUSY_CORE_STREAMS = (1, 16)


def _plural(streams: int) -> str:
    return f"{streams} stream" if streams == 1 else f"{streams} streams"


def _metrics() -> list[Metric]:
    rate = ("tokens/s", Better.HIGHER)
    return [
        *(Metric(f"decode_{n}", f"32-token prompts, {_plural(n)}", *rate) for n in DECODE_STREAMS),
        *(Metric(f"long_{n}", f"512-token prompts, {_plural(n)}", *rate) for n in LONG_STREAMS),
        Metric("ttft", "first token of a 512-token prompt", "ms", Better.LOWER),
        Metric(
            "arrivals_itl_p99",
            "inter-token p99, 16 streams, 512-token prompts arriving",
            "ms",
            Better.LOWER,
        ),
        Metric("arrivals_rate", "output of the 16 streams meanwhile", *rate),
        Metric("arrivals_ttft", "first token of the arriving prompts", "ms", Better.LOWER),
        Metric("shared_prefix", "448 of 512 prompt tokens shared, 16 streams", *rate),
        *(
            Metric(
                f"busy_core_{n}", f"left when one core is busy, {_plural(n)}", "%", Better.HIGHER
            )
            for n in BUSY_CORE_STREAMS
        ),
        Metric("start_first", "start to ready, first time", "s", Better.LOWER),
        Metric("start_second", "start to ready, second time", "s", Better.LOWER),
        Metric("memory", "peak memory, 32-token prompts, 64 streams", "MB", Better.LOWER),
    ]


METRICS = {metric.key: metric for metric in _metrics()}
