"""What clients that do not read cost the others, and how soon one that has gone is noticed.

    python bench/bad_clients.py
    python bench/bad_clients.py --pairs 1 --window-s 1

The model costs nothing and makes a token of each stream every 10 ms, so that whatever delays one is
the server. Good clients are counted alone and beside clients that never read, in turns, and the
ratio is taken in each pair. A client that has gone was noticed when its stream ended in the server,
which tells the instant by the clock that both processes read; before the first token, the model's
step is so long that there is none. Server and clients have a processor each.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from load_test import positive_int
from measurement import percentile
from peers.processes import Launch, ServerFailedError, free_port, started

BENCH = Path(__file__).resolve().parent

NUM_GOOD = 16
NUM_STALLED = 4

STALL_S = 8.0
"""By then all that the server and both kernels take of a stream that nobody reads is full."""

SETTLE_S = 0.5

NUM_GONE = 50
"""Clients that are there at once, and leave one after the other."""

GONE_INTERVAL_S = 0.01

STEP_MS = 10
LONG_STEP_MS = 60_000
"""No token comes before it ends."""

RECEIVE_BUFFER_BYTES = 4096

READY_TIMEOUT_S = 60.0

NOTICE_TIMEOUT_S = 10.0

TIMEOUT_S = 30.0

BODY = {
    "model": "streaming",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 1_000_000_000,
    "stream": True,
}


class Client:
    """A stream without an end on a connection of its own."""

    def __init__(self, port: int, request_id: str, receive_buffer: int | None = None) -> None:
        self.request_id = request_id
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(("127.0.0.1", port))
        body = json.dumps(BODY)
        self.sock.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nX-Request-ID: {request_id}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )

    def wait_for(self, text: bytes) -> None:
        """Read until a text has come."""
        received = b""
        while text not in received:
            piece = self.sock.recv(4096)
            if not piece:
                raise ServerFailedError(f"A stream ended early: {received.decode()}")
            received += piece


@contextmanager
def server(step_ms: int, processor: int) -> Iterator[int]:
    """A server on one processor, by its port."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--worker-class=gevent", "--no-control-socket"]
    launch = Launch(
        command=[
            *("taskset", "--cpu-list", str(processor), *command),
            *(f"--bind=127.0.0.1:{port}", "bad_clients_app:app"),
        ],
        environ={
            "PYTHONPATH": f"{BENCH}:{BENCH.parent}",
            "STREAMING_STEP_MS": str(step_ms),
        },
        ready_path="/health/ready",
    )
    with tempfile.TemporaryDirectory() as folder, started(launch, port, Path(folder)) as process:
        process.wait_until_ready(READY_TIMEOUT_S)
        yield port


# --- clients that do not read -------------------------------------------------


def intervals_s(clients: Sequence[Client], window_s: float) -> list[float]:
    """Seconds between what the clients receive, each client for itself."""
    found = []
    last_at_s: dict[int, float] = {}
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.sock, selectors.EVENT_READ)
        end_at_s = time.monotonic() + window_s
        while (now_s := time.monotonic()) < end_at_s:
            for key, _ in selector.select(end_at_s - now_s):
                key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                came_at_s = time.monotonic()
                if key.fd in last_at_s:
                    found.append(came_at_s - last_at_s[key.fd])
                last_at_s[key.fd] = came_at_s
    return found


def measure_good(port: int, num_stalled: int, window_s: float) -> tuple[float, float]:
    """Intervals of the good clients beside some that never read: p50 and p99 in ms."""
    with ExitStack() as open_clients:
        stalled = [
            Client(port, f"stalled-{number}", RECEIVE_BUFFER_BYTES) for number in range(num_stalled)
        ]
        time.sleep(STALL_S if stalled else 0.0)
        good = [Client(port, f"good-{number}") for number in range(NUM_GOOD)]
        for client in (*stalled, *good):
            open_clients.callback(client.sock.close)
        intervals_s(good, SETTLE_S)
        found = sorted(intervals_s(good, window_s))
    return 1000 * percentile(found, 50), 1000 * percentile(found, 99)


def compare_stalled(processor: int, num_pairs: int, window_s: float) -> None:
    """Print the good clients' intervals alone and beside stalled ones."""
    print("| inter-token latency, ms | alone | beside 4 that never read | ratio |")
    print("| --- | ---: | ---: | ---: |")
    with server(STEP_MS, processor) as port:
        pairs = [
            (measure_good(port, 0, window_s), measure_good(port, NUM_STALLED, window_s))
            for _ in range(num_pairs)
        ]
    for which, name in enumerate(("p50", "p99")):
        alone = statistics.median(pair[0][which] for pair in pairs)
        beside = statistics.median(pair[1][which] for pair in pairs)
        ratio = statistics.median(pair[1][which] / pair[0][which] for pair in pairs)
        print(f"| {NUM_GOOD} streams, {name} | {alone:.3f} | {beside:.3f} | {ratio:.3f} |")


# --- clients that go ----------------------------------------------------------


def ends(port: int) -> dict[str, float]:
    """When streams have ended in the server."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/ends", timeout=TIMEOUT_S) as answer:
        told: dict[str, float] = json.load(answer)
    return told


def notices_s(port: int, name: str, awaited: bytes) -> list[float]:
    """How long each client's going went unnoticed, once what was awaited had come."""
    clients = [Client(port, f"{name}-{number}") for number in range(NUM_GONE)]
    for client in clients:
        client.wait_for(awaited)
    left_at_s = {}
    for client in clients:
        time.sleep(GONE_INTERVAL_S)
        left_at_s[client.request_id] = time.monotonic()
        client.sock.close()
    give_up_at_s = time.monotonic() + NOTICE_TIMEOUT_S
    while not left_at_s.keys() <= (ended_at_s := ends(port)).keys():
        if time.monotonic() > give_up_at_s:
            raise ServerFailedError("The server did not notice that its clients had gone.")
        time.sleep(GONE_INTERVAL_S)
    return [ended_at_s[request_id] - left_s for request_id, left_s in left_at_s.items()]


def print_notices(processor: int, num_rounds: int) -> None:
    """Print how soon the server knows that a client has gone."""
    print("\n| a client that has gone is noticed after, ms | p50 | p99 | longest |")
    print("| --- | ---: | ---: | ---: |")
    rounds = (
        ("after its first token", STEP_MS, b'"delta":{"content":"'),
        ("before its first token", LONG_STEP_MS, b'"role":"assistant"'),
    )
    for name, step_ms, awaited in rounds:
        with server(step_ms, processor) as port:
            found = sorted(
                1000 * each
                for number in range(num_rounds)
                for each in notices_s(port, str(number), awaited)
            )
        figures = (percentile(found, 50), percentile(found, 99), found[-1])
        print(f"| {name} |", " | ".join(f"{each:.2f}" for each in figures), "|")


def main() -> int:
    """Measure both; 2 if the machine or the server does not allow it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=positive_int, default=5, help="of each comparison")
    parser.add_argument("--window-s", type=float, default=4.0, help="how long clients are counted")
    args = parser.parse_args()
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        print("Two processors are needed.", file=sys.stderr)
        return 2
    os.sched_setaffinity(0, {processors[1]})
    try:
        compare_stalled(processors[0], args.pairs, args.window_s)
        print_notices(processors[0], args.pairs)
    except (ServerFailedError, OSError) as error:
        print(f"Nothing more was measured: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
