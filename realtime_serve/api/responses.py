"""Answers of the OpenAI-style API as JSON objects, and their one encoder.

Nothing here reads a clock: `created` (seconds since the epoch) is passed in. A failed
or cancelled generation is an error, never one of these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from realtime_serve.types import FinishReason, InferenceResponse, Usage

OWNER = "realtime-serve"

_CHAT_PREFIX = "chatcmpl-"
_COMPLETION_PREFIX = "cmpl-"

_FINISH_REASONS = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length"}

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def encode_json(payload: Mapping[str, Any]) -> bytes:
    """Encode one answer.

    Args:
        payload: A JSON object without NaN or Infinity.

    Returns:
        Compact UTF-8. A lone surrogate, which UTF-8 cannot carry, becomes "?".
    """
    return _JSON.encode(payload).encode("utf-8", "replace")


def chat_id(request_id: str) -> str:
    """Give the id of a chat answer."""
    return _CHAT_PREFIX + request_id


def completion_id(request_id: str) -> str:
    """Give the id of a completion."""
    return _COMPLETION_PREFIX + request_id


def request_id_in(answer_id: str) -> str:
    """Give the request's id that the id of an answer holds; another text as it is."""
    return answer_id.removeprefix(_CHAT_PREFIX).removeprefix(_COMPLETION_PREFIX)


def cancellation(given_id: str) -> dict[str, Any]:
    """Build the answer to a request that has cancelled another one, by the id that it gave."""
    return {"id": given_id, "object": "request", "cancelled": True}


def usage_counts(usage: Usage) -> dict[str, Any]:
    """Give the `usage` object of an answer."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def finish_word(reason: FinishReason) -> str:
    """Give the word of a finish_reason.

    Args:
        reason: How the generation ended.

    Returns:
        OpenAI's word for it.

    Raises:
        ValueError: The reason is a failure, which clients get as an error.
    """
    if reason not in _FINISH_REASONS:
        raise ValueError(f"{reason.name} is an error, not a finish_reason")
    return _FINISH_REASONS[reason]


# --- whole answers ------------------------------------------------------------


def chat_completion(response: InferenceResponse, *, created: int) -> dict[str, Any]:
    """Build a `chat.completion`.

    Args:
        response: The finished generation.
        created: Seconds since the epoch.

    Returns:
        The JSON object.

    Raises:
        ValueError: The generation did not finish.
    """
    message = {"role": "assistant", "content": response.text, "refusal": None}
    return {
        "id": chat_id(response.request_id),
        "object": "chat.completion",
        **_answer(response, {"message": message}, created),
    }


def text_completion(response: InferenceResponse, *, created: int) -> dict[str, Any]:
    """Build a `text_completion`.

    Args:
        response: The finished generation.
        created: Seconds since the epoch.

    Returns:
        The JSON object.

    Raises:
        ValueError: The generation did not finish.
    """
    return {
        "id": completion_id(response.request_id),
        "object": "text_completion",
        **_answer(response, {"text": response.text}, created),
    }


def _answer(
    response: InferenceResponse, content: Mapping[str, Any], created: int
) -> dict[str, Any]:
    reason = finish_word(response.finish_reason)
    return {
        "created": created,
        "model": response.model,
        "choices": [{"index": 0, **content, "logprobs": None, "finish_reason": reason}],
        "usage": usage_counts(response.usage),
    }


# --- chunks of a stream -------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamHead:
    """What all chunks of one stream have in common.

    Args:
        id: Id of the answer.
        object: Kind of the chunks.
        created: Seconds since the epoch, the same in each chunk.
        model: Name of the model that answers.
        include_usage: Chunks carry `usage`: null, but for the last one.
    """

    id: str
    object: Literal["chat.completion.chunk", "text_completion"]
    created: int
    model: str
    include_usage: bool = False


def chat_head(
    request_id: str, *, model: str, created: int, include_usage: bool = False
) -> StreamHead:
    """Begin a stream of `chat.completion.chunk`; see StreamHead for the arguments."""
    return StreamHead(
        id=chat_id(request_id),
        object="chat.completion.chunk",
        created=created,
        model=model,
        include_usage=include_usage,
    )


def completion_head(
    request_id: str, *, model: str, created: int, include_usage: bool = False
) -> StreamHead:
    """Begin a stream of `text_completion`; see StreamHead for the arguments."""
    return StreamHead(
        id=completion_id(request_id),
        object="text_completion",
        created=created,
        model=model,
        include_usage=include_usage,
    )


def chat_chunk(
    head: StreamHead, delta: Mapping[str, str], finish_reason: FinishReason | None = None
) -> dict[str, Any]:
    """Build a chunk of a chat stream.

    Args:
        head: The stream's constants.
        delta: What is new: role, content, or nothing in the last chunk.
        finish_reason: Set in the last chunk.

    Returns:
        The JSON object.
    """
    return _chunk(head, {"delta": dict(delta)}, finish_reason)


def completion_chunk(
    head: StreamHead, text: str, finish_reason: FinishReason | None = None
) -> dict[str, Any]:
    """Build a chunk of a completion stream.

    Args:
        head: The stream's constants.
        text: What is new; empty in the last chunk.
        finish_reason: Set in the last chunk.

    Returns:
        The JSON object.
    """
    return _chunk(head, {"text": text}, finish_reason)


def usage_chunk(head: StreamHead, usage: Usage) -> dict[str, Any]:
    """Build the chunk after the last one, which has token counts and no choice.

    Args:
        head: The stream's constants.
        usage: The counts of the whole request.

    Returns:
        The JSON object.
    """
    return {**_open_chunk(head, []), "usage": usage_counts(usage)}


def _chunk(
    head: StreamHead, news: Mapping[str, Any], finish_reason: FinishReason | None
) -> dict[str, Any]:
    word = None if finish_reason is None else finish_word(finish_reason)
    return _open_chunk(head, [{"index": 0, **news, "logprobs": None, "finish_reason": word}])


def _open_chunk(head: StreamHead, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    chunk: dict[str, Any] = {
        "id": head.id,
        "object": head.object,
        "created": head.created,
        "model": head.model,
        "choices": list(choices),
    }
    return {**chunk, "usage": None} if head.include_usage else chunk


# --- models -------------------------------------------------------------------


def model_card(name: str, *, created: int, max_model_len: int | None) -> dict[str, Any]:
    """Describe a served model.

    Args:
        name: Name in the API.
        created: When it was loaded, in seconds since the epoch.
        max_model_len: Longest prompt plus output in tokens, as vLLM adds it; None while
            the model loads.

    Returns:
        The JSON object.
    """
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": OWNER,
        "max_model_len": max_model_len,
    }


def model_list(cards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Build the answer of GET /v1/models.

    Args:
        cards: What model_card made.

    Returns:
        The JSON object.
    """
    return {"object": "list", "data": list(cards)}
