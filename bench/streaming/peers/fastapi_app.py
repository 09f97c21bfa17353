"""FastAPI, for uvicorn and granian: a task makes the tokens, a queue a stream takes them on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from streaming.peers.stub import MAX_AHEAD, STEP_S, done_event, new_chunk
from streaming.token_clock import Pace, tick_now, token_text


class ChatRequest(BaseModel):
    """As far as this app reads it."""

    model: str
    messages: list[dict[str, str]]
    max_tokens: int
    stream: bool


class Model:
    """Gives every open stream a token a step, if its queue has room for it."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[str]] = set()
        self._opened = asyncio.Event()

    async def run(self) -> None:
        """Make tokens until cancelled."""
        pace = Pace(STEP_S)
        while True:
            if not self._queues:
                self._opened.clear()
                await self._opened.wait()
                pace.begin()
            await asyncio.sleep(pace.wait_s())
            token = token_text(tick_now())
            for queue in self._queues:
                if not queue.full():
                    queue.put_nowait(token)

    async def tokens(self, max_tokens: int) -> AsyncIterator[str]:
        """Open a stream."""
        queue: asyncio.Queue[str] = asyncio.Queue(MAX_AHEAD)
        self._queues.add(queue)
        self._opened.set()
        try:
            for _ in range(max_tokens):
                yield await queue.get()
        finally:
            self._queues.discard(queue)


async def chat(call: ChatRequest) -> StreamingResponse:
    """Answer with a stream of events."""

    async def events() -> AsyncIterator[str]:
        chunk = new_chunk()
        async for token in app.state.model.tokens(call.max_tokens):
            yield chunk.event(token)
        yield done_event()

    return StreamingResponse(events(), media_type="text/event-stream")


async def health() -> dict[str, str]:
    """Say that the app is there."""
    return {"status": "ok"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the model as long as the app runs."""
    app.state.model = Model()
    task = asyncio.create_task(app.state.model.run())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)
app.add_api_route("/v1/chat/completions", chat, methods=["POST"])
app.add_api_route("/health", health)
