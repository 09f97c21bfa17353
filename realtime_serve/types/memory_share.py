"""A size given as a share of the memory that is free: "40%"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from realtime_serve.errors import ConfigError


@dataclass(frozen=True, slots=True)
class MemoryShare:
    """So many percent of the memory that is free once the weights are loaded.

    Args:
        percent: Greater than 0, at most 100.

    Raises:
        ConfigError: It is not.
    """

    percent: float

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.percent <= 100:  # false for nan, too
            raise ConfigError(
                f"A share of free memory must be greater than 0% and at most 100%, not {self}.",
                param="kv_cache_bytes",  # the one setting that may be a share
            )

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read "40%".

        Args:
            text: What stands in a file, an environment variable or an argument.

        Returns:
            The share; None if the text is no percentage.

        Raises:
            ConfigError: It is out of range.
        """
        number, percent_sign, rest = text.strip().partition("%")
        if not percent_sign or rest:
            return None
        try:
            return cls(float(number))
        except ValueError:
            return None

    def __str__(self) -> str:
        """The text that `parse` reads."""
        return f"{self.percent}%"

    def of(self, num_bytes: int) -> int:
        """That share of a number of bytes."""
        return int(num_bytes * (self.percent / 100))
