"""From files, or a network of somebody's own, to a Model that can be started.

The text side is read at once, by the caller. The network is the business of the model's own
inference thread, which gets a loader: the way from files to an engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from realtime_serve.default_model import default_model_path
from realtime_serve.engine.engine import LLMEngine
from realtime_serve.engine.interface import Engine
from realtime_serve.engine.kv_cache_size import KVCacheLimit
from realtime_serve.engine.load_watcher import LoadWatcher
from realtime_serve.errors import ConfigError
from realtime_serve.model import Model
from realtime_serve.runners import (
    LoadedRunner,
    load_runner,
    runner_of_network,
    unused_by_network,
)
from realtime_serve.text.model import TextModel, load_gguf_text, load_hf_text
from realtime_serve.types import BatchConfig, ModelConfig
from realtime_serve.weights.checkpoint import Checkpoint, checkpoint_name, open_checkpoint
from realtime_serve.worker import EngineLoader
from realtime_serve.worker_processes import num_worker_processes

if TYPE_CHECKING:  # torch stays out of a server that needs none
    from realtime_serve.nn.interface import CausalLM


def model_from_files(config: ModelConfig, batch_config: BatchConfig) -> Model:
    """Prepare the model that a GGUF file or a Hugging Face directory holds.

    Reads the tokenizer here; the network is loaded by the model's own thread.

    Args:
        config: Which model; without a path, the default one.
        batch_config: Bounds of its queue and batch.

    Returns:
        The model, not started.

    Raises:
        ConfigError: No path is given and no default model is installed.
        ModelLoadError: The files cannot be used.
    """
    checkpoint = open_checkpoint(_path(config))
    text = load_text(checkpoint)
    return Model(
        config.name or checkpoint.name,
        config=config,
        batch_config=batch_config,
        text=text,
        load=engine_loader(checkpoint, text, config, batch_config),
    )


def name_of_files(config: ModelConfig) -> str:
    """The name in the API of a model from files, whether or not they can be opened.

    Args:
        config: Which model.

    Raises:
        ConfigError: As `model_from_files`.
    """
    return config.name or checkpoint_name(_path(config))


def _path(config: ModelConfig) -> str:
    return config.path if config.path is not None else default_model_path()


def load_text(checkpoint: Checkpoint) -> TextModel:
    """The tokenizer and the chat template that come with a model's files.

    Args:
        checkpoint: The files.

    Returns:
        The text side of the model.

    Raises:
        ModelLoadError: The files have none that can be used.
    """
    if checkpoint.tokenizer_metadata is None:
        return load_hf_text(checkpoint.path)
    return load_gguf_text(checkpoint.tokenizer_metadata)


def engine_loader(
    checkpoint: Checkpoint, text: TextModel, config: ModelConfig, batch_config: BatchConfig
) -> EngineLoader:
    """What loads a model's weights and makes its engine, for an inference thread to call.

    Args:
        checkpoint: The weights.
        text: Knows the tokens that end a sequence.
        config: How to load them.
        batch_config: Bounds of the engine's batch.

    Returns:
        The loader; it raises ModelLoadError or ConfigError if the weights cannot be used so.
    """

    def load(watcher: LoadWatcher) -> Engine:
        loaded = load_runner(checkpoint, config, batch_config, watcher)
        for notice in checkpoint.notices:
            watcher.notify(notice)
        return _build_engine(loaded, text, config, batch_config, watcher)

    return load


def model_from_network(
    network: Callable[[], CausalLM],
    text: TextModel,
    config: ModelConfig,
    batch_config: BatchConfig,
) -> Model:
    """Prepare a model whose network is the caller's own code.

    Args:
        network: Builds the network; it and the network run on the inference thread, where
            logging, threading, queues, sockets and gevent are forbidden.
        text: The tokenizer and the chat template that go with it.
        config: Its name and limits.
        batch_config: Bounds of its queue and batch.

    Returns:
        The model, not started.

    Raises:
        ConfigError: The configuration gives no name.
    """
    if config.name is None:
        raise ConfigError("A model made of your own network needs a name.", param="name")

    def load(watcher: LoadWatcher) -> Engine:
        built = network()
        loaded = runner_of_network(built, config)
        for notice in unused_by_network(built, config):
            watcher.notify(notice)
        return _build_engine(loaded, text, config, batch_config, watcher)

    return Model(config.name, config=config, batch_config=batch_config, text=text, load=load)


def _build_engine(
    loaded: LoadedRunner,
    text: TextModel,
    config: ModelConfig,
    batch_config: BatchConfig,
    watcher: LoadWatcher,
) -> Engine:
    engine = LLMEngine(
        loaded.runner,
        eos_token_ids=text.eos_token_ids,
        batch=batch_config,
        kv_cache_limit=KVCacheLimit(config.kv_cache_bytes, loaded.memory, num_worker_processes()),
        max_model_len=loaded.max_model_len,
        enable_prefix_caching=config.enable_prefix_caching,
        clock=time.perf_counter,
    )
    for notice in engine.notices:
        watcher.notify(notice)
    return engine
