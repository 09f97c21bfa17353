"""How a field of a request is named and refused: one wording for every parser.

What a caller sent is quoted back only short and in printable ASCII, so that neither
an answer nor a log line carries its raw bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from realtime_serve.errors import InvalidRequestError

MAX_LABEL_CHARS = 48
"""Longest name quoted whole: longer than any field of the API, short for a log line."""


MAX_NAME_CHARS = 256
"""Longest text that only identifies a caller or a cache entry."""


def label(name: str) -> str:
    """Make a name that a caller chose fit for messages.

    Args:
        name: Any text.

    Returns:
        The name itself if it is a short ASCII identifier, else the start of its repr.
    """
    if len(name) <= MAX_LABEL_CHARS and name.isascii() and name.isidentifier():
        return name
    return ascii(name[:MAX_LABEL_CHARS])[:MAX_LABEL_CHARS]


def join_path(path: Sequence[str | int]) -> str:
    """Spell the way to a value, as in `messages[3].content`.

    Args:
        path: Keys and list positions from the top of the body.

    Returns:
        The dotted path, every key made printable.
    """
    steps = [f"[{step}]" if isinstance(step, int) else f".{label(step)}" for step in path]
    return "".join(steps).removeprefix(".")


def wrong_value(param: str, rule: str) -> InvalidRequestError:
    """Build the refusal of a value that breaks its field's rule.

    Args:
        param: Dotted path of the field.
        rule: What the field must be, as in "a string".

    Returns:
        The error, to be raised by the caller.
    """
    return InvalidRequestError(f"{param} must be {rule}.", param=param)
