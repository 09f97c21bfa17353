"""Streams whose rings the test fills itself."""

from __future__ import annotations

import time

from realtime_serve._token_ring import FLAG_LAST, TokenRing
from realtime_serve.stream import TokenStream
from realtime_serve.types import InferenceRequest, SamplingParams


class Letters:
    """Token id = code point; id 0 is the first half of the two-token character 'é'."""

    def __init__(self) -> None:
        self._half = ""

    def add(self, token_id: int) -> str:
        text, self._half = (self._half + chr(token_id), "") if token_id else ("", "\ufffd")
        return "é" if text == "\ufffdé" else text

    def finish(self) -> str:
        return self._half


class Queue:
    """What a stream asks of the queue, noted down."""

    def __init__(self) -> None:
        self.waiting = {7}
        self.kicks = 0

    def remove(self, handle: int) -> bool:
        found = handle in self.waiting
        self.waiting.discard(handle)
        return found

    def kick(self) -> None:
        self.kicks += 1

    def progress(self, handle: int) -> None:
        pass


def open_stream(
    *,
    stop: tuple[str, ...] = (),
    min_tokens: int = 0,
    deadline_in_s: float | None = None,
    capacity: int = 16,
) -> tuple[TokenStream, TokenRing, Queue]:
    """A stream of letters, its ring, and the queue that it came through."""
    request = InferenceRequest(
        request_id="r",
        model="m",
        prompt_token_ids=(1, 2, 3),
        sampling=SamplingParams(stop=stop, min_tokens=min_tokens),
        deadline_at_s=None if deadline_in_s is None else time.monotonic() + deadline_in_s,
    )
    ring, queue = TokenRing(capacity), Queue()
    stream = TokenStream(request, ring=ring, detokenizer=Letters(), admission=queue)
    return stream, ring, queue


def push(ring: TokenRing, text: str, *, last: bool = False) -> None:
    """Generate a text, a token a letter."""
    for position, char in enumerate(text):
        flags = FLAG_LAST if last and position == len(text) - 1 else 0
        assert ring.push(ord(char), flags=flags)
