"""Requests that are no requests, byte by byte: each gets its status, and its connection closed.

Most of them gunicorn refuses before our code sees them. These tests say what we rely on.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from support.live_server import LiveServer
from support.unharmed import ADMIN_KEY, MODEL, Guarded

pytestmark = pytest.mark.not_under_gevent("the server is a process of its own")

GET = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module", autouse=True)
def server(guarded: Guarded) -> Iterator[LiveServer]:
    """The shared server, whose other clients notice nothing of all this."""
    with guarded.unharmed():
        yield guarded.server
    assert "Error handling request" not in guarded.server.log


def exchange(server: LiveServer, data: bytes) -> tuple[int, bytes]:
    """Send something, and return status and answer once the server has closed."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(data)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    return int(answer.split()[1]), answer


REFUSED = {
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "the same length twice": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "length and coding": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a signed length": POST + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "a length of Python's": POST + b"Content-Length: 1_0\r\n\r\n{}        ",
    "an empty length": POST + b"Content-Length: \r\n\r\n",
    "bare LF": GET.replace(b"\r\n", b"\n") + b"\n",
    "bare LF in a header": GET + b"A: b\nC: d\r\n\r\n",
    "bare CR in a header": GET + b"A: b\rC: d\r\n\r\n",
    "NUL in a header": GET + b"A: b\0c\r\n\r\n",
    "a folded header": GET + b"A: b\r\n c\r\n\r\n",
    "two hosts": GET + b"Host: y\r\n\r\n",
    "space before a colon": GET + b"A : b\r\n\r\n",
    "no header": GET + b"A\r\n\r\n",
    "TLS with an end of line": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n" + b"\0" * 99,
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "HTTP/2 by surprise": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an odd method": b"G@T / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a coding in HTTP/1.0": CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n",
    "chunked twice": CHUNKED.replace(b"chunked", b"chunked, chunked") + b"0\r\n\r\n",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_could_be_read_in_two_ways_is_refused(server: LiveServer, data: bytes) -> None:
    assert exchange(server, data)[0] == 400


CHUNKS = {
    "no size": b"zz\r\n{}\r\n0\r\n\r\n",
    "a negative size": b"-2\r\n{}\r\n0\r\n\r\n",
    "a size of Python's": b"0x2\r\n{}\r\n0\r\n\r\n",
    "bare LF": b"2\n{}\r\n0\r\n\r\n",
    "more than its size": b"2\r\n{}xx\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_malformed_chunks_are_refused_in_the_envelope(server: LiveServer, chunks: bytes) -> None:
    status, answer = exchange(server, CHUNKED + chunks)
    assert status == 400
    assert b'"type":"invalid_request_error"' in answer


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (501, CHUNKED.replace(b"chunked", b"rot13")),
        (431, GET + b"A: " + b"b" * 9000 + b"\r\n\r\n"),
        (431, GET + b"".join(b"A%d: b\r\n" % number for number in range(101)) + b"\r\n"),
        (414, b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
        (417, POST + b"Content-Length: 2\r\nExpect: a-cookie\r\n\r\n{}"),
    ],
    ids=["a coding", "a long header", "many headers", "a long target", "an expectation"],
)
def test_what_is_too_much_or_unknown_says_so(server: LiveServer, status: int, data: bytes) -> None:
    assert exchange(server, data)[0] == status


def test_headers_without_end_are_cut_off(server: LiveServer) -> None:
    endless = GET + (b"A: " + b"b" * 4000 + b"\r\n") * 100_000
    address = ("127.0.0.1", server.port)
    with socket.create_connection(address, timeout=60) as client, pytest.raises(ConnectionError):
        client.sendall(endless)


def test_no_client_writes_control_characters_into_the_log(server: LiveServer) -> None:
    exchange(server, b"\x1b[31m\r\n\r\n")
    exchange(server, GET + b"Evil\x1b\x07\x9b: x\r\n\r\n")
    server.request("GET", "/%1b%5b31m%0a", None, {"X-Request-ID": "\x1b[31m"})
    assert re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f]", server.log) == []


# --- requests that mean something else than they seem to ------------------------


def ask(server: LiveServer, head: bytes) -> bytes:
    """The answer to a request after which the connection is to be closed."""
    status, answer = exchange(server, head + b"Connection: close\r\n\r\n")
    assert status < 500
    return answer


@pytest.mark.parametrize(
    "target",
    [b"http://x/v1/models", b"http://elsewhere/v1/models", b"//v1/models", b"/%76%31/models"],
)
def test_each_way_to_write_a_target_is_the_same_route(server: LiveServer, target: bytes) -> None:
    answer = ask(server, GET.replace(b"/v1/models", target))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert MODEL.encode() in answer


@pytest.mark.parametrize("target", [b"/v1/../metrics", b"/v1/%2e%2e/metrics", b"/v1/models%00"])
def test_dots_and_odd_targets_lead_nowhere(server: LiveServer, target: bytes) -> None:
    answer = ask(server, GET.replace(b"/v1/models", target))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"code":"not_found"' in answer or b'"code":"model_not_found"' in answer


def test_head_has_the_headers_of_get_and_no_body(server: LiveServer) -> None:
    head, _, body = ask(server, GET.replace(b"GET", b"HEAD")).partition(b"\r\n\r\n")
    assert body == b""
    assert head.startswith(b"HTTP/1.1 200 ")
    got = ask(server, GET).partition(b"\r\n\r\n")[2]
    assert f"Content-Length: {len(got)}".encode() in head


@pytest.mark.parametrize(
    ("method", "status"), [(b"HEAD", 405), (b"OPTIONS", 204), (b"TRACE", 405), (b"CONNECT", 405)]
)
def test_another_method_is_told_the_right_one(
    server: LiveServer, method: bytes, status: int
) -> None:
    answer = ask(server, GET.replace(b"GET /v1/models", method + b" /v1/completions"))
    assert int(answer.split()[1]) == status
    assert b"\r\nAllow: " in answer
    assert b"POST" in answer


@pytest.mark.parametrize(
    "given", [b"a\r\nSet-Cookie: stolen=1", b"a" * 8000, b"\xc3\xa9", b"a b", b'a","b":"c']
)
def test_a_request_id_that_is_no_name_is_not_repeated(server: LiveServer, given: bytes) -> None:
    answer = ask(server, GET + b"X-Request-ID: " + given + b"\r\n")
    ids = re.findall(rb"\r\nx-request-id: ([^\r\n]*)", answer)
    assert len(ids) == 1
    assert re.fullmatch(rb"a|a\",\"b\":\"c|[0-9a-f]{32}", ids[0])
    assert b"stolen" not in answer


def test_a_request_id_of_two_lines_is_refused(server: LiveServer) -> None:
    assert exchange(server, GET + b"X-Request-ID: a\nSet-Cookie: b\r\n\r\n")[0] == 400


@pytest.mark.parametrize(
    "target", [b"/admin/drain", b"//admin/drain", b"http://x/admin/drain", b"/%61dmin/drain"]
)
def test_no_way_to_write_a_target_leads_past_the_key(server: LiveServer, target: bytes) -> None:
    answer = ask(server, POST.replace(b"/v1/completions", target))
    assert answer.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 404 "))
    assert server.request("GET", "/health").json()["status"] != "draining"


def test_a_key_counts_for_its_own_request_only(server: LiveServer) -> None:
    stats = GET.replace(b"/v1/models", b"/stats/streams")
    with_key = stats + b"Authorization: Bearer " + ADMIN_KEY.encode() + b"\r\n"
    bodies = pipelined(server, [with_key, stats, with_key])
    assert [b'"streams":' in body for body in bodies] == [True, False, True]


def test_pipelined_requests_are_each_answered_for_themselves(server: LiveServer) -> None:
    """One that is refused in the middle does not speak for those behind it."""
    methods = [b"GET", b"DELETE", b"GET"]
    answers = pipelined(server, [GET.replace(b"GET", method) for method in methods])
    assert [answer[:3] for answer in answers] == [b"200", b"405", b"200"]


def pipelined(server: LiveServer, heads: list[bytes]) -> list[bytes]:
    """The answers, from their status on, to requests that are sent at once."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(b"\r\n".join([*heads[:-1], heads[-1] + b"Connection: close\r\n", b""]))
        answers = b""
        while piece := client.recv(65536):
            answers += piece
    return answers.split(b"HTTP/1.1 ")[1:]
