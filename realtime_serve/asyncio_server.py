"""AsyncioServer: the half of InferenceServer that coroutines await.

Opening a model's files and tokenising take the processor: a thread of the loop's pool does that.
What takes longest, loading a model and generating, is awaited by the loop itself, and no stream
or request has a thread of its own.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from realtime_serve.errors import InvalidRequestError
from realtime_serve.model import Model
from realtime_serve.registry import ModelRegistry
from realtime_serve.response import to_response
from realtime_serve.stream import TokenStream
from realtime_serve.text.model import TextModel
from realtime_serve.types import (
    InferenceRequest,
    InferenceResponse,
    ModelConfig,
    RequestPriority,
    SamplingParams,
)

if TYPE_CHECKING:  # torch stays out of a server that needs none
    from realtime_serve.nn.interface import CausalLM


class AsyncioServer(abc.ABC):
    """What a server offers to coroutines, made of what it offers to threads."""

    registry: ModelRegistry

    @abc.abstractmethod
    def register_model(
        self,
        config: ModelConfig | None = None,
        *,
        network: Callable[[], CausalLM] | None = None,
        text: TextModel | None = None,
        wait: bool = True,
    ) -> Model:
        """See InferenceServer; blocks."""

    @abc.abstractmethod
    def submit(self, request: InferenceRequest) -> TokenStream:
        """See InferenceServer; does not block."""

    @abc.abstractmethod
    def shutdown(self) -> None:
        """See InferenceServer; blocks."""

    @abc.abstractmethod
    def _request(
        self,
        prompt: str | Sequence[Mapping[str, Any]],
        model: str | None,
        sampling: SamplingParams | None,
        priority: RequestPriority,
        timeout_s: float | None,
    ) -> InferenceRequest:
        """The request that `generate` submits; blocks."""

    async def __aenter__(self) -> Self:
        """Use the server as an asynchronous context manager."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Shut down, without stopping the loop while the inference threads end."""
        await asyncio.to_thread(self.shutdown)

    async def register_model_async(
        self,
        config: ModelConfig | None = None,
        *,
        network: Callable[[], CausalLM] | None = None,
        text: TextModel | None = None,
    ) -> Model:
        """Load a model, serve it, and wait until it is ready.

        Args:
            config: As for `register_model`, like all that follow.
            network: Builds a network of your own.
            text: Its text model.

        Returns:
            The model.

        Raises:
            ServeError: As `register_model`.
        """
        model = await asyncio.to_thread(
            self.register_model, config, network=network, text=text, wait=False
        )
        await model.wait_ready_async()
        return model

    async def generate_async(
        self,
        prompt: str | Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        sampling: SamplingParams | None = None,
        priority: RequestPriority = RequestPriority.NORMAL,
        timeout_s: float | None = None,
    ) -> TokenStream:
        """Generate from text or from chat messages.

        Args:
            prompt: As for `generate`, like all that follow.
            model: Its name.
            sampling: How to generate.
            priority: Class in the waiting queue.
            timeout_s: Seconds until DeadlineExceededError.

        Returns:
            The stream, for the running loop; iterate it with `async for`.

        Raises:
            ServeError: As `generate`.
        """
        if len(self.registry) == 0:
            with contextlib.suppress(InvalidRequestError):  # another task was first
                await self.register_model_async()
        request = await asyncio.to_thread(
            self._request, prompt, model, sampling, priority, timeout_s
        )
        return self.submit(request)

    async def complete_async(
        self,
        prompt: str | Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        sampling: SamplingParams | None = None,
        priority: RequestPriority = RequestPriority.NORMAL,
        timeout_s: float | None = None,
    ) -> InferenceResponse:
        """Generate, wait for the end, and return the whole answer.

        Args:
            prompt: As for `generate`, like all that follow.
            model: Its name.
            sampling: How to generate.
            priority: Class in the waiting queue.
            timeout_s: Seconds until DeadlineExceededError.

        Returns:
            The answer.

        Raises:
            ServeError: As `generate`, or the generation failed.
        """
        stream = await self.generate_async(
            prompt, model=model, sampling=sampling, priority=priority, timeout_s=timeout_s
        )
        return to_response(stream, [token async for token in stream])
