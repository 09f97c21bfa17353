"""mosec: its Rust front gathers a batch, and one call of a worker process makes all its tokens."""

from __future__ import annotations

import time
from typing import Any

from mosec import Runtime, Server, SSEWorker

from streaming.peers.stub import DONE, NUM_STREAMS, STEP_S, new_chunk
from streaming.token_clock import Pace, tick_now, token_text

BATCH_WAIT_MS = 2000
"""Longest wait for the streams that are not there yet: none comes before the batch has ended."""

FORWARD_TIMEOUT_S = 600


class Model(SSEWorker):  # type: ignore[misc]  # mosec is not in the environment of the checks
    """Gives every stream of the batch a token a step."""

    def forward(self, data: list[dict[str, Any]]) -> list[str]:
        """Answer a batch of requests."""
        left = {index: int(call["max_tokens"]) for index, call in enumerate(data)}
        chunks = [new_chunk() for _ in data]
        pace = Pace(STEP_S)
        pace.begin()
        while left:
            time.sleep(pace.wait_s())
            token = token_text(tick_now())
            for index in list(left):
                self.send_stream_event(chunks[index].text(token), index)
                left[index] -= 1
                if left[index] == 0:
                    del left[index]
        for index in range(len(data)):
            self.send_stream_event(DONE, index)
        return [""] * len(data)


def main() -> None:
    """Serve until stopped."""
    runtime = Runtime(
        Model, max_batch_size=NUM_STREAMS, max_wait_time=BATCH_WAIT_MS, timeout=FORWARD_TIMEOUT_S
    )
    server = Server()
    server.register_runtime({"/v1/chat/completions": [runtime]})
    server.run()


if __name__ == "__main__":
    main()
