"""How much longer a step takes while the hub is busy with Python.

    python bench/hub_load.py --gevent      # one hub, as in a gunicorn worker
    python bench/hub_load.py               # a thread for each stream

The idea: the inference thread shares the interpreter with the hub, and waits for its lock after
each call into C. So the same streams run twice, alone and while the main thread or greenlet burns
Python in slices, and each step is timed where it is made: on the inference thread, in the engine
that a server would have. The two take turns, so that a machine that changes its speed hurts both.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import gevent.monkey

from outcome import PrintRow, exit_code_of
from realtime_serve.errors import ServeError
from realtime_serve.model import Model
from realtime_serve.server import new_request_id
from realtime_serve.stream import TokenStream
from realtime_serve.types import DTYPES, InferenceRequest, ModelConfig, SamplingParams
from timed_engine import StepTime, open_model

PROMPT_TOKENS = 32

WARM_UP_TOKENS = 8

SWITCH_INTERVAL_S = 0.0005
"""As wsgi.py sets it in a server: so long may the hub keep the interpreter from the others."""

HEADER = (
    "| streams | step alone, ms | beside the hub, ms | growth | interval alone, ms "
    "| beside the hub, ms | growth | hub alone | hub loaded |\n"
    "|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


# --- the hub ------------------------------------------------------------------


class HubLoad(NamedTuple):
    """What the hub has to do beside its streams, in slices.

    Args:
        busy_s: Processor time of a slice, in Python without a break.
        period_s: From one slice to the next. One that begins late, because something else had
            the processor, is not made shorter.
    """

    busy_s: float
    period_s: float


def burn_while(is_wanted: Callable[[], bool], load: HubLoad) -> None:
    """Load the calling thread or greenlet."""
    due_at_s = time.perf_counter()
    while is_wanted():
        until_s = time.thread_time() + load.busy_s
        while time.thread_time() < until_s:
            pass
        now_s = time.perf_counter()
        due_at_s = max(due_at_s + load.period_s, now_s)
        time.sleep(due_at_s - now_s)  # others get their turn, even if that is no time at all


# --- one run ------------------------------------------------------------------


class Run(NamedTuple):
    """What streams showed that ran together once.

    Args:
        durations_s: Of the steps in which all streams got a token.
        intervals_s: Between the begins of two such steps, one after the other.
        hub_share: Processor time of the calling thread, over the time it took.
    """

    durations_s: list[float]
    intervals_s: list[float]
    hub_share: float


def run_streams(
    model: Model,
    times: list[StepTime],
    prompts: Sequence[tuple[int, ...]],
    num_tokens: int,
    load: HubLoad | None,
) -> Run:
    """Run a stream for each prompt to its end.

    Args:
        model: Ready.
        times: Where its engine notes its steps.
        prompts: Token ids.
        num_tokens: Tokens of each stream.
        load: What the calling thread has to do meanwhile; None lets it wait.

    Raises:
        ServeError: A stream has failed.
    """
    times.clear()
    failures: list[ServeError] = []
    streams = [model.submit(_request(model, prompt, num_tokens)) for prompt in prompts]
    readers = [threading.Thread(target=_read, args=(stream, failures)) for stream in streams]
    start_s, start_cpu_s = time.perf_counter(), time.thread_time()
    for reader in readers:
        reader.start()
    if load is not None:
        burn_while(lambda: any(reader.is_alive() for reader in readers), load)
    for reader in readers:
        reader.join()
    hub_share = (time.thread_time() - start_cpu_s) / (time.perf_counter() - start_s)
    if failures:
        raise failures[0]
    return Run(*full_steps(times, len(prompts)), hub_share)


def _request(model: Model, prompt: tuple[int, ...], num_tokens: int) -> InferenceRequest:
    return InferenceRequest(
        request_id=new_request_id(),
        model=model.name,
        prompt_token_ids=prompt,
        sampling=SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True),
    )


def _read(stream: TokenStream, failures: list[ServeError]) -> None:
    try:
        for _ in stream:
            pass
    except ServeError as error:
        failures.append(error)


def full_steps(times: Sequence[StepTime], num_streams: int) -> tuple[list[float], list[float]]:
    """Steps that computed one token of each of the streams, and gave each the next one.

    Args:
        times: Steps, one after the other.
        num_streams: Streams that ran.

    Returns:
        Their durations, and the intervals between those that follow each other; in seconds.
    """
    # As many tokens might be a prompt's; but then, not as many streams have got one.
    is_full = [step.num_tokens == step.num_streams == num_streams for step in times]
    durations = [step.duration_s for step, full in zip(times, is_full, strict=True) if full]
    intervals = [
        after.start_s - before.start_s
        for (before, after), both_full in zip(pairwise(times), pairwise(is_full), strict=True)
        if all(both_full)
    ]
    return durations, intervals


# --- the figures --------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Several runs of the same kind.

    Args:
        num_steps: Steps in which all streams got a token.
        step_ms: Median of what they took on the inference thread.
        interval_ms: Median between two of them: what a stream waits for its next token.
        hub_percent: Mean share of one core that the hub used.
    """

    num_steps: int
    step_ms: float
    interval_ms: float
    hub_percent: float

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Figures:
        """The figures of runs.

        Raises:
            ValueError: They have no two such steps in a row.
        """
        durations = [duration for run in runs for duration in run.durations_s]
        intervals = [interval for run in runs for interval in run.intervals_s]
        if not intervals:
            raise ValueError("the streams never ran all together; raise --tokens")
        return cls(
            num_steps=len(durations),
            step_ms=1000 * statistics.median(durations),
            interval_ms=1000 * statistics.median(intervals),
            hub_percent=100 * statistics.fmean(run.hub_share for run in runs),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """What a number of streams showed.

    Args:
        num_streams: How many ran together.
        alone: While the hub did nothing but deliver tokens.
        loaded: While it burned Python as well.
    """

    num_streams: int
    alone: Figures
    loaded: Figures

    @property
    def step_growth(self) -> float:
        """How many times as long a step took beside the loaded hub."""
        return self.loaded.step_ms / self.alone.step_ms

    @property
    def interval_growth(self) -> float:
        """The same of the time from one step to the next."""
        return self.loaded.interval_ms / self.alone.interval_ms

    def row(self) -> str:
        """A row of the table, in Markdown."""
        alone, loaded = self.alone, self.loaded
        return (
            f"| {self.num_streams} | {alone.step_ms:.2f} | {loaded.step_ms:.2f} "
            f"| {self.step_growth:.2f} | {alone.interval_ms:.2f} | {loaded.interval_ms:.2f} "
            f"| {self.interval_growth:.2f} "
            f"| {alone.hub_percent:.0f} % | {loaded.hub_percent:.0f} % |"
        )

    def as_json(self) -> dict[str, object]:
        """All figures by name."""
        return {
            **asdict(self),
            "step_growth": self.step_growth,
            "interval_growth": self.interval_growth,
        }


def measure(
    model: Model, times: list[StepTime], options: argparse.Namespace, load: HubLoad
) -> Iterator[Level]:
    """The levels of `options.streams`, each when it is known.

    Raises:
        ServeError: A stream has failed.
        ValueError: The runs were too short.
    """
    rng = random.Random(options.seed)

    def run(num_streams: int, num_tokens: int, load: HubLoad | None) -> Run:
        vocabulary = range(model.text.tokenizer.vocab_size)
        prompts = [tuple(rng.choices(vocabulary, k=PROMPT_TOKENS)) for _ in range(num_streams)]
        return run_streams(model, times, prompts, num_tokens, load)

    for num_streams in options.streams:
        run(num_streams, WARM_UP_TOKENS, None)
        alone, loaded = [], []
        for _ in range(options.repeats):
            alone.append(run(num_streams, options.tokens, None))
            loaded.append(run(num_streams, options.tokens, load))
        yield Level(num_streams=num_streams, alone=Figures.of(alone), loaded=Figures.of(loaded))


# --- the command --------------------------------------------------------------


def argument_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        description="How much longer a step takes while the hub is busy with Python.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", help="GGUF file or directory; without it, the default model")
    add("--dtype", choices=DTYPES, default="auto", help="arithmetic of the network")
    add("--streams", type=_counts, default="1,4,16", help="streams at once, with commas between")
    add("--tokens", type=_at_least(WARM_UP_TOKENS + 1), default=128, help="tokens of each stream")
    add("--repeats", type=_at_least(1), default=3, help="runs of each kind, in turns")
    add("--gevent", action="store_true", help="all streams in one hub, instead of threads")
    add("--busy-ms", type=_milliseconds, default=5.0, help="the hub burns Python for so long")
    add("--period-ms", type=_milliseconds, default=10.0, help="and again so long after it began")
    add("--seed", type=int, default=0, help="fixes the prompts")
    add("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return parser


def _at_least(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {minimum} on")
        return int(text)

    return parse


def _counts(text: str) -> list[int]:
    return [_at_least(1)(each) for each in text.split(",")]


def _milliseconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time above 0")
    return value


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, checked; a wrong one ends the process with a sentence.

    Args:
        argv: Them; the process's own when None.
    """
    parser = argument_parser()
    options = parser.parse_args(argv)
    if options.busy_ms > options.period_ms:
        parser.error("--busy-ms is more than --period-ms: a hub cannot be busier than always")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Its arguments; the process's own when None.

    Returns:
        The exit code: see `exit_code_of`.
    """
    options = parse_arguments(argv)
    if options.gevent:
        gevent.monkey.patch_all()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return exit_code_of(partial(measure_model, options))


def measure_model(options: argparse.Namespace, print_row: PrintRow) -> None:
    """Open the model, measure, and print the figures.

    Raises:
        ServeError: The model cannot be loaded, or a stream has failed.
        ValueError: The runs were too short.
        OSError: The file cannot be written.
    """
    load = HubLoad(options.busy_ms / 1000, options.period_ms / 1000)
    times: list[StepTime] = []
    config = ModelConfig(path=options.model, dtype=options.dtype)
    model = open_model(config, max(options.streams), times)
    model.start()
    try:
        model.wait_ready()
        report(model, measure(model, times, options, load), options, print_row)
    finally:
        model.stop()
        model.join()


def report(
    model: Model, levels: Iterator[Level], options: argparse.Namespace, print_row: PrintRow
) -> None:
    """Print the levels as they come, and write them if that was asked for.

    Raises:
        ServeError: A stream has failed.
        ValueError: The runs were too short.
        OSError: The file cannot be written.
    """
    setting = {
        "model": model.name,
        "dtype": options.dtype,
        "gevent": options.gevent,
        "busy_ms": options.busy_ms,
        "period_ms": options.period_ms,
        "tokens": options.tokens,
        "repeats": options.repeats,
    }
    print(", ".join(f"{name} {value}" for name, value in setting.items()), f"\n\n{HEADER}")
    done = []
    for level in levels:
        print_row(level.row())
        done.append(level.as_json())
    if options.json is not None:
        options.json.write_text(json.dumps({**setting, "levels": done}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
