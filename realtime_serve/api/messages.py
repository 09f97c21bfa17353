"""The `messages` of a chat request: what the template renders, as plain strings."""

from __future__ import annotations

from typing import Any

from realtime_serve.api import unbuilt
from realtime_serve.api.fields import MAX_NAME_CHARS, label, wrong_value
from realtime_serve.errors import InvalidRequestError

MAX_MESSAGES = 4096
"""Bounds the template's work; longer conversations fit no context we serve."""

MESSAGES_RULE = f"a list of 1 to {MAX_MESSAGES} messages"

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
"""Role in the request to role in the template; templates know no developer."""

_ROLE_RULE = "one of " + ", ".join(ROLES)
_KEYS = frozenset({"role", "content", "name"})
_TOOL_KEYS = _KEYS | {"tool_call_id"}
_PASSED_ALONG = ("name", "tool_call_id")
_PART_KEYS = frozenset({"type", "text"})
_UNBUILT_IN_PART: unbuilt.NeutralValues = {"prompt_cache_breakpoint": ()}


def parse_messages(messages: list[Any]) -> list[dict[str, str]]:
    """Check a conversation and bring each message to plain strings.

    Args:
        messages: The field's value.

    Returns:
        One dict a message: role, content (text parts are joined by newlines, as vLLM
        does), and name and tool_call_id where they were sent.

    Raises:
        InvalidRequestError: `param` is the path to what is wrong.
    """
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise wrong_value("messages", MESSAGES_RULE)
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: object, path: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise wrong_value(path, "an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise wrong_value(f"{path}.role", _ROLE_RULE)
    built = _TOOL_KEYS if role == "tool" else _KEYS
    unbuilt.check_names(message, built=built, unbuilt=unbuilt.MESSAGE, prefix=f"{path}.")
    parsed = {"role": ROLES[role], "content": _content(message.get("content"), f"{path}.content")}
    for key in _PASSED_ALONG:
        if (value := message.get(key)) is not None:
            parsed[key] = _name(value, f"{path}.{key}")
    return parsed


def _name(value: object, path: str) -> str:
    name = _string(value, path)
    if len(name) > MAX_NAME_CHARS:
        raise wrong_value(path, f"a string of at most {MAX_NAME_CHARS} characters")
    return name


def _string(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise wrong_value(path, "a string")
    return value


def _content(content: object, path: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise wrong_value(path, "a string or a non-empty list of text parts")
    return "\n".join(_text_part(part, f"{path}[{index}]") for index, part in enumerate(content))


def _text_part(part: object, path: str) -> str:
    if not isinstance(part, dict):
        raise wrong_value(path, "an object with type and text")
    kind = _string(part.get("type"), f"{path}.type")
    if kind != "text":
        message = f"{path} is of type {label(kind)}; only parts of type text are supported."
        raise InvalidRequestError(message, param=path)
    unbuilt.check_names(part, built=_PART_KEYS, unbuilt=_UNBUILT_IN_PART, prefix=f"{path}.")
    return _string(part.get("text"), f"{path}.text")
