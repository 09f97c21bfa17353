"""A number of bytes as a person reads it."""

from __future__ import annotations

_BINARY_UNITS = {"GiB": 2**30, "MiB": 2**20}
"""As sizes are written in settings: taken where the number is a whole one in them."""

_DECIMAL_UNITS = {"GB": 10**9, "MB": 10**6, "kB": 10**3}


def size_text(num_bytes: int) -> str:
    """Write a size: "12 GiB", "512 MiB" or "23.1 GB".

    Args:
        num_bytes: The size; at least 0.

    Returns:
        It in whole binary units, as it is likely to have been configured, or else with one
        decimal.
    """
    for unit, size in _BINARY_UNITS.items():
        if num_bytes >= size and num_bytes % size == 0:
            return f"{num_bytes // size} {unit}"
    for unit, size in _DECIMAL_UNITS.items():
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"
