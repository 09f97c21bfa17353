r"""Server-sent events of one stream, as bytes.

All chunks of a stream but their text are alike. So a ChunkWriter encodes one chunk of
responses.py around a mark, cuts it at the mark, and from then on an event costs only
the escaping of its text: prefix + text + suffix. JSON escapes every newline, so a
payload never breaks the `data: ...\n\n` frame. Where C can make the text, it gets the
prefix and the suffix and makes the whole event.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from realtime_serve.api.envelope import error_envelope
from realtime_serve.api.responses import (
    StreamHead,
    chat_chunk,
    completion_chunk,
    encode_json,
    usage_chunk,
    usage_counts,
)
from realtime_serve.types import (
    FinishReason,
    Loading,
    Prefilling,
    Queued,
    StreamProgress,
    Usage,
)

CONTENT_TYPE = "text/event-stream; charset=utf-8"

DONE = b"data: [DONE]\n\n"
"""Ends every stream, after an error too."""

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment: clients skip it, proxies see that the stream lives."""

_MARK = "\0"
_ENCODED_MARK = b'"\\u0000"'

_encode_string = json.JSONEncoder(ensure_ascii=False).encode


def error_event(error: Exception, usage: Usage | None = None) -> bytes:
    """Format what a client gets when a stream fails after its headers; DONE follows.

    Args:
        error: Whatever was raised.
        usage: Tokens generated so far, where they are known.

    Returns:
        One event.
    """
    payload = error_envelope(error)
    if usage is not None:
        payload["usage"] = usage_counts(usage)
    return _event(payload)


def numbered_event(stream_id: str, number: int, event: bytes) -> bytes:
    """Give an event its number in a stream, from behind which that can be resumed."""
    return b"id: %s:%d\n%s" % (stream_id.encode(), number, event)


def progress_comment(progress: StreamProgress | None) -> bytes:
    """Format what a silent stream says: what it waits for, as far as that is known.

    Args:
        progress: How far it is from its first token; None from then on.

    Returns:
        One comment.
    """
    match progress:
        case None:
            return KEEP_ALIVE
        case Loading():
            return b": loading\n\n"
        case Queued():
            return b": queued %d\n\n" % progress.position
        case Prefilling():
            counts = (progress.num_computed_tokens, progress.num_prompt_tokens)
            return b": prefill %d/%d\n\n" % counts


class ChunkWriter(ABC):
    """Formats the events of one stream; one consumer at a time.

    Args:
        head: What all chunks of the stream have in common.
    """

    def __init__(self, head: StreamHead) -> None:
        self._head = head
        # From the right: the model's name comes before and may hold the mark too.
        prefix, _, suffix = _event(self._chunk(_MARK)).rpartition(_ENCODED_MARK)
        self._prefix = prefix
        self._suffix = suffix

    @property
    def frame(self) -> tuple[bytes, bytes]:
        """What stands before and after the escaped text of an event, quotes included."""
        return self._prefix + b'"', b'"' + self._suffix

    def start(self) -> bytes:
        """Format what comes before the first text; may be empty."""
        return b""

    def text(self, text: str) -> bytes:
        """Format an event that adds `text`."""
        return self._prefix + _encode_string(text).encode("utf-8", "replace") + self._suffix

    def finish(self, reason: FinishReason) -> bytes:
        """Format the event that says why the text ended.

        Args:
            reason: STOP or LENGTH.

        Returns:
            One event.

        Raises:
            ValueError: The reason is a failure: send error_event instead.
        """
        return _event(self._chunk("", reason))

    def usage(self, usage: Usage) -> bytes:
        """Format the token counts: one event if the client asked for it, else nothing."""
        if not self._head.include_usage:
            return b""
        return _event(usage_chunk(self._head, usage))

    @abstractmethod
    def _chunk(self, text: str, finish_reason: FinishReason | None = None) -> dict[str, Any]:
        """Build the chunk that adds `text` or, with a reason, the last one."""


class ChatChunkWriter(ChunkWriter):
    """Formats `chat.completion.chunk` events."""

    def start(self) -> bytes:
        """Format the event that names the role."""
        return _event(chat_chunk(self._head, {"role": "assistant", "content": ""}))

    def _chunk(self, text: str, finish_reason: FinishReason | None = None) -> dict[str, Any]:
        delta = {"content": text} if finish_reason is None else {}
        return chat_chunk(self._head, delta, finish_reason)


class CompletionChunkWriter(ChunkWriter):
    """Formats streamed `text_completion` events."""

    def _chunk(self, text: str, finish_reason: FinishReason | None = None) -> dict[str, Any]:
        return completion_chunk(self._head, text, finish_reason)


def _event(payload: Mapping[str, Any]) -> bytes:
    return b"data: " + encode_json(payload) + b"\n\n"
