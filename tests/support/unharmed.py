"""What must hold after any fault, whoever caused it.

The fault's neighbours say what they would have said without it, and everything that it held is
given back: places in the engine, KV blocks, descriptors, greenlets.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from support.event_stream import DONE, EventStream
from support.live_server import LiveServer, free_port, start_program
from support.processes import children

TESTS = Path(__file__).parent.parent

MODEL = "faulty"

ADMIN_KEY = "the-key-of-the-faults"

NEIGHBOUR: dict[str, Any] = {"model": MODEL, "max_tokens": 150, "temperature": 1.0, "seed": 7}
"""Each token depends on all before it, and on the seed: one that is wrong changes the rest."""

NEIGHBOURS = ("one neighbour", "another neighbour")

_KV_USAGE = re.compile(r"^vllm:kv_cache_usage_perc\{[^}]*\} (\S+)$", re.MULTILINE)


def start_faulty(
    log_path: Path, *options: str, environ: Mapping[str, str] | None = None
) -> LiveServer:
    """Start the network that fails on demand under gunicorn, as the package sets that up."""
    port = free_port()
    environ = {**faulty_environ(log_path), **(environ or {})}
    return start_program(faulty_command(port, *options), port, log_path, environ=environ)


def faulty_command(port: int, *options: str) -> list[str]:
    """What starts it."""
    gunicorn = [sys.executable, "-m", "gunicorn", "-c", "python:realtime_serve.gunicorn_conf"]
    return [*gunicorn, f"--bind=127.0.0.1:{port}", *options, "support.fault_app:app"]


def faulty_environ(log_path: Path) -> dict[str, str]:
    """The variables that it needs."""
    paths = [str(TESTS), str(TESTS.parent), str(TESTS.parent / "examples")]
    return {
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        "REALTIME_SERVE_ADMIN_API_KEY": ADMIN_KEY,
        "FAULT_STUCK_WHILE": str(stuck_file(log_path)),
    }


def stuck_file(log_path: Path) -> Path:
    """The file that keeps a server's steps from ending while it is there."""
    return log_path.parent / "stuck"


@dataclass(frozen=True)
class Holdings:
    """What a server's worker holds at an instant."""

    open_streams: int
    running: int
    waiting: int
    kv_usage: float
    descriptors: int
    greenlets: int

    @classmethod
    def of(cls, server: LiveServer) -> Holdings:
        health = server.request("GET", "/health").json()
        metrics = server.request("GET", "/metrics").body.decode()
        (worker,) = children(server.process.pid)
        return cls(
            open_streams=health["open_streams"],
            running=health["running"],
            waiting=health["waiting"],
            kv_usage=sum(map(float, _KV_USAGE.findall(metrics))),
            descriptors=len(os.listdir(f"/proc/{worker}/fd")),
            greenlets=server.request("GET", "/test").json()["num_greenlets"],
        )

    def is_within(self, other: Holdings) -> bool:
        return all(
            mine <= theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)
        )


def text_of(payloads: list[Any]) -> str:
    """The text of a stream that was given all that it had asked for."""
    *chunks, last, done = payloads
    assert done == DONE
    assert last["choices"][0]["finish_reason"] == "length", last
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


def ask(server: LiveServer, prompt: str) -> str:
    """What the model says to a neighbour."""
    with EventStream(server, {**NEIGHBOUR, "prompt": prompt}) as stream:
        return text_of(stream.rest())


class Neighbour:
    """Asks for the same text again and again while something happens to somebody else."""

    def __init__(self, server: LiveServer, prompt: str, undisturbed: str) -> None:
        self.num_texts = 0
        self._failure: BaseException | None = None
        self._server, self._prompt, self._undisturbed = server, prompt, undisturbed
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._enough.is_set():
                assert ask(self._server, self._prompt) == self._undisturbed
                self.num_texts += 1
        except BaseException as error:
            self._failure = error

    def wait_for(self, num_texts: int) -> None:
        """Wait until it has heard so many texts in all."""
        self._server.wait_until(
            lambda: self._failure is not None or self.num_texts >= num_texts, "answering"
        )
        self.raise_failure()

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        self._enough.set()
        self._thread.join()


class Guarded:
    """A server, what it holds when nobody is there, and what neighbours hear undisturbed."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self._stuck_file = stuck_file(server.log_path)
        self._undisturbed = {prompt: ask(server, prompt) for prompt in NEIGHBOURS}
        with self._neighbours():
            pass  # so that nothing is made for the first time later
        self._wait_until_idle()
        self._idle = Holdings.of(server)

    @contextmanager
    def unharmed(self) -> Iterator[None]:
        """See that what is done meanwhile harms no neighbour, and that nothing of it is left."""
        with self._neighbours():
            yield
        self._wait_until_back()

    @contextmanager
    def stuck(self) -> Iterator[None]:
        """Meanwhile the engine is in the middle of a step; not for a server that has no work."""
        self._stuck_file.touch()
        try:
            self.server.wait_until(
                lambda: self.server.request("GET", "/health").json()["status"] == "stuck", "stuck"
            )
            yield
        finally:
            self._stuck_file.unlink()

    @contextmanager
    def _neighbours(self) -> Iterator[None]:
        """Neighbours are at it when this begins, all the time, and some time after its end."""
        neighbours = [
            Neighbour(self.server, prompt, text) for prompt, text in self._undisturbed.items()
        ]
        try:
            for neighbour in neighbours:
                neighbour.wait_for(1)
            yield
            for neighbour in neighbours:
                neighbour.wait_for(neighbour.num_texts + 2)  # one was under way already
        finally:
            for neighbour in neighbours:
                neighbour.stop()
        for neighbour in neighbours:
            neighbour.raise_failure()

    def _wait_until_idle(self) -> None:
        def is_idle() -> bool:
            held = Holdings.of(self.server)
            return (held.open_streams, held.running, held.waiting) == (0, 0, 0)

        self.server.wait_until(is_idle, "idle")

    def _wait_until_back(self) -> None:
        try:
            self.server.wait_until(
                lambda: Holdings.of(self.server).is_within(self._idle), "back where it was"
            )
        except AssertionError as error:
            error.add_note(f"It holds {Holdings.of(self.server)}, not {self._idle}.")
            raise
