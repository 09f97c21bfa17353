"""How a command that measures a model ends: with figures, or with the reason for none."""

from __future__ import annotations

import sys
from collections.abc import Callable

from realtime_serve.errors import ServeError


def exit_code_of(measure: Callable[[], None]) -> int:
    """Measure, and say on the standard error what hindered it.

    Args:
        measure: Prints figures; raises ServeError, OSError or ValueError if there are none.

    Returns:
        0, or 2 if nothing could be measured.
    """
    try:
        measure()
    except (ServeError, OSError, ValueError) as error:
        print(f"Nothing measured: {error}", file=sys.stderr)
        return 2
    return 0
