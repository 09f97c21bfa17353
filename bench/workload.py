"""What a load test asks for, and when each request is due."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}

COMMON_WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book "
    "eye job word business issue side kind head house service friend father power hour game line"
)
"""Short and common: with the space before it, each is one token in most vocabularies."""

WORDS = COMMON_WORDS.split()

SHARED_SEED = 20
"""Chooses the words that all prompts of a run, and of all runs, begin with."""

REQUESTS_PER_STREAM = 4
MIN_REQUESTS = 8
"""Unless the user says how many: enough for a look, too few for a P99 to publish."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What each request asks for.

    Args:
        endpoint: "chat" or "completions".
        model: Name under which the server serves it.
        num_words: Length of a prompt in words.
        output_len: Tokens that each request generates.
        num_shared_words: So many of the words, the first ones, are the same in all prompts.
    """

    endpoint: str
    model: str
    num_words: int
    output_len: int
    num_shared_words: int = 0

    @property
    def path(self) -> str:
        """Below the base URL."""
        return PATHS[self.endpoint]

    def body(self, rng: random.Random, max_tokens: int | None = None) -> bytes:
        """A request whose prompt is its own after the shared words.

        Without shared words, no cache of prefixes answers for the model.

        Args:
            rng: Chooses the words that are not shared.
            max_tokens: Instead of output_len.
        """
        shared = random.Random(SHARED_SEED).choices(WORDS, k=self.num_shared_words)
        own = rng.choices(WORDS, k=self.num_words - self.num_shared_words)
        text = " ".join(shared + own)
        prompt: dict[str, Any] = {"prompt": text}
        if self.endpoint == "chat":
            prompt = {"messages": [{"role": "user", "content": text}]}
        request = {
            "model": self.model,
            **prompt,
            "max_tokens": max_tokens or self.output_len,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return json.dumps(request).encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How much work, and when.

    Args:
        num_prompts: Requests of one level; None with a duration, or takes REQUESTS_PER_STREAM.
        duration_s: Start requests for this long instead.
        request_rate: Mean arrivals a second, as a Poisson process; None starts a request as soon
            as a stream is free.
    """

    num_prompts: int | None
    duration_s: float | None
    request_rate: float | None

    def num_requests(self, concurrency: int) -> int | None:
        """How many requests one level has; None where only the clock ends it."""
        if self.duration_s is not None or self.num_prompts is not None:
            return self.num_prompts
        return max(MIN_REQUESTS, REQUESTS_PER_STREAM * concurrency)

    def due_times(
        self, start_at_s: float, limit: int | None, rng: random.Random
    ) -> Iterator[float]:
        """When each request is due; without a request rate that is at once."""
        due_at_s = start_at_s
        num_due = 0
        while limit is None or num_due < limit:
            due_at_s = self._next_due(due_at_s, rng)
            if self.duration_s is not None and due_at_s >= start_at_s + self.duration_s:
                return
            yield due_at_s
            num_due += 1

    def _next_due(self, previous_s: float, rng: random.Random) -> float:
        if self.request_rate is None:
            return time.perf_counter()
        return previous_s + rng.expovariate(self.request_rate)
