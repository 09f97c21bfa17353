"""Requests of the OpenAI-style API as types: checked once, at the edge.

The models below are the list of fields. A field's description says what it must be
and is the refusal's wording too, so the two cannot drift apart. Ranges of sampling
values are SamplingParams' own. Null means the default in every field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
)

from realtime_serve.api import unbuilt
from realtime_serve.api.fields import MAX_NAME_CHARS, join_path, wrong_value
from realtime_serve.api.messages import MESSAGES_RULE, parse_messages
from realtime_serve.errors import InvalidRequestError
from realtime_serve.types import MAX_SEED, MAX_STOP_STRINGS, RequestPriority, SamplingParams

MAX_METADATA_KEYS = 16
"""OpenAI's bound."""

MAX_TOKEN_ID = 2**31 - 1
"""Ids cross to C as 32-bit integers."""

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default for /v1/completions; chat answers may fill the context."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationCall:
    """What both kinds of request say, beside their prompt.

    Args:
        model: Name of the model asked for; whether it is served is not checked here.
        sampling: How to generate; `max_tokens` None means to the end of the context.
        stream: Answer with server-sent events.
        include_usage: End the stream with a chunk of token counts.
        resumable: Whether the stream can be resumed; None is up to the configuration.
        priority: Class in the waiting queue.
    """

    model: str
    sampling: SamplingParams
    stream: bool = False
    include_usage: bool = False
    resumable: bool | None = None
    priority: RequestPriority = RequestPriority.NORMAL


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatCall(GenerationCall):
    """A checked POST /v1/chat/completions.

    Args:
        messages: Never empty; each has role and content, some name and tool_call_id.
    """

    messages: list[dict[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionCall(GenerationCall):
    """A checked POST /v1/completions.

    Args:
        prompt: The text to continue, as it was sent.
    """

    prompt: str


def parse_chat(body: Mapping[str, Any]) -> ChatCall:
    """Check the body of a chat request.

    Args:
        body: The JSON object, as parse_json_object reads it.

    Returns:
        The request as a value.

    Raises:
        InvalidRequestError: `param` is the path to the first field at fault.
    """
    fields = _read(_ChatBody, body, unbuilt.CHAT)
    return ChatCall(
        messages=parse_messages(fields.messages),
        model=fields.model,
        sampling=fields.sampling(),
        stream=fields.stream,
        include_usage=fields.include_usage(),
        resumable=fields.resumable(),
        priority=fields.priority,
    )


def parse_completion(body: Mapping[str, Any]) -> CompletionCall:
    """Check the body of a completion request.

    Args:
        body: The JSON object, as parse_json_object reads it.

    Returns:
        The request as a value.

    Raises:
        InvalidRequestError: `param` is the path to the first field at fault.
    """
    fields = _read(_CompletionBody, body, unbuilt.COMPLETION)
    return CompletionCall(
        prompt=fields.prompt,
        model=fields.model,
        sampling=fields.sampling(),
        stream=fields.stream,
        include_usage=fields.include_usage(),
        resumable=fields.resumable(),
        priority=fields.priority,
    )


# --- the fields ---------------------------------------------------------------


def _integral(value: object) -> object:
    """JSON has one kind of number: 1e9 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _priority(value: object) -> RequestPriority:
    """Read a name, or vLLM's integer, of which lower ones come first."""
    if isinstance(value, str) and value.upper() in RequestPriority.__members__:
        return RequestPriority[value.upper()]
    value = _integral(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("neither a name nor an integer")
    if value == 0:
        return RequestPriority.NORMAL
    return RequestPriority.HIGH if value < 0 else RequestPriority.LOW


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Integer = Annotated[int, BeforeValidator(_integral), Field(ge=-MAX_SEED - 1, le=MAX_SEED)]
TokenId = Annotated[int, BeforeValidator(_integral), Field(ge=0, le=MAX_TOKEN_ID)]
Name = Annotated[str, Field(max_length=MAX_NAME_CHARS)]

_NAME_RULE = f"a string of at most {MAX_NAME_CHARS} characters"
_COUNT_RULE = "an integer of at least 1 that fits 64 bits"


class _Fields(BaseModel):
    """Reads a JSON object: no conversions between types, names are checked before."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _StreamOptions(_Fields):
    """Options of a streamed answer; the others are accepted only where they are off."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool | None = None
    resumable: bool | None = None
    include_obfuscation: Literal[False] | None = None
    continuous_usage_stats: Literal[False] | None = None


class _Body(_Fields):
    """The fields that both endpoints share."""

    model: str = Field(description="the name of a served model, as a string")
    stream: bool = Field(False, description="true or false")
    stream_options: _StreamOptions | None = Field(
        None,
        description="an object in which include_usage and resumable may be true or false; "
        "no other option is supported yet",
    )
    max_tokens: Integer | None = Field(None, description=_COUNT_RULE)
    # Checked here too, so that a refusal names the field that was sent.
    max_completion_tokens: Integer | None = Field(None, ge=1, description=_COUNT_RULE)
    min_tokens: Integer = Field(0, description="an integer of at least 0 that fits 64 bits")
    temperature: float = Field(1.0, description="a number between 0 and 2")
    top_p: float = Field(1.0, description="a number greater than 0 and at most 1")
    top_k: Integer | None = Field(None, description=f"{_COUNT_RULE}; 0 and -1 turn it off")
    min_p: float = Field(0.0, description="a number between 0 and 1")
    seed: Integer | None = Field(None, description="an integer that fits 64 bits with its sign")
    stop: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        default_factory=list, description=f"a string or a list of up to {MAX_STOP_STRINGS} strings"
    )
    stop_token_ids: list[TokenId] = Field(
        default_factory=list, description=f"a list of token ids from 0 to {MAX_TOKEN_ID}"
    )
    ignore_eos: bool = Field(False, description="true or false")
    priority: Annotated[RequestPriority, PlainValidator(_priority)] = Field(
        RequestPriority.NORMAL,
        description='"HIGH", "NORMAL", "LOW" or an integer (below 0: HIGH, 0: NORMAL, above: LOW)',
    )

    # These cannot change the output; they are checked and go no further.
    user: Name = Field("", description=_NAME_RULE)
    safety_identifier: Name = Field("", description=_NAME_RULE)
    prompt_cache_key: Name = Field("", description=_NAME_RULE)
    service_tier: Name = Field("", description=_NAME_RULE)
    metadata: dict[str, Any] = Field(
        default_factory=dict,
        max_length=MAX_METADATA_KEYS,
        description=f"an object of up to {MAX_METADATA_KEYS} keys",
    )
    store: bool = Field(False, description="true or false")

    def sampling(self) -> SamplingParams:
        """Hand the values over to the type that knows their ranges."""
        max_tokens = self.max_completion_tokens
        return SamplingParams(
            max_tokens=self.max_tokens if max_tokens is None else max_tokens,
            min_tokens=self.min_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=None if self.top_k in (0, -1) else self.top_k,  # vLLM's spellings of off
            min_p=self.min_p,
            seed=self.seed,
            stop=tuple(self.stop),
            stop_token_ids=tuple(self.stop_token_ids),
            ignore_eos=self.ignore_eos,
        )

    def include_usage(self) -> bool:
        """Whether the stream ends with token counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def resumable(self) -> bool | None:
        """Whether the stream can be resumed; None if that is not said."""
        return None if self.stream_options is None else self.stream_options.resumable


class _ChatBody(_Body):
    """The fields of a chat request."""

    messages: list[Any] = Field(description=MESSAGES_RULE)
    # Without tools it cannot change the output.
    parallel_tool_calls: bool = Field(True, description="true or false")


class _CompletionBody(_Body):
    """The fields of a completion request."""

    prompt: str = Field(description="a string; lists and token ids are not supported yet")
    max_tokens: Integer | None = Field(DEFAULT_COMPLETION_TOKENS, description=_COUNT_RULE)


# --- reading them -------------------------------------------------------------

_AnyBody = TypeVar("_AnyBody", bound=_Body)


def _read(
    model: type[_AnyBody], body: Mapping[str, Any], neutral_values: unbuilt.NeutralValues
) -> _AnyBody:
    unbuilt.check_names(body, built=model.model_fields, unbuilt=neutral_values)
    given = {name: value for name, value in body.items() if value is not None}
    try:
        fields = model.model_validate(given)
    except ValidationError as error:
        raise _refusal(model, error) from None
    if fields.stream_options is not None and not fields.stream:
        message = "stream_options is allowed only where stream is true."
        raise InvalidRequestError(message, param="stream_options")
    return fields


def _refusal(model: type[_Body], error: ValidationError) -> InvalidRequestError:
    """Say of the first field at fault what it must be; the value is not quoted."""
    details = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = details["loc"]
    name = str(path[0])
    rule = str(model.model_fields[name].description)
    param = join_path(path)
    if details["type"] == "missing":
        return InvalidRequestError(f"{param} is required: {rule}.", param=param)
    if len(path) == 1:
        return wrong_value(param, rule)
    return InvalidRequestError(f"{param} is not allowed: {name} must be {rule}.", param=param)
