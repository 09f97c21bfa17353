"""From the tokens of a stream that has ended to one whole answer."""

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
    assert stream.finish_reason is not None
    return InferenceResponse(
        request_id=stream.request.request_id,
        model=stream.request.model,
        text="".join(token.text for token in tokens),
        token_ids=tuple(token.token_id for token in tokens),
        finish_reason=stream.finish_reason,
        usage=stream.usage,
    )
