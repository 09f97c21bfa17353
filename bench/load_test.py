"""Load a server with streams and report what a client sees, in the words of `vllm bench serve`.

The idea: the client must not be what is measured. It parses bytes where they arrive
(streaming_client.py), does its sums afterwards (measurement.py), and says how much of one core it
used itself. It needs the standard library only and works against any OpenAI-compatible server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from measurement import Measurement, Summary, comparison
from progress import Progress
from streaming_client import Client, RequestError
from workload import MIN_REQUESTS, PATHS, REQUESTS_PER_STREAM, Plan, Workload

WARM_UP_TOKENS = 8


class LoadTest:
    """Runs levels of concurrency against one server.

    Args:
        client: Whom to load.
        plan: How much, and when.
        seed: Fixes the prompts and the arrivals.
        timeout_s: A request that takes longer has failed.
        show_progress: Whether to say on stderr how it is going.
    """

    def __init__(
        self,
        client: Client,
        plan: Plan,
        *,
        seed: int,
        timeout_s: float,
        show_progress: bool = True,
    ) -> None:
        self._client = client
        self._plan = plan
        self._seed = seed
        self._rng = random.Random(seed)
        self._timeout_s = timeout_s
        self._show_progress = show_progress

    async def measure(
        self, path: str, body: bytes, start_at_s: float, on_text: Callable[[], None]
    ) -> Measurement:
        """Make one request; a failure is part of the measurement.

        Args:
            path: Below the base URL.
            body: JSON.
            start_at_s: When it is, or was, due.
            on_text: Called for each event that carries text.
        """
        measurement = Measurement(start_at_s)

        def on_event(payload: bytes, now_s: float) -> None:
            if measurement.add(payload, now_s):
                on_text()

        try:
            async with asyncio.timeout(self._timeout_s):
                await self._client.post(path, body, on_event)
            if measurement.done_at_s is None:
                measurement.failure = "the stream ended without [DONE]"
        except TimeoutError:
            measurement.failure = f"not over after {self._timeout_s:g} s"
        except (RequestError, OSError) as error:
            measurement.failure = str(error)
        return measurement

    async def calibrate(self, workload: Workload, input_len: int, shared_len: int = 0) -> Workload:
        """Find how many words make a prompt of `input_len` tokens, template included.

        Two prompts of different lengths tell the tokens of the template from those of a word.

        Args:
            workload: What to adjust; its number of words is not read.
            input_len: Tokens of a prompt.
            shared_len: How many of them are the same in all prompts, beside the template.

        Raises:
            RequestError: The server does not answer a probe.
        """
        workload = replace(workload, num_shared_words=0)
        few, many = 1 + input_len // 4, 2 + input_len // 2
        tokens_of_few = await self._count_prompt_tokens(replace(workload, num_words=few))
        tokens_of_many = await self._count_prompt_tokens(replace(workload, num_words=many))
        tokens_per_word = (tokens_of_many - tokens_of_few) / (many - few)
        if tokens_per_word <= 0:
            note("The server does not count prompt tokens: a word is taken for one.")
            return replace(workload, num_words=input_len, num_shared_words=shared_len)
        num_words = max(1, few + round((input_len - tokens_of_few) / tokens_per_word))
        num_shared_words = min(num_words - 1, round(shared_len / tokens_per_word))
        num_tokens = tokens_of_few + round((num_words - few) * tokens_per_word)
        if self._show_progress:
            note(
                f"Prompts of {num_words} words have {num_tokens} tokens, as the server counts them."
            )
        return replace(workload, num_words=num_words, num_shared_words=num_shared_words)

    async def _count_prompt_tokens(self, workload: Workload) -> int:
        body = workload.body(self._rng, max_tokens=1)
        probe = await self.measure(workload.path, body, time.perf_counter(), lambda: None)
        if probe.failure is not None:
            raise RequestError(probe.failure)
        return probe.num_input_tokens

    async def run(self, workload: Workload, concurrency: int, *, warm_up: bool = True) -> Summary:
        """Run one level: `concurrency` streams, each one request at a time.

        Args:
            workload: What each request asks for.
            concurrency: Number of streams.
            warm_up: Make a short request on each stream first, which does not count.
        """
        if warm_up:
            await self._warm_up(workload, concurrency)
        limit = self._plan.num_requests(concurrency)
        progress = Progress(concurrency, limit, visible=self._show_progress)
        measurements: list[Measurement] = []
        showing = asyncio.create_task(progress.keep_showing())
        start_at_s, start_cpu_s = time.perf_counter(), time.process_time()
        due_times = self._plan.due_times(start_at_s, limit, random.Random(self._seed))
        try:
            async with asyncio.TaskGroup() as streams:
                for _ in range(concurrency):
                    stream = self._run_stream(workload, due_times, measurements, progress)
                    streams.create_task(stream)
        finally:
            showing.cancel()
            progress.finish()
        return Summary.of(
            measurements,
            concurrency=concurrency,
            duration_s=time.perf_counter() - start_at_s,
            client_cpu_s=time.process_time() - start_cpu_s,
        )

    async def _warm_up(self, workload: Workload, concurrency: int) -> None:
        """Open the connections and wake what sleeps in the server; nothing of it is counted."""
        async with asyncio.TaskGroup() as streams:
            for _ in range(concurrency):
                body = workload.body(self._rng, max_tokens=WARM_UP_TOKENS)
                streams.create_task(
                    self.measure(workload.path, body, time.perf_counter(), lambda: None)
                )

    async def _run_stream(
        self,
        workload: Workload,
        due_times: Iterator[float],
        measurements: list[Measurement],
        progress: Progress,
    ) -> None:
        body = workload.body(self._rng)
        for due_at_s in due_times:
            wait_s = due_at_s - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            measurement = await self.measure(workload.path, body, due_at_s, progress.add_token)
            if measurement.failure is None and measurement.first_text_at_s is None:
                measurement.failure = "the stream carried no text"
            measurements.append(measurement)
            progress.add_request(measurement)
            body = workload.body(self._rng)


# --- the command ----------------------------------------------------------------


def note(text: str) -> None:
    """Say something that is no result."""
    print(text, file=sys.stderr, flush=True)


def positive_int(text: str) -> int:
    """Parse a whole number above 0.

    Raises:
        ValueError: It is none; argparse turns it into a message.
    """
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def positive_float(text: str) -> float:
    """Parse a number above 0.

    Raises:
        ValueError: It is none; argparse turns it into a message.
    """
    value = float(text)
    if not value > 0:
        raise ValueError(text)
    return value


def shared_length(text: str) -> int:
    """Parse a whole number of at least 0.

    Raises:
        ValueError: It is none; argparse turns it into a message.
    """
    return 0 if text == "0" else positive_int(text)


def concurrencies(text: str) -> list[int]:
    """Parse 1,4,16.

    Raises:
        ValueError: One of them is no whole number above 0.
    """
    return [positive_int(part) for part in text.split(",")]


def argument_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="load_test.py",
        description="Load a server with streams and report what a client sees.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--base-url", metavar="URL", help="such as http://127.0.0.1:8000, instead of host and port")
    add("--host", default="127.0.0.1", help="whom to load")
    add("--port", type=positive_int, default=8000, help="its port")
    add("--model", help="name of the model; the first one served when left out")
    add("--endpoint", choices=sorted(PATHS), default="chat", help="which API")
    add(
        "--concurrency",
        type=concurrencies,
        default=[1, 4, 16],
        metavar="N[,N...]",
        help="streams at once; several are run one after the other and compared",
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--num-prompts",
        type=positive_int,
        metavar="N",
        help=f"requests of each level; {REQUESTS_PER_STREAM} a stream and at least {MIN_REQUESTS} "
        "when left out",
    )
    amount.add_argument(
        "--duration",
        type=positive_float,
        metavar="S",
        help="start requests for so many seconds instead",
    )
    add("--input-len", type=positive_int, default=128, metavar="TOKENS", help="of each prompt")
    add(
        "--shared-prefix-len",
        type=shared_length,
        default=0,
        metavar="TOKENS",
        help="of each prompt that all prompts share; none when left out",
    )
    add("--output-len", type=positive_int, default=128, metavar="TOKENS", help="of each answer")
    add(
        "--request-rate",
        type=positive_float,
        metavar="PER_S",
        help="mean arrivals a second, at random times; as fast as streams are free when left out",
    )
    add("--seed", type=int, default=0, help="fixes prompts and arrivals")
    add("--timeout", type=positive_float, default=600.0, metavar="S", help="for one request")
    add("--json", type=Path, metavar="FILE", help="write the results here as well")
    return parser


async def first_model(client: Client) -> str:
    """The first model that the server lists.

    Raises:
        RequestError: It lists none.
        OSError: The server cannot be reached.
    """
    models = (await client.get("/v1/models")).get("data")
    if not models:
        raise RequestError("the server lists no model: name one with --model")
    return str(models[0]["id"])


async def run_levels(args: argparse.Namespace, base_url: str) -> list[Summary]:
    """Run all levels and print their reports.

    Raises:
        RequestError: The server does not answer as it should before the first level.
        OSError: The server cannot be reached.
        ValueError: The base URL is none, or all of each prompt would be shared.
    """
    if args.shared_prefix_len >= args.input_len:
        raise ValueError("--shared-prefix-len must leave a token of --input-len to each prompt.")
    async with Client(base_url) as client:
        model = args.model or await first_model(client)
        note(f"Loading {base_url}, model {model}, endpoint {args.endpoint}.")
        workload = Workload(
            endpoint=args.endpoint,
            model=model,
            num_words=args.input_len,
            output_len=args.output_len,
        )
        plan = Plan(
            num_prompts=args.num_prompts, duration_s=args.duration, request_rate=args.request_rate
        )
        test = LoadTest(client, plan, seed=args.seed, timeout_s=args.timeout)
        workload = await test.calibrate(workload, args.input_len, args.shared_prefix_len)
        summaries = []
        for concurrency in args.concurrency:
            summaries.append(await test.run(workload, concurrency))
            print(summaries[-1].report(), flush=True)
    if len(summaries) > 1:
        print(comparison(summaries), flush=True)
    return summaries


def write_json(args: argparse.Namespace, summaries: list[Summary]) -> None:
    """Write arguments and results; latencies are in milliseconds, null where there were none."""
    settings = {name: value for name, value in vars(args).items() if name != "json"}
    results = [each.as_json() for each in summaries]
    args.json.write_text(json.dumps({"settings": settings, "results": results}, indent=2) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Its arguments; the process's own when None.

    Returns:
        The exit code: 0, 1 if a request failed, 2 if no level could be run, 130 if a person
        stopped it.
    """
    args = argument_parser().parse_args(argv)
    base_url = args.base_url or f"http://{args.host}:{args.port}"
    try:
        summaries = asyncio.run(run_levels(args, base_url))
    except KeyboardInterrupt:
        note("Stopped.")
        return 130
    except OSError as error:
        note(f"Nothing answers at {base_url} ({error}): is a server running there?")
        return 2
    except (RequestError, ValueError) as error:
        note(f"No load test of {base_url}: {error}")
        return 2
    if args.json is not None:
        write_json(args, summaries)
    return 1 if any(each.failed for each in summaries) else 0


if __name__ == "__main__":
    sys.exit(main())
