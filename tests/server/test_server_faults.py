"""What fails in an InferenceServer fails alone: a request, a model, a process that forked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from realtime_serve import (
    InferenceRequest,
    InferenceServer,
    ModelConfig,
    ModelState,
    SamplingParams,
    ServerConfig,
)
from realtime_serve.engine.interface import EngineStats
from realtime_serve.engine.runner import BLOCK_SIZE
from realtime_serve.errors import (
    ConfigError,
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    ModelLoadError,
    NotReadyError,
    StalledReaderError,
)
from realtime_serve.native import Lock, pause
from realtime_serve.nn.interface import ForwardBatch
from realtime_serve.types import FinishReason, size_text
from serve_model import Alphabet
from support.scripted_servers import (
    GREEDY,
    ONE_TOKEN,
    TEXT,
    EndlessAlphabet,
    alphabet_server,
    serve,
    text_of,
    wait_until,
)


def engine_of(server: InferenceServer) -> EngineStats:
    """The figures of its only model's engine."""
    (model,) = server.registry.all()
    assert model.stats is not None
    return model.stats


class Fragile(EndlessAlphabet):
    """Fails whenever the letter q is computed."""

    def forward(self, batch: ForwardBatch, kv_cache: object) -> Tensor:
        if TEXT.tokenizer.encode("q")[0] in batch.token_ids.tolist():
            raise RuntimeError("q is too much")
        return super().forward(batch, kv_cache)


def test_a_failing_request_fails_alone() -> None:
    with serve(Fragile) as server:
        well = server.generate("a", sampling=SamplingParams(temperature=0, max_tokens=14))
        ill = server.generate("n", sampling=GREEDY)
        with pytest.raises(EngineError):
            text_of(ill)
        assert text_of(well) == "bcdefghijklmno"
        assert text_of(server.generate("a", sampling=ONE_TOKEN)) == "b"


def test_a_network_that_cannot_be_built_fails_its_model_only() -> None:
    def explode() -> Alphabet:
        raise OSError("no such weights")

    with alphabet_server() as server:
        with pytest.raises(ModelLoadError, match="no such weights"):
            server.register_model(ModelConfig(name="broken"), network=explode, text=TEXT)
        assert server.health().models["broken"] is ModelState.FAILED
        assert text_of(server.generate("x", model="alphabet", sampling=GREEDY)) == "yz"


def test_a_model_takes_the_place_of_one_that_failed() -> None:
    def explode() -> Alphabet:
        raise OSError("no such weights")

    with InferenceServer() as server:
        with pytest.raises(ModelLoadError):
            server.register_model(ModelConfig(name="x"), network=explode, text=TEXT)
        config = ModelConfig(name="x")
        server.register_model(config, network=lambda: Alphabet(TEXT), text=TEXT)
        assert text_of(server.generate("x", model="x", sampling=GREEDY)) == "yz"
        with pytest.raises(InvalidRequestError, match="served already"):
            server.register_model(config, network=lambda: Alphabet(TEXT), text=TEXT)


def test_a_failed_model_tells_clients_no_internals_and_keeps_no_requests() -> None:
    def explode() -> Alphabet:
        raise OSError("/secret/path")

    with InferenceServer() as server:
        with pytest.raises(ModelLoadError, match="/secret/path"):
            server.register_model(ModelConfig(name="x"), network=explode, text=TEXT)
        errors = []
        for _ in range(2):
            with pytest.raises(NotReadyError) as caught:
                server.generate("a", model="x")
            errors.append(caught.value)
        assert errors[0] is not errors[1]  # one shared error would keep every traceback
        assert errors[0].message == "The model 'x' has failed to load. The server's log says why."


def test_what_waits_for_a_model_that_then_cannot_be_loaded_is_told_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Lock()

    def explode() -> Alphabet:
        with gate:
            raise OSError("no such weights")

    with InferenceServer() as server:
        with gate:
            server.register_model(ModelConfig(name="x"), network=explode, text=TEXT, wait=False)
            stream = server.generate("a", model="x")
            assert server.health().waiting == 1
        with pytest.raises(NotReadyError, match="failed to load"):
            text_of(stream)
        wait_until(lambda: "no such weights" in caplog.text)


def test_of_what_a_model_has_to_say_only_its_failure_is_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def explode() -> Alphabet:
        raise OSError("no such weights")

    config = ModelConfig(name="x", share_weights=True)
    with InferenceServer() as server:
        server.register_model(config, network=lambda: Alphabet(TEXT), text=TEXT)
        with pytest.raises(ModelLoadError):
            server.register_model(ModelConfig(name="y"), network=explode, text=TEXT)
    levels = {record.getMessage(): record.levelname for record in caplog.records}
    assert [levels[text] for text in levels if "no such weights" in text] == ["ERROR"]
    assert [levels[text] for text in levels if "no effect" in text] == ["WARNING"]


def test_the_log_says_how_large_the_kv_cache_became(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "realtime_serve")
    with alphabet_server() as server:
        stats = server.registry.resolve(None).stats
        assert stats is not None
    (message,) = [each.getMessage() for each in caplog.records if "is ready" in each.message]
    tokens = f"{stats.kv_blocks_total * BLOCK_SIZE:,} tokens"
    assert message.endswith(f"a KV cache of {size_text(stats.kv_cache_bytes)}, {tokens}")


def test_a_request_id_that_is_running_is_refused_alone(endless: InferenceServer) -> None:
    def request(max_tokens: int) -> InferenceRequest:
        return InferenceRequest(
            request_id="twice",
            model="alphabet",
            prompt_token_ids=tuple(TEXT.tokenizer.encode("a")),
            sampling=SamplingParams(temperature=0, max_tokens=max_tokens),
        )

    first = endless.submit(request(90_000))
    first.read()
    with pytest.raises(InvalidRequestError, match="twice"):
        list(endless.submit(request(5)))
    first.close()
    assert len(list(endless.generate("a", sampling=ONE_TOKEN))) == 1


def test_a_request_that_the_engine_cannot_even_read_fails_alone(endless: InferenceServer) -> None:
    odd: Any = ("a",)
    request = InferenceRequest(request_id="odd", model="alphabet", prompt_token_ids=odd)
    with pytest.raises(EngineError):
        list(endless.submit(request))
    assert len(list(endless.generate("a", sampling=ONE_TOKEN))) == 1


def test_a_stalled_stream_gives_its_seat_back_at_its_deadline() -> None:
    config = ServerConfig(max_num_seqs=1, max_batch_tokens=16, ring_capacity=4)
    with serve(EndlessAlphabet, config) as server:
        stalled = server.generate("a", sampling=GREEDY, timeout_s=0.1)  # nobody reads it
        assert text_of(server.generate("b", sampling=ONE_TOKEN)) == "c"
        with pytest.raises(DeadlineExceededError):
            text_of(stalled)


def test_a_stream_that_nobody_reads_gives_its_seat_back() -> None:
    config = ServerConfig(
        max_num_seqs=1, max_batch_tokens=16, ring_capacity=4, stall_timeout_s=0.05
    )
    with serve(EndlessAlphabet, config) as server:
        forgotten = server.generate("a", sampling=GREEDY)
        assert text_of(server.generate("b", sampling=ONE_TOKEN)) == "c"
        with pytest.raises(StalledReaderError):
            text_of(forgotten)
        assert forgotten.finish_reason is FinishReason.ERROR
        wait_until(lambda: engine_of(server).kv_blocks_used == 0)


def test_a_reader_that_reads_now_and_then_keeps_its_seat() -> None:
    config = ServerConfig(ring_capacity=4, stall_timeout_s=2.0)
    with serve(EndlessAlphabet, config) as server:
        stream = server.generate("a", sampling=SamplingParams(temperature=0, max_tokens=60))
        tokens = []
        while not stream.ended:
            pause(0.2)
            tokens += stream.read()
        assert "".join(token.text for token in tokens) == ("bcdefghijklmnopqrstuvwxyza" * 3)[:60]
        assert stream.statistics.paused_s > 2.0


def test_a_policy_drops_a_stream_as_soon_as_its_ring_is_full() -> None:
    config = ServerConfig(ring_capacity=4, slow_reader_policy="drop", stall_timeout_s=None)
    with serve(EndlessAlphabet, config) as server:
        forgotten = server.generate("a", sampling=GREEDY)
        wait_until(lambda: server.health().running == 0)
        with pytest.raises(StalledReaderError):
            text_of(forgotten)


def test_the_configured_timeout_ends_every_stream() -> None:
    with serve(EndlessAlphabet, ServerConfig(stream_timeout_s=0.05)) as server:
        for timeout_s in (None, 3600.0):
            with pytest.raises(DeadlineExceededError):
                text_of(server.generate("a", sampling=GREEDY, timeout_s=timeout_s))


def test_a_requests_own_earlier_deadline_stays() -> None:
    with serve(EndlessAlphabet, ServerConfig(stream_timeout_s=3600.0)) as server:
        with pytest.raises(DeadlineExceededError):
            text_of(server.generate("a", sampling=GREEDY, timeout_s=0.05))
        assert server.generate("a").request.deadline_at_s is not None


def test_a_server_that_was_started_before_a_fork_refuses_after_it(
    server: InferenceServer,
) -> None:
    child = os.fork()
    if child == 0:
        try:
            server.generate("a")
        except ConfigError:
            os._exit(0 if not server.health().ready else 2)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_missing_file_is_a_load_error(tmp_path: Path) -> None:
    with InferenceServer() as server, pytest.raises(ModelLoadError, match="absent"):
        server.register_model(ModelConfig(path=str(tmp_path / "absent.gguf")))
