"""Who is compared: this server, the floor below all of them, and peers, each with its command.

Each has one process that serves, as its makers recommend for one core, and an app of its own in
peers/. All of them get the settings of a run in the environment.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peers.environments import Environments
from peers.processes import Launch
from streaming.programs import Programs
from streaming.scenarios import Scenario

BENCH = Path(__file__).resolve().parents[1]
REPOSITORY = BENCH.parent

OURS = "realtime-serve"

NO_TIMEOUT_MS = 600_000
"""Longer than any run: an endless stream is no fault."""


class Role(enum.Enum):
    """What a candidate is compared as."""

    OURS = "ours"
    FLOOR = "floor"
    PEER = "peer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One server.

    Args:
        name: In tables, and as --candidates spells it.
        role: What it is compared as.
        streams: Whether it answers with streams, or else with whole answers. Ours does both.
        command: Program and arguments that serve a scenario on a port.
        ready_path: Answers 200 once it serves.
        files: Must be there; setup_peers.py makes them.
    """

    name: str
    role: Role
    streams: bool
    command: Callable[[Scenario, int], Sequence[str]]
    ready_path: str = "/health"
    files: tuple[Path, ...] = ()

    def missing(self) -> list[Path]:
        """The files that are not there."""
        return [path for path in self.files if not path.exists()]

    def serves(self, scenario: Scenario) -> bool:
        """Whether it takes part in a scenario."""
        return self.role is Role.OURS or self.streams == scenario.streamed

    def launch(self, scenario: Scenario, port: int, cpu: int) -> Launch:
        """How to start it on one processor."""
        return Launch(
            command=["taskset", "--cpu-list", str(cpu), *self.command(scenario, port)],
            environ={
                "PYTHONPATH": f"{BENCH}:{REPOSITORY}",
                "STREAMING_PORT": str(port),
                "STREAMING_STEP_MS": f"{scenario.step_ms:g}",
                "STREAMING_NUM_STREAMS": str(scenario.num_streams),
            },
            ready_path=self.ready_path,
        )


def all_candidates(environments: Environments, programs: Programs) -> dict[str, Candidate]:
    """Every candidate by its name, this server's first."""
    candidates = [
        Candidate(
            name=OURS,
            role=Role.OURS,
            streams=True,
            command=_gunicorn("streaming.own_app:app"),
            ready_path="/health/ready",
        ),
        Candidate(name="floor", role=Role.FLOOR, streams=True, command=_floor(programs)),
        _peer(environments, "fastapi-uvicorn", _uvicorn),
        _peer(environments, "fastapi-granian", _granian),
        _peer(environments, "mosec", _mosec, ready_path="/"),
        Candidate(
            name="flask-gevent",
            role=Role.PEER,
            streams=True,
            command=_gunicorn("streaming.peers.flask_app:app"),
        ),
        Candidate(
            name="flask-json",
            role=Role.FLOOR,
            streams=False,
            command=_gunicorn("streaming.peers.flask_json_app:app"),
        ),
        _peer(environments, "litserve", _litserve, streams=False),
    ]
    return {each.name: each for each in candidates}


def _peer(
    environments: Environments,
    name: str,
    command: Callable[[Environments, int], Sequence[str]],
    *,
    streams: bool = True,
    ready_path: str = "/health",
) -> Candidate:
    return Candidate(
        name=name,
        role=Role.PEER,
        streams=streams,
        command=lambda _, port: command(environments, port),
        ready_path=ready_path,
        files=(environments.streaming_program("python"),),
    )


def _gunicorn(app: str) -> Callable[[Scenario, int], Sequence[str]]:
    def command(_: Scenario, port: int) -> Sequence[str]:
        return [
            *(sys.executable, "-m", "gunicorn", "--worker-class=gevent"),
            # A thousand streams, and a readiness probe beside them.
            *("--worker-connections=2048", "--no-control-socket"),
            *(f"--bind=127.0.0.1:{port}", app),
        ]

    return command


def _floor(programs: Programs) -> Callable[[Scenario, int], Sequence[str]]:
    def command(scenario: Scenario, port: int) -> Sequence[str]:
        step_us = round(1000 * scenario.step_ms)
        return [str(programs.floor), "--port", str(port), "--step-us", str(step_us)]

    return command


def _uvicorn(environments: Environments, port: int) -> Sequence[str]:
    return [
        *(str(environments.streaming_program("uvicorn")), "streaming.peers.fastapi_app:app"),
        *("--port", str(port), "--log-level", "warning"),
    ]


def _granian(environments: Environments, port: int) -> Sequence[str]:
    return [
        *(str(environments.streaming_program("granian")), "streaming.peers.fastapi_app:app"),
        *("--interface", "asgi", "--port", str(port), "--log-level", "warning"),
    ]


def _mosec(environments: Environments, port: int) -> Sequence[str]:
    python = str(environments.streaming_program("python"))
    return [
        *(python, "-m", "streaming.peers.mosec_app", "--port", str(port)),
        *("--address", "127.0.0.1", "--capacity", "4096", "--timeout", str(NO_TIMEOUT_MS)),
        # Its sockets, in the session's own folder: a killed mosec leaves them behind.
        *("--log-level", "warning", "--path", "mosec"),
    ]


def _litserve(environments: Environments, port: int) -> Sequence[str]:
    # It reads its port from the environment: it has no command line.
    return [str(environments.streaming_program("python")), "-m", "streaming.peers.litserve_app"]
