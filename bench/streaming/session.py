"""One candidate in one scenario, once: started, loaded and stopped.

The server has one processor and the client another. What the server's processes take of theirs is
read by the client, at the beginning and the end of the window in which it counts.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from figures import Measured
from measurement import BUSY_CLIENT_PERCENT
from peers.processes import ServerFailedError, ServerProcess, free_port, session_members, started
from streaming.candidates import Candidate
from streaming.programs import LoadError, Programs, run_load
from streaming.scenarios import Scenario

READY_TIMEOUT_S = 60.0

STOP_TIMEOUT_S = 2.0
"""A model in the middle of an endless answer does not stop by itself."""


class Processors(NamedTuple):
    """Where the two sides run.

    Args:
        server: The server's.
        client: The load client's.
    """

    server: int
    client: int


class Window(NamedTuple):
    """How long is counted.

    Args:
        settle_s: How long all streams run before.
        window_s: The counting.
    """

    settle_s: float
    window_s: float


class Session(NamedTuple):
    """What one session brought.

    Args:
        measured: Its figures, or why there are none.
        event_bytes: Mean size of a token's event; None if other events were among them.
        client_percent: What the client used of its processor; None if the scenario failed.
    """

    measured: Measured
    event_bytes: float | None = None
    client_percent: float | None = None

    @property
    def is_client_busy(self) -> bool:
        """Whether the client may have been the bottleneck."""
        return self.client_percent is not None and self.client_percent > BUSY_CLIENT_PERCENT


def choose_processors() -> Processors:
    """The first two that this process may use.

    Raises:
        ValueError: There is only one.
    """
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        raise ValueError("Two processors are needed: one for the server, one for the client.")
    return Processors(*available[:2])


def run_session(
    candidate: Candidate,
    scenario: Scenario,
    programs: Programs,
    processors: Processors,
    window: Window,
) -> Session:
    """Measure; a failure of the server is kept with the figures."""
    port = free_port()
    launch = candidate.launch(scenario, port, processors.server)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            started(launch, port, Path(folder), stop_timeout_s=STOP_TIMEOUT_S) as server,
        ):
            server.wait_until_ready(READY_TIMEOUT_S)
            _note(f"{candidate.name}: {scenario.key}")
            command = load_command(server, scenario, programs, processors, window)
            seen = run_load(command)
    except (ServerFailedError, LoadError, OSError) as error:
        _note(f"{candidate.name}: {scenario.key} failed: {error}")
        return Session(Measured(failures={scenario.key: str(error)}))
    return Session(
        Measured(scenario.values(seen)),
        event_bytes=_event_bytes(seen),
        client_percent=100 * seen["client_cpu_s"] / seen["window_s"],
    )


def _event_bytes(seen: Mapping[str, Any]) -> float | None:
    """Mean size of an event that carries a token; the events that begin and end answers do not."""
    if seen["num_answers"] or not seen["num_events"]:
        return None
    return float(seen["num_event_bytes"] / seen["num_events"])


def load_command(
    server: ServerProcess,
    scenario: Scenario,
    programs: Programs,
    processors: Processors,
    window: Window,
) -> list[str]:
    """The command line of the load client against a server that is ready."""
    pids = ",".join(map(str, session_members(server.session_id)))
    return [
        *("taskset", "--cpu-list", str(processors.client), str(programs.load)),
        *("--port", str(server.port), "--streams", str(scenario.num_streams)),
        *("--body", scenario.body(), "--warm-up-body", scenario.body(warm_up=True)),
        *("--settle-s", str(window.settle_s), "--window-s", str(window.window_s)),
        *("--pids", pids, *([] if scenario.streamed else ["--whole"])),
    ]


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
