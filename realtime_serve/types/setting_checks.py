"""What the settings have in common in their checks: types, ranges and words."""

from __future__ import annotations

import sys
import typing
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal

from realtime_serve.errors import ConfigError


def check_types(config: Any) -> None:
    """Refuse fields of a dataclass that are not what their annotations say.

    An int passes for a float. The values of a Literal are left to `check_choice`.
    """
    annotations = typing.get_type_hints(type(config))
    for each in fields(config):
        value = getattr(config, each.name)
        accepted = _accepted(annotations[each.name])
        is_number = accepted is not bool  # True is an int to isinstance
        if (is_number and isinstance(value, bool)) or not isinstance(value, accepted):
            shown = repr(value) if each.repr else f"a {type(value).__name__}"  # keys are secret
            raise ConfigError(
                f"{each.name} must be of type {each.type}, not {shown}.", param=each.name
            )
        if isinstance(value, str):
            _check_text(each.name, value)


def _accepted(annotation: Any) -> Any:
    if typing.get_origin(annotation) is Literal:
        return object
    if annotation is float:
        return int | float
    return int | float | None if annotation == float | None else annotation


def _check_text(name: str, text: str) -> None:
    """Refuse what an environment variable cannot hold: empty there means "not set"."""
    if not text or "\0" in text:
        raise ConfigError(
            f"{name} must not be empty or contain NUL; leave it out for its default.", param=name
        )


def check_positive(name: str, value: float | None) -> None:
    """Refuse what is not above 0 and finite, unless it is None."""
    if value is not None and not 0 < value <= sys.float_info.max:  # false for nan, too
        raise ConfigError(f"{name} must be greater than 0 and finite, not {value}.", param=name)


def check_not_negative(name: str, value: float) -> None:
    """Refuse what is below 0 or not finite."""
    if not 0 <= value <= sys.float_info.max:  # false for nan, too
        raise ConfigError(f"{name} must be at least 0 and finite, not {value}.", param=name)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse what is none of the choices, and list them."""
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r}.", param=name)


def check_at_most(name: str, value: int, maximum: int) -> None:
    """Refuse what is above the maximum."""
    if value > maximum:
        raise ConfigError(f"{name} must be at most {maximum}, not {value}.", param=name)


def check_key(name: str, key: str | None) -> None:
    """Refuse what no client can send in a header, and do not show it."""
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            f"{name} must be of printable ASCII characters without spaces.", param=name
        )
