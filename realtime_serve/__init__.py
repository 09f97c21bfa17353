"""A real-time AI inference server for Python people.

    from realtime_serve import InferenceServer

    with InferenceServer() as server:
        server.register_model()
        for token in server.generate([{"role": "user", "content": "Hello!"}]):
            print(token.text, end="", flush=True)

The names are imported at their first use: a process that needs one layer, such as
the tokenizer alone, does not load torch or Flask.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realtime_serve.app import RealtimeServe as RealtimeServe
    from realtime_serve.app import create_app as create_app
    from realtime_serve.app import run as run
    from realtime_serve.config import load_config as load_config
    from realtime_serve.errors import ConfigError as ConfigError
    from realtime_serve.errors import ContextLengthExceededError as ContextLengthExceededError
    from realtime_serve.errors import DeadlineExceededError as DeadlineExceededError
    from realtime_serve.errors import EngineError as EngineError
    from realtime_serve.errors import InvalidRequestError as InvalidRequestError
    from realtime_serve.errors import ModelLoadError as ModelLoadError
    from realtime_serve.errors import ModelNotFoundError as ModelNotFoundError
    from realtime_serve.errors import NotReadyError as NotReadyError
    from realtime_serve.errors import OverloadedError as OverloadedError
    from realtime_serve.errors import RateLimitedError as RateLimitedError
    from realtime_serve.errors import RequestCancelledError as RequestCancelledError
    from realtime_serve.errors import ServeError as ServeError
    from realtime_serve.health import Health as Health
    from realtime_serve.middleware import MetricsCollector as MetricsCollector
    from realtime_serve.middleware import Middleware as Middleware
    from realtime_serve.middleware import MiddlewareChain as MiddlewareChain
    from realtime_serve.middleware import RateLimiter as RateLimiter
    from realtime_serve.middleware import RequestContext as RequestContext
    from realtime_serve.middleware import RequestLogger as RequestLogger
    from realtime_serve.model import Model as Model
    from realtime_serve.model import ModelState as ModelState
    from realtime_serve.nn.interface import CausalLM as CausalLM
    from realtime_serve.nn.interface import ForwardBatch as ForwardBatch
    from realtime_serve.registry import ModelRegistry as ModelRegistry
    from realtime_serve.server import InferenceServer as InferenceServer
    from realtime_serve.stream import TokenStream as TokenStream
    from realtime_serve.stream_manager import StreamManager as StreamManager
    from realtime_serve.text.model import TextModel as TextModel
    from realtime_serve.text.tokenizer import Tokenizer as Tokenizer
    from realtime_serve.types import BatchConfig as BatchConfig
    from realtime_serve.types import FinishReason as FinishReason
    from realtime_serve.types import InferenceRequest as InferenceRequest
    from realtime_serve.types import InferenceResponse as InferenceResponse
    from realtime_serve.types import MemoryShare as MemoryShare
    from realtime_serve.types import ModelConfig as ModelConfig
    from realtime_serve.types import RequestPriority as RequestPriority
    from realtime_serve.types import SamplingParams as SamplingParams
    from realtime_serve.types import ServerConfig as ServerConfig
    from realtime_serve.types import StreamToken as StreamToken
    from realtime_serve.types import Usage as Usage

__version__ = "0.1.0"

# OpenMP reads this when torch is loaded. Its threads spin at each barrier by default, and a
# step has hundreds: when anything else takes a core, a spinning thread waits for one that is
# not running, and a step takes thirty times as long. Waiting in the kernel costs little.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "app": ("RealtimeServe", "create_app", "run"),
    "config": ("load_config",),
    "errors": (
        "ConfigError",
        "ContextLengthExceededError",
        "DeadlineExceededError",
        "EngineError",
        "InvalidRequestError",
        "ModelLoadError",
        "ModelNotFoundError",
        "NotReadyError",
        "OverloadedError",
        "RateLimitedError",
        "RequestCancelledError",
        "ServeError",
    ),
    "health": ("Health",),
    "middleware": (
        "MetricsCollector",
        "Middleware",
        "MiddlewareChain",
        "RateLimiter",
        "RequestContext",
        "RequestLogger",
    ),
    "model": ("Model", "ModelState"),
    "nn.interface": ("CausalLM", "ForwardBatch"),
    "registry": ("ModelRegistry",),
    "server": ("InferenceServer",),
    "stream": ("TokenStream",),
    "stream_manager": ("StreamManager",),
    "text.model": ("TextModel",),
    "text.tokenizer": ("Tokenizer",),
    "types": (
        "BatchConfig",
        "FinishReason",
        "InferenceRequest",
        "InferenceResponse",
        "MemoryShare",
        "ModelConfig",
        "RequestPriority",
        "SamplingParams",
        "ServerConfig",
        "StreamToken",
        "Usage",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]  # noqa: PLE0604 - the table above is the list


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'realtime_serve' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"realtime_serve.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
