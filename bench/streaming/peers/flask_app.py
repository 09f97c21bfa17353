"""Flask as one would write it under gevent: a thread makes the tokens, a queue.Queue a stream.

Gevent has patched both, so the thread is a greenlet.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

from flask import Flask, Response, request

from streaming.peers.stub import MAX_AHEAD, STEP_S, done_event, new_chunk
from streaming.token_clock import Pace, tick_now, token_text


class Model:
    """Gives every open stream a token a step, if its queue has room for it."""

    def __init__(self) -> None:
        self._queues: set[queue.Queue[str]] = set()
        self._opened = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        pace = Pace(STEP_S)
        while True:
            if not self._queues:
                self._opened.clear()
                self._opened.wait()
                pace.begin()
            time.sleep(pace.wait_s())
            token = token_text(tick_now())
            for each in list(self._queues):
                if not each.full():
                    each.put(token)

    def tokens(self, max_tokens: int) -> Iterator[str]:
        """Open a stream."""
        tokens: queue.Queue[str] = queue.Queue(MAX_AHEAD)
        self._queues.add(tokens)
        self._opened.set()
        try:
            for _ in range(max_tokens):
                yield tokens.get()
        finally:
            self._queues.discard(tokens)


app = Flask(__name__)
model = Model()


@app.post("/v1/chat/completions")
def chat() -> Response:
    """Answer with a stream of events."""
    max_tokens = request.get_json()["max_tokens"]

    def events() -> Iterator[str]:
        chunk = new_chunk()
        for token in model.tokens(max_tokens):
            yield chunk.event(token)
        yield done_event()

    return Response(events(), mimetype="text/event-stream")


@app.get("/health")
def health() -> dict[str, str]:
    """Say that the app is there."""
    return {"status": "ok"}
