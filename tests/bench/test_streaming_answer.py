"""The C client understands an answer however it arrives, and reads no byte that is not there."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.programs import SOURCES, compile_program
from support.c_programs import sanitizer_flags, sanitizer_prefix

PRINTER = Path(__file__).with_name("answer_print.c")

LINES = ["data: one", "", ": a comment", "data: two", "", "data: [DONE]", ""]
BODY = b"".join(b"%s\n" % line.encode() for line in LINES)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class Read(NamedTuple):
    """What the client made of some bytes."""

    lines: list[str]
    status: int
    end: str


@pytest.fixture(scope="module")
def printer(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    prefix = sanitizer_prefix("address,undefined")
    program = tmp_path_factory.mktemp("answer") / "answer_print"
    flags = sanitizer_flags("address,undefined")
    compile_program(("answer.c",), program, *flags, f"-I{SOURCES}", str(PRINTER))
    return [*prefix, str(program)]


def read(printer: Sequence[str], wire: bytes, sizes: Sequence[int] = ()) -> Read:
    """Feed the bytes in pieces of these sizes, the rest at once."""
    command = [*printer, *map(str, sizes)]
    done = subprocess.run(command, input=wire, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    *lines, last = done.stdout.decode().splitlines()
    status, end = last.split()
    return Read([line.removeprefix("line ") for line in lines], int(status), end)


def chunked(body: bytes, sizes: Sequence[int]) -> bytes:
    pieces = []
    for size in sizes:
        pieces.append(body[:size])
        body = body[size:]
    pieces.append(body)
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces if p) + b"0\r\n\r\n"


sizes = st.lists(st.integers(min_value=1, max_value=40), max_size=8)


@settings(max_examples=60, deadline=None)
@given(chunk_sizes=sizes, read_sizes=sizes)
def test_lines_survive_any_chunking_and_any_split_of_reads(
    printer: list[str], chunk_sizes: list[int], read_sizes: list[int]
) -> None:
    wire = CHUNKED + chunked(BODY, chunk_sizes)
    assert read(printer, wire, read_sizes) == Read(LINES, 200, "complete")


@settings(max_examples=20, deadline=None)
@given(read_sizes=sizes)
def test_a_body_of_known_length_ends_there(printer: list[str], read_sizes: list[int]) -> None:
    wire = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
    assert read(printer, wire, read_sizes) == Read(LINES, 200, "complete")


def test_an_answer_without_a_body_is_complete(printer: list[str]) -> None:
    wire = b"HTTP/1.1 204 No Content\r\n\r\n"
    assert read(printer, wire) == Read([], 204, "complete")


def test_an_answer_that_stops_is_unfinished(printer: list[str]) -> None:
    wire = CHUNKED + chunked(BODY, [])
    assert read(printer, wire[:-1]).end == "unfinished"
    assert read(printer, CHUNKED).end == "unfinished"


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"nonsense\r\n",
        CHUNKED + b"xyz\r\n",
        CHUNKED + b"\r\n5\r\n",
        CHUNKED + b"2\r\nabcd\r\n",
        CHUNKED + b"0\r\n\r\nmore",
        CHUNKED + b"1000\r\n" + b"x" * 0x1000,
    ],
    ids=["version", "no-http", "no-size", "empty-size", "long-chunk", "more", "long-line"],
)
def test_what_is_no_answer_is_broken(printer: list[str], wire: bytes) -> None:
    assert read(printer, wire).end == "broken"
