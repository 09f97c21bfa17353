"""Clients that come, want something and leave, each in one of the ways that clients do."""

from __future__ import annotations

import http.client
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

HANG_S = 120.0
"""Only a server that hangs is silent for so long."""

MAX_TOKENS = 12

WORDS = ("river", "stone", "letter", "window", "garden", "engine", "paper", "bridge")


class Clients:
    """A crowd that talks to one server.

    Args:
        port: Where it listens, on the loopback interface.
        num_at_once: How many of them are there at a time.

    Attributes:
        num_visits: How many have been there.
        troubles: What was not as it should be, at most a few sentences.
    """

    MAX_TROUBLES = 10

    def __init__(self, port: int, num_at_once: int) -> None:
        self.num_visits = 0
        self.troubles: list[str] = []
        self._port = port
        self._pool = ThreadPoolExecutor(num_at_once)
        self._model = self._ask("GET", "/v1/models")["data"][0]["id"]

    def visit(self, num_visits: int) -> None:
        """Have so many more come; returns when the last has left."""
        numbers = range(self.num_visits, self.num_visits + num_visits)
        for trouble in self._pool.map(self._visit, numbers):
            if trouble and len(self.troubles) < self.MAX_TROUBLES:
                self.troubles.append(trouble)
        self.num_visits += num_visits

    def figures(self) -> tuple[int, int]:
        """Streams that are open in the server, and its greenlets."""
        return self._ask("GET", "/health")["open_streams"], self._ask("GET", "/soak/greenlets")

    def metrics(self) -> str:
        """The text that Prometheus would scrape."""
        with self._answer("GET", "/metrics") as answer:
            return answer.read().decode()

    def _visit(self, number: int) -> str | None:
        way = WAYS[number % len(WAYS)]
        try:
            way(self, number)
        except (OSError, http.client.HTTPException, ValueError, _WrongAnswerError) as error:
            return f"visit {number} ({way.__name__.strip('_')}): {error!r}"
        return None

    def _ask(self, method: str, path: str) -> Any:
        with self._answer(method, path) as answer:
            return json.loads(answer.read())

    def _body(self, number: int, **fields: Any) -> dict[str, Any]:
        words = itertools.islice(itertools.cycle(WORDS), number % 7, number % 7 + number % 40 + 1)
        prompt = f"{number} {' '.join(words)}"
        return {"model": self._model, "prompt": prompt, "max_tokens": MAX_TOKENS, **fields}

    @contextmanager
    def _answer(
        self, method: str, path: str, body: Any = None, timeout: str = "600"
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=HANG_S)
        headers = {"Content-Type": "application/json", "X-Request-Timeout": timeout}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            yield connection.getresponse()
        finally:
            connection.close()

    # --- ways to want something ---------------------------------------------------

    def _hears_a_stream(self, number: int) -> None:
        body = self._body(number, stream=True, ignore_eos=True)
        with self._answer("POST", "/v1/completions", body) as answer:
            _require(answer.read().endswith(b"data: [DONE]\n\n"), "the stream has no end")

    def _stops_at_a_string(self, number: int) -> None:
        body = self._body(number, stream=True, stop=[" the", "."])
        with self._answer("POST", "/v1/completions", body) as answer:
            _require(answer.read().endswith(b"data: [DONE]\n\n"), "the stream has no end")

    def _leaves_in_mid_stream(self, number: int) -> None:
        body = self._body(number, stream=True, ignore_eos=True, max_tokens=1000)
        with self._answer("POST", "/v1/completions", body) as answer:
            _require(answer.status == 200, "no stream")
            for _ in range(number % 3 + 1):
                answer.readline()

    def _wants_it_whole(self, number: int) -> None:
        with self._answer("POST", "/v1/completions", self._body(number)) as answer:
            _require("usage" in json.loads(answer.read()), "no answer")

    def _is_late(self, number: int) -> None:
        body = self._body(number, stream=True, ignore_eos=True, max_tokens=1000)
        with self._answer("POST", "/v1/completions", body, "0.05") as answer:
            _require(b"deadline_exceeded" in answer.read(), "no deadline")

    def _is_refused(self, number: int) -> None:
        body = self._body(number, temperature=-1)
        with self._answer("POST", "/v1/completions", body) as answer:
            _require(answer.status == 400, "not refused")


class _WrongAnswerError(Exception):
    """The server answered, but not as it should."""


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise _WrongAnswerError(what)


WAYS: Sequence[Callable[[Clients, int], None]] = (
    Clients._hears_a_stream,
    Clients._stops_at_a_string,
    Clients._leaves_in_mid_stream,
    Clients._hears_a_stream,
    Clients._wants_it_whole,
    Clients._hears_a_stream,
    Clients._is_late,
    Clients._is_refused,
)
"""In turn."""
