from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_client import Answer, Client, RequestError

EVENTS = [b'{"choices": [{"text": "caf\xc3\xa9"}]}', b'{"n": 2}', b"[DONE]"]
BODY = b": a comment\n\n" + b"".join(b"data: %s\n\n" % event for event in EVENTS)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"


def chunked(body: bytes, sizes: list[int]) -> bytes:
    """The body in chunks of the given sizes and one for the rest."""
    pieces = []
    for size in sizes:
        pieces.append(body[:size])
        body = body[size:]
    pieces.append(body)
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces if p) + b"0\r\n\r\n"


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """The same bytes as they may arrive: any split at all."""
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


def receive(pieces: list[bytes]) -> tuple[Answer, list[bytes]]:
    payloads: list[bytes] = []
    answer = Answer(lambda payload, now_s: payloads.append(payload))
    for piece in pieces:
        answer.feed(piece, 0.0)
    return answer, payloads


sizes = st.lists(st.integers(min_value=1, max_value=40), max_size=12)


@given(chunk_sizes=sizes, read_sizes=sizes)
def test_events_survive_any_chunking_and_any_split_of_reads(
    chunk_sizes: list[int], read_sizes: list[int]
) -> None:
    wire = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(BODY, chunk_sizes)
    answer, payloads = receive(cut(wire, read_sizes))
    assert payloads == EVENTS
    assert answer.complete


@given(read_sizes=sizes)
def test_lines_may_end_as_in_http(read_sizes: list[int]) -> None:
    wire = HEAD + b"Content-Length: %d\r\n\r\n"
    body = BODY.replace(b"\n", b"\r\n")
    answer, payloads = receive(cut(wire % len(body) + body, read_sizes))
    assert payloads == EVENTS
    assert answer.complete


def test_an_event_is_stamped_with_the_read_that_completed_it() -> None:
    stamps: list[tuple[bytes, float]] = []
    answer = Answer(lambda payload, now_s: stamps.append((payload, now_s)))
    answer.feed(HEAD + b"\r\ndata: first\n\ndata: sec", 1.0)
    answer.feed(b"ond\n\n", 2.0)
    assert stamps == [(b"first", 1.0), (b"second", 2.0)]


def test_an_answer_of_unknown_length_ends_with_its_connection() -> None:
    answer, payloads = receive([HEAD + b"\r\n" + BODY])
    assert payloads == EVENTS
    assert not answer.complete
    answer.end_of_connection()


@pytest.mark.parametrize(
    "wire",
    [b"", HEAD, HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nda"],
    ids=["none", "head", "body"],
)
def test_an_answer_that_is_cut_off_is_a_failure(wire: bytes) -> None:
    answer, _ = receive([wire])
    with pytest.raises(RequestError, match="the connection closed"):
        answer.end_of_connection()


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        HEAD + b"Content-Length: many\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
    ids=["status", "length", "chunk size"],
)
def test_what_is_not_http_is_a_failure(wire: bytes) -> None:
    with pytest.raises(RequestError):
        receive([wire])


def test_an_error_body_of_status_400_is_text_and_not_events() -> None:
    body = json.dumps({"error": {"message": "no"}}).encode()
    head = b"HTTP/1.1 400 BAD REQUEST\r\nContent-Type: text/event-stream\r\n"
    answer, payloads = receive([head + b"Content-Length: %d\r\n\r\n" % len(body) + body])
    assert (answer.status, answer.text, payloads) == (400, body, [])


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must look like"):
        Client(url)
