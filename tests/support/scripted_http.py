"""A server that says exactly what a test wrote down: its bytes, in its pieces."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def event(payload: dict[str, Any] | str) -> bytes:
    """One server-sent event."""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return f"data: {text}\n\n".encode()


def chat_stream(texts: Sequence[str], *, prompt_tokens: int = 10) -> list[bytes]:
    """What a chat answers with when each of `texts` is one token."""
    role = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
    last = {"choices": [{"delta": {}, "finish_reason": "length"}]}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(texts)}
    return [
        event(role),
        *(event({"choices": [{"delta": {"content": text}}]}) for text in texts),
        event(last),
        event({"choices": [], "usage": usage}),
        event("[DONE]"),
    ]


@dataclass
class Reply:
    """One answer: the status, the pieces of the body, and how it ends: well unless
    it is cut off or falls silent, the connection open. The connection stays open for
    the next request unless the server hangs up, of which it has said nothing.
    """

    pieces: Sequence[bytes] = ()
    status: int = 200
    content_type: str = "text/event-stream; charset=utf-8"
    cut_off: bool = False
    silent: bool = False
    hangs_up: bool = False


Script = Callable[[dict[str, Any]], Reply]


@dataclass
class ScriptedServer:
    """A server whose answers a test sets.

    Args:
        base_url: Where it listens.
        script: Gives the reply to a request's JSON body.
        models: The names it lists.
        requests: The bodies so far.
        num_connections: How many were opened.
    """

    base_url: str = ""
    script: Script = field(default=lambda body: Reply(chat_stream(["a"] * body["max_tokens"])))
    models: list[str] = field(default_factory=lambda: ["scripted"])
    requests: list[dict[str, Any]] = field(default_factory=list)
    num_connections: int = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Listener

    def setup(self) -> None:
        super().setup()
        self.server.scripted.num_connections += 1

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        models = json.dumps({"data": [{"id": name} for name in self.server.scripted.models]})
        self.send_response(200)
        self.send_header("Content-Length", str(len(models)))
        self.end_headers()
        self.wfile.write(models.encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.scripted.requests.append(body)
        reply = self.server.scripted.script(body)
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(ConnectionError):  # the client may have left
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        for piece in reply.pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if reply.cut_off:
            self.close_connection = True
        elif not reply.silent:
            self.wfile.write(b"0\r\n\r\n")
            self.close_connection = reply.hangs_up


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    scripted: ScriptedServer
