"""From a stream that has ended to one whole answer."""

from __future__ import annotations

from collections.abc import Sequence

from realtime_serve.stream import TokenStream
from realtime_serve.types import InferenceResponse, StreamToken


def to_response(stream: TokenStream, tokens: Sequence[StreamToken]) -> InferenceResponse:
    """Join the tokens of a stream that has ended well.

    Args:
        stream: Ended by stop or length.
        tokens: All that it gave.

    Returns:
        The whole answer.
    """
    text = "".join(token.text for token in tokens)
    return text_response(stream, text, tuple(token.token_id for token in tokens))


def text_response(
    stream: TokenStream, text: str, token_ids: tuple[int, ...] = ()
) -> InferenceResponse:
    """Make the answer of a stream that has ended well and whose text is known.

    Args:
        stream: Ended by stop or length.
        text: All that it gave.
        token_ids: Its ids, where they are wanted.

    Returns:
        The whole answer.
    """
    assert stream.finish_reason is not None
    return InferenceResponse(
        request_id=stream.request.request_id,
        model=stream.request.model,
        text=text,
        finish_reason=stream.finish_reason,
        usage=stream.usage,
        token_ids=token_ids,
    )
