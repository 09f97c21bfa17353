"""What the peers' apps have in common: the settings of a run, and the event that carries a token.

Only the standard library is used: each app runs in the environment of its own server.
"""

from __future__ import annotations

import os
import time
import uuid
from typing import NamedTuple

STEP_S = float(os.environ.get("STREAMING_STEP_MS", "10")) / 1000

NUM_STREAMS = int(os.environ.get("STREAMING_NUM_STREAMS", "64"))

MAX_AHEAD = 256
"""Tokens that one stream may run ahead of its reader, as in this project's server by default."""

DONE = "[DONE]"


class Chunk(NamedTuple):
    """The JSON of one stream's events, which differ in nothing but the token.

    Joining strings is the cheapest way there is in Python; json.dumps would add 3 us a token.

    Args:
        prefix: What comes before the token.
        suffix: What comes after it.
    """

    prefix: str
    suffix: str

    def text(self, token: str) -> str:
        """The payload of an event."""
        return f"{self.prefix}{token}{self.suffix}"

    def event(self, token: str) -> str:
        """The event: 222 bytes, as this project's server sends."""
        return f"data: {self.prefix}{token}{self.suffix}\n\n"


def new_chunk() -> Chunk:
    """The chunk of a new stream."""
    head = f'{{"id":"chatcmpl-{uuid.uuid4().hex}","object":"chat.completion.chunk",'
    body = f'"created":{int(time.time())},"model":"streaming","choices":[{{"index":0,'
    return Chunk(
        prefix=f'{head}{body}"delta":{{"content":"',
        suffix='"},"logprobs":null,"finish_reason":null}]}',
    )


def done_event() -> str:
    """The event that ends a stream."""
    return f"data: {DONE}\n\n"
