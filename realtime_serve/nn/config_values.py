"""Reads single values of a config.json that nobody has checked yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from realtime_serve.errors import ModelLoadError

MAX_SIZE = 2**31 - 1
"""No dimension of a network comes near it, and products of two still fit 64 bits."""

MIN_NUMBER, MAX_NUMBER = 1e-18, 1e18
"""Far outside of what settings are, and quotients of two are still finite."""


def size(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A whole number of at least 1.

    Args:
        config: The configuration.
        name: Which entry.
        default: What a missing or null entry means; without one it is an error.

    Returns:
        The number.

    Raises:
        ModelLoadError: It is missing, not a whole number, or out of range.
    """
    value = _value(config, name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SIZE:
        raise ModelLoadError(
            f"The model's {name} must be a whole number of at least 1, not {value!r}."
        )
    return value


def number(config: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """A number greater than 0.

    Args:
        config: The configuration.
        name: Which entry.
        default: What a missing or null entry means; without one it is an error.

    Returns:
        The number.

    Raises:
        ModelLoadError: It is missing, not a number, or out of range.
    """
    return _as_number(name, _value(config, name, default))


def numbers(config: Mapping[str, Any], name: str) -> tuple[float, ...]:
    """A list of numbers greater than 0.

    Args:
        config: The configuration.
        name: Which entry.

    Returns:
        The numbers.

    Raises:
        ModelLoadError: It is missing, not a list of numbers, or one is out of range.
    """
    values = _value(config, name, None)
    if not isinstance(values, list):
        raise ModelLoadError(f"The model's {name} must be a list, not {values!r}.")
    return tuple(_as_number(name, value) for value in values)


def _as_number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ModelLoadError(f"The model's {name} must be a number, not {value!r}.")
    if not MIN_NUMBER <= value <= MAX_NUMBER:
        raise ModelLoadError(f"The model's {name} is out of range: {str(value)[:40]}.")
    return float(value)


def _value(config: Mapping[str, Any], name: str, default: float | None) -> object:
    value = config.get(name)
    if value is None:
        value = default
    if value is None:
        raise ModelLoadError(f"The model's configuration lacks {name}.")
    return value
