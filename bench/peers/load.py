"""The load client against one server, in the calls that scenarios are made of.

All prompts go to /v1/completions, where no chat template precedes them: 32 tokens are 32 tokens
for every server, and no server finds the beginning of a prompt in a cache unless a scenario
shares one on purpose. Equal seeds give equal prompts in equal order.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count

from load_test import LoadTest, first_model
from measurement import Summary
from streaming_client import Client
from workload import Plan, Workload

REQUEST_TIMEOUT_S = 300.0
"""Longer than the slowest answer that is still an answer."""

SETTLE_S = 1.0
"""Before a window is counted, so that it does not begin with all prompts at once."""

ONE_REQUEST = Plan(num_prompts=1, duration_s=None, request_rate=None)


class ScenarioFailedError(Exception):
    """A server did not do all that was asked; a figure of the rest would flatter it."""


class Load:
    """Loads one server.

    Args:
        client: Connected to it.
        model: The name it serves.
        seed: Fixes the prompts; each call takes others.
    """

    def __init__(self, client: Client, model: str, *, seed: int) -> None:
        self._client = client
        self._model = model
        self._seeds = count(1000 * seed)

    async def workload(
        self, *, prompt_tokens: int, output_tokens: int, shared_tokens: int = 0
    ) -> Workload:
        """Requests of so many tokens as this server counts them.

        Args:
            prompt_tokens: Of each prompt.
            output_tokens: Of each answer.
            shared_tokens: How many of a prompt's tokens, the first ones, are in all prompts.
        """
        workload = Workload(
            endpoint="completions", model=self._model, num_words=1, output_len=output_tokens
        )
        return await self._test(ONE_REQUEST).calibrate(workload, prompt_tokens, shared_tokens)

    def _test(self, plan: Plan) -> LoadTest:
        return LoadTest(
            self._client,
            plan,
            seed=next(self._seeds),
            timeout_s=REQUEST_TIMEOUT_S,
            show_progress=False,
        )

    async def run(
        self, workload: Workload, streams: int, plan: Plan, *, warm_up: bool = True
    ) -> Summary:
        """Run one level of the load test.

        Raises:
            ScenarioFailedError: A request failed.
        """
        summary = await self._test(plan).run(workload, streams, warm_up=warm_up)
        if summary.failed or not summary.successful:
            reasons = "; ".join(summary.failures) or "there was none"
            raise ScenarioFailedError(f"{summary.failed} requests failed: {reasons}")
        return summary

    async def rate_in_window(self, workload: Workload, streams: int, window_s: float) -> float:
        """Tokens a second that arrive in a window; requests are cut off at its end.

        This can measure a server that is so slow that it ends no request.
        """
        num_tokens = 0

        def on_text() -> None:
            nonlocal num_tokens
            num_tokens += 1

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._stream(workload, on_text)) for _ in range(streams)]
            await asyncio.sleep(SETTLE_S)
            num_before, start_at_s = num_tokens, time.perf_counter()
            await asyncio.sleep(window_s)
            rate = (num_tokens - num_before) / (time.perf_counter() - start_at_s)
            for task in tasks:
                task.cancel()
        return rate

    async def _stream(self, workload: Workload, on_text: Callable[[], None]) -> None:
        """One request after the other, until cancelled."""
        test = self._test(ONE_REQUEST)
        rng = random.Random(next(self._seeds))
        while True:
            body = workload.body(rng)
            measurement = await test.measure(workload.path, body, time.perf_counter(), on_text)
            if measurement.failure is not None:
                raise ScenarioFailedError(measurement.failure)


@asynccontextmanager
async def load_of(base_url: str, *, seed: int) -> AsyncIterator[Load]:
    """Connect to a server and take the first model that it serves.

    Args:
        base_url: Of the server.
        seed: Fixes the prompts.
    """
    async with Client(base_url) as client:
        yield Load(client, await first_model(client), seed=seed)
