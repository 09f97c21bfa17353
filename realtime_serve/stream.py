"""Streams of generated tokens: the consumer's end.

A stream has two ends. The inference thread holds the StreamFeed: the ring it
fills and the parker it wakes. The consumer holds the TokenStream: it drains the
ring and turns ids into whole characters, cut at stop strings. Text is made here,
above the ring; the inference thread sees ids only. Where nobody wants the tokens but
as events, C drains the ring in the stream's place (`new_events`). The feed does not
know the stream, so a stream that its consumer forgets is collected and thereby cancelled.

A stream ends once. The engine ends it through the ring's terminal state; the
consumer ends it by a stop string, a deadline or close(), which ask the engine to
give the seat back and do not wait for it. A reader that does nothing while its ring
is full loses the seat, and finds the reason when it comes back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Self, TypeVar

from realtime_serve import _token_ring as ring_states
from realtime_serve._event_streams import EventStream, TextTable
from realtime_serve._token_ring import FLAG_LAST, TokenRing
from realtime_serve.asyncio_waker import current_parker, loop_parker
from realtime_serve.errors import (
    DeadlineExceededError,
    EngineError,
    RequestCancelledError,
    ServeError,
)
from realtime_serve.stream_decoder import StreamDecoder
from realtime_serve.stream_feed import REASONS_BY_STATE, RING_STATES, StreamFeed
from realtime_serve.stream_interface import Admission, EventSource
from realtime_serve.stream_statistics import StreamStatistics
from realtime_serve.text.detokenizer import Detokenizer
from realtime_serve.types import (
    FinishReason,
    InferenceRequest,
    Prefilling,
    StreamProgress,
    StreamToken,
    Usage,
)

logger = logging.getLogger("realtime_serve.stream")

T = TypeVar("T", list[StreamToken], bytes, bool)


class TokenStream:
    """The tokens of one request, in order, as they are generated.

    Iterate it for StreamTokens, or `read` all that are ready at once; in coroutines, `async
    for` and `read_async` do so without stopping the event loop. One consumer at a time; it must
    live in the hub or the event loop that opened the stream. Closing, leaving the `with` or
    `async with` block and dropping the last reference cancel what is not finished.

    Args:
        request: The request it answers.
        ring: Its ring.
        detokenizer: Turns its ids into text.
        admission: The queue it waits in.
        text_table: Does so in C, for `new_events`; None if only the detokenizer can.
    """

    def __init__(
        self,
        request: InferenceRequest,
        *,
        ring: TokenRing,
        detokenizer: Detokenizer,
        admission: Admission,
        text_table: TextTable | None = None,
    ) -> None:
        self.request = request
        self.statistics = StreamStatistics(time.monotonic(), ring)
        self.finish_reason: FinishReason | None = None
        self.error: ServeError | None = None
        self.queue_handle: int | None = None
        self._ring = ring
        self.feed = StreamFeed(request, ring, current_parker(), self.statistics)
        self._decoder = StreamDecoder(detokenizer, request.sampling)
        self._text_table = text_table
        self._admission = admission
        self._unended: list[StreamToken] = []
        self._end_callbacks: list[Callable[[TokenStream], None]] = []

    def __enter__(self) -> Self:
        """Use the stream as a context manager: leaving it cancels what is unfinished."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close."""
        self.close()

    async def __aenter__(self) -> Self:
        """Use the stream as an asynchronous context manager, to the same effect."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close."""
        self.close()

    def __iter__(self) -> Iterator[StreamToken]:
        """Iterate the tokens.

        Raises:
            ServeError: The stream ended by an error, its deadline or a cancellation.
        """
        while not self.ended:
            yield from self.read()
        self.raise_for_error()

    async def __aiter__(self) -> AsyncIterator[StreamToken]:
        """Iterate the tokens in a coroutine.

        Whoever leaves the loop early has left for good: that closes the stream, and so does
        cancelling the task.

        Raises:
            ServeError: As `__iter__`.
            RuntimeError: As `read_async`.
        """
        try:
            while not self.ended:
                for token in await self.read_async():
                    yield token
            self.raise_for_error()
        finally:
            self.close()

    def __del__(self) -> None:
        """Cancel when forgotten: cleanup may not depend on close()."""
        if getattr(self, "_admission", None) is not None and not self.ended:
            self._ask_to_end(FinishReason.CANCELLED)

    @property
    def ended(self) -> bool:
        """Whether the last token has been read, or the stream was closed."""
        return self.finish_reason is not None

    @property
    def usage(self) -> Usage:
        """Tokens so far; those after a stop string do not count."""
        return Usage(
            prompt_tokens=len(self.request.prompt_token_ids),
            completion_tokens=self.statistics.num_tokens,
            cached_tokens=self.statistics.num_cached_tokens,
        )

    @property
    def progress(self) -> StreamProgress | None:
        """How far it is from its first token; None from then on."""
        if self.ended or self.statistics.num_tokens > 0:
            return None
        handle = self.queue_handle
        waits_for = None if handle is None else self._admission.progress(handle)
        return waits_for or Prefilling(
            num_computed_tokens=self.statistics.num_prefilled_tokens,
            num_prompt_tokens=len(self.request.prompt_token_ids),
        )

    def add_end_callback(self, callback: Callable[[TokenStream], None]) -> None:
        """Have `callback` called once when the stream has ended, in the consumer.

        What it raises is logged, and changes neither the stream nor the other callbacks.
        """
        self._end_callbacks.append(callback)

    def raise_for_error(self) -> None:
        """Raise what ended the stream, if that was neither stop nor length.

        Raises:
            ServeError: An engine failure, a passed deadline or a cancellation.
        """
        if self.error is not None:
            raise self.error

    def read(self, timeout_s: float | None = None) -> list[StreamToken]:
        """Wait for tokens and return all that are ready.

        Args:
            timeout_s: Longest wait; None has no limit.

        Returns:
            At least one token, or an empty list when the timeout passed or the stream
            ended without another token: look at `ended`.
        """
        return self._wait(self._read_ready, [], timeout_s)

    async def read_async(self, timeout_s: float | None = None) -> list[StreamToken]:
        """As `read`, in a coroutine; cancelling that leaves the stream as it is.

        Raises:
            RuntimeError: The stream belongs to another event loop, or another task waits for it.
        """
        parker = self.feed.parker = loop_parker(self.feed.parker)
        give_up_at_s = _instant_after(timeout_s)
        while not (tokens := self._try(self._read_ready, [])) and not self._is_over(give_up_at_s):
            await parker.wait(self._patience_s(give_up_at_s))
        return tokens

    def new_events(self, prefix: bytes, suffix: bytes) -> EventStream | None:
        """Have the stream's events made in C; from then on `read_events`, and never `read`.

        Args:
            prefix: What stands before the text in each event.
            suffix: What stands behind it.

        Returns:
            What makes the events; None if that takes Python, for stop strings or an
            unusual vocabulary.
        """
        if self._text_table is None or self.request.sampling.stop:
            return None
        times = self.statistics.token_times
        return EventStream(self._ring, self._text_table, times, prefix, suffix)

    def read_events(self, source: EventSource, timeout_s: float | None = None) -> bytes:
        """Wait for tokens that have text and return their events.

        Args:
            source: What `new_events` returned, or what sends its events.
            timeout_s: Longest wait; None has no limit.

        Returns:
            The events; empty when the timeout passed or the stream ended without another
            one: look at `ended`. A source that sends them returns none at all.
        """
        return self._wait(partial(self._take_events, source), b"", timeout_s)

    def wait_until(self, holds: Callable[[], bool]) -> bool:
        """Wait for something else, or the stream's end.

        Args:
            holds: Whether it has come; whoever makes it so wakes the stream's parker.

        Returns:
            False if the stream has ended first.
        """
        return self._wait(holds, False, None)

    def _wait(self, take: Callable[[], T], nothing: T, timeout_s: float | None) -> T:
        """Call `take` until it returns something, the stream ends or the timeout passes."""
        give_up_at_s = _instant_after(timeout_s)
        while not (taken := self._try(take, nothing)) and not self._is_over(give_up_at_s):
            self.feed.parker.park(self._patience_s(give_up_at_s))
        return taken

    def _try(self, take: Callable[[], T], nothing: T) -> T:
        """Call `take`, unless the stream has ended or that ends it."""
        if self.ended:
            return nothing
        if ring_states.CANCELLED in (self._ring.cancel_state, self._ring.state):
            self._finish_cut()
            return nothing
        try:
            return take()
        except Exception as cause:  # a token that cannot be decoded fails its own stream
            self._fail(cause)
            return nothing

    def _is_over(self, give_up_at_s: float | None) -> bool:
        """Whether there is nothing to wait for: the stream has ended, or the time is up."""
        now_s = time.monotonic()
        is_late = give_up_at_s is not None and now_s >= give_up_at_s
        return self.ended or self._expire(now_s) or is_late

    def close(self) -> None:
        """End the stream; what is not finished is cancelled. May be called again."""
        if not self.ended:
            self._ask_to_end(FinishReason.CANCELLED)
            self._finish_cut()

    def renew_lease(self) -> None:
        """Tell the engine that the reader is still at what it was given last. Any thread."""
        self._ring.renew()

    def cancel(self, error: ServeError | None = None) -> None:
        """Have the stream end as cancelled, or with an error of its own, and wake its reader.

        It ends at the reader's next look; unlike close(), any thread and any callback of the
        hub may call this. One that has ended stays as it is.
        """
        if self.ended:
            return
        if error is not None:
            self.feed.error = error
        self._ask_to_end(FinishReason.CANCELLED)
        self.feed.call().flush()

    def _take_events(self, source: EventSource) -> bytes:
        events = source.take()
        if source.take_starved():
            self._admission.kick()
        if source.end_state != ring_states.OPEN:
            self._finish(REASONS_BY_STATE[source.end_state])
        return events

    def _read_ready(self) -> list[StreamToken]:
        state = self._ring.state  # before the pop: a terminal state then covers all records
        records = self._ring.pop()
        if records and self._ring.take_stalled():
            self._admission.kick()
        tokens, is_cut = self._decoder.decode(records)
        if tokens:
            self.statistics.token_times.note(len(tokens), time.monotonic())
        if is_cut:
            self._ask_to_end(FinishReason.STOP)
            return self._last_tokens(tokens, FinishReason.STOP)
        if state != ring_states.OPEN:
            return self._last_tokens(tokens, REASONS_BY_STATE[state])
        if records and records[-1][3] & FLAG_LAST:
            # The engine has yet to publish why it ended; these go out with the reason.
            self._unended = tokens
            return []
        return tokens

    def _last_tokens(self, tokens: list[StreamToken], reason: FinishReason) -> list[StreamToken]:
        """End the stream; its last token carries the reason and any text held back."""
        tokens = self._unended + tokens
        if tokens:
            last = tokens[-1]
            text = last.text + self._decoder.finish()
            tokens[-1] = replace(last, text=text, finish_reason=reason)
        self._finish(reason)
        return tokens

    def _expire(self, now_s: float) -> bool:
        deadline_at_s = self.request.deadline_at_s
        if deadline_at_s is None or now_s < deadline_at_s:
            return False
        self._ask_to_end(FinishReason.DEADLINE)
        self._finish(FinishReason.DEADLINE)
        return True

    def _patience_s(self, give_up_at_s: float | None) -> float | None:
        instants = [t for t in (give_up_at_s, self.request.deadline_at_s) if t is not None]
        return min(instants) - time.monotonic() if instants else None

    def _ask_to_end(self, reason: FinishReason) -> None:
        """Leave the queue, or ask the engine for the seat back."""
        self._ring.request_cancel(RING_STATES[reason])
        if self.queue_handle is None or not self._admission.remove(self.queue_handle):
            self._admission.kick()

    def _fail(self, cause: Exception) -> None:
        self._ask_to_end(FinishReason.CANCELLED)
        self.feed.error = EngineError("The answer could not be decoded.")
        self.feed.error.__cause__ = cause
        self._finish(FinishReason.ERROR)

    def _finish_cut(self) -> None:
        """End without what the ring still holds: as cancelled, or with the cut's own error."""
        is_error = self.feed.error is not None
        self._finish(FinishReason.ERROR if is_error else FinishReason.CANCELLED)

    def _finish(self, reason: FinishReason) -> None:
        self.finish_reason = reason
        failed = reason is FinishReason.ERROR and self.feed.error is not None
        self.error = self.feed.error if failed else _default_error(reason)
        self.statistics.finished_at_s = time.monotonic()
        callbacks, self._end_callbacks = self._end_callbacks, []
        for callback in callbacks:
            try:
                callback(self)
            except Exception:
                logger.exception("A callback at the end of a stream failed")


def _instant_after(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def _default_error(reason: FinishReason) -> ServeError | None:
    match reason:
        case FinishReason.STOP | FinishReason.LENGTH:
            return None
        case FinishReason.CANCELLED:
            return RequestCancelledError("The request was cancelled.")
        case FinishReason.DEADLINE:
            return DeadlineExceededError("The request's deadline passed before it finished.")
        case FinishReason.ERROR:
            return EngineError("The model failed on this request.")
