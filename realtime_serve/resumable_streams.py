"""ResumableStreams: the table of the streams that can be resumed, and its bound.

A stream is kept for `ttl_s` after its last client has gone, whether it has ended or not; then it
is cancelled, if it still runs, and forgotten. All of them share `max_bytes`. When that is full,

1. those that have ended and nobody reads are forgotten, the longest alone first;
2. then those that run with nobody connected are cancelled and forgotten, in the same order;
3. then each stream that grows forgets what its own client has received, and waits for it as any
   other stream does: it goes on, but cannot be resumed from there;
4. and new ones are refused.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial

from realtime_serve.errors import OverloadedError, StreamNotFoundError
from realtime_serve.native import Lock, pause, spawn
from realtime_serve.resumable_stream import ResumableStream
from realtime_serve.stream import TokenStream

logger = logging.getLogger("realtime_serve")

STREAM_BYTES = 4096
"""What a stream takes beside its events: the log, the reader, statistics. Estimated from above."""

FREED_SHARE = 1 / 8
"""So much is freed at once, so that the table is not searched for each token."""

SEARCH_INTERVAL_S = 0.25
"""Where nobody could make room, streams that grow do not look again sooner: with thousands of them
the search would be all that the process does."""

RETRY_AFTER_S = 5.0
"""Streams end and are left all the time; there is no telling when."""

EndEvents = Callable[[TokenStream, Exception | None], Sequence[bytes]]
"""Formats the events that end a stream, or say why it has failed."""


class ResumableStreams:
    """Any thread may call.

    Args:
        ttl_s: How long a stream is kept once nobody is connected.
        max_bytes: Bound of what all of them take.
    """

    def __init__(self, ttl_s: float, max_bytes: int) -> None:
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._streams: dict[str, ResumableStream] = {}
        self._sizes: dict[str, int] = {}
        self._num_bytes = 0
        self._is_swept = False
        self._search_at_s = 0.0

    def __len__(self) -> int:
        """Streams that are kept."""
        return len(self._streams)

    @property
    def usage(self) -> float:
        """Share of their memory that they take."""
        return self._num_bytes / self._max_bytes

    def require_room(self) -> None:
        """Make room for another stream.

        Raises:
            OverloadedError: There is none: all that are kept have somebody connected.
        """
        self._search_at_s = 0.0
        if not self._has_room(STREAM_BYTES):
            raise OverloadedError(
                "There is no memory for another stream that can be resumed (resume_max_bytes). "
                "Retry later, or without it.",
                retry_after_s=RETRY_AFTER_S,
            )

    def open(
        self,
        stream: TokenStream,
        *,
        start: bytes,
        frame: Callable[[str], bytes],
        end_events: EndEvents,
    ) -> ResumableStream:
        """Keep a stream; from now on nobody else may read it.

        Args:
            stream: Which one.
            start: Its first event, if it has one before the first text.
            frame: Makes an event of a text.
            end_events: Makes the last events.

        Returns:
            The stream, which waits for a reader until ttl_s has passed.
        """
        kept = ResumableStream(secrets.token_hex(16), stream, frame)
        kept.append([start] if start else [])
        with self._lock:
            self._streams[kept.id] = kept
            is_swept, self._is_swept = self._is_swept, True
        self._note_size(kept)
        spawn(partial(self._keep, kept, stream, end_events))
        if not is_swept:
            spawn(self._sweep)
        return kept

    def find(self, stream_id: str) -> ResumableStream:
        """The stream of that id.

        Raises:
            StreamNotFoundError: There is none.
        """
        kept = self._streams.get(stream_id)
        if kept is None:
            raise StreamNotFoundError(
                "There is no such stream: it was never here, its time to be resumed is over, or "
                "its memory was needed."
            )
        return kept

    # --- the keeper of one stream ---------------------------------------------

    def _keep(self, kept: ResumableStream, stream: TokenStream, end_events: EndEvents) -> None:
        failure: Exception | None = None
        try:
            while not stream.ended:
                kept.append([token.text for token in stream.read() if token.text])
                self._bound(kept)
        except Exception as error:
            logger.exception("A resumable stream failed")
            failure = error
            stream.close()
        kept.close(_made(end_events, stream, failure))
        self._note_size(kept)

    def _bound(self, kept: ResumableStream) -> None:
        self._note_size(kept)
        if self._has_room(0) or kept.alone_since_s is not None:
            return
        kept.drop_read_events()
        self._note_size(kept)
        if not self._has_room(0):
            kept.wait_until_read()

    def _note_size(self, kept: ResumableStream) -> None:
        num_bytes = STREAM_BYTES + kept.num_bytes
        with self._lock:
            if kept.id in self._streams:
                self._num_bytes += num_bytes - self._sizes.get(kept.id, 0)
                self._sizes[kept.id] = num_bytes

    # --- forgetting -----------------------------------------------------------

    def _has_room(self, num_bytes: int) -> bool:
        """Whether so much more fits, once those that nobody reads have made room."""
        if self._num_bytes + num_bytes <= self._max_bytes:
            return True
        now_s = time.monotonic()
        if now_s < self._search_at_s:
            return False
        self._free(self._max_bytes * (1 - FREED_SHARE) - num_bytes)
        has_room = self._num_bytes + num_bytes <= self._max_bytes
        self._search_at_s = 0.0 if has_room else now_s + SEARCH_INTERVAL_S
        return has_room

    def _free(self, wanted_bytes: float) -> None:
        """Forget streams that nobody reads until all that are left take no more than that."""
        for kept in self._those_alone():
            if self._num_bytes <= wanted_bytes:
                break
            self._forget(kept)

    def _those_alone(self) -> list[ResumableStream]:
        """Those that nobody reads, in the order in which they are given up."""
        alone = [
            (not kept.ended, since_s, kept)
            for kept in list(self._streams.values())
            if (since_s := kept.alone_since_s) is not None
        ]
        return [kept for _, _, kept in sorted(alone, key=lambda each: each[:2])]

    def _forget(self, kept: ResumableStream) -> None:
        with self._lock:
            if self._streams.pop(kept.id, None) is not None:
                self._num_bytes -= self._sizes.pop(kept.id, 0)
        kept.cancel()

    def _sweep(self) -> None:
        """Forget each stream when its time has come; one at work while there are streams."""
        try:
            while self._is_needed():
                pause(self._forget_expired(time.monotonic()))
        except Exception:
            logger.exception("Resumable streams are not forgotten until another one is opened")
            self._is_swept = False

    def _forget_expired(self, now_s: float) -> float:
        """Forget the streams whose time has come; returns seconds until that of the next one."""
        alone = [
            (since_s + self._ttl_s, kept)
            for kept in list(self._streams.values())
            if (since_s := kept.alone_since_s) is not None
        ]
        for forget_at_s, kept in alone:
            if forget_at_s <= now_s:
                self._forget(kept)
        pending = [forget_at_s for forget_at_s, _ in alone if forget_at_s > now_s]
        return min(pending, default=now_s + self._ttl_s) - now_s

    def _is_needed(self) -> bool:
        with self._lock:
            self._is_swept = bool(self._streams)
            return self._is_swept


def _made(end_events: EndEvents, stream: TokenStream, failure: Exception | None) -> Sequence[bytes]:
    """The events that end a stream; none if they cannot be made: its reader need not wait then."""
    try:
        return end_events(stream, failure)
    except Exception:
        logger.exception("The end of a resumable stream could not be told")
        return ()
