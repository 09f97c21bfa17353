"""Building a model can be stopped while its weights are packed or read, and says what is unused."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from realtime_serve import (
    BatchConfig,
    InferenceServer,
    Model,
    ModelConfig,
    ModelState,
    ServerConfig,
    model_files,
    runners,
)
from realtime_serve.engine.interface import Engine
from realtime_serve.engine.load_watcher import LoadWatcher
from realtime_serve.errors import NotReadyError
from realtime_serve.model_building import engine_loader, load_text
from realtime_serve.weights.checkpoint import open_checkpoint
from realtime_serve.worker import EngineLoader
from serve_model import Alphabet
from support.processes import children, is_running
from support.scripted_servers import TEXT, wait_until


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def server(
    cache: Path, gguf_path: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[InferenceServer]:
    """Its packing process comes half through and then hangs."""
    monkeypatch.setattr(model_files, "PACKING_CHILD", "support.hanging_child")
    config = ServerConfig(model=gguf_path, dtype="q8", cache_dir=str(cache))
    with InferenceServer(config) as server:
        yield server


def load_half(server: InferenceServer) -> tuple[Model, int]:
    """A model that is being packed, and the process that does it."""
    before = set(children(os.getpid()))
    model = server.register_model(wait=False)
    wait_until(lambda: "50%" in why_not_ready(model))
    (child,) = set(children(os.getpid())) - before
    return model, child


def why_not_ready(model: Model) -> str:
    with pytest.raises(NotReadyError) as caught:
        model.require_ready()
    return caught.value.message


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_server_that_is_shut_down_while_it_packs_ends_the_child_and_leaves_nothing(
    server: InferenceServer, cache: Path
) -> None:
    model, child = load_half(server)
    assert names(cache) == {"lock", "unfinished"}
    server.shutdown()
    assert model.state is ModelState.UNLOADED
    assert not is_running(child)
    assert names(cache) == {"lock"}
    assert model.take_notices() == []
    with pytest.raises(NotReadyError, match="unloaded"):
        model.wait_ready()


def test_a_cache_that_has_gone_meanwhile_does_not_hinder_the_end(
    server: InferenceServer, cache: Path
) -> None:
    model, child = load_half(server)
    shutil.rmtree(cache)
    server.shutdown()
    assert model.state is ModelState.UNLOADED
    assert not is_running(child)
    assert not cache.exists()


def test_while_weights_are_packed_requests_hear_how_far_it_is(server: InferenceServer) -> None:
    model, _ = load_half(server)
    assert why_not_ready(model) == (
        "The model 'SmolLM2-135M-Instruct' is loading (50% of its weights are packed). Retry later."
    )


def test_a_network_of_ones_own_says_once_which_settings_it_does_not_use(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = ModelConfig(name="own", share_weights=True, dtype="bfloat16", num_threads=1)
    with InferenceServer() as server:
        server.register_model(config, network=lambda: Alphabet(TEXT), text=TEXT)
    messages = [record.getMessage() for record in caplog.records]
    for unused in ("share_weights has no effect", "dtype and num_threads have no effect"):
        assert len([each for each in messages if unused in each]) == 1


class EnoughError(Exception):
    """The model is not wanted any more."""


def refuse() -> None:
    raise EnoughError


def test_reading_a_packed_file_can_be_ended(gguf_path: str, tmp_path: Path) -> None:
    config = ModelConfig(path=gguf_path, dtype="q4", cache_dir=str(tmp_path))
    load = loader_of(config)
    load(LoadWatcher()).close()
    with pytest.raises(EnoughError):
        load(LoadWatcher(before_piece=refuse))
    with pytest.raises(EnoughError):
        loader_of(dataclasses.replace(config, share_weights=True))(LoadWatcher(before_piece=refuse))


@pytest.mark.parametrize("place", ["none", "cache"])
def test_a_stop_between_the_packing_and_the_reading_of_weights_ends_the_loading(
    place: str, gguf_path: str, tmp_path: Path
) -> None:
    """Where none are kept they are then moved to memory; else the new file is opened."""
    cache_dir = "none" if place == "none" else str(tmp_path)
    config = ModelConfig(path=gguf_path, dtype="q4", cache_dir=cache_dir)
    told: list[float] = []
    model = stopped_at_the_first_piece(config, told)
    assert told[-1] == 1.0  # all was packed
    assert model.state is ModelState.UNLOADED
    assert model.take_notices() == []
    assert len(list(tmp_path.glob("*.packed"))) == (0 if place == "none" else 1)


def stopped_at_the_first_piece(config: ModelConfig, told: list[float]) -> Model:
    """A model that somebody stops when the first piece of its weights is about to be read."""
    load = loader_of(config)

    def load_until_stopped(watcher: LoadWatcher) -> Engine:
        def note(share: float) -> None:
            told.append(share)
            watcher.on_progress(share)

        def stop_first() -> None:
            model.stop()
            watcher.before_piece()

        return load(dataclasses.replace(watcher, on_progress=note, before_piece=stop_first))

    model = Model(
        "m", config=config, batch_config=BatchConfig(), text=TEXT, load=load_until_stopped
    )
    model.start()
    try:
        with pytest.raises(NotReadyError, match="unloaded"):
            model.wait_ready()
    finally:
        model.stop()
        model.join()
    return model


def test_reading_weights_into_torch_can_be_ended(
    gguf_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "unsupported_reason", lambda llama: "this is a test")
    with pytest.raises(EnoughError):
        loader_of(ModelConfig(path=gguf_path, dtype="float32"))(LoadWatcher(before_piece=refuse))


def loader_of(config: ModelConfig) -> EngineLoader:
    assert config.path is not None
    checkpoint = open_checkpoint(config.path)
    return engine_loader(checkpoint, load_text(checkpoint), config, BatchConfig())
