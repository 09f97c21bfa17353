"""Connects, listens and leaves, again and again: does anybody ever hear another one's bytes?

Every request asks the echo model for a text that nobody else asks for, so each byte that arrives
says whose it is. Clients leave in the ways that clients do: with an orderly end, a reset, half a
close, or in the middle of a pipelined second request; some hear their answer to its end.

    python tests/support/kill_clients.py PORT 10000
"""

from __future__ import annotations

import itertools
import random
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.raw_stream import HANG_S, echo, stream_request

NUM_THREADS = 16

MAX_TOKENS = 400

STATUS_LINE = b"HTTP/1.1 200 OK\r\n"

LAST_CHUNK = b"\r\n0\r\n\r\n"
"""With the end of the chunk before it: a header may end in 0, too."""

_TEXT = re.compile(rb'"text":"([^"]*)"')


def run(port: int, num_clients: int, seed: int = 0) -> int:
    """Let clients come and go.

    Args:
        port: Of a server of the echo model.
        num_clients: How many.
        seed: Of when and how they leave.

    Returns:
        How many characters they heard.

    Raises:
        AssertionError: One has heard something that was not for it.
    """
    numbers = iter(range(num_clients))
    lock = threading.Lock()
    heard: list[int] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for number in _shared(numbers, lock):
                heard.append(_visit(port, number, random.Random(f"{seed} {number}")))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        raise failure
    assert len(heard) == num_clients
    return sum(heard)


def _shared(numbers: Iterator[int], lock: threading.Lock) -> Iterator[int]:
    while True:
        with lock:
            number = next(numbers, None)
        if number is None:
            return
        yield number


def _visit(port: int, number: int, chance: random.Random) -> int:
    """Ask, hear some of the answer, leave; returns how many characters were heard."""
    prompts = [f"<{number}.{part}>" for part in range(chance.choice([1, 1, 2]))]
    leave = chance.choice([_close, _reset, _half_close, _stay])
    num_bytes = 10**9 if leave is _stay else chance.choice([0, 1, 300, 3000, 30_000])
    with socket.create_connection(("127.0.0.1", port), HANG_S) as sock:
        for prompt in prompts:
            sock.sendall(stream_request(prompt, max_tokens=MAX_TOKENS))
        data = _read(sock, num_bytes, len(prompts))
        leave(sock)
    return _check(data, prompts, whole=leave is _stay)


def _read(sock: socket.socket, num_bytes: int, num_answers: int) -> bytes:
    data = b""
    while len(data) < num_bytes and data.count(LAST_CHUNK) < num_answers:
        piece = sock.recv(min(65536, num_bytes - len(data)))
        if not piece:
            break
        data += piece
    return data


def _check(data: bytes, prompts: list[str], *, whole: bool) -> int:
    """Each text, answer by answer, is what its own prompt says."""
    answers = data.split(STATUS_LINE)
    assert STATUS_LINE.startswith(answers[0]), f"not an answer: {data[:200]!r}"
    texts = [b"".join(_TEXT.findall(answer)).decode() for answer in answers[1:]]
    for text, prompt in itertools.zip_longest(texts, prompts[: len(texts)]):
        expected = echo(prompt, MAX_TOKENS)
        assert text == expected if whole else expected.startswith(text), f"{prompt} heard {text!r}"
    if whole:
        assert len(texts) == len(prompts), f"{prompts} heard {len(texts)} answers"
    return sum(map(len, texts))


# --- ways to leave ------------------------------------------------------------

_Leave = Callable[[socket.socket], None]


def _close(sock: socket.socket) -> None:
    """The end of the `with` closes; with bytes unread that is a reset, too."""


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _half_close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


def _stay(sock: socket.socket) -> None:
    """It has heard everything."""


if __name__ == "__main__":
    print(f"{run(int(sys.argv[1]), int(sys.argv[2])):,} characters, each where it belongs")
