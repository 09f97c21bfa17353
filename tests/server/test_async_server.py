"""InferenceServer from coroutines: the same streams, and a loop that never stops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

import pytest

from realtime_serve import (
    FinishReason,
    InferenceServer,
    Model,
    ModelConfig,
    ModelState,
    SamplingParams,
    ServerConfig,
    TokenStream,
)
from realtime_serve.errors import ModelLoadError, NotReadyError
from realtime_serve.model_building import model_from_files
from realtime_serve.native import Lock
from serve_model import Alphabet
from support.scripted_servers import GREEDY, TEXT, Gate, GatedAlphabet, serve

LONG_S = 60.0
LETTERS = "abcdefghijklmnopqrstuvwxyz"

pytestmark = pytest.mark.not_under_gevent("a patched process has a hub in place of event loops")


async def read(stream: TokenStream) -> str:
    return "".join([token.text async for token in stream])


async def until(holds: Callable[[], bool]) -> None:
    """Wait for another thread; a hang is the suite's time limit."""
    while not holds():
        await asyncio.sleep(0.001)


def num_seated(server: InferenceServer) -> int:
    return sum(model.num_running + model.num_waiting for model in server.registry.all())


# --- generating ---------------------------------------------------------------


def test_tokens_are_iterated_in_order(server: InferenceServer) -> None:
    async def scenario() -> None:
        stream = await server.generate_async("uv", sampling=GREEDY)
        assert await read(stream) == "wxyz"
        assert stream.finish_reason is FinishReason.STOP

    asyncio.run(scenario())


def test_a_whole_answer_joins_the_same_tokens(server: InferenceServer) -> None:
    limited = SamplingParams(temperature=0, max_tokens=3)
    answer = asyncio.run(server.complete_async("uv", sampling=limited))
    assert (answer.text, answer.finish_reason) == ("wxy", FinishReason.LENGTH)
    assert answer.token_ids == server.complete("uv", sampling=limited).token_ids


def test_many_tasks_of_one_loop_do_not_mix(server: InferenceServer) -> None:
    async def answer(letter: str) -> str:
        return await read(await server.generate_async(letter, sampling=GREEDY))

    async def scenario() -> list[str]:
        return await asyncio.gather(*map(answer, LETTERS[:-1]))

    expected = [LETTERS.split(letter)[1] for letter in LETTERS[:-1]]
    assert asyncio.run(scenario()) == expected


def test_a_coroutine_may_submit_and_several_loops_share_a_server(server: InferenceServer) -> None:
    async def answer() -> str:
        return await read(server.generate("x", sampling=GREEDY))

    async def in_threads() -> list[str]:
        return await asyncio.gather(*[asyncio.to_thread(asyncio.run, answer()) for _ in range(3)])

    assert asyncio.run(in_threads()) == ["yz"] * 3


def test_a_cancelled_task_gives_its_seat_back(endless: InferenceServer) -> None:
    async def scenario() -> None:
        stream = await endless.generate_async("a", sampling=GREEDY)
        reading = asyncio.create_task(read(stream))
        await until(lambda: stream.statistics.num_tokens > 0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await until(lambda: num_seated(endless) == 0)

    asyncio.run(scenario())
    assert len(endless.streams) == 0


def test_cancelling_is_heeded_within_a_step() -> None:
    gate = Gate()
    with serve(lambda: GatedAlphabet(gate)) as server:

        async def scenario() -> None:
            stream = await server.generate_async("a", sampling=GREEDY)
            reading = asyncio.create_task(read(stream))
            await until(lambda: stream.statistics.num_tokens > 0)
            with gate:  # at most one step is under way and waits at the gate
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
                num_steps = len(gate.steps)
            await until(lambda: num_seated(server) == 0)
            assert len(gate.steps) <= num_steps + 1

        asyncio.run(scenario())


# --- life ---------------------------------------------------------------------


def test_the_loop_goes_on_while_a_model_is_built_and_then_ends() -> None:
    may_load = Lock()

    def build() -> Alphabet:
        with may_load:
            return Alphabet(TEXT)

    async def scenario() -> None:
        async with InferenceServer() as server:
            with may_load:
                loading = asyncio.create_task(
                    server.register_model_async(
                        ModelConfig(name="alphabet"), network=build, text=TEXT
                    )
                )
                await until(lambda: len(server.registry) == 1)
                stream = await server.generate_async("x", sampling=GREEDY)
                waiting = asyncio.create_task(read(stream))
                await asyncio.sleep(0.01)
                assert not loading.done()
                assert not waiting.done()
            await loading
            states.extend(server.health().models.values())
            assert await waiting == "yz"
        states.extend(server.health().models.values())

    states: list[ModelState] = []
    asyncio.run(scenario())
    assert states == [ModelState.READY, ModelState.UNLOADED]


def test_a_model_that_cannot_be_built_fails_whoever_awaits_it() -> None:
    def fail() -> Alphabet:
        raise OSError("no such weights")

    async def scenario() -> None:
        async with InferenceServer() as server:
            with pytest.raises(ModelLoadError, match="no such weights"):
                await server.register_model_async(
                    ModelConfig(name="broken"), network=fail, text=TEXT
                )

    asyncio.run(scenario())


def test_the_configured_model_is_opened_in_another_thread(
    gguf_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_in: set[int] = set()

    def open_and_note(*arguments: Any) -> Model:
        opened_in.add(threading.get_ident())
        return model_from_files(*arguments)

    async def scenario() -> None:
        async with InferenceServer(ServerConfig(model=gguf_path, max_model_len=128)) as server:
            one = SamplingParams(temperature=0, max_tokens=1)
            answers = await asyncio.gather(
                *[server.complete_async("The capital of France is", sampling=one) for _ in range(2)]
            )
            assert [answer.text for answer in answers] == [" Paris"] * 2

    monkeypatch.setattr("realtime_serve.server.model_from_files", open_and_note)
    asyncio.run(scenario())
    assert opened_in
    assert threading.get_ident() not in opened_in


def test_shutting_down_ends_what_other_tasks_read(endless: InferenceServer) -> None:
    async def scenario() -> None:
        stream = await endless.generate_async("a", sampling=GREEDY)
        reading = asyncio.create_task(read(stream))
        await until(lambda: stream.statistics.num_tokens > 0)
        async with endless:
            pass
        with pytest.raises(NotReadyError):
            await reading

    asyncio.run(scenario())


def test_the_loop_goes_on_while_a_server_shuts_down() -> None:
    gate = Gate()
    server = serve(lambda: GatedAlphabet(gate))

    async def scenario() -> None:
        await read(await server.generate_async("a", sampling=GREEDY))
        num_steps = len(gate.steps)
        with gate:
            stream = await server.generate_async("a", sampling=GREEDY)
            await until(lambda: len(gate.steps) > num_steps)
            # The step that is under way cannot end, and its thread not be joined.
            leaving = asyncio.create_task(server.__aexit__(None, None, None))
            await asyncio.sleep(0.01)
            assert not leaving.done()
        await leaving
        with pytest.raises(NotReadyError):
            await read(stream)

    asyncio.run(scenario())


# --- an ASGI app --------------------------------------------------------------

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Coroutine[Any, Any, Message]]


class AsgiApp:
    """What FastAPI makes of a StreamingResponse: a body that is iterated until the client goes."""

    def __init__(self, server: InferenceServer) -> None:
        self._server = server

    async def __call__(self, receive: Receive, send: Send) -> None:
        prompt = (await receive())["body"].decode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        sending = asyncio.create_task(self._send_all(self._body(prompt), send))
        leaving = asyncio.create_task(receive())
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (sending, leaving):
            task.cancel()
        await asyncio.wait({sending, leaving})

    async def _body(self, prompt: str) -> AsyncIterator[bytes]:
        async with await self._server.generate_async(prompt, sampling=GREEDY) as stream:
            async for token in stream:
                yield token.text.encode()

    async def _send_all(self, body: AsyncIterator[bytes], send: Send) -> None:
        async for piece in body:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Client:
    """The server's side of an ASGI connection."""

    def __init__(self, prompt: bytes) -> None:
        self.received: list[Message] = []
        self.gone = asyncio.Event()
        self._requests = [{"type": "http.request", "body": prompt, "more_body": False}]

    async def receive(self) -> Message:
        if self._requests:
            return self._requests.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.received.append(message)

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.received).decode()


def test_an_asgi_app_streams_to_many_clients(server: InferenceServer) -> None:
    async def scenario() -> None:
        app = AsgiApp(server)
        clients = [Client(letter.encode()) for letter in LETTERS[:-1]]
        await asyncio.gather(*[app(client.receive, client.send) for client in clients])
        for letter, client in zip(LETTERS, clients, strict=False):
            assert client.text == LETTERS.split(letter)[1]
            assert client.received[-1]["more_body"] is False

    asyncio.run(scenario())


def test_a_client_that_leaves_an_asgi_app_frees_its_seat(endless: InferenceServer) -> None:
    async def scenario() -> None:
        client = Client(b"a")
        serving = asyncio.create_task(AsgiApp(endless)(client.receive, client.send))
        await until(lambda: len(client.received) > 3)
        client.gone.set()
        await serving
        await until(lambda: num_seated(endless) == 0)
        assert client.received[-1]["more_body"] is True

    asyncio.run(scenario())


def test_a_stream_costs_its_loop_no_thread(endless: InferenceServer) -> None:
    async def scenario() -> None:
        await endless.complete_async("a", sampling=SamplingParams(temperature=0, max_tokens=1))
        streams = [endless.generate("a", sampling=GREEDY) for _ in range(50)]
        num_threads = threading.active_count()
        reading = [asyncio.create_task(read(stream)) for stream in streams]
        await until(lambda: any(stream.statistics.num_tokens > 0 for stream in streams))
        assert threading.active_count() == num_threads
        for task in reading:
            task.cancel()
        await asyncio.wait(reading)

    asyncio.run(asyncio.wait_for(scenario(), LONG_S))
