"""A streamed completion of a live server, read as it comes."""

from __future__ import annotations

import http.client
import json
from typing import Any, Self

from support.live_server import LiveServer

DONE = "[DONE]"


class EventStream:
    """One stream on a connection of its own, begun when it is made.

    Args:
        server: Who answers.
        body: The request, beside what makes it a stream.
    """

    def __init__(self, server: LiveServer, body: dict[str, Any]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
        data = json.dumps({"prompt": "Once upon a time", **body, "stream": True})
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", "/v1/completions", data, headers)
        self._response = self._connection.getresponse()
        assert self._response.status == 200

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._connection.close()

    def first_text(self) -> str:
        """Wait for the first token."""
        while True:
            payload = self._payload(self._response.readline())
            if payload is not None and payload["choices"][0]["text"]:
                return str(payload["choices"][0]["text"])

    def rest(self) -> list[Any]:
        """Everything to the end, [DONE] as it is.

        Raises:
            http.client.IncompleteRead: The end has no last chunk.
        """
        lines = self._response.read().splitlines()
        return [payload for line in lines if (payload := self._payload(line)) is not None]

    @staticmethod
    def _payload(line: bytes) -> Any:
        """The JSON of a data line; None of any other."""
        if not line.startswith(b"data: "):
            return None
        text = line.removeprefix(b"data: ").strip().decode()
        return text if text == DONE else json.loads(text)
