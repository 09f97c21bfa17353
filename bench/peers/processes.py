"""A server as a process of its own: started, waited for, weighed, and stopped with its children.

Each server leads a session, so that its children can be found and stopped whoever started
them. Memory is the sum of PSS over the session: a page that several processes map counts once,
and a mapped file counts as far as it is in memory.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.02
"""How often a starting server is asked whether it is ready: well below any start time."""

STOP_TIMEOUT_S = 20.0
"""Servers end open requests first; none has any when it is stopped here."""


class ServerFailedError(Exception):
    """A server did not start; the message ends with what it printed last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """How to start a server on a port.

    Args:
        command: Program and arguments.
        environ: Variables beside this process's own.
        ready_path: Answers 200 once the model is loaded.
    """

    command: Sequence[str]
    environ: Mapping[str, str]
    ready_path: str


class ServerProcess:
    """A started server.

    Args:
        launch: How to start it.
        port: Where it will listen, on the loopback interface.
        folder: Empty or its own: its working directory, and where its output goes.
    """

    def __init__(self, launch: Launch, port: int, folder: Path) -> None:
        self.port = port
        self._launch = launch
        self._log_path = folder / "server.log"
        self._start_at_s = time.perf_counter()
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                launch.command,
                cwd=folder,
                env={**os.environ, **launch.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def session_id(self) -> int:
        """Of the session that it leads."""
        return self._process.pid

    @property
    def base_url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self, timeout_s: float) -> float:
        """Wait for the readiness answer.

        Returns:
            Seconds since the process was started.

        Raises:
            ServerFailedError: It has ended, or is not ready in time.
        """
        while not self._is_ready():
            if self._process.poll() is not None:
                raise ServerFailedError(f"ended with {self._process.returncode}:\n{self.log_end()}")
            if time.perf_counter() - self._start_at_s > timeout_s:
                raise ServerFailedError(f"not ready after {timeout_s:g} s:\n{self.log_end()}")
            time.sleep(POLL_S)
        return time.perf_counter() - self._start_at_s

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", self._launch.ready_path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def log_end(self) -> str:
        """The last lines that it printed."""
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-15:])

    def memory_bytes(self) -> int:
        """PSS of it and its children now."""
        return sum(pss_bytes(pid) for pid in session_members(self.session_id))

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End it and all its children; returns when they are gone.

        Args:
            timeout_s: How long it may take to end by itself.
        """
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        for pid in session_members(self.session_id):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def started(
    launch: Launch, port: int, folder: Path, *, stop_timeout_s: float = STOP_TIMEOUT_S
) -> Iterator[ServerProcess]:
    """Start a server; it is stopped at the end, whatever happens."""
    server = ServerProcess(launch, port, folder)
    try:
        yield server
    finally:
        server.stop(stop_timeout_s)


def free_port() -> int:
    """A loopback port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- /proc ----------------------------------------------------------------------


def session_members(session_id: int) -> list[int]:
    """Processes of a session that have not ended."""
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [pid for pid in pids if _is_member(pid, session_id)]


def _is_member(pid: int, session_id: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    # pid (name) state ppid pgrp session ...; a name may hold spaces and parentheses.
    state, _, _, session, *_ = stat.rpartition(")")[2].split()
    return state != "Z" and int(session) == session_id


def pss_bytes(pid: int, part: str = "Pss") -> int:
    """Proportional set size of a process; 0 if it is gone.

    Args:
        pid: Which one.
        part: Pss_Anon leaves out mapped files, whose share changes with who else maps them.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith(f"{part}:")]
    return sum(kilobytes) * 1024
