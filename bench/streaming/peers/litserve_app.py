"""LitServe: an API process and a worker process, which answers in batches."""

from __future__ import annotations

import os
from typing import Any

import litserve

from streaming.peers.stub import NUM_STREAMS
from streaming.token_clock import tick_now, token_text


class Model(litserve.LitAPI):  # type: ignore[misc]  # not in the environment of the checks
    """Answers each request of a batch with one token."""

    def setup(self, device: str) -> None:
        """Load nothing."""

    # LitServe would take an annotation of the request for the schema of a query parameter.
    def decode_request(self, request):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """How many tokens are wanted."""
        return int(request["max_tokens"])

    def predict(self, batch: list[int]) -> list[str]:
        """Make the tokens."""
        return [token_text(tick_now()) * max_tokens for max_tokens in batch]

    def encode_response(self, output: str) -> dict[str, Any]:
        """Build an answer."""
        message = {"role": "assistant", "content": output}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "length"}]}


def main() -> None:
    """Serve until stopped."""
    api = Model(max_batch_size=NUM_STREAMS, batch_timeout=0.0, api_path="/v1/chat/completions")
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(
        host="127.0.0.1",
        port=int(os.environ["STREAMING_PORT"]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
