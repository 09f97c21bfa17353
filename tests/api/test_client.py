"""Reading a stream for a client that may leave, with and without a hub."""

import socket
from collections.abc import Callable, Iterator

import gevent
import pytest

from realtime_serve._token_ring import TokenRing
from realtime_serve.api.client import PYWSGI_SOCKET, read_while_connected
from realtime_serve.native import NativeThread
from realtime_serve.stream import TokenStream
from realtime_serve.types import FinishReason, InferenceRequest, SamplingParams

LONG_S = 60.0


class Letters:
    """Token id = code point."""

    def add(self, token_id: int) -> str:
        return chr(token_id)

    def finish(self) -> str:
        return ""


class NoQueue:
    """Where no stream waits."""

    def remove(self, handle: int) -> bool:
        return False

    def kick(self) -> None:
        pass

    def progress(self, handle: int) -> None:
        pass


def open_stream() -> TokenStream:
    request = InferenceRequest(
        request_id="r", model="m", prompt_token_ids=(1,), sampling=SamplingParams()
    )
    return TokenStream(request, ring=TokenRing(16), detokenizer=Letters(), admission=NoQueue())


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    server, client = socket.socketpair()
    with server, client:
        yield server, client


def without_hub(function: Callable[[], None]) -> None:
    function()


def with_hub(function: Callable[[], None]) -> None:
    gevent.get_hub()
    function()
    gevent.get_hub().destroy(destroy_loop=True)


@pytest.mark.parametrize("call", [without_hub, with_hub])
@pytest.mark.parametrize("unread", [b"", b"\r\n"], ids=["nothing", "more"])
def test_a_silent_stream_is_cancelled_when_its_client_leaves(
    pair: tuple[socket.socket, socket.socket],
    call: Callable[[Callable[[], None]], None],
    unread: bytes,
) -> None:
    """Also when the client had sent more than its request, and none of it was read."""
    server, client = pair
    client.sendall(unread)
    reasons: list[FinishReason | None] = []

    def read() -> None:
        stream = open_stream()
        environ = {PYWSGI_SOCKET: server}
        assert list(read_while_connected(stream, environ, LONG_S, stream.read)) == []
        reasons.append(stream.finish_reason)

    reader = NativeThread(lambda: call(read), "reader")
    reader.start()
    assert not reader.join(0.05)  # it waits while the client is there
    client.close()
    assert reader.join(LONG_S / 2)
    assert reader.error is None, reader.error
    assert reasons == [FinishReason.CANCELLED]
