"""A model's chat template: messages to text, and to token ids.

The one idea: the template's own special tokens are obeyed, those in what a caller wrote
are not. Where a caller's string holds the text of a special token, a marker character
is put inside it before the template runs, so that the template sees an ordinary string
(it can still trim it, or look for something in it). In the rendered text, special tokens
that are whole are then the template's; what lies between them loses its markers and is
encoded literally. Without such a string the rendered text is encoded as it is, which is
what transformers does.

Message content is a string here: text parts are joined before. What is not caught is a
template that makes a special token itself, out of a caller's string (by deleting what
stands between its halves) or around one (as "<|" + role + "|>" is meant to).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NoReturn

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from realtime_serve.errors import EngineError, InvalidRequestError, ModelLoadError
from realtime_serve.text.tokenizer import Tokenizer

Message = Mapping[str, Any]

_MARKERS = tuple(map(chr, range(0x10600, 0x10737)))
"""Signs of Linear A, an undeciphered script: no text is likely to have them, and unlike
noncharacters they print, so that repr() in a template keeps them."""

_CAUSED_BY_MESSAGES = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What Python raises when a template meets a message it was not written for."""


class ChatTemplate:
    """A compiled template. Immutable; any thread may render.

    Args:
        source: The template, in Jinja as transformers defines it.
        named_tokens: Special tokens by the name the template knows, such as bos_token.
        now: The clock behind strftime_now.

    Raises:
        ModelLoadError: The template does not compile, or does what the sandbox forbids.
    """

    def __init__(
        self,
        source: str,
        named_tokens: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._named_tokens = dict(named_tokens or {})
        self._source_chars = frozenset(source)
        try:
            self._template = _environment(now).from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ModelLoadError(f"The model's chat template does not compile: {error}") from error
        self._try_out()

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """Render a conversation as text.

        Args:
            messages: Role, content (a string) and whatever else the template reads.
            tools: Descriptions of tools, or None.
            add_generation_prompt: End where the assistant's answer begins.

        Returns:
            The text, special tokens in it spelled out. Encoded as trusted text it would
            obey special tokens in the messages: use `encode`.

        Raises:
            InvalidRequestError: The template refuses the messages or stumbles over them.
            EngineError: The template did something that its sandbox forbids.
        """
        try:
            return self._template.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._named_tokens,
            )
        except SecurityError as error:
            raise EngineError(
                f"The model's chat template did something forbidden: {error}"
            ) from error
        except _CAUSED_BY_MESSAGES as error:
            raise InvalidRequestError(
                f"The model's chat template cannot render these messages: {error}",
                param="messages",
            ) from error

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Render a conversation and encode it, taking callers' strings literally.

        Args:
            tokenizer: The model's tokenizer.
            messages: As for `render`.
            tools: As for `render`.
            add_generation_prompt: As for `render`.

        Returns:
            Token ids, those of transformers' apply_chat_template where no string of the
            messages and tools holds the text of a special token.

        Raises:
            InvalidRequestError: As for `render`, or every marker occurs in the messages.
            EngineError: As for `render`.
        """
        try:
            strings = list(_strings_in([messages, tools]))
        except RecursionError as error:
            raise InvalidRequestError(
                "The messages are nested too deeply.", param="messages"
            ) from error
        if not any(map(tokenizer.special_texts.are_near, strings)):
            text = self.render(messages, tools, add_generation_prompt)
            return tokenizer.encode_with_special_tokens(text)
        marker = self._unused_marker(strings)
        interrupt = partial(tokenizer.special_texts.interrupt, marker=marker)
        text = self.render(
            _map_strings(messages, interrupt),
            _map_strings(tools, interrupt),
            add_generation_prompt,
        )
        return _encode_marked(tokenizer, text, marker)

    def _unused_marker(self, strings: Iterable[str]) -> str:
        used = self._source_chars.union(*strings)
        for marker in _MARKERS:
            if marker not in used:
                return marker
        raise InvalidRequestError(
            "The messages hold the text of a special token beside every sign of Linear A; "
            "leave out one or the other.",
            param="messages",
        )

    def _try_out(self) -> None:
        """Render once, so that a template which breaks out of its sandbox fails at load."""
        try:
            self.render([{"role": "user", "content": "Hello"}])
        except EngineError as error:
            raise ModelLoadError(error.message) from error
        except InvalidRequestError:
            pass  # it may want more than one plain message


def _encode_marked(tokenizer: Tokenizer, text: str, marker: str) -> list[int]:
    """Encode rendered text in which markers interrupt every special token of a caller."""
    pieces: list[str | int] = []
    end = 0
    for span in tokenizer.special_spans(text):
        pieces += [text[end : span.start].replace(marker, ""), span.token_id]
        end = span.end
    pieces.append(text[end:].replace(marker, ""))
    return tokenizer.encode_pieces(pieces)


def _strings_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings_in(key)
            yield from _strings_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings_in(item)


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of JSON-like `value` with every string changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_map_strings(k, change): _map_strings(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(item, change) for item in value]
    return value


# --- the dialect of Jinja that chat templates are written in --------------------


class _Generation(Extension):
    """{% generation %}: marks what the assistant says, for training; here just a block."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares the type

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Parse the tag."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class _SafeNamespace(jinja2.utils.Namespace):
    """namespace() without underscored names, which Python itself would look up and call."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        names = dict(*rest, **kwargs)
        for name in names:
            _require_safe(name)
        jinja2.utils.Namespace.__init__(self, names)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_safe(name)
        super().__setitem__(name, value)


def _require_safe(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"namespace attribute {name!r} is unsafe")


def _environment(now: Callable[[], datetime]) -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda format: now().strftime(format)
    environment.globals["namespace"] = _SafeNamespace
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own tojson escapes for HTML; chat templates want plain JSON."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
