"""Fields that are known but not built yet, and which of their values ask for nothing.

A field is never accepted and ignored: a value that would change the output is refused
by name, one that would not (the API's own default) is let through, so that clients
which spell every default out work unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from realtime_serve.api.fields import label
from realtime_serve.errors import InvalidRequestError

NeutralValues = Mapping[str, tuple[object, ...]]
"""Field name to the values, beside null, that change nothing."""

_IN_BOTH: NeutralValues = {
    "n": (1,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
}

CHAT: NeutralValues = {
    **_IN_BOTH,
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"}, {}),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"], []),
    "audio": ({},),
    "prediction": ({},),
    "moderation": ({},),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),  # even {} asks for a search
    "prompt_cache_options": ({},),
    "prompt_cache_retention": ("in_memory",),
}

COMPLETION: NeutralValues = {
    **_IN_BOTH,
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (),  # even 0 asks for the log-probability of each token
}

MESSAGE: NeutralValues = {
    "tool_calls": ([],),
    "function_call": (),
    "refusal": ("",),
    "audio": (),
    "annotations": ([],),
}
"""Keys that clients send back with an assistant's earlier answer."""

_OWN_SENTENCES = {
    "chat_template": "chat_template cannot be set by a request: the served model's own is used.",
}


def check_names(
    members: Mapping[str, Any],
    *,
    built: Collection[str],
    unbuilt: NeutralValues,
    prefix: str = "",
) -> None:
    """Refuse what is unknown, and what is known but would have to be ignored.

    Args:
        members: An object of the request.
        built: Names that the caller of this function reads itself.
        unbuilt: The other known names.
        prefix: Path of the object, with the dot, as in `messages[3].`.

    Raises:
        InvalidRequestError: `param` is the first name at fault.
    """
    for name, value in members.items():
        if name in built or (name in unbuilt and _is_neutral(value, unbuilt[name])):
            continue
        param = prefix + label(name)
        raise InvalidRequestError(_refusal(name, param, unbuilt), param=param)


def _is_neutral(value: object, neutral_values: tuple[object, ...]) -> bool:
    return value is None or any(_is_same(value, neutral) for neutral in neutral_values)


def _is_same(value: object, neutral: object) -> bool:
    """Compare as JSON does: true is not 1, but 1.0 is."""
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def _refusal(name: str, param: str, unbuilt: NeutralValues) -> str:
    if name in _OWN_SENTENCES:
        return _OWN_SENTENCES[name]
    if name not in unbuilt:
        return f"{param} is not a known field here; leave it out."
    allowed = "".join(f" or send {json.dumps(neutral)}" for neutral in unbuilt[name][:1])
    return f"{param} is not supported yet; leave it out{allowed}."
