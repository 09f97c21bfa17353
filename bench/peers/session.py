"""One candidate, measured once: started, loaded scenario by scenario, and stopped.

A scenario that fails costs its own figures and no others: the reason is kept beside them.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from figures import Measured
from peers.candidates import MAX_STREAMS, Candidate
from peers.load import Load, ScenarioFailedError, load_of
from peers.processes import ServerFailedError, ServerProcess, free_port, started
from peers.scenarios import SCENARIOS, SHORT_PROMPT, Scale, Values
from streaming_client import RequestError
from workload import Plan

READY_TIMEOUT_S = 300.0
"""vLLM compiles for a minute at its first start, and machines differ."""

SCENARIO_TIMEOUT_S = 600.0
"""Bounds a scenario on a server that hangs or crawls."""

MEMORY_SAMPLE_S = 0.25
"""Memory grows and stays; reading it costs milliseconds of the server's."""

WITH_OWN_SERVER = ("start", "memory")
"""Scenarios that start the server themselves, on a fresh cache or fresh memory."""

SCENARIO_NAMES = (*SCENARIOS, *WITH_OWN_SERVER)


class Session:
    """Measures one candidate.

    Args:
        candidate: Whom.
        cache: Folder that its starts share; the servers keep what they compile and pack there.
        scale: How much work.
        seed: Fixes the prompts.
    """

    def __init__(self, candidate: Candidate, cache: Path, scale: Scale, *, seed: int) -> None:
        self._candidate = candidate
        self._cache = cache
        self._scale = scale
        self._seed = seed

    def run(self, scenarios: Sequence[str]) -> Measured:
        """Run the scenarios of these names."""
        measured = Measured()
        loading = [name for name in scenarios if name in SCENARIOS]
        if loading:
            self._load_one_server(loading, measured)
        if "start" in scenarios:
            with _failures_kept("start", measured):
                measured.values |= self._start_twice()
        if "memory" in scenarios:
            with _failures_kept("memory", measured):
                measured.values |= self._peak_memory()
        return measured

    @contextmanager
    def _server(self, cache: Path) -> Iterator[tuple[ServerProcess, float]]:
        """A ready server, and how many seconds that took."""
        port = free_port()
        launch = self._candidate.launch(port)
        launch = replace(launch, environ={**launch.environ, "XDG_CACHE_HOME": str(cache)})
        with tempfile.TemporaryDirectory() as folder, started(launch, port, Path(folder)) as server:
            yield server, server.wait_until_ready(READY_TIMEOUT_S)

    def _load_one_server(self, scenarios: Sequence[str], measured: Measured) -> None:
        with _failures_kept("server", measured), self._server(self._cache) as (server, _):
            for name in scenarios:
                _note(f"{self._candidate.name}: {name}")
                with _failures_kept(name, measured):
                    measured.values |= asyncio.run(self._scenario(server, name))

    async def _scenario(self, server: ServerProcess, name: str) -> Values:
        seed = 100 * self._seed + SCENARIO_NAMES.index(name)
        async with (
            asyncio.timeout(SCENARIO_TIMEOUT_S),
            load_of(server.base_url, seed=seed) as load,
        ):
            return await SCENARIOS[name](load, self._scale)

    def _start_twice(self) -> Values:
        _note(f"{self._candidate.name}: start")
        with tempfile.TemporaryDirectory() as cache:
            with self._server(Path(cache)) as (_, first_s):
                pass
            with self._server(Path(cache)) as (_, second_s):
                pass
        return {"start_first": first_s, "start_second": second_s}

    def _peak_memory(self) -> Values:
        _note(f"{self._candidate.name}: memory")
        with self._server(self._cache) as (server, _):
            peak_bytes = asyncio.run(self._memory_under_load(server))
        return {"memory": peak_bytes / 1e6}

    async def _memory_under_load(self, server: ServerProcess) -> int:
        seed = 100 * self._seed + SCENARIO_NAMES.index("memory")
        async with (
            asyncio.timeout(SCENARIO_TIMEOUT_S),
            load_of(server.base_url, seed=seed) as load,
        ):
            loading = asyncio.create_task(self._fill(load))
            peak_bytes = 0
            while not loading.done():
                peak_bytes = max(peak_bytes, server.memory_bytes())
                await asyncio.wait([loading], timeout=MEMORY_SAMPLE_S)
            await loading
        return max(peak_bytes, server.memory_bytes())

    async def _fill(self, load: Load) -> None:
        """Take all seats."""
        workload = await load.workload(
            prompt_tokens=SHORT_PROMPT, output_tokens=self._scale.output_tokens
        )
        plan = Plan(num_prompts=MAX_STREAMS, duration_s=None, request_rate=None)
        await load.run(workload, MAX_STREAMS, plan)


@contextmanager
def _failures_kept(name: str, measured: Measured) -> Iterator[None]:
    """Keep the reason if what is inside fails; an error of this program's own passes."""
    try:
        yield
    except* (ScenarioFailedError, ServerFailedError, RequestError, OSError) as group:
        measured.failures[name] = "; ".join(map(_reason, group.exceptions))
        _note(f"{name} failed: {measured.failures[name]}")


def _reason(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(_reason, error.exceptions))
    return str(error) or type(error).__name__


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
