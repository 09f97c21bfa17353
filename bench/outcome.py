"""How a command ends that measures a model: with all its rows, or with the reason for less."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeAlias

from realtime_serve.errors import ServeError

PrintRow: TypeAlias = Callable[[str], None]
"""Prints a row of figures, at once."""


def exit_code_of(measure: Callable[[PrintRow], None]) -> int:
    """Measure, and say on the standard error what hindered it.

    Args:
        measure: Prints each row when it is known; raises ServeError, OSError or ValueError if
            there are no more.

    Returns:
        0, 1 if something hindered it after the first row, or 2 if nothing could be measured.
    """
    num_rows = 0

    def print_row(row: str) -> None:
        nonlocal num_rows
        print(row, flush=True)
        num_rows += 1

    try:
        measure(print_row)
    except (ServeError, OSError, ValueError) as error:
        what = "Only the rows above were measured" if num_rows else "Nothing measured"
        print(f"{what}: {error}", file=sys.stderr)
        return 1 if num_rows else 2
    return 0
